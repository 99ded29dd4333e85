//! A broker that stops, crashes, blocks or is not as it should be.

mod closing;
mod commands;
mod copies;
mod forbidden;
mod frames;
mod refused;
mod silent;
mod strange;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::types::AMQPValue;
use rescind::amqp::STEP;
use rescind::providers;
use serde_json::{Value, json};

use crate::flow::PATIENCE;
use crate::rig::checker::{all_money, endings, id};
use crate::rig::client::{Client, Outgoing, Published};
use crate::rig::stage::{Stage, payment_id, request};
use crate::rig::{Broker, Messages, Names, Simulator, Worker, http, until};

pub(crate) fn requests(count: usize, behaviour: &str) -> Vec<Value> {
    let kinds = providers::ALL.iter().map(|provider| provider.kind());
    let all = kinds.cycle().map(|kind| request(kind, behaviour));
    all.take(count).collect()
}

/// Publishes as a good publisher does: until every request is confirmed, whatever happens.
pub(crate) async fn publish_through(url: String, names: Names, requests: Vec<Value>) {
    let mut rest = requests;
    while !rest.is_empty() {
        let Ok(client) = Client::try_connect(&url).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        while client.connected() && !rest.is_empty() {
            let part: Vec<Value> = rest.iter().take(20).cloned().collect();
            let messages = part
                .iter()
                .map(|request| Outgoing::request(&names, request));
            let fates = client.publish_all(messages.collect()).await;
            let confirmed: BTreeSet<String> = part
                .iter()
                .zip(fates)
                .filter(|(_, fate)| *fate == Ok(Published::Confirmed))
                .map(|(request, _)| id(request))
                .collect();
            rest.retain(|request| !confirmed.contains(&id(request)));
        }
    }
}

/// Publishes somewhat more than [`unhurried`] providers carry out, for as long as that. Answers
/// what was published.
async fn publish_until(over: Arc<AtomicBool>, url: String, names: Names) -> Vec<Value> {
    let mut pace = tokio::time::interval(Duration::from_millis(100));
    let mut all = Vec::new();
    while !over.load(Ordering::Acquire) {
        pace.tick().await;
        let part = requests(30, "success");
        publish_through(url.clone(), names.clone(), part.clone()).await;
        all.extend(part);
    }
    all
}

pub(crate) async fn until_results(results: &mut Messages, count: usize) {
    while results.counts().len() < count {
        results.next(PATIENCE).await.expect("more results");
    }
}

/// Providers that take their time, so that there is a middle to be interrupted in.
fn unhurried(broker: &Broker, name: &str) -> Stage {
    let simulator = Simulator::start_with(&["--latency", "50ms"]);
    let mut stage = Stage::with(broker.url(), name, simulator);
    stage.set("defaults.max_in_flight", 2);
    stage
}

/// The worker sees that its broker is gone, and so does who looks at the worker.
async fn until_gone(worker: &Worker) {
    until("the worker sees it", PATIENCE, || {
        !worker.ready() && worker.metric("rescind_broker_connected", &[]) == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stops_and_one_that_crashes_cost_no_request() {
    let broker = Broker::start();
    let stage = unhurried(&broker, "restarts");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let all = requests(500, "success");
    let names = stage.names.clone();
    let publisher = tokio::spawn(publish_through(broker.url().to_owned(), names, all.clone()));

    until_results(&mut results, 100).await;
    broker.stop();
    until_gone(&worker).await;
    broker.start_again();
    until_results(&mut results, 300).await;
    broker.settle();
    broker.kill9();
    until_gone(&worker).await;
    broker.start_again();

    publisher.await.unwrap();
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    until("the worker is ready again", PATIENCE, || {
        worker.ready() && worker.metric("rescind_broker_connected", &[]) == 1.0
    })
    .await;
    assert!(worker.metric("rescind_broker_reconnects_total", &[]) >= 4.0);
    until("everything is published", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_waits_for_its_broker() {
    let broker = Broker::start();
    broker.stop();
    let stage = Stage::on(&broker, "waits");
    let mut worker = Worker::spawn(&stage.config(), &[]);
    until("it says what it waits for", PATIENCE, || {
        worker.log().contains("the broker cannot be reached")
    })
    .await;
    assert_eq!(worker.ended(), None);
    assert!(!worker.ready());
    broker.start_again();
    worker.become_ready(PATIENCE).unwrap();
    let mut results = stage.results().await;
    let all = requests(6, "success");
    stage.client().await.confirm_all(&stage.names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
}

/// The broker's own minute would leave a dead connection unnoticed for as long.
#[tokio::test(flavor = "multi_thread")]
async fn connections_are_heard_of_every_ten_seconds_or_as_the_url_says() {
    let broker = Broker::ours();
    for (query, seconds) in [("", "10"), ("?heartbeat=30", "30")] {
        let mut stage = Stage::on(broker, "heartbeat");
        let user = format!("beat-{}", crate::rig::unique());
        let url = broker.add_user(&user, "word");
        stage.set("amqp.url", format!("{url}{query}"));
        let _worker = stage.worker();
        let all = broker.ctl(&["list_connections", "--silent", "user", "timeout"]);
        let own = all.lines().filter_map(|line| line.strip_prefix(&user));
        let own: Vec<&str> = own.map(str::trim).collect();
        assert!(own.len() >= 3, "{all}");
        assert!(own.iter().all(|timeout| *timeout == seconds), "{all}");
    }
}

/// Requests are taken in where notifications cannot be; who looks is told that something is missing.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_may_not_read_notifications_is_not_ready_and_says_why() {
    let broker = Broker::ours();
    let mut stage = Stage::on(broker, "unheard");
    let user = format!("deaf-{}", crate::rig::unique());
    let url = broker.add_user(&user, "word");
    let all_but = "^(?!.*notifications$)";
    broker.ctl(&["set_permissions", &user, ".*", ".*", all_but]);
    stage.set("amqp.url", url);
    let worker = Worker::spawn(&stage.config(), &[]);
    let health = || http::get(worker.address(), "/readyz").map_or(String::new(), |(_, body)| body);
    until("it consumes", PATIENCE, || {
        health().contains("\"broker_consuming\":true")
    })
    .await;
    let (status, body) = http::get(worker.address(), "/readyz").unwrap();
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("\"notifications\":false"), "{body}");
    broker.ctl(&["set_permissions", &user, ".*", ".*", ".*"]);
    until("it is ready", PATIENCE, || worker.ready()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alarm_and_closed_connections_delay_results_and_lose_none() {
    let broker = Broker::start();
    let stage = unhurried(&broker, "alarm");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    // The requests are in the queue before the alarm: it stops their publisher, too.
    worker.kill9();
    let all = requests(60, "success");
    stage.client().await.confirm_all(&stage.names, &all).await;
    broker.ctl(&["set_vm_memory_high_watermark", "0"]);
    worker.respawn();
    until("all are carried out", PATIENCE, || {
        all_money(&stage)
            .values()
            .filter(|money| money.effects.len() == 1)
            .count()
            == all.len()
    })
    .await;
    until("all results wait", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == all.len() as f64
    })
    .await;
    // A connection that is given up during an alarm stays, with what it was given.
    tokio::time::sleep(STEP + Duration::from_secs(2)).await;
    assert_eq!(results.counts().len(), 0, "nothing can be published");
    assert!(
        !worker.log().contains("no broker session"),
        "{}",
        worker.log()
    );
    let told = |what: &str| worker.log().matches(what).count();
    assert_eq!(told("the broker has an alarm"), 1, "{}", worker.log());
    broker.ctl(&["set_vm_memory_high_watermark", "0.6"]);
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    until("it says that it is over", PATIENCE, || {
        told("the broker's alarm is over") == 1
    })
    .await;

    worker.become_ready(PATIENCE).unwrap();
    let before = worker.metric("rescind_broker_reconnects_total", &[]);
    // There is always something to interrupt, however long the command takes to start.
    let closed = Arc::new(AtomicBool::new(false));
    let (url, names) = (broker.url().to_owned(), stage.names.clone());
    let publisher = tokio::spawn(publish_until(Arc::clone(&closed), url, names));
    until_results(&mut results, 60 + 50).await;
    broker.ctl(&["close_all_connections", "the test says so"]);
    closed.store(true, Ordering::Release);
    let all = publisher.await.unwrap();
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    until("the worker is ready again", PATIENCE, || worker.ready()).await;
    let after = worker.metric("rescind_broker_reconnects_total", &[]);
    assert!(after >= before + 2.0, "both connections were made again");
}

/// The log of a worker that must not start.
fn refusal(stage: &Stage) -> String {
    let mut worker = Worker::spawn(&stage.config(), &[]);
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(8), "{}", worker.log());
    worker.log()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_that_is_only_verified_has_to_be_right() {
    let mut stage = Stage::new("verify");
    stage.set("amqp.topology", "verify");
    let names = stage.names.clone();
    let log = refusal(&stage);
    for queue in [
        &names.requests_queue,
        &names.dead_queue,
        &names.dropped_queue,
    ] {
        assert!(log.contains(&format!("queue {queue} is missing")), "{log}");
    }
    let client = stage.client().await;
    assert_eq!(
        client.queue_depth(&names.requests_queue).await,
        None,
        "nothing is created"
    );

    stage.set("amqp.topology", "declare");
    drop(stage.worker());
    stage.set("amqp.topology", "verify");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let all = requests(6, "success");
    client.confirm_all(&names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
    drop(worker);

    // A classic queue would lose what a quorum queue keeps. Nothing else about it is different.
    let (queue, exchange) = (&names.dropped_queue, &names.dropped_exchange);
    client.delete_queue(queue).await;
    let classic = AMQPValue::LongString("classic".into());
    client
        .declare_queue_with(queue, &[("x-queue-type", classic)])
        .await;
    client.bind(queue, exchange, "").await;
    for topology in ["verify", "declare"] {
        stage.set("amqp.topology", topology);
        let log = refusal(&stage);
        assert!(log.contains(queue), "{topology}: {log}");
        assert!(log.contains("arg 'x-queue-type'"), "{topology}: {log}");
        assert!(!log.contains(&names.dead_queue), "{topology}: {log}");
    }
    let declared = client.queue_depth(queue).await;
    assert_eq!(declared, Some(0), "what is there is left alone");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_queue_is_deleted_subscribes_again() {
    let stage = Stage::new("deleted");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let names = &stage.names;
    let reconnects = || worker.metric("rescind_broker_reconnects_total", &[]);
    for (queue, exchange) in [
        (&names.requests_queue, &names.requests_exchange),
        (&names.dropped_queue, &names.dropped_exchange),
    ] {
        let before = reconnects();
        client.delete_queue(queue).await;
        until("the session is built anew", PATIENCE, || {
            reconnects() > before
        })
        .await;
        until("the worker is ready again", PATIENCE, || worker.ready()).await;
        let all = requests(6, "success");
        for request in &all {
            let mut message = Outgoing::request(names, request);
            message.exchange.clone_from(exchange);
            assert_eq!(client.send(message).await, Published::Confirmed);
        }
        endings(&stage, &mut results, &all, PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_nobody_takes_waits_in_the_outbox() {
    let mut stage = Stage::new("unbound");
    stage.set("amqp.results_queue", "");
    let worker = stage.worker();
    let client = stage.client().await;
    let unwanted = request("midtrans", "success");
    client.publish(&stage.names, &unwanted).await;
    let published = |status: &str| {
        let labels = [("kind", "result"), ("status", status)];
        worker.metric("rescind_publishes_total", &labels)
    };
    // Twice: it is tried again and again.
    until("it comes back", PATIENCE, || published("returned") >= 2.0).await;
    assert_eq!(published("confirmed"), 0.0);
    assert_eq!(worker.metric("rescind_outbox_pending", &[]), 1.0);
    let money = stage.simulator.money("midtrans", &payment_id(&unwanted));
    assert_eq!(money.effects.len(), 1);

    let mut results = stage.results().await;
    let result = results.one(&id(&unwanted), PATIENCE).await;
    assert_eq!(result.json()["outcome"], json!("cancelled"));
    until("it is marked", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == 0.0
    })
    .await;
    assert_eq!(published("confirmed"), 1.0);
    // A later one comes after whatever else there was.
    let later = request("midtrans", "success");
    client.publish(&stage.names, &later).await;
    results.one(&id(&later), PATIENCE).await;
    assert_eq!(results.counts()[&id(&unwanted)], 1);
}

/// A ledger that does not answer keeps deliveries waiting until RabbitMQ takes them back: it closes
/// the channel and leaves the connection open, or since 4.3, which looks once a minute, cancels the
/// consumer only. A worker that watched its connections would be deaf.
#[tokio::test(flavor = "multi_thread")]
async fn deliveries_that_the_consumer_timeout_took_back_come_again() {
    let broker = Broker::start();
    let impatient = "application:set_env(rabbit, consumer_timeout, 1000), \
                     application:set_env(rabbit, channel_tick_interval, 500).";
    broker.ctl(&["eval", impatient]);
    let stage = Stage::on(&broker, "impatient");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let held = rusqlite::Connection::open(stage.ledger()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let all = requests(6, "success");
    let client = stage.client().await;
    client.confirm_all(&stage.names, &all).await;
    client
        .until_depth(&stage.names.requests_queue, 0, PATIENCE)
        .await;
    client
        .until_any(&stage.names.requests_queue, 3 * PATIENCE)
        .await;
    held.execute_batch("ROLLBACK").unwrap();
    until("the worker subscribed once more", PATIENCE, || {
        worker.log().contains("no broker session")
            && worker.metric("rescind_broker_reconnects_total", &[]) >= 1.0
    })
    .await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
}
