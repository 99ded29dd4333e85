//! A worker and notifications, through the real broker, endpoint and simulator.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::midtrans;
use crate::rig::client::{Outgoing, persistent_json};
use crate::rig::process::free_address;
use crate::rig::stage::{payment_id, request};
use crate::rig::{
    Broker, Client, Database, Message, Published, Simulator, Stage, Worker, http, until,
};

const PATIENCE: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_millis(700);
const SECOND: Duration = Duration::from_secs(1);
/// The simulator's.
const KEY: &str = "SB-Mid-server-demo";

/// A stage whose simulator notifies the worker at the address.
fn notified_stage(name: &str) -> (Stage, SocketAddr) {
    let address = free_address();
    let simulator = Simulator::start_with(&["--notify", &format!("http://{address}")]);
    (
        Stage::with(Broker::shared().url(), name, simulator),
        address,
    )
}

/// Nothing but a notification makes the worker ask again within the test's patience.
fn patient(stage: &mut Stage) {
    for provider in ["midtrans", "gr4vy", "tingg"] {
        for (key, value) in [("first", "1h"), ("max", "2h"), ("give_up_after", "24h")] {
            stage.set(&format!("providers.{provider}.poll.{key}"), value);
        }
    }
}

fn notify(worker: &Worker, provider: &str, body: &Value) -> u16 {
    let path = format!("/notifications/{provider}");
    let body = body.to_string();
    http::post(worker.address(), &path, &[], body.as_bytes())
        .unwrap()
        .0
}

/// A genuine one of Gr4vy about a transaction in this state.
pub(crate) fn gr4vy(worker: &Worker, transaction: &str, status: &str) -> u16 {
    let target = json!({"type": "transaction", "id": transaction, "status": status});
    let body = json!({ "target": target }).to_string().into_bytes();
    let at = jiff::Timestamp::now().as_second().to_string();
    let signature = super::gr4vy_signature(&at, &body, "demo-gr4vy-webhook-secret");
    let headers = [
        ("X-Gr4vy-Webhook-Signatures", signature.as_str()),
        ("X-Gr4vy-Webhook-Timestamp", &at),
    ];
    let path = "/notifications/gr4vy";
    http::post(worker.address(), path, &headers, &body)
        .unwrap()
        .0
}

fn count(worker: &Worker, verdict: &str) -> f64 {
    worker.metric("rescind_notifications_total", &[("verdict", verdict)])
}

/// The broker has the correction.
async fn until_corrected(worker: &Worker) {
    until("the correction", PATIENCE, || {
        let corrections = [("kind", "correction"), ("status", "confirmed")];
        worker.metric("rescind_publishes_total", &corrections) == 1.0
    })
    .await;
}

async fn until_count(worker: &Worker, verdict: &str, count: f64) {
    let what = format!("{verdict} = {count}");
    until(&what, PATIENCE, || self::count(worker, verdict) >= count).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_202_that_only_a_notification_ends() {
    let (mut stage, address) = notified_stage("only-notified");
    patient(&mut stage);
    let mut results = stage.results().await;
    let worker = Worker::start_at(&stage.config(), address);
    let client = stage.client().await;
    for provider in ["midtrans", "gr4vy"] {
        let request = request(provider, "accepted-until-notified");
        client.publish(&stage.names, &request).await;
        let id = request["request_id"].as_str().unwrap();
        let result = results.one(id, PATIENCE).await.json();
        assert_eq!(result["outcome"], "cancelled", "{result}");
        assert_eq!(result["evidence"]["source"], "lookup");
        let money = stage.simulator.money(provider, &payment_id(&request));
        assert_eq!((money.effects.len(), money.cancel_calls), (1, 1));
    }
    assert_eq!(count(&worker, "applied"), 2.0);
    assert_eq!(count(&worker, "confirmed_by_lookup"), 2.0);
    let confirmed = [("kind", "notification"), ("status", "confirmed")];
    assert_eq!(worker.metric("rescind_publishes_total", &confirmed), 2.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_late_twice_forged_or_never_there_is_one_result() {
    let (mut stage, address) = notified_stage("notified-words");
    stage.set("defaults.timeout", "1s");
    let mut results = stage.results().await;
    let worker = Worker::start_at(&stage.config(), address);
    let client = stage.client().await;
    let words = [
        "notified",
        "notified-early",
        "notified-late",
        "notified-twice",
        "notified-forged",
        "notified-lost",
        "accepted-then-done-notified-early",
        "timeout-after-effect-notified",
    ];
    let mut requests = Vec::new();
    for provider in ["midtrans", "gr4vy", "tingg", "migo"] {
        for word in words {
            requests.push(request(provider, word));
        }
    }
    for request in &requests {
        client.publish(&stage.names, request).await;
    }
    let ids = requests.iter().map(|r| r["request_id"].as_str().unwrap());
    results.about(ids, PATIENCE).await;
    results.drain(Duration::from_secs(3)).await;
    for request in &requests {
        let id = request["request_id"].as_str().unwrap();
        let told: Vec<&str> = results
            .seen()
            .iter()
            .filter(|m| m.request_id().as_deref() == Some(id) && !is_notification(m))
            .map(|m| m.routing_key.as_str())
            .collect();
        assert_eq!(told.len(), 1, "{id}: {told:?}");
        let provider = request["provider"].as_str().unwrap();
        let money = stage.simulator.money(provider, &payment_id(request));
        assert_eq!(money.effects.len(), 1, "{id}");
    }
    // Signed with another secret: three providers can be forged.
    assert_eq!(count(&worker, "forged"), 3.0);
    assert_eq!(count(&worker, "contradictory"), 0.0);
    assert_eq!(count(&worker, "unmatched"), 0.0);
    assert!(count(&worker, "duplicate") > 0.0);
}

fn is_notification(message: &Message) -> bool {
    message.routing_key.starts_with("notification.")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_endpoint_takes_what_is_genuine_or_unsigned_and_leaves_it_for_everybody() {
    let stage = Stage::new("endpoint");
    let client = stage.client().await;
    let mut everybody = client.results(&stage.names).await;
    let worker = stage.worker();
    let genuine = midtrans("never-asked", "200", "10000.00", "settlement", KEY);
    let mut forged = genuine.clone();
    forged["gross_amount"] = json!("1.00");
    let tingg = json!({"merchantTransactionID": "m", "serviceCode": "S"});
    for (provider, body, status) in [
        ("midtrans", &genuine, 200),
        ("midtrans", &forged, 401),
        ("gr4vy", &json!({"target": {}}), 401),
        ("migo", &json!({"uid": "m"}), 401),
        ("tingg", &tingg, 200),
        ("tingg", &json!({}), 400),
        ("bento", &json!({}), 404),
        ("nowhere", &genuine, 404),
    ] {
        assert_eq!(notify(&worker, provider, body), status, "{provider} {body}");
    }
    let large = vec![b'1'; 64 * 1024 + 1];
    let (status, _) = http::post(worker.address(), "/notifications/tingg", &[], &large).unwrap();
    assert_eq!(status, 413);
    let (status, _) = http::get(worker.address(), "/notifications/tingg").unwrap();
    assert_eq!(status, 405);

    until_count(&worker, "unmatched", 2.0).await;
    for _ in 0..2 {
        everybody.next(PATIENCE).await.expect("a genuine one");
    }
    everybody.drain(QUIET).await;
    let kept: Vec<_> = everybody.seen().iter().collect();
    assert_eq!(kept.len(), 2, "the forged ones are not stored");
    assert_eq!(kept[0].routing_key, "notification.midtrans");
    assert_eq!(kept[0].body, genuine.to_string().into_bytes());
    assert_eq!(count(&worker, "forged"), 4.0);
    client
        .until_depth(&stage.names.notifications_queue, 0, PATIENCE)
        .await;
}

/// Anybody may send them, and the disk is the ledger's.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_forged_notifications_is_none_in_the_log() {
    let stage = Stage::new("forged-flood");
    let worker = stage.worker();
    let forged = midtrans("never-asked", "200", "1.00", "settlement", "another key");
    let started = Instant::now();
    for _ in 0..200 {
        assert_eq!(notify(&worker, "midtrans", &forged), 401);
    }
    let seconds = started.elapsed().as_secs();
    assert_eq!(count(&worker, "forged"), 200.0);
    let told = worker.log().matches("was not believed").count();
    assert!((1..=1 + seconds as usize + 1).contains(&told), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_broker_is_away_the_provider_is_asked_to_send_it_again() {
    let broker = Broker::start();
    let stage = Stage::on(&broker, "broker-away");
    let worker = stage.worker();
    let genuine = midtrans("never-asked", "200", "10000.00", "settlement", KEY);
    assert_eq!(notify(&worker, "midtrans", &genuine), 200);
    broker.settle();
    broker.stop();
    assert_eq!(notify(&worker, "midtrans", &genuine), 503);
    broker.start_again();
    until("it is taken again", PATIENCE, || {
        notify(&worker, "midtrans", &genuine) == 200
    })
    .await;
    until_count(&worker, "unmatched", 2.0).await;
}

/// Its provider sends it again, and by then somebody has bound the queue.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_queue_takes_is_not_said_to_be_taken() {
    let stage = Stage::new("unbound");
    let worker = stage.worker();
    let names = &stage.names;
    let (queue, exchange) = (&names.notifications_queue, &names.results_exchange);
    let client = stage.client().await;
    client.unbind(queue, exchange, "notification.#").await;
    let genuine = midtrans("never-asked", "200", "10000.00", "settlement", KEY);
    assert_eq!(notify(&worker, "midtrans", &genuine), 503);
    let returned = [("kind", "notification"), ("status", "returned")];
    assert_eq!(worker.metric("rescind_publishes_total", &returned), 1.0);
    client.bind(queue, exchange, "notification.#").await;
    assert_eq!(notify(&worker, "midtrans", &genuine), 200);
    until_count(&worker, "unmatched", 1.0).await;
}

/// As a gateway of the user's own does it.
async fn publish(client: &Client, stage: &Stage, provider: &str, body: &Value) {
    let fate = client
        .send(Outgoing {
            exchange: stage.names.results_exchange.clone(),
            key: format!("notification.{provider}"),
            body: body.to_string().into_bytes(),
            properties: persistent_json(),
        })
        .await;
    assert_eq!(fate, Published::Confirmed);
}

/// Every status under one genuine signature, by way of a gateway: the look-up says that the
/// payment is still open, and that is all that counts.
#[tokio::test(flavor = "multi_thread")]
async fn no_status_under_a_genuine_signature_makes_a_result() {
    let mut stage = Stage::new("status-swap");
    // The worker's own second question comes in an hour: notifications cause all others, one a second.
    for (key, value) in [("first", "1s"), ("max", "2h"), ("give_up_after", "24h")] {
        stage.set(&format!("providers.midtrans.poll.{key}"), value);
    }
    stage.set("providers.midtrans.poll.factor", 3600.0);
    let mut results = stage.results().await;
    let worker = stage.worker();
    let client = stage.client().await;
    let began = Instant::now();
    let request = request("midtrans", "accepted-forever");
    let order = payment_id(&request);
    client.publish(&stage.names, &request).await;
    let asked = || stage.simulator.money("midtrans", &order).lookup_calls;
    until("it is accepted", PATIENCE, || {
        stage.simulator.money("midtrans", &order).cancel_calls == 1
    })
    .await;
    let statuses = [
        "cancel",
        "settlement",
        "capture",
        "expire",
        "deny",
        "failure",
        "refund",
        "partial_refund",
        "chargeback",
        "partial_chargeback",
        "pending",
        "authorize",
        "nonsense",
    ];
    let mut sent = 0.0;
    for code in ["200", "201", "202", "407"] {
        for status in statuses {
            let body = midtrans(&order, code, "100.00", status, KEY);
            publish(&client, &stage, "midtrans", &body).await;
            sent += 1.0;
        }
    }
    // Larger than any that a provider sends.
    let mut large = midtrans(&order, "200", "100.00", "cancel", KEY);
    large["padding"] = "x".repeat(64 * 1024).into();
    publish(&client, &stage, "midtrans", &large).await;
    // The same signature for another payment, another amount, and a forged one.
    publish(
        &client,
        &stage,
        "midtrans",
        &midtrans("other", "200", "1.00", "cancel", KEY),
    )
    .await;
    let forged = midtrans(&order, "200", "100.00", "cancel", "SB-Mid-server-other");
    publish(&client, &stage, "midtrans", &forged).await;
    until_count(&worker, "applied", sent).await;
    until_count(&worker, "unmatched", 1.0).await;
    until_count(&worker, "forged", 2.0).await;
    until("it is asked", PATIENCE, || asked() >= 2).await;
    results.drain(QUIET).await;
    let told = results
        .seen()
        .iter()
        .filter(|m| !is_notification(m))
        .count();
    assert_eq!(told, 0);
    let most = 2 + began.elapsed().as_secs();
    assert!(asked() <= most, "{} for {sent} notifications", asked());
    assert!(stage.simulator.money("midtrans", &order).effects.is_empty());
}

/// A payment whose state a scenario gives, so that a restart of the simulator changes it.
struct Changing {
    stage: Stage,
    rules: std::path::PathBuf,
    _folder: tempfile::TempDir,
}

impl Changing {
    fn new(name: &str, behaviour: &str) -> Self {
        let folder = crate::rig::folder(name);
        let rules = folder.path().join("rules.toml");
        write_rule(&rules, behaviour);
        let simulator = Simulator::with_scenario(&rules);
        let stage = Stage::with(Broker::shared().url(), name, simulator);
        Self {
            stage,
            rules,
            _folder: folder,
        }
    }

    fn change(&mut self, behaviour: &str) {
        write_rule(&self.rules, behaviour);
        self.stage.simulator.restart();
    }
}

fn write_rule(path: &std::path::Path, behaviour: &str) {
    std::fs::write(path, format!("[[rule]]\nbehaviour = '{behaviour}'\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_does_not_hold_is_corrected_and_dead_lettered() {
    let mut changing = Changing::new("contradicted", "success");
    let mut results = changing.stage.results().await;
    let mut dead = changing.stage.dead_letters().await;
    let mut worker = changing.stage.worker();
    let client = changing.stage.client().await;
    let request = request("gr4vy", "payment");
    let (id, payment) = (
        request["request_id"].as_str().unwrap(),
        payment_id(&request),
    );
    client.publish(&changing.stage.names, &request).await;
    let result = results.one(id, PATIENCE).await.json();
    assert_eq!(result["outcome"], "cancelled");

    // It says the same: nobody is asked but before the cancel.
    assert_eq!(gr4vy(&worker, &payment, "authorization_voided"), 200);
    until_count(&worker, "duplicate", 1.0).await;
    assert_eq!(
        changing
            .stage
            .simulator
            .money("gr4vy", &payment)
            .lookup_calls,
        1
    );

    changing.change("settled");
    assert_eq!(gr4vy(&worker, &payment, "capture_succeeded"), 200);
    until_count(&worker, "contradictory", 1.0).await;
    until_corrected(&worker).await;
    results.drain(2 * SECOND).await;
    let corrections: Vec<_> = results
        .seen()
        .iter()
        .filter(|m| m.routing_key == "correction.gr4vy.refused")
        .collect();
    assert_eq!(corrections.len(), 1);
    let correction = corrections[0].json();
    assert_eq!(correction["supersedes"], result["result_id"]);
    assert_eq!(correction["reason"], "settled");
    assert_ne!(correction["result_id"], result["result_id"]);
    let message_type = corrections[0].properties.kind().as_ref().unwrap();
    assert_eq!(message_type.as_str(), "cancellation.correction");
    let letter = dead.next(PATIENCE).await.expect("a dead letter");
    assert_eq!(letter.routing_key, "dead.gr4vy.contradictory_evidence");

    // The result is what it was, the correction is said once, and a flood asks nobody.
    worker.restart();
    for _ in 0..5 {
        assert_eq!(gr4vy(&worker, &payment, "capture_succeeded"), 200);
        assert_eq!(gr4vy(&worker, &payment, "authorization_voided"), 200);
    }
    until_count(&worker, "duplicate", 5.0).await;
    results.drain(QUIET).await;
    let told = results
        .seen()
        .iter()
        .filter(|m| !is_notification(m))
        .count();
    assert_eq!(told, 2);
    assert_eq!(
        changing
            .stage
            .simulator
            .money("gr4vy", &payment)
            .lookup_calls,
        1
    );
}

/// What came after an answer is no news of a call under way, though its outcome could not be written yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_an_outcome_was_written_is_asked_about_after_it() {
    let stage = Stage::new("late-news");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let request = request("gr4vy", "slow");
    let payment = payment_id(&request);
    let client = stage.client().await;
    client.publish(&stage.names, &request).await;
    let calls = || stage.simulator.money("gr4vy", &payment);
    until("it is sent", PATIENCE, || calls().cancel_calls == 1).await;
    let held = rusqlite::Connection::open(stage.ledger()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    until("it is answered", PATIENCE, || {
        worker.metric("rescind_provider_calls_total", &[("operation", "cancel")]) == 1.0
    })
    .await;
    assert_eq!(gr4vy(&worker, &payment, "capture_succeeded"), 200);
    until("the ledger fails", PATIENCE, || {
        worker.log().contains("cannot commit an outcome")
    })
    .await;
    held.execute_batch("ROLLBACK").unwrap();
    let result = results.one(request["request_id"].as_str().unwrap(), PATIENCE);
    assert_eq!(result.await.json()["outcome"], "cancelled");
    until_count(&worker, "duplicate", 1.0).await;
    assert_eq!(
        calls().lookup_calls,
        2,
        "before the cancel, and after the notification"
    );
    assert_eq!(count(&worker, "applied"), 0.0);
}

/// The answer that ends the request may have been true before the notification, and not after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_during_the_last_call_has_its_result_checked() {
    let stage = Stage::new("during-the-last");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let request = request("gr4vy", "settled");
    let payment = payment_id(&request);
    stage.simulator.freeze();
    stage.client().await.publish(&stage.names, &request).await;
    until("it is called", PATIENCE, || {
        worker.metric("rescind_in_flight", &[("provider", "gr4vy")]) == 1.0
    })
    .await;
    assert_eq!(gr4vy(&worker, &payment, "authorization_voided"), 200);
    until_count(&worker, "applied", 1.0).await;
    stage.simulator.thaw();
    let result = results.one(request["request_id"].as_str().unwrap(), PATIENCE);
    assert_eq!(result.await.json()["reason"], "settled");
    let asked = || stage.simulator.money("gr4vy", &payment).lookup_calls;
    until("it is checked", PATIENCE, || asked() == 2).await;
}

/// It waits for as long as the outcome cannot be written; those of others wait for nothing, at its account and at any.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_waits_for_an_outcome_holds_up_no_other() {
    let (mut stage, address) = notified_stage("held-news");
    patient(&mut stage);
    let url = Database::shared().create();
    stage.set("ledger.url", url.clone());
    let worker = Worker::start_at(&stage.config(), address);
    let mut results = stage.results().await;
    let client = stage.client().await;
    let held = request("gr4vy", "slow");
    let payment = payment_id(&held);
    client.publish(&stage.names, &held).await;
    let calls = || stage.simulator.money("gr4vy", &payment);
    until("it is sent", PATIENCE, || calls().cancel_calls == 1).await;
    let connected = tokio_postgres::connect(&url, tokio_postgres::NoTls).await;
    let (holder, line) = connected.unwrap();
    tokio::spawn(line);
    let lock = "BEGIN; SELECT 1 FROM requests FOR UPDATE";
    holder.batch_execute(lock).await.unwrap();
    until("its outcome cannot be written", PATIENCE, || {
        worker.log().contains("cannot commit an outcome")
    })
    .await;
    assert_eq!(gr4vy(&worker, &payment, "capture_succeeded"), 200);

    for provider in ["midtrans", "gr4vy"] {
        let other = request(provider, "accepted-until-notified");
        client.publish(&stage.names, &other).await;
        let result = results.one(other["request_id"].as_str().unwrap(), 20 * SECOND);
        assert_eq!(result.await.json()["outcome"], "cancelled");
    }
    assert_eq!(
        (count(&worker, "duplicate"), calls().lookup_calls),
        (0.0, 1)
    );

    holder.batch_execute("ROLLBACK").await.unwrap();
    let result = results.one(held["request_id"].as_str().unwrap(), PATIENCE);
    assert_eq!(result.await.json()["outcome"], "cancelled");
    until("it is checked", PATIENCE, || calls().lookup_calls == 2).await;
    assert_eq!(count(&worker, "applied"), 2.0, "those of the others");
}

/// Results are checked a minute apart at the least.
fn let_a_minute_pass(stage: &Stage) {
    let ledger = rusqlite::Connection::open(stage.ledger()).unwrap();
    let earlier = "UPDATE requests SET progress = json_remove(progress, '$.hints.checked_at')
                   WHERE json_extract(progress, '$.hints.checked_at') IS NOT NULL";
    assert_eq!(ledger.execute(earlier, []).unwrap(), 1);
}

/// Each correction is of the last thing that was said, and each dead letter is one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_changes_again_and_again_is_corrected_each_time() {
    let mut changing = Changing::new("flips", "success");
    let mut results = changing.stage.results().await;
    let mut dead = changing.stage.dead_letters().await;
    let worker = changing.stage.worker();
    let request = request("gr4vy", "payment");
    let (id, payment) = (
        request["request_id"].as_str().unwrap(),
        payment_id(&request),
    );
    let client = changing.stage.client().await;
    client.publish(&changing.stage.names, &request).await;
    let mut last = results.one(id, PATIENCE).await.json();
    assert_eq!(last["outcome"], "cancelled");
    let mut letters = Vec::new();
    for (n, (behaviour, status, outcome)) in [
        ("settled", "capture_succeeded", "refused"),
        ("already-cancelled", "authorization_voided", "cancelled"),
        ("settled", "capture_succeeded", "refused"),
    ]
    .into_iter()
    .enumerate()
    {
        if n > 0 {
            let_a_minute_pass(&changing.stage);
        }
        changing.change(behaviour);
        assert_eq!(gr4vy(&worker, &payment, status), 200);
        let correction = next_correction(&mut results).await;
        assert_eq!(correction["outcome"], outcome);
        assert_eq!(correction["supersedes"], last["result_id"]);
        last = correction;
        if outcome == "refused" {
            let letter = dead.next(PATIENCE).await.expect("a dead letter");
            letters.push(letter.message_id());
        }
    }
    assert_ne!(letters[0], letters[1]);
}

async fn next_correction(results: &mut crate::rig::Messages) -> Value {
    loop {
        let message = results.next(PATIENCE).await.expect("a correction");
        if message.routing_key.starts_with("correction.") {
            return message.json();
        }
    }
}

/// Migo has no way to ask, and a notification alone is no evidence: a person is told.
#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_can_be_asked_a_contradiction_is_told_and_not_published() {
    let stage = Stage::new("cannot-ask");
    let mut results = stage.results().await;
    let worker = stage.worker();
    let client = stage.client().await;
    let request = request("migo", "success");
    let id = request["request_id"].as_str().unwrap();
    client.publish(&stage.names, &request).await;
    assert_eq!(
        results.one(id, PATIENCE).await.json()["outcome"],
        "cancelled"
    );
    let says = |status: &str| {
        let body = json!({"uid": payment_id(&request), "status": status}).to_string();
        let headers = [("Authorization", "demo-migo-notification-token")];
        let path = "/notifications/migo";
        http::post(worker.address(), path, &headers, body.as_bytes())
            .unwrap()
            .0
    };
    assert_eq!(says("DISMISSED"), 200);
    until_count(&worker, "duplicate", 1.0).await;
    assert_eq!(says("APPROVED"), 200);
    until_count(&worker, "contradictory", 1.0).await;
    let told = format!("transaction_id:{}", payment_id(&request));
    assert!(worker.log().contains(&told), "which payment");
    // Not signed: who knows one payment must not fill the disk.
    for _ in 0..20 {
        assert_eq!(says("APPROVED"), 200);
    }
    until_count(&worker, "contradictory", 21.0).await;
    let lines = worker.log().matches("contradicts the result").count();
    assert_eq!(lines, 1, "once a minute");
    results.drain(QUIET).await;
    let corrections = |m: &&Message| m.routing_key.starts_with("correction.");
    assert_eq!(results.seen().iter().filter(corrections).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn good_news_is_a_correction_without_a_dead_letter() {
    let mut changing = Changing::new("good-news", "settled");
    let mut results = changing.stage.results().await;
    let mut dead = changing.stage.dead_letters().await;
    let worker = changing.stage.worker();
    let client = changing.stage.client().await;
    let request = request("gr4vy", "payment");
    let id = request["request_id"].as_str().unwrap();
    client.publish(&changing.stage.names, &request).await;
    assert_eq!(results.one(id, PATIENCE).await.json()["outcome"], "refused");
    changing.change("already-cancelled");
    let body = json!({"target": {
        "type": "transaction", "id": payment_id(&request), "status": "authorization_voided",
    }});
    // From a gateway, signed a while ago.
    let at = "1700000000";
    let bytes = body.to_string().into_bytes();
    let signature = super::gr4vy_signature(at, &bytes, "demo-gr4vy-webhook-secret");
    let mut headers = lapin::types::FieldTable::default();
    for (name, value) in [
        ("http-x-gr4vy-webhook-signatures", signature.as_str()),
        ("http-x-gr4vy-webhook-timestamp", at),
        ("rescind-received-at", "2023-11-14T22:13:25Z"),
    ] {
        let value = lapin::types::AMQPValue::LongString(value.into());
        headers.insert(name.into(), value);
    }
    let message = Outgoing {
        exchange: changing.stage.names.results_exchange.clone(),
        key: "notification.gr4vy".into(),
        body: bytes,
        properties: persistent_json().with_headers(headers),
    };
    assert_eq!(client.send(message).await, Published::Confirmed);
    until_count(&worker, "contradictory", 1.0).await;
    until_corrected(&worker).await;
    results.drain(2 * SECOND).await;
    let keys: Vec<_> = results
        .seen()
        .iter()
        .map(|m| m.routing_key.as_str())
        .collect();
    assert!(keys.contains(&"correction.gr4vy.cancelled"), "{keys:?}");
    assert!(dead.next(QUIET).await.is_none());
}

/// Callers that begin and do not go on keep no place, and none of the worker's other work.
#[tokio::test(flavor = "multi_thread")]
async fn stalled_callers_are_shown_out_and_keep_requests_from_nothing() {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    let stage = Stage::new("stalled");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let begun = "POST /notifications/tingg HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    let mut stalled: Vec<TcpStream> = (0..200)
        .map(|_| {
            let mut caller = TcpStream::connect(worker.address()).unwrap();
            caller.write_all(begun.as_bytes()).unwrap();
            caller
        })
        .collect();
    let genuine = midtrans("never-asked", "200", "10000.00", "settlement", KEY);
    assert_eq!(notify(&worker, "midtrans", &genuine), 200);
    let request = request("migo", "success");
    stage.client().await.publish(&stage.names, &request).await;
    let id = request["request_id"].as_str().unwrap();
    assert_eq!(
        results.one(id, PATIENCE).await.json()["outcome"],
        "cancelled"
    );
    let answers: Vec<String> = stalled
        .iter_mut()
        .map(|caller| {
            caller
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            let mut answer = [0; 12];
            caller
                .read_exact(&mut answer)
                .expect("an answer within 5 s");
            String::from_utf8_lossy(&answer).into_owned()
        })
        .collect();
    assert!(answers.iter().all(|a| a.ends_with("408")), "{answers:?}");
}
