//! A broker that ends connections for a reason of its own: while a worker starts, or has no ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

use crate::flow::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::client::Outgoing;
use crate::rig::raw::{long, short};
use crate::rig::stage::{Stage, request};
use crate::rig::{Broker, Simulator, Worker, until};

/// A TCP proxy that answers a question for an exchange with a farewell of this code, once.
async fn closing(broker: &Broker, code: Arc<AtomicU16>) -> String {
    let mut url = url::Url::parse(broker.url()).unwrap();
    let broker = format!("127.0.0.1:{}", url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    url.set_port(Some(port)).unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let broker = TcpStream::connect(&broker).await.unwrap();
            let (mut from_client, to_client) = client.into_split();
            let (from_broker, mut to_broker) = broker.into_split();
            tokio::spawn(async move { copy(&mut from_client, &mut to_broker).await });
            tokio::spawn(frames(from_broker, to_client, Arc::clone(&code)));
        }
    });
    url.into()
}

/// Type, channel and length; the payload; an end mark.
async fn frames(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, code: Arc<AtomicU16>) {
    const DECLARED: &[u8] = &[0, 40, 0, 11];
    let mut head = [0; 7];
    while from.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes(head[3..].try_into().unwrap());
        let mut rest = vec![0; length as usize + 1];
        if from.read_exact(&mut rest).await.is_err() {
            return;
        }
        let mut frame = [&head, rest.as_slice()].concat();
        if rest.starts_with(DECLARED) {
            frame = match code.swap(0, Ordering::AcqRel) {
                0 => frame,
                code => farewell(code),
            };
        }
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// `connection.close`
fn farewell(code: u16) -> Vec<u8> {
    let text = short(b"not now");
    let method = [
        &[0, 10, 0, 50],
        &code.to_be_bytes()[..],
        &text,
        &[0, 40, 0, 10],
    ]
    .concat();
    [&[1, 0, 0], &long(&method)[..], &[0xce]].concat()
}

/// It is being stopped (320), or a node of it is (541): neither says that the topology is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_has_no_time_now_is_no_wrong_topology() {
    let code = Arc::new(AtomicU16::new(0));
    let url = closing(Broker::shared(), Arc::clone(&code)).await;
    let mut stage = Stage::with(&url, "closing", Simulator::start());
    for topology in ["declare", "verify"] {
        stage.set("amqp.topology", topology);
        for farewell in [320, 541] {
            code.store(farewell, Ordering::Release);
            let mut worker = Worker::spawn(&stage.config(), &[]);
            worker.become_ready(PATIENCE).unwrap();
            let log = worker.log();
            let says = ["the topology could not be checked", "not now"];
            assert!(says.iter().all(|text| log.contains(text)), "{log}");
        }
    }
}

/// Three returns say that a message stops the worker; these say that its ledger does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_end_while_the_ledger_does_not_answer_make_no_message_poisonous() {
    let broker = Broker::start();
    let stage = Stage::on(&broker, "returned");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let held = rusqlite::Connection::open(stage.ledger()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let request = request("migo", "success");
    let mut message = Outgoing::request(&stage.names, &request);
    message.exchange.clone_from(&stage.names.dropped_exchange);
    stage.client().await.send(message).await;
    // Not the one of notifications.
    let said = format!("\"consuming\",\"queue\":\"{}\"", stage.names.requests_queue);
    let consuming = || worker.log().matches(&said).count();
    for _ in 0..4 {
        // What the broker delivers comes at once.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = consuming();
        broker.ctl(&["close_all_connections", "the test says so"]);
        until("it consumes again", PATIENCE, || consuming() > before).await;
    }
    held.execute_batch("ROLLBACK").unwrap();
    let ended = endings(&stage, &mut results, &[request], PATIENCE).await;
    assert_eq!(ended[0].result["outcome"], "cancelled", "{ended:#?}");
    let received = |kind| worker.metric("rescind_requests_received_total", &[("kind", kind)]);
    until("it came once more", PATIENCE, || {
        received("repeated") + received("invalid") >= 1.0
    })
    .await;
    assert_eq!(received("invalid"), 0.0, "{}", worker.log());
}
