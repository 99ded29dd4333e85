//! Discarding: with a reason, taken back, and counted where people can see it.

use serde_json::Value;

use super::world::{World, closed};
use crate::rig::checker::id;
use crate::rig::until;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_discarded_can_be_taken_back_and_everybody_sees_who_did_it() {
    let world = World::new("discard", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let requests = world.have(&mut results, &["gr4vy", "gr4vy", "pismo"]).await;
    let one = id(&requests[0]);
    world.dead(&["discard", &one]).exits(2).says("--reason");
    world
        .dead(&["discard", &one, "--reason", " "])
        .exits(2)
        .says("--reason");
    world
        .dead(&["discard", &one, "--undo"])
        .exits(6)
        .says("it is open");
    world
        .dead(&["discard", &one, "--reason", "refunded by hand"])
        .exits(0);
    assert_eq!(world.letters().len(), 2);
    assert_eq!(closed(&worker, "discarded"), 1.0);
    assert_eq!(worker.metric("rescind_dead_letters", &[]), 2.0);
    let again = world
        .dead(&["discard", &one, "--reason", "me too", "--as", "ben"])
        .exits(6);
    again.says("discarded by ana");
    world
        .dead(&["replay", &one, "--reason", "no"])
        .exits(6)
        .says("discarded by ana");
    let listed = world.dead(&["list", "--closed"]).exits(0);
    assert!(
        listed.stdout.contains("discarded by ana: refunded by hand"),
        "{listed:#?}"
    );

    world
        .dead(&[
            "discard",
            &one,
            "--undo",
            "--reason",
            "it was not",
            "--as",
            "ben",
        ])
        .exits(0);
    assert_eq!(world.letters().len(), 3);
    assert_eq!(closed(&worker, "discarded"), 1.0, "a counter does not fall");

    let gr4vy = ["discard", "--all", "--provider", "gr4vy", "--dry-run"];
    world.dead(&gr4vy).exits(0).says("2 dead letters");
    let oldest = world.dead(&[&gr4vy[..], &["--limit", "1"]].concat());
    oldest
        .exits(0)
        .says("these are the oldest 1 of 2")
        .says("1 dead letter");
    assert_eq!(world.letters().len(), 3);

    let all = world.dead(&[
        "discard",
        "--all",
        "--provider",
        "gr4vy",
        "--reason",
        "test data",
    ]);
    all.exits(0).says("2 dead letters: 2 done");
    let left = world.letters();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["provider"], "pismo");
    world
        .dead(&["discard", "--all", "--undo"])
        .exits(0)
        .says("2 dead letters: 2 done");
    assert_eq!(world.letters().len(), 3);
    let missing = ["discard", &one, "nobody", "--reason", "x"];
    world.dead(&missing).exits(1).says("\"nobody\"");
    assert_eq!(
        world.letters().len(),
        3,
        "one wrong id, and nothing is done"
    );

    let shown = world.rescind(&["show", &one, "--json"]).exits(0);
    let shown: Value = serde_json::from_str(&shown.stdout).unwrap();
    let actions = shown["actions"].as_array().unwrap();
    let said: Vec<(&str, &str)> = actions
        .iter()
        .map(|a| (a["action"].as_str().unwrap(), a["who"].as_str().unwrap()))
        .collect();
    let expected = [
        ("discarded", "ana"),
        ("taken_back", "ben"),
        ("discarded", "ana"),
        ("taken_back", "ana"),
    ];
    assert_eq!(said, expected);
    assert_eq!(actions[0]["why"], "refunded by hand");
    until("the gauge follows", super::PATIENCE, || {
        worker.metric("rescind_dead_letters", &[]) == 3.0
    })
    .await;
}
