//! A person's commands and a worker under load, on one ledger at once.

use serde_json::Value;

use super::PATIENCE;
use super::world::{World, closed};
use crate::rig::Database;
use crate::rig::checker::{endings, id};
use crate::rig::stage::request;

#[tokio::test(flavor = "multi_thread")]
async fn people_and_a_busy_worker_do_not_get_into_each_others_way() {
    let mut world = World::new("beside", "forbidden");
    // A machine that is busy with all of this may be slow to answer; that is no doubt.
    world.set("defaults.timeout", "30s");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let dead = world.have(&mut results, &["gr4vy"; 40]).await;
    world.behaves("success");
    let requests: Vec<Value> = (0..600)
        .map(|n| request(["migo", "pismo", "midtrans"][n % 3], "payment"))
        .collect();
    let client = world.stage.client().await;
    let halves = dead.split_at(20);
    let replay = |half: &[Value], name: &'static str| {
        let mut arguments = vec!["dead".to_owned(), "replay".to_owned()];
        arguments.extend(half.iter().map(id));
        arguments.extend(["--reason", "well again", "--as", name].map(str::to_owned));
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let terminal = world.child(&arguments);
        tokio::task::spawn_blocking(move || terminal.spawn_and_wait())
    };
    let people = [replay(halves.0, "ana"), replay(halves.1, "ben")];
    client.confirm_all(&world.stage.names, &requests).await;
    for ending in endings(&world.stage, &mut results, &requests, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    for person in people {
        person
            .await
            .unwrap()
            .exits(0)
            .says("20 dead letters: 20 ended");
    }
    for request in &dead {
        assert_eq!(world.money(request).effects.len(), 1);
    }
    assert_eq!(closed(&worker, "replayed"), 40.0);
    assert_eq!(worker.metric("rescind_open", &[]), 0.0);
    let log = worker.log();
    assert!(
        !log.contains("cannot commit") && !log.contains("cannot claim"),
        "{log}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_and_two_workers_share_a_database() {
    let mut world = World::new("beside-database", "forbidden");
    world.set("ledger.url", &Database::shared().create());
    let workers = [world.stage.worker(), world.stage.worker()];
    let mut results = world.stage.results().await;
    let dead = world.have(&mut results, &["gr4vy", "pismo", "tingg"]).await;
    world.behaves("success");
    let people = ["ana", "ben"].map(|name| {
        let arguments = [
            "dead",
            "replay",
            "--all",
            "--reason",
            "well again",
            "--as",
            name,
        ];
        let terminal = world.child(&arguments);
        tokio::task::spawn_blocking(move || terminal.spawn_and_wait())
    });
    let mut ended = 0;
    for person in people {
        let done = person.await.unwrap();
        assert!(
            [Some(0), Some(3), Some(6)].contains(&done.code),
            "{done:#?}"
        );
        ended += done.stdout.matches("  ended").count();
    }
    assert_eq!(ended, 3, "each by one of them");
    for request in &dead {
        assert_eq!(world.money(request).effects.len(), 1);
    }
    for worker in &workers {
        assert_eq!(
            closed(worker, "replayed"),
            3.0,
            "the ledger's count, at both"
        );
    }
    let one = id(&dead[0]);
    world
        .dead(&["discard", &one, "--reason", "late"])
        .exits(6)
        .says("replayed by");
    world
        .rescind(&["show", &one])
        .exits(0)
        .says("corrected to cancelled");
}
