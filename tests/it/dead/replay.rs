//! Replays: asked first, one effect, a correction, and the result stays what it was.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::PATIENCE;
use super::world::{World, closed};
use crate::rig::checker::id;
use crate::rig::stage::request;
use crate::rig::{Message, Messages, http, until};

const QUIET: Duration = Duration::from_millis(700);
const EVERYWHERE: [&str; 6] = ["bento", "gr4vy", "midtrans", "migo", "pismo", "tingg"];

/// What was published about a request, by the kind in the routing key.
async fn told(results: &mut Messages, request: &Value) -> Vec<(String, Message)> {
    results.drain(QUIET).await;
    let about = |m: &&Message| m.request_id().as_deref() == Some(&id(request));
    let found = results.seen().iter().filter(about);
    let kind = |m: &Message| m.routing_key.split('.').next().unwrap().to_owned();
    found.map(|m| (kind(m), m.clone())).collect()
}

async fn until_corrected(results: &mut Messages, request: &Value) -> (Value, Value) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let told = told(results, request).await;
        if let [(first, result), (second, correction)] = &told[..] {
            assert_eq!((first.as_str(), second.as_str()), ("result", "correction"));
            return (result.json(), correction.json());
        }
        assert!(tokio::time::Instant::now() < end, "{told:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_the_provider_is_well_a_replay_cancels_once_and_corrects_the_result() {
    let mut world = World::new("replay-well", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let requests = world.have(&mut results, &EVERYWHERE).await;
    assert_eq!(world.letters().len(), 6);
    world.behaves("success");
    let reason = "credentials renewed, INC-7";
    let done = world
        .dead(&["replay", "--all", "--reason", reason])
        .exits(0);
    assert!(done.stderr.contains("6 dead letters: 6 ended"), "{done:#?}");
    for request in &requests {
        let (result, correction) = until_corrected(&mut results, request).await;
        assert_eq!(result["outcome"], "failed");
        assert_eq!(correction["outcome"], "cancelled", "{correction:#}");
        assert_eq!(correction["already"], false);
        assert_eq!(correction["supersedes"], result["result_id"]);
        let money = world.money(request);
        assert_eq!(money.effects.len(), 1, "{money:#?}");
        // The new provider knows no token of the old one: that login is refused once.
        assert!(money.cancel_calls <= 1 + money.refused_logins, "{money:#?}");
        let shown = world.rescind(&["show", &id(request)]).exits(0);
        for text in ["corrected to cancelled", "replayed", "by ana", reason] {
            assert!(shown.stdout.contains(text), "{text}: {shown:#?}");
        }
        assert!(!shown.stdout.contains("to do"), "{shown:#?}");
    }
    // Who works off a list of what failed is told of it there.
    let list = ["list", "--state", "failed"];
    let listed = world.rescind(&list).exits(0);
    let corrected = listed.stdout.matches("failed → cancelled").count();
    assert_eq!(corrected, 6, "{listed:#?}");
    for listed in world.rescind(&[&list[..], &["--json"]].concat()).objects() {
        assert_eq!(listed["outcome"], "failed");
        assert_eq!(listed["corrected"][0], "cancelled", "{listed:#}");
    }
    assert!(world.letters().is_empty());
    until("all is counted", PATIENCE, || {
        let corrected = [("outcome", "cancelled")];
        worker.metric("rescind_corrections_total", &corrected) == 6.0
            && worker.metric("rescind_dead_letters", &[]) == 0.0
            && closed(&worker, "replayed") == 6.0
    })
    .await;
    let cancellations = worker.metric("rescind_cancellations_total", &[]);
    assert_eq!(cancellations, 6.0, "once per request, at its result");
    // Whoever asks again gets the result, as ever.
    world
        .stage
        .client()
        .await
        .publish(&world.stage.names, &requests[0])
        .await;
    let again = results.next(PATIENCE).await.unwrap();
    assert_eq!(again.json()["outcome"], "failed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cancelled_in_truth_is_found_without_a_second_call() {
    let mut world = World::new("replay-truth", "timeout-after-effect");
    // Long enough to stop the provider between its effect and the last question.
    world.set("defaults.timeout", "4s");
    world.set("defaults.poll.give_up_after", "200ms");
    let _worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let requests = ["midtrans", "tingg"].map(|provider| request(provider, "payment"));
    let client = world.stage.client().await;
    client.confirm_all(&world.stage.names, &requests).await;
    let effects = |request: &Value| world.money(request).effects.len();
    until("both have happened", PATIENCE, || {
        requests.iter().all(|request| effects(request) == 1)
    })
    .await;
    world.stage.simulator.freeze();
    results.about(requests.iter().map(id), PATIENCE).await;
    world.noted().await;
    world.stage.simulator.thaw();
    for request in &requests {
        let letter = world.dead(&["show", &id(request), "--json"]).exits(0);
        let letter: Value = serde_json::from_str(&letter.stdout).unwrap();
        assert_eq!(letter["outcome"], "unresolved", "{letter:#}");
        let calls = world.money(request).cancel_calls;
        world
            .dead(&["replay", &id(request), "--reason", "look again"])
            .exits(0);
        let (_, correction) = until_corrected(&mut results, request).await;
        assert_eq!(correction["outcome"], "cancelled");
        assert_eq!(correction["already"], false, "it was our own doing");
        assert_eq!(correction["evidence"]["source"], "lookup");
        let money = world.money(request);
        assert_eq!((money.effects.len(), money.cancel_calls), (1, calls));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_again_is_a_new_dead_letter_and_no_news() {
    let world = World::new("replay-again", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let mut dead = world.stage.dead_letters().await;
    let request = world.have(&mut results, &["gr4vy"]).await.remove(0);
    let mut letters = BTreeSet::new();
    for round in 1..=3 {
        let open = world.letters();
        assert_eq!(open.len(), 1);
        letters.insert(open[0]["dead_letter"].to_string());
        let done = world
            .dead(&["replay", &id(&request), "--reason", "hope", "--json"])
            .exits(1);
        assert_eq!(done.objects()[0]["fate"], "failed_again", "{done:#?}");
        assert_eq!(closed(&worker, "replayed"), f64::from(round));
    }
    letters.insert(world.letters()[0]["dead_letter"].to_string());
    assert_eq!(letters.len(), 4);
    let told = told(&mut results, &request).await;
    assert_eq!(told.len(), 1, "{told:#?}");
    dead.drain(QUIET).await;
    let ids: BTreeSet<_> = dead.seen().iter().filter_map(Message::message_id).collect();
    assert_eq!(ids.len(), 4, "each with an id of its own");
}

/// The provider has said meanwhile what became of the payment. That nobody can ask it now is no news.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_without_an_answer_takes_no_correction_back() {
    let mut world = World::new("replay-proven", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let request = world.have(&mut results, &["tingg"]).await.remove(0);
    world.behaves("already-cancelled");
    let payment = &request["payment"];
    let heard = json!({
        "merchantTransactionID": payment["merchant_transaction_id"],
        "serviceCode": payment["service_code"],
    });
    let body = heard.to_string();
    http::post(
        worker.address(),
        "/notifications/tingg",
        &[],
        body.as_bytes(),
    )
    .unwrap();
    let (result, correction) = until_corrected(&mut results, &request).await;
    assert_eq!(result["reason"], "credentials_refused");
    assert_eq!(correction["outcome"], "cancelled");
    let shown = world.rescind(&["show", &id(&request)]);
    assert!(shown.stdout.contains("dead discard"), "{shown:#?}");
    assert!(
        !shown.stdout.contains("cancelled nothing: correct"),
        "{shown:#?}"
    );

    world.behaves("forbidden");
    let replay = ["replay", &id(&request), "--reason", "with all the others"];
    world.dead(&replay).exits(0);
    assert_eq!(told(&mut results, &request).await.len(), 2);
    assert!(world.letters().is_empty());
}

/// It is neither open nor a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_the_provider_holds_up_is_seen_until_it_ends() {
    let mut world = World::new("replay-seen", "forbidden");
    world.set("defaults.poll.give_up_after", "10m");
    world.set("defaults.retry.give_up_after", "10m");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let request = world.have(&mut results, &["gr4vy"]).await.remove(0);
    let read = |name: &str, provider: &str| worker.metric(name, &[("provider", provider)]);
    let seen = |provider: &str| {
        let names = [
            "rescind_replaying",
            "rescind_oldest_replay_timestamp_seconds",
        ];
        names.map(|name| read(name, provider))
    };
    assert_eq!(seen("gr4vy"), [0.0, 0.0]);
    world.stage.simulator.kill9();
    let now = || jiff::Timestamp::now().as_duration().as_secs_f64();
    let before = now();
    world
        .dead(&[
            "replay",
            &id(&request),
            "--reason",
            "too early",
            "--no-wait",
        ])
        .exits(0);
    let begun = before - 0.001..=now();
    until("it is tried more than once", PATIENCE, || {
        worker.metric("rescind_retries_scheduled_total", &[("provider", "gr4vy")]) > 1.0
    })
    .await;
    let [count, since] = seen("gr4vy");
    assert_eq!(count, 1.0);
    assert!(begun.contains(&since), "{since} is not in {begun:?}");
    assert_eq!(seen("pismo"), [0.0, 0.0]);
    for name in ["rescind_open", "rescind_dead_letters"] {
        assert_eq!(worker.metric(name, &[]), 0.0, "{name}");
    }
    world.behaves("success");
    let (_, correction) = until_corrected(&mut results, &request).await;
    assert_eq!(correction["outcome"], "cancelled", "{correction:#}");
    assert_eq!(seen("gr4vy"), [0.0, 0.0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_ten_people_with_one_dead_letter_one_replays_it() {
    let world = World::new("replay-race", "forbidden");
    let mut worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let request = world.have(&mut results, &["pismo"]).await.remove(0);
    worker.kill9();
    let people = (0..10).map(|n| {
        let name = format!("person-{n}");
        let arguments = [
            "dead",
            "replay",
            &id(&request),
            "--reason",
            "me",
            "--as",
            &name,
            "--no-wait",
        ];
        let terminal = world.child(&arguments);
        tokio::task::spawn_blocking(move || (name, terminal.spawn_and_wait()))
    });
    let (mut winners, mut losers) = (Vec::new(), Vec::new());
    for person in people.collect::<Vec<_>>() {
        let (name, done) = person.await.unwrap();
        match done.code {
            Some(0) => winners.push(name),
            Some(6) => losers.push(done),
            _ => panic!("{name}: {done:#?}"),
        }
    }
    assert_eq!((winners.len(), losers.len()), (1, 9));
    for done in losers {
        let told = format!("replayed by {}", winners[0]);
        done.says("changed meanwhile").says(&told);
    }
    let shown = world.rescind(&["show", &id(&request), "--json"]).exits(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    assert_eq!(shown["actions"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_happen_and_changes_nothing() {
    let world = World::new("replay-dry", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    world.have(&mut results, &["gr4vy", "gr4vy", "pismo"]).await;
    let client = world.stage.client().await;
    client
        .publish_raw(&world.stage.names, "cancel.migo", b"{")
        .await;
    let mut late = request("migo", "payment");
    late["deadline"] = json!("2020-01-01T00:00:00Z");
    client.publish(&world.stage.names, &late).await;
    until("all are dead", PATIENCE, || {
        worker.metric("rescind_dead_letters", &[]) == 5.0
    })
    .await;
    drop(worker);
    let before = world.everything();
    let done = world.dead(&["replay", "--all", "--dry-run"]).exits(0);
    for text in [
        "gr4vy is asked first",
        "pismo cannot be asked",
        "deadline has passed",
        "is no request",
    ] {
        assert!(done.stdout.contains(text), "{text}: {done:#?}");
    }
    assert!(
        done.stderr
            .contains("3 of 5 dead letters would be replayed"),
        "{done:#?}"
    );
    let done = world
        .dead(&["replay", "--all", "--provider", "gr4vy", "-n", "--json"])
        .exits(0);
    let fates = done.objects();
    assert_eq!(fates.len(), 2);
    assert!(
        fates.iter().all(|fate| fate["fate"] == "possible"),
        "{fates:?}"
    );
    world
        .dead(&["discard", "--all", "--dry-run"])
        .exits(0)
        .says("5 dead letters would be");
    assert_eq!(world.everything(), before);
    let late_id = id(&late);
    for arguments in [&["dead", "show", &late_id][..], &["show", &late_id][..]] {
        let shown = world.rescind(arguments).exits(0);
        assert!(!shown.stdout.contains("dead replay"), "{shown:#?}");
        shown.says("publish a new request").says("dead discard");
    }
    // What is not possible is not begun either.
    let refused = world
        .dead(&["replay", &id(&late), "--reason", "late"])
        .exits(1);
    assert!(
        refused.stdout.contains("publish a new request"),
        "{refused:#?}"
    );
    assert_eq!(world.everything(), before);
}

/// Both would move money: each has a key of its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_anew_is_replayed_only_by_who_says_so() {
    let mut world = World::new("replay-newer", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let first = world.have(&mut results, &["pismo"]).await.remove(0);
    world
        .dead(&["discard", &id(&first), "--reason", "published anew"])
        .exits(0);
    world.behaves("success");
    let mut anew = first.clone();
    anew["request_id"] = json!("published-anew");
    let client = world.stage.client().await;
    client.publish(&world.stage.names, &anew).await;
    results.about([id(&anew)], PATIENCE).await;
    world.dead(&["discard", "--all", "--undo"]).exits(0);

    let calls = world.money(&anew).cancel_calls;
    let refused = world
        .dead(&["replay", "--all", "--reason", "well again"])
        .exits(1);
    assert!(refused.stdout.contains("later request"), "{refused:#?}");
    world
        .rescind(&["show", &id(&first)])
        .exits(0)
        .says("published-anew");
    let dry = ["replay", "--all", "--dry-run"];
    world.dead(&dry).exits(0).says("0 of 1 dead letter");
    let despite = [&dry[..], &["--despite-newer"]].concat();
    world.dead(&despite).exits(0).says("1 of 1 dead letter");
    assert_eq!(world.money(&anew).cancel_calls, calls);
    assert_eq!(world.money(&anew).effects.len(), 1);
    drop(worker);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_be_asked_a_doubt_is_left_to_a_person() {
    let mut world = World::new("replay-nobody", "hang");
    world.set("defaults.timeout", "1s");
    let _worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let request = world.have(&mut results, &["migo"]).await.remove(0);
    let before = world.everything();
    let refused = world
        .dead(&["replay", &id(&request), "--reason", "try"])
        .exits(1);
    assert!(refused.stdout.contains("provider's portal"), "{refused:#?}");
    assert_eq!(world.everything(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_has_the_pace_that_it_is_given() {
    let world = World::new("replay-pace", "forbidden");
    let mut worker = world.stage.worker();
    let mut results = world.stage.results().await;
    world.have(&mut results, &["gr4vy"; 9]).await;
    worker.kill9();
    let replay = [
        "replay",
        "--all",
        "--reason",
        "slowly",
        "--rate",
        "4/s",
        "--no-wait",
    ];
    let done = world.dead(&replay).exits(0);
    assert!(done.stderr.contains("9 dead letters: 9 begun"), "{done:#?}");
    let closed = world.dead(&["list", "--closed", "--json"]).objects();
    let times = closed.iter().map(|letter| letter["at"].as_str().unwrap());
    let mut times: Vec<jiff::Timestamp> = times.map(|at| at.parse().unwrap()).collect();
    times.sort();
    let took = times[8].duration_since(times[0]).as_millis();
    assert!(took >= 1_990, "{took} ms for eight intervals of 250 ms");
}
