//! A broker that says nothing: frozen, or delivering nothing to a consumer that waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use super::frames::{PAYLOAD, passing};
use super::{publish_through, requests, unhurried, until_results};
use crate::flow::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::stage::Stage;
use crate::rig::{Broker, Simulator, Worker, until};

/// lapin itself lets go of a silent broker after half a minute or more.
const BEFORE_LAPIN: Duration = Duration::from_secs(20);

/// Of a worker with the broker: intake, outbox, notifications in and out.
const SESSIONS: usize = 4;

/// As a machine that swaps, or whose host is moved: every connection stays open.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_broker_is_given_up_and_found_again() {
    let broker = Broker::start();
    let mut stage = unhurried(&broker, "frozen");
    // None that is missed ends a session: each notices by itself.
    stage.set("amqp.url", format!("{}?heartbeat=0", broker.url()));
    let worker = stage.worker();
    let mut results = stage.results().await;
    let all = requests(200, "success");
    let names = stage.names.clone();
    let publisher = tokio::spawn(publish_through(broker.url().to_owned(), names, all.clone()));
    until_results(&mut results, 30).await;
    broker.freeze();
    until("every session sees it", PATIENCE, || {
        let ended = worker.log();
        ["outbox", "intake"].iter().all(|session| {
            let lines = ended.lines().filter(|l| l.contains("no broker session"));
            lines
                .filter(|line| line.contains(&format!("\"session\":\"{session}\"")))
                .count()
                > 0
        })
    })
    .await;
    // Between two attempts there is none, where the connections before are gone.
    until("what was given up is gone", BEFORE_LAPIN, || {
        threads(&worker, "lapin-io-loop") < SESSIONS
    })
    .await;
    broker.thaw();
    publisher.await.unwrap();
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    until("the worker is ready again", PATIENCE, || worker.ready()).await;
}

/// A balancer before a broker that is gone takes every connection and says nothing, for hours.
#[tokio::test(flavor = "multi_thread")]
async fn attempts_that_nobody_answers_leave_nothing_behind() {
    for scheme in ["amqp", "amqps"] {
        let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://guest:guest@{}/%2f", mute.local_addr().unwrap());
        let stage = Stage::with(&url, "mute", Simulator::start());
        let worker = Worker::spawn(&stage.config(), &[]);
        let mut attempts = Vec::new();
        for _ in 0..3 {
            let accepted = tokio::time::timeout(PATIENCE, mute.accept()).await;
            attempts.push(accepted.expect("one more attempt").unwrap().0);
        }
        for mut attempt in attempts {
            let mut heard = Vec::new();
            let end = attempt.read_to_end(&mut heard);
            // A reset ends it as well.
            let ended = tokio::time::timeout(PATIENCE, end).await;
            drop(ended.expect("the worker hangs up"));
        }
        until("a thread for no more than one attempt", PATIENCE, || {
            threads(&worker, "lapin-io-loop") <= 1
        })
        .await;
    }
}

/// How many threads of that name a worker has.
fn threads(worker: &Worker, name: &str) -> usize {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", worker.id())).unwrap();
    let names = tasks.filter_map(|task| {
        // One that ends meanwhile has no name any more.
        std::fs::read_to_string(task.ok()?.path().join("comm")).ok()
    });
    names.filter(|found| found.trim_end() == name).count()
}

/// `basic.deliver`, and the frames of content that follow.
fn is_delivery(frame: &[u8]) -> bool {
    const DELIVER: &[u8] = &[0, 60, 0, 60];
    matches!(frame[0], 2 | 3) || frame[PAYLOAD..].starts_with(DELIVER)
}

/// A way to the broker on which deliveries can be swallowed.
async fn muffler(broker: &Broker, muffled: Arc<AtomicBool>) -> String {
    let pass = move |frame: Vec<u8>| {
        if muffled.load(Ordering::Acquire) && is_delivery(&frame) {
            Vec::new()
        } else {
            frame
        }
    };
    passing(broker, pass).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_broker_has_forgotten_subscribes_again() {
    let broker = Broker::shared();
    let muffled = Arc::new(AtomicBool::new(false));
    let url = muffler(broker, Arc::clone(&muffled)).await;
    let mut stage = Stage::with(&url, "forgotten", Simulator::start());
    // What is swallowed counts as delivered: the rest of the queue has to be left in it.
    stage.set("amqp.prefetch", 1);
    let worker = stage.worker();
    let client = crate::rig::Client::connect(broker.url()).await;
    let mut results = client.results(&stage.names).await;
    muffled.store(true, Ordering::Release);
    let all = requests(12, "success");
    client.confirm_all(&stage.names, &all).await;
    until("it is noticed", PATIENCE, || {
        worker.log().contains("the broker delivers none of them")
    })
    .await;
    muffled.store(false, Ordering::Release);
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    // A queue that is only quiet is left alone: it is looked at after 5 s.
    let sessions = worker.metric("rescind_broker_reconnects_total", &[]);
    tokio::time::sleep(Duration::from_secs(8)).await;
    let later = worker.metric("rescind_broker_reconnects_total", &[]);
    assert_eq!(later, sessions);
}
