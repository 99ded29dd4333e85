//! Results that the broker does not take: no binding, no room.

use std::time::Duration;

use lapin::types::AMQPValue;
use serde_json::Value;

use super::{publish_through, requests, until_results};
use crate::flow::PATIENCE;
use crate::rig::checker::{all_money, endings};
use crate::rig::client::Published;
use crate::rig::stage::{Stage, payment_id};
use crate::rig::terminal::Terminal;
use crate::rig::{Broker, Client, Simulator, http, until};

/// Waits until at least so many messages are in the queue, and nobody takes them.
async fn until_left(client: &Client, queue: &str, count: u32) {
    let end = std::time::Instant::now() + PATIENCE;
    while client.queue_depth(queue).await < Some(count) {
        assert!(std::time::Instant::now() < end, "{queue} is taken from");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The broker's bound on a message, as it is documented: the result of one that just fits must fit, too,
/// or what is published ends the session, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_the_largest_message_that_the_broker_takes_holds_nothing_up() {
    let broker = Broker::start_with("max_message_size = 1048576\n", None);
    let stage = Stage::on(&broker, "largest");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    let mut largest = requests(1, "success").remove(0);
    let id = crate::rig::checker::id(&largest);
    largest["metadata"] = serde_json::json!({ "k": "" });
    let rest = (1 << 20) - largest.to_string().len();
    largest["metadata"]["k"] = "x".repeat(rest).into();
    let body = largest.to_string().into_bytes();
    let fate = client.publish_raw(&stage.names, "cancel.any", &body).await;
    assert_eq!(fate, Published::Confirmed);
    let result = results.one(&id, PATIENCE).await.json();
    assert_eq!(
        (&result["reason"], &result["metadata"]),
        (&"too_large".into(), &Value::Null)
    );
    assert_eq!(dead_letters.one(&id, PATIENCE).await.body, body);
    let others = requests(6, "success");
    client.confirm_all(&stage.names, &others).await;
    endings(&stage, &mut results, &others, PATIENCE).await;
    assert_eq!(
        worker.metric("rescind_broker_reconnects_total", &[]),
        0.0,
        "{}",
        worker.log()
    );
}

/// As an operator who lowers the bound below what already waits to be published.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_broker_refuses_keeps_no_other_one_waiting() {
    let broker = Broker::start();
    // RabbitMQ 3 reads the one, 4 the other.
    let bound = |bytes: u32| {
        let both = format!(
            "application:set_env(rabbit, max_message_size, {bytes}), persistent_term:put(max_message_size, {bytes})."
        );
        broker.ctl(&["eval", &both])
    };
    let stage = Stage::on(&broker, "refused");
    let mut worker = stage.worker();
    worker.sigterm();
    worker.wait(PATIENCE);
    let client = stage.client().await;
    let mut results = stage.results().await;
    let mut all = requests(60, "success");
    let large: Vec<String> = [7, 31]
        .map(|n: usize| crate::rig::checker::id(&all[n]))
        .into();
    for n in [7, 31] {
        all[n]["metadata"] = serde_json::json!({ "k": "x".repeat(8_000) });
    }
    client.confirm_all(&stage.names, &all).await;
    bound(4_000);
    worker.restart();
    // Where the session ends again and again, some results come again and again.
    let all_others = tokio::time::timeout(PATIENCE, until_results(&mut results, 58));
    all_others.await.expect("the other results");
    until("both are refused", PATIENCE, || {
        let status = [("kind", "result"), ("status", "nacked")];
        worker.metric("rescind_publishes_total", &status) >= 2.0
    })
    .await;
    for id in &large {
        assert!(!results.counts().contains_key(id), "{id}");
    }
    assert!(
        worker.log().contains("max_message_size"),
        "{}",
        worker.log()
    );
    let later = requests(30, "success");
    client.confirm_all(&stage.names, &later).await;
    until_results(&mut results, 88).await;
    bound(134_217_728);
    all.extend(later);
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    assert_eq!(
        worker.metric("rescind_broker_reconnects_total", &[]),
        0.0,
        "{}",
        worker.log()
    );
}

/// Dead letters that may not be written keep no result waiting, and are not lost.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_without_permission_keep_no_result_waiting() {
    let broker = Broker::start();
    let permit = |write: &str| broker.ctl(&["set_permissions", "guest", ".*", write, ".*"]);
    let stage = Stage::on(&broker, "unpermitted");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    permit("^(?!.*dead)");
    let invalid = |n: usize| {
        let id = format!("nowhere-{n}");
        serde_json::json!({ "request_id": id, "provider": "nowhere", "payment": { "id": "p" } })
    };
    let nowhere: Vec<Value> = (0..60).map(invalid).collect();
    client.confirm_all(&stage.names, &nowhere).await;
    until_results(&mut results, 60).await;
    until("they are refused", PATIENCE, || {
        let status = [("kind", "dead_letter"), ("status", "nacked")];
        worker.metric("rescind_publishes_total", &status) >= 60.0
    })
    .await;
    let all = requests(30, "success");
    client.confirm_all(&stage.names, &all).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    let config = stage.dir().join("person.toml");
    std::fs::write(&config, stage.config()).unwrap();
    let check = |code| {
        Terminal::new(&config, &["check"])
            .spawn_and_wait()
            .exits(code)
    };
    let told = check(8).stdout;
    let barred = |exchange| format!("may not publish to the exchange {exchange}");
    assert!(told.contains(&barred(&stage.names.dead_exchange)), "{told}");
    assert!(
        !told.contains(&barred(&stage.names.results_exchange)),
        "{told}"
    );
    permit(".*");
    check(0);
    for request in &nowhere {
        let id = crate::rig::checker::id(request);
        dead_letters.one(&id, PATIENCE).await;
    }
    let reconnects = worker.metric("rescind_broker_reconnects_total", &[]);
    assert_eq!(reconnects, 0.0, "{}", worker.log());

    // The requests and the notifications; and nothing is taken from the queue of either.
    broker.ctl(&[
        "set_permissions",
        "guest",
        ".*",
        ".*",
        "^(?!.*(request|notif))",
    ]);
    let told = check(8).stdout;
    let barred = |queue| format!("may not read the queue {queue}");
    for queue in [
        &stage.names.requests_queue,
        &stage.names.notifications_queue,
    ] {
        assert!(told.contains(&barred(queue)), "{told}");
    }
    assert!(
        !told.contains(&barred(&stage.names.dropped_queue)),
        "{told}"
    );
}

/// It is declared again, with its queue's binding.
#[tokio::test(flavor = "multi_thread")]
async fn results_whose_exchange_was_deleted_are_published_when_it_is_made_again() {
    let stage = Stage::new("deleted");
    let _worker = stage.worker();
    let client = stage.client().await;
    client.delete_exchange(&stage.names.results_exchange).await;
    let mut results = client.consume(&stage.names.results_queue).await;
    let all = requests(30, "success");
    client.confirm_all(&stage.names, &all).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_a_bound_of_unpublished_results_nothing_is_taken_in_or_begun() {
    // So slow that most results are still to come when the first ones are here.
    let simulator = Simulator::start_with(&["--latency", "100ms"]);
    let mut stage = Stage::with(Broker::shared().url(), "bound", simulator);
    stage.set("amqp.max_unpublished", 20);
    let worker = stage.worker();
    let names = stage.names.clone();
    let client = stage.client().await;
    let mut results = client.consume(&names.results_queue).await;
    let mut all = requests(300, "success");
    let publisher = publish_through(
        Broker::shared().url().to_owned(),
        names.clone(),
        all.clone(),
    );
    let publisher = tokio::spawn(publisher);
    until_results(&mut results, 30).await;
    // Under load: some window of results is on its way.
    let (queue, exchange) = (&names.results_queue, &names.results_exchange);
    client.unbind(queue, exchange, "result.#").await;
    until("it holds", PATIENCE, || {
        worker.metric("rescind_held", &[]) == 1.0 && !worker.ready()
    })
    .await;
    assert!(
        worker.log().contains("amqp.max_unpublished"),
        "{}",
        worker.log()
    );
    let (_, health) = http::get(worker.address(), "/readyz").unwrap();
    assert!(health.contains("\"outbox_within_bound\":false"), "{health}");
    let consuming = "\"broker_consuming\":false";
    until("it consumes no more", PATIENCE, || {
        http::get(worker.address(), "/readyz").is_ok_and(|(_, health)| health.contains(consuming))
    })
    .await;

    publisher.await.unwrap();
    let later = requests(30, "success");
    client.confirm_all(&names, &later).await;
    until_left(&client, &names.requests_queue, 30).await;
    let money = all_money(&stage);
    for request in &later {
        let provider = request["provider"].as_str().unwrap().to_owned();
        assert!(!money.contains_key(&(provider, payment_id(request))));
    }

    client.bind(queue, exchange, "result.#").await;
    all.extend(later);
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    until("it goes on", PATIENCE, || {
        worker.metric("rescind_held", &[]) == 0.0 && worker.ready()
    })
    .await;
}

/// Thirty times a second, each with a line in the log, nobody would be helped.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_takes_is_tried_more_and_more_seldom_and_told_once_for_all() {
    let mut stage = Stage::new("seldom");
    stage.set("amqp.results_queue", "");
    let worker = stage.worker();
    let names = stage.names.clone();
    let client = stage.client().await;
    let mut dead_letters = stage.dead_letters().await;
    let unwanted = requests(30, "success");
    client.confirm_all(&names, &unwanted).await;
    let returned = || {
        let status = [("kind", "result"), ("status", "returned")];
        worker.metric("rescind_publishes_total", &status)
    };
    until("all come back", PATIENCE, || returned() >= 60.0).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    // After 1, 3, 7 and 15 s.
    assert!(returned() <= 30.0 * 5.0, "{}", returned());
    let log = worker.log();
    let lines = log.lines().filter(|line| line.contains("came back"));
    assert!((1..=6).contains(&lines.count()), "{log}");
    // What others take does not wait.
    let invalid = serde_json::json!({ "request_id": "nowhere", "provider": "nowhere" });
    let before = returned();
    client.publish(&names, &invalid).await;
    dead_letters.one("nowhere", PATIENCE).await;
    // Its own result has no queue, either.
    assert!(returned() <= before + 1.0, "it came with the next try");
    let mut results = stage.results().await;
    endings(&stage, &mut results, &unwanted, PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_results_queue_refuses_and_gets_everything_once_there_is_room() {
    let mut stage = Stage::new("room");
    stage.set("amqp.results_queue", "");
    let worker = stage.worker();
    let names = stage.names.clone();
    let client = stage.client().await;
    let refusing = [
        ("x-max-length", AMQPValue::LongInt(3)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    client
        .declare_queue_with(&names.results_queue, &refusing)
        .await;
    client
        .bind(&names.results_queue, &names.results_exchange, "result.#")
        .await;
    let all = requests(30, "success");
    client.confirm_all(&names, &all).await;
    let nacked = [("kind", "result"), ("status", "nacked")];
    until("some are refused", PATIENCE, || {
        worker.metric("rescind_publishes_total", &nacked) > 0.0
    })
    .await;
    assert!(worker.metric("rescind_outbox_pending", &[]) > 0.0);
    let mut results = client.consume(&names.results_queue).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    until("all are published", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == 0.0
    })
    .await;
}
