//! A broker that says nothing: frozen, or delivering nothing to a consumer that waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

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

/// A TCP proxy that can swallow deliveries and lets everything else through.
struct Muffler {
    url: String,
    muffled: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Muffler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Muffler {
    async fn before(broker: &Broker) -> Self {
        let mut url = url::Url::parse(broker.url()).unwrap();
        let broker = format!("127.0.0.1:{}", url.port().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        url.set_port(Some(port)).unwrap();
        let muffled = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&muffled);
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let broker = TcpStream::connect(&broker).await.unwrap();
                let (mut from_client, to_client) = client.into_split();
                let (from_broker, mut to_broker) = broker.into_split();
                tokio::spawn(async move { copy(&mut from_client, &mut to_broker).await });
                tokio::spawn(frames(from_broker, to_client, Arc::clone(&flag)));
            }
        });
        Self {
            url: url.into(),
            muffled,
            task,
        }
    }
}

/// Type, channel and length; the payload; an end mark. Deliveries are `basic.deliver`, and
/// the frames of content that follow.
async fn frames(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, muffled: Arc<AtomicBool>) {
    const DELIVER: &[u8] = &[0, 60, 0, 60];
    let mut head = [0; 7];
    while from.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes(head[3..].try_into().unwrap());
        let mut rest = vec![0; length as usize + 1];
        if from.read_exact(&mut rest).await.is_err() {
            return;
        }
        let delivery = matches!(head[0], 2 | 3) || rest.starts_with(DELIVER);
        if delivery && muffled.load(Ordering::Acquire) {
            continue;
        }
        if to
            .write_all(&[&head, rest.as_slice()].concat())
            .await
            .is_err()
        {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_the_broker_has_forgotten_subscribes_again() {
    let broker = Broker::shared();
    let muffler = Muffler::before(broker).await;
    let mut stage = Stage::with(&muffler.url, "forgotten", Simulator::start());
    // What is swallowed counts as delivered: the rest of the queue has to be left in it.
    stage.set("amqp.prefetch", 1);
    let worker = stage.worker();
    let client = crate::rig::Client::connect(broker.url()).await;
    let mut results = client.results(&stage.names).await;
    muffler.muffled.store(true, Ordering::Release);
    let all = requests(12, "success");
    client.confirm_all(&stage.names, &all).await;
    until("it is noticed", PATIENCE, || {
        worker.log().contains("the broker delivers none of them")
    })
    .await;
    muffler.muffled.store(false, Ordering::Release);
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
