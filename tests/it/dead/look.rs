//! Looking: lists, groups, one screen, an export; nothing secret on a screen, nothing changed.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::PATIENCE;
use super::world::World;
use crate::rig::checker::id;
use crate::rig::stage::request;
use crate::rig::until;

const CARD: &str = "4111111111111111";

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_grouped_shown_and_exported() {
    let world = World::new("look", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    assert!(
        world.dead(&["list"]).exits(0).stdout.is_empty(),
        "an empty list is no failure"
    );
    assert_eq!(world.dead(&["export"]).exits(0).stdout, "");
    world
        .have(&mut results, &["gr4vy", "gr4vy", "gr4vy", "pismo"])
        .await;
    let mut secret = request("pismo", "payment");
    secret["metadata"] = json!({
        "note": format!("card {CARD}, please"), "access_token": "s3cret-token",
        "signature_key": "s3cret-key",
    });
    let client = world.stage.client().await;
    client.publish(&world.stage.names, &secret).await;
    let raw = format!("{{ \"access_token\": \"s3cret-token\", card {CARD} \u{1b}[31m");
    client
        .publish_raw(&world.stage.names, "cancel.x", raw.as_bytes())
        .await;
    client
        .publish_raw(&world.stage.names, "cancel.x", b"\xff\xfe")
        .await;
    until("all are dead", PATIENCE, || {
        worker.metric("rescind_dead_letters", &[]) == 7.0
    })
    .await;
    world.noted().await;
    let before = world.everything();

    let list = world.dead(&["list"]).exits(0);
    assert_eq!(list.stdout.lines().count(), 8, "{list:#?}");
    for text in ["credentials_refused", "not_json", "gr4vy", &id(&secret)] {
        assert!(list.stdout.contains(text), "{text}: {list:#?}");
    }
    let number = |filter: &[&str]| {
        let arguments = [&["list", "--json"], filter].concat();
        world.dead(&arguments).exits(0).objects().len()
    };
    assert_eq!(number(&["--provider", "pismo"]), 2);
    assert_eq!(number(&["--outcome", "invalid"]), 2);
    assert_eq!(
        number(&["--reason", "credentials_refused", "--provider", "gr4vy"]),
        3
    );
    assert_eq!(number(&["--dead-reason", "not_json"]), 2);
    assert_eq!(number(&["--older-than", "1h"]), 0);
    assert_eq!(number(&["--newer-than", "1h"]), number(&[]));
    assert_eq!(number(&["--newer-than", "0s"]), 0);
    assert_eq!(number(&["--limit", "2"]), 2);
    assert_eq!(number(&["--closed"]), 0);

    let groups = world
        .dead(&["list", "--group", "--json"])
        .exits(0)
        .objects();
    let sizes: Vec<&Value> = groups.iter().map(|group| &group["number"]).collect();
    assert_eq!(sizes[..2], [&json!(3), &json!(2)], "{groups:#?}");
    assert_eq!(groups[0]["provider"], "gr4vy");
    world
        .dead(&["list", "--group"])
        .exits(0)
        .says("oldest")
        .says("credentials_refused");

    let shown = world.dead(&["show", &id(&secret)]).exits(0);
    for text in [
        "dead letter",
        "rescind dead replay",
        "HTTP 403",
        "411111******1111",
        "***",
    ] {
        assert!(shown.stdout.contains(text), "{text}: {shown:#?}");
    }
    let documents = [
        shown.stdout,
        world
            .dead(&["show", &id(&secret), "--json"])
            .exits(0)
            .stdout,
        list.stdout,
        world.dead(&["list", "--json"]).exits(0).stdout,
        world.rescind(&["show", &id(&secret)]).exits(0).stdout,
    ];
    let invalid = world
        .dead(&["list", "--outcome", "invalid", "--json"])
        .objects();
    for letter in &invalid {
        let shown = world
            .dead(&["show", letter["dead_letter"].as_str().unwrap()])
            .exits(0);
        assert!(shown.stdout.contains("Correct the publisher"), "{shown:#?}");
        nothing_secret(&shown.stdout);
        assert!(!shown.stdout.contains('\u{1b}'), "nothing moves the cursor");
    }
    documents.iter().for_each(|text| nothing_secret(text));

    let export = world.dead(&["export"]).exits(0).objects();
    assert_eq!(export.len(), 7);
    let of = |id: &str| export.iter().find(|line| line["request_id"] == id).unwrap();
    let line = of(&id(&secret));
    let body: Value = serde_json::from_str(line["body"].as_str().unwrap()).unwrap();
    assert_eq!(body, secret, "exactly as received");
    assert_eq!(line["request"]["calls"].as_array().unwrap().len(), 1);
    let bytes: Vec<&Value> = export
        .iter()
        .filter_map(|line| line.get("body_base64"))
        .collect();
    assert_eq!(bytes, ["//4="]);
    assert_eq!(world.everything(), before, "looking changes nothing");
}

/// On a host for people the configuration may have the ledger only; and all is well when nothing is there.
#[tokio::test(flavor = "multi_thread")]
async fn an_empty_list_is_success_also_where_no_account_is_configured() {
    let world = World::new("no-account", "forbidden");
    let _worker = world.stage.worker();
    let mut results = world.stage.results().await;
    world.have(&mut results, &["gr4vy"]).await;
    world.only_the_ledger();
    let of = |provider: &str| {
        let list = world.dead(&["list", "--provider", provider, "--json"]);
        list.exits(0).objects().len()
    };
    assert_eq!((of("gr4vy"), of("midtrans")), (1, 0));
    for command in [
        &["list", "--provider", "midtrans", "--group"][..],
        &["export", "--provider", "midtrans"],
        &["replay", "--all", "--provider", "midtrans", "--reason", "x"],
        &[
            "discard",
            "--all",
            "--provider",
            "midtrans",
            "--reason",
            "x",
        ],
    ] {
        let done = world.dead(command).exits(0);
        assert_eq!(done.stdout, "", "{command:?}");
        done.says("no account is configured here");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_letters_of_one_id_are_an_object_a_line() {
    let world = World::new("several", "success");
    let worker = world.stage.worker();
    let client = world.stage.client().await;
    for wrong in ["1", "2"] {
        let body = format!(r#"{{"request_id":"one-id","provider":"gr4vy","payment":{wrong}}}"#);
        client
            .publish_raw(&world.stage.names, "cancel.x", body.as_bytes())
            .await;
    }
    until("both are dead", PATIENCE, || {
        worker.metric("rescind_dead_letters", &[]) == 2.0
    })
    .await;
    let shown = world.dead(&["show", "one-id", "--json"]).exits(0);
    assert_eq!(shown.stdout.lines().count(), 2, "{shown:#?}");
    let letters = shown.objects();
    // Of the same millisecond, either may be the first.
    let payment = |letter: &Value| letter["received"]["payment"].as_u64();
    let received: BTreeSet<Option<u64>> = letters.iter().map(payment).collect();
    assert_eq!(received, [Some(1), Some(2)].into());
    let only = letters[0]["dead_letter"].as_str().unwrap();
    let alone = world.dead(&["show", only, "--json"]).exits(0).stdout;
    assert!(alone.lines().count() > 1, "a document for people: {alone}");
    assert!(serde_json::from_str::<Value>(&alone).is_ok());
}

#[track_caller]
fn nothing_secret(text: &str) {
    for secret in [CARD, "s3cret-token", "s3cret-key"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
