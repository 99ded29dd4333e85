//! What ends a replay before its end: failures, a person, a crash. Nothing is lost by it.

use std::os::unix::process::ExitStatusExt as _;

use rustix::process::Signal;

use super::PATIENCE;
use super::world::World;
use crate::rig::checker::id;
use crate::rig::until;

#[tokio::test(flavor = "multi_thread")]
async fn when_too_many_fail_again_the_rest_is_left_as_it_was() {
    let world = World::new("stop-bad", "forbidden");
    let worker = world.stage.worker();
    let mut results = world.stage.results().await;
    world.have(&mut results, &["pismo"; 90]).await;
    let done = world
        .dead(&["replay", "--all", "--reason", "blindly"])
        .exits(1);
    assert!(
        done.stderr.contains("failed again, more than 5 %"),
        "{done:#?}"
    );
    let (failed, left) = (done.stdout.lines().count(), world.letters().len());
    assert_eq!(
        left, 90,
        "those that failed again, and those that were left"
    );
    // 50 under way at most, and as many more as ended before the twentieth; fewer where the worker was
    // faster than the command.
    assert!((20..=70).contains(&failed), "{failed} were begun");
    let untouched = format!("{} left as they were", 90 - failed);
    assert!(done.stderr.contains(&untouched), "{done:#?}");
    assert_eq!(worker.metric("rescind_dead_letters", &[]), 90.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_what_is_begun_to_the_worker() {
    // More than are begun before the signal comes.
    const MANY: usize = 20;
    let mut world = World::new("stop-person", "forbidden");
    let mut worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let requests = world.have(&mut results, &["gr4vy"; MANY]).await;
    world.behaves("success");
    worker.kill9();
    let replay = ["replay", "--all", "--reason", "then not", "--rate", "2/s"];
    let mut command = world.start("replay", &replay);
    until("some are begun", PATIENCE, || {
        world.letters().len() <= MANY - 2
    })
    .await;
    command.signal(Signal::INT);
    let status = command.wait(PATIENCE);
    assert_eq!(status.code(), Some(130), "{}", command.log());
    let left = world.letters().len();
    assert!((1..=MANY - 2).contains(&left), "{left}");
    let log = command.log();
    let says = format!("{} under way, which the worker goes on with", MANY - left);
    assert!(
        log.contains(&says) && log.contains(&format!("{left} not begun")),
        "{log}"
    );

    worker.restart();
    let corrected = [("outcome", "cancelled")];
    until("the worker went on", PATIENCE, || {
        worker.metric("rescind_corrections_total", &corrected) == (MANY - left) as f64
    })
    .await;
    assert_eq!(world.letters().len(), left);
    world
        .dead(&["replay", "--all", "--reason", "now all"])
        .exits(0);
    for request in &requests {
        assert_eq!(world.money(request).effects.len(), 1);
    }
}

/// At each place where a worker can die: one effect, one correction, and no letter is left.
#[tokio::test(flavor = "multi_thread")]
async fn killed_during_a_replay_a_worker_loses_and_repeats_nothing() {
    let mut world = World::new("stop-crash", "forbidden");
    // What a killed worker may still have sent is waited for as long.
    world.set("defaults.timeout", "1s");
    let mut worker = world.stage.worker();
    let mut results = world.stage.results().await;
    let requests = world.have(&mut results, &["midtrans"; 4]).await;
    world.behaves("success");
    // The first call is the look-up, the second one the cancel.
    let places = [
        "after_intent_commit:2",
        "after_answer:1",
        "after_answer:2",
        "after_outcome_commit:2",
    ];
    for (request, place) in requests.iter().zip(places) {
        until("all is published", PATIENCE, || {
            worker.metric("rescind_outbox_pending", &[]) == 0.0
        })
        .await;
        worker.arm(place);
        worker.become_ready(PATIENCE).unwrap();
        world
            .dead(&["replay", &id(request), "--reason", place, "--no-wait"])
            .exits(0);
        let status = worker.wait(PATIENCE);
        assert_eq!(status.signal(), Some(9), "{place}: {}", worker.log());
        worker.restart_with(&[("RESCIND_FAIL_POINT", "nowhere")]);
        until("the replay ends", PATIENCE, || {
            let shown = world.rescind(&["show", &id(request)]).stdout;
            shown.contains("corrected to cancelled") && !shown.contains("is replayed")
        })
        .await;
        assert_eq!(world.money(request).effects.len(), 1, "{place}");
    }
    assert!(world.letters().is_empty());
    results.drain(std::time::Duration::from_millis(700)).await;
    for request in &requests {
        let about = results
            .seen()
            .iter()
            .filter(|m| m.request_id() == Some(id(request)));
        let corrections = about.filter(|m| m.routing_key.starts_with("correction."));
        let ids: std::collections::BTreeSet<_> = corrections.map(|m| m.message_id()).collect();
        assert_eq!(ids.len(), 1, "one finding, one id");
    }
}
