//! Several workers on one broker and one database: the real binary, PostgreSQL and RabbitMQ.

use std::time::Duration;

use jiff::Timestamp;
use rescind::providers;
use serde_json::Value;

use crate::rig::checker::{endings, id};
use crate::rig::database::holding;
use crate::rig::stage::{Stage, request};
use crate::rig::{Database, Names, Worker, until};

/// Includes the end of a lease, and what a lost call may take to arrive.
const PATIENCE: Duration = Duration::from_secs(90);
/// A lease, in milliseconds.
const LEASE: i64 = 10_000;
/// From its end to the next look of another worker: every 3 s, and what a look takes. Together they are
/// the 15 s of docs/operations.md.
const LOOK: i64 = 5_000;

/// A stage whose workers share a database.
fn stage(name: &str, database: &Database) -> Stage {
    let mut stage = Stage::new(name);
    stage.set("ledger.url", database.create());
    stage.set("defaults.timeout", "3s");
    stage.set("defaults.retry.give_up_after", "2m");
    stage.set("defaults.poll.give_up_after", "2m");
    stage
}

fn requests(behaviours: &[&str], most: usize) -> Vec<Value> {
    let kinds = providers::ALL.iter().map(|provider| provider.kind());
    kinds
        .cycle()
        .zip(behaviours.iter().cycle())
        .map(|(kind, behaviour)| request(kind, behaviour))
        .take(most)
        .collect()
}

fn finished(worker: &Worker) -> f64 {
    worker.metric("rescind_cancellations_total", &[])
}

/// Of the first of its two workers nothing is heard any more; the other one takes over.
async fn gone_is_noticed(stage: &Stage, database: &Database, other: &Worker) {
    let config: toml::Table = stage.config().parse().unwrap();
    let sql = "SELECT (extract(epoch FROM alive_until) * 1000)::bigint FROM workers ORDER BY started_at LIMIT 1";
    let lease = database.sql_in(config["ledger"]["url"].as_str().unwrap(), sql);
    let lease: i64 = lease.parse().expect("milliseconds");
    assert!(lease - Timestamp::now().as_millisecond() <= LEASE);
    let gone = |line: &Value| {
        let message = line["message"].as_str();
        message.is_some_and(|m| m.starts_with("another worker is gone"))
    };
    let mut told = None;
    until("it is taken over", PATIENCE, || {
        told = other.log_lines().into_iter().find(gone);
        told.is_some()
    })
    .await;
    let told = told.unwrap()["timestamp"].as_str().unwrap().to_owned();
    let told: Timestamp = told.parse().unwrap();
    let late = told.as_millisecond() - lease;
    assert!((0..=LOOK).contains(&late), "{late} ms after the lease");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_share_the_work() {
    let stage = stage("fleet", Database::shared());
    let (one, two) = (stage.worker(), stage.worker());
    let mut results = stage.results().await;
    let client = stage.client().await;
    let behaviours = ["success", "accepted-then-done", "retryable-twice"];
    let all = requests(&behaviours, 100);
    client.confirm_all(&stage.names, &all).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
        assert_eq!(ending.messages.len(), 1, "published by one of them");
    }
    until("all are counted", PATIENCE, || {
        finished(&one) + finished(&two) == 100.0
    })
    .await;
    assert!(finished(&one) > 0.0 && finished(&two) > 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_a_killed_worker_is_taken_over_by_the_other() {
    let stage = stage("killed-fleet", Database::shared());
    let (mut one, two) = (stage.worker(), stage.worker());
    let mut results = stage.results().await;
    let client = stage.client().await;
    let all = requests(&["slow", "timeout-after-effect"], 48);
    client.confirm_all(&stage.names, &all).await;
    until("it is at work", PATIENCE, || {
        one.metric("rescind_in_flight", &[]) >= 4.0
    })
    .await;
    one.kill9();
    gone_is_noticed(&stage, Database::shared(), &two).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert!(ending.money.effects.len() <= 1, "{ending:#?}");
    }
    assert_eq!(two.metric("rescind_open", &[]), 0.0);
}

/// Its successor has to wait for nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_gives_up_its_lease() {
    let database = Database::shared();
    let (mut stage, url) = (stage("stopped", database), database.create());
    stage.set("ledger.url", url.clone());
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let all = requests(&["success"], 6);
    client.confirm_all(&stage.names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
    let alive = || {
        database.sql_in(
            &url,
            "SELECT count(*) FROM workers WHERE alive_until > clock_timestamp()",
        )
    };
    assert_eq!(alive(), "1");
    // A process that does not wait for that is gone before.
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          PERFORM pg_sleep(1); RETURN NEW; END $$;
        CREATE TRIGGER slow BEFORE UPDATE ON workers FOR EACH ROW EXECUTE FUNCTION slow()";
    database.sql_in(&url, slow);
    worker.sigterm();
    assert!(worker.wait(PATIENCE).success());
    assert_eq!(alive(), "0", "it could be alive for 10 s");
    assert!(worker.log().contains("stopped"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_late_neither_sends_nor_writes() {
    let mut stage = stage("late", Database::shared());
    let mut one = stage.worker();
    // Beside it from the start, and it takes nothing in but what the other one leaves.
    let elsewhere = Names::unique();
    stage.set("amqp.requests_exchange", elsewhere.requests_exchange);
    stage.set("amqp.requests_queue", elsewhere.requests_queue);
    let two = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    one.arm("after_intent_commit:1:stop");
    one.become_ready(PATIENCE).expect("it is ready");
    let paused = vec![request("pismo", "success")];
    client.publish(&stage.names, &paused[0]).await;
    until("it is paused", PATIENCE, || one.is_stopped()).await;
    gone_is_noticed(&stage, Database::shared(), &two).await;
    let ended = endings(&stage, &mut results, &paused, PATIENCE).await;
    assert_eq!(ended[0].result["outcome"], "cancelled", "{ended:#?}");

    one.thaw();
    let withheld = [("operation", "cancel"), ("verdict", "not_sent")];
    until("its call is withheld", PATIENCE, || {
        one.metric("rescind_provider_calls_total", &withheld) == 1.0
    })
    .await;
    until("its claim is lost", PATIENCE, || {
        one.log().contains("the claim was lost")
    })
    .await;
    assert_eq!(finished(&one), 0.0);
    // It works on, under a new lease, and what it says is what was said.
    until("it is well again", PATIENCE, || one.ready()).await;
    drop(two);
    let more = requests(&["success"], 6);
    client.confirm_all(&stage.names, &more).await;
    let again = [paused, more].concat();
    for ending in endings(&stage, &mut results, &again, PATIENCE).await {
        assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_dies_under_load_loses_and_doubles_nothing() {
    let database = Database::start();
    let stage = stage("dying", &database);
    let (one, two) = (stage.worker(), stage.worker());
    let mut results = stage.results().await;
    let client = stage.client().await;
    let behaviours = [
        "success",
        "accepted-then-done",
        "slow",
        "reset-after-effect",
    ];
    let all = requests(&behaviours, 90);
    for part in all.chunks(30) {
        client.confirm_all(&stage.names, part).await;
        database.kill9();
        database.start_again();
    }
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert!(ending.money.effects.len() <= 1, "{ending:#?}");
    }
    for worker in [&one, &two] {
        until("it is ready again", PATIENCE, || worker.ready()).await;
    }
    assert_eq!(one.metric("rescind_open", &[]), 0.0);
}

/// Its commits wait as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_standby_is_away_is_waited_for_and_told_of() {
    let database = Database::start();
    let stage = stage("away", &database);
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    database.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'");
    database.sql("SELECT pg_reload_conf()");
    let all = requests(&["success"], 6);
    client.confirm_all(&stage.names, &all).await;
    let answers = || worker.metric("rescind_ledger_answers", &[]);
    until("it is told of", PATIENCE, || answers() == 0.0).await;
    assert!(!worker.ready());
    database.sql("ALTER SYSTEM RESET synchronous_standby_names");
    database.sql("SELECT pg_reload_conf()");
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
    }
    until("it is ready again", PATIENCE, || worker.ready()).await;
}

/// Somebody's transaction that was left open, on a row that one of several requests needs, which came together.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_stays_locked_keeps_no_other_request_waiting_and_loses_none() {
    let database = Database::shared();
    let (mut stage, url) = (stage("locked", database), database.create());
    stage.set("ledger.url", url.clone());
    stage.set("defaults.retry.give_up_after", "30m");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let stored = |request: &Value| {
        let sql = "SELECT count(*) FROM requests WHERE request_id";
        database.sql_in(&url, &format!("{sql} = '{}'", id(request))) == "1"
    };
    let open = request("midtrans", "retryable-forever");
    client.publish(&stage.names, &open).await;
    until("it is stored", PATIENCE, || stored(&open)).await;

    for dies in [false, true] {
        let lock = "SELECT 1 FROM requests WHERE state <> 'finished' FOR UPDATE";
        let holder = holding(&url, lock).await;
        let mut waits = request("midtrans", "success");
        waits["payment"] = open["payment"].clone();
        let beside = request("migo", "success");
        client
            .confirm_all(&stage.names, &[waits.clone(), beside.clone()])
            .await;
        results.one(&id(&beside), PATIENCE).await;
        let later = request("migo", "success");
        client.publish(&stage.names, &later).await;
        results.one(&id(&later), PATIENCE).await;
        until("it is told of", PATIENCE, || {
            let held = held(&worker);
            held.iter().any(|line| line["request_id"] == id(&waits))
        })
        .await;
        let last = held(&worker).pop().unwrap();
        assert_eq!(last["held"], 1);
        let error = last["error"].as_str().unwrap();
        assert!(error.contains("lock timeout"), "{error}");
        assert!(!stored(&waits) && !worker.ready());
        if dies {
            worker.kill9();
            // The acknowledgements of what was stored are with the broker.
            client
                .until_any(&stage.names.requests_queue, PATIENCE)
                .await;
        }
        drop(holder);
        if dies {
            worker.restart();
        }
        until("it is stored after all", PATIENCE, || stored(&waits)).await;
        until("it is ready again", PATIENCE, || worker.ready()).await;
    }
    worker.sigterm();
    assert!(worker.wait(PATIENCE).success());
    client
        .until_depth(&stage.names.requests_queue, 0, PATIENCE)
        .await;
}

/// The log's lines about deliveries that are held.
fn held(worker: &Worker) -> Vec<Value> {
    let mut lines = worker.log_lines();
    lines.retain(|line| {
        let message = line["message"].as_str();
        message.is_some_and(|m| m.contains("somebody has locked rows"))
    });
    lines
}

/// Somebody keeps the table locked into which a conflict's dead letter is to go; another request waits with the broker.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_fills_the_prefetch_while_it_is_held_ends_no_session_and_counts_once() {
    let database = Database::shared();
    let (mut stage, url) = (stage("held", database), database.create());
    stage.set("ledger.url", url.clone());
    stage.set("amqp.prefetch", 1);
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let first = request("migo", "success");
    client.publish(&stage.names, &first).await;
    results.one(&id(&first), PATIENCE).await;

    let mut conflicts = request("migo", "success");
    conflicts["request_id"] = first["request_id"].clone();
    let behind = request("migo", "success");
    let received = || {
        let kind = [("kind", "conflicting")];
        worker.metric("rescind_requests_received_total", &kind)
    };
    let holder = holding(&url, "LOCK TABLE dead_letters IN SHARE MODE").await;
    for request in [&conflicts, &behind] {
        client.publish(&stage.names, request).await;
    }
    // Of the 4th time, 15 s later.
    let told = || held(&worker).len() >= 3;
    until("it is tried again and again", PATIENCE, told).await;
    assert_eq!(received(), 0.0);
    drop(holder);
    results.one(&id(&behind), PATIENCE).await;
    assert_eq!(received(), 1.0);
    let forgotten = "the broker delivers none of them";
    assert!(!worker.log().contains(forgotten), "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_at_the_start_is_waited_for() {
    let database = Database::start();
    let stage = stage("down", &database);
    database.stop();
    let mut worker = Worker::spawn(&stage.config(), &[]);
    until("it says so", PATIENCE, || {
        worker.log().contains("the ledger cannot be used yet")
    })
    .await;
    assert!(!worker.ready());
    database.start_again();
    worker.become_ready(PATIENCE).expect("it is ready");
}

#[test]
fn a_wrong_password_is_told_at_once() {
    let mut stage = stage("wrong", Database::shared());
    let url = Database::shared().url();
    stage.set(
        "ledger.url",
        url.replace("rescind@", "guarded:secret-word@"),
    );
    let mut worker = Worker::spawn(&stage.config(), &[]);
    let status = worker.wait(PATIENCE);
    let log = worker.log();
    assert_eq!(status.code(), Some(7), "{log}");
    assert!(log.contains("password authentication failed"), "{log}");
    assert!(!log.contains("secret-word"), "{log}");
}
