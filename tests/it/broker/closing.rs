//! A broker that ends connections for a reason of its own: while a worker starts, or has no ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use super::frames::{PAYLOAD, passing};
use crate::flow::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::client::Outgoing;
use crate::rig::raw::{long, short};
use crate::rig::stage::{Stage, request};
use crate::rig::{Broker, Simulator, Worker, until};

/// A way to the broker on which a question for an exchange is answered with a farewell of this code, once.
async fn closing(broker: &Broker, code: Arc<AtomicU16>) -> String {
    const DECLARED: &[u8] = &[0, 40, 0, 11];
    let pass = move |frame: Vec<u8>| {
        let declared = frame[PAYLOAD..].starts_with(DECLARED);
        match declared.then(|| code.swap(0, Ordering::AcqRel)) {
            None | Some(0) => frame,
            Some(code) => farewell(code),
        }
    };
    passing(broker, pass).await
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
