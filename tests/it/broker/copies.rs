//! Copies for `reply_to` that cannot be sent, and what does not wait for them.

use lapin::BasicProperties;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::TcpStream;

use super::frames::between;
use crate::flow::PATIENCE;
use crate::rig::checker::id;
use crate::rig::client::persistent_json;
use crate::rig::stage::{Stage, request};
use crate::rig::{Broker, Simulator, until};

/// What RabbitMQ closes a connection for.
const MADE_UP: &str = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA1MTQ5MjQ0NgAAAAAAAAAAYQ==.garbage";

fn to(queue: &str) -> BasicProperties {
    persistent_json().with_reply_to(queue.into())
}

/// The address of a TCP proxy before the broker. Of a connection with this name it passes nothing on from
/// the moment in which it says so.
async fn swallowing(broker: &Broker, name: &'static str) -> String {
    let join = move |client: TcpStream, broker: TcpStream| {
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_broker, mut to_broker) = broker.into_split();
        tokio::spawn(async move { copy(&mut from_broker, &mut to_client).await });
        tokio::spawn(async move {
            let mut some = [0; 4096];
            let mut swallows = false;
            while let Ok(count @ 1..) = from_client.read(&mut some).await {
                let said = String::from_utf8_lossy(&some[..count]);
                swallows |= said.contains(name);
                if !swallows && to_broker.write_all(&some[..count]).await.is_err() {
                    return;
                }
            }
        });
    };
    between(broker, join).await
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_cannot_be_sent_hold_up_neither_results_nor_a_stop() {
    let url = swallowing(Broker::shared(), "rescind copies").await;
    let mut stage = Stage::with(&url, "swallowed", Simulator::start());
    stage.set("amqp.reply_to", true);
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    // More than there are windows on their way at once.
    for _ in 0..6 {
        let request = request("migo", "success");
        let properties = to("somewhere");
        client
            .publish_with(&stage.names, &request, properties)
            .await;
        results.one(&id(&request), PATIENCE).await;
    }
    let given_up = "the copy for reply_to was not delivered";
    assert!(!worker.log().contains(given_up), "{}", worker.log());
    worker.sigterm();
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    let late = "the time to drain is over";
    assert!(!worker.log().contains(late), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_the_broker_closes_a_connection_for_takes_no_other_with_it() {
    let mut stage = Stage::new("closed-for");
    stage.set("amqp.reply_to", true);
    let worker = stage.worker();
    let client = stage.client().await;
    let queue = format!("{}.replies", stage.names.results_exchange);
    let exchange = &stage.names.results_exchange;
    client
        .declare_queue(&queue, "classic", exchange, "nothing")
        .await;
    let mut replies = client.consume(&queue).await;
    let all: Vec<Value> = (0..12).map(|_| request("migo", "success")).collect();
    let publishing = all.iter().enumerate().map(|(n, request)| {
        let place = if n % 4 == 1 { MADE_UP } else { &*queue };
        client.publish_with(&stage.names, request, to(place))
    });
    futures_util::future::join_all(publishing).await;
    // Some may come twice.
    let wanted = all.iter().enumerate().filter(|(n, _)| n % 4 != 1);
    let wanted = wanted.map(|(_, request)| id(request));
    replies.about(wanted, PATIENCE).await;
    until("the others are told", PATIENCE, || {
        worker.log().matches("was not delivered").count() == 3
    })
    .await;
}
