//! A ledger that was restored from an old copy, or that is gone: what was done since is not done
//! again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rescind::providers;
use serde_json::Value;

use crate::flow::PATIENCE;
use crate::flow::accounts::one_sent_and_one_not;
use crate::rig::checker::{all_money, endings, id};
use crate::rig::stage::{Stage, payment_id, request};
use crate::rig::{Database, Message, Messages, Money, Worker, until};

/// Three for each account that are carried out one after the other.
fn three_each(stage: &mut Stage) -> Vec<Value> {
    stage.set("defaults.max_in_flight", 1);
    // As long after a crash nobody believes that a call had no effect.
    stage.set("defaults.poll.give_up_after", "2m");
    stage.set("defaults.timeout", "4s");
    let kinds = providers::ALL.iter().map(|provider| provider.kind());
    kinds
        .flat_map(|kind| (0..3).map(move |_| request(kind, "success")))
        .collect()
}

/// A ledger's file, with what SQLite keeps beside it.
fn files(ledger: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|end| PathBuf::from(format!("{}{end}", ledger.display())))
}

fn lose(ledger: &Path) {
    for file in files(ledger).iter().filter(|file| file.exists()) {
        std::fs::remove_file(file).unwrap();
    }
}

fn copy(from: &Path, to: &Path) {
    lose(to);
    for (from, to) in files(from).iter().zip(files(to)) {
        if from.exists() {
            std::fs::copy(from, to).unwrap();
        }
    }
}

/// The last result of each, and what is known of its payment.
async fn ended(
    stage: &Stage,
    results: &mut Messages,
    requests: &[Value],
) -> BTreeMap<String, (Message, Money)> {
    let mut found = results.about(requests.iter().map(id), PATIENCE).await;
    let money = all_money(stage);
    let of = |request: &Value| {
        let provider = request["provider"].as_str().unwrap().to_owned();
        let message = found.remove(&id(request)).unwrap().pop().unwrap();
        let money = money[&(provider, payment_id(request))].clone();
        (id(request), (message, money))
    };
    requests.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_since_an_old_copy_is_asked_about_and_not_done_again() {
    let mut stage = Stage::new("restored");
    let requests = three_each(&mut stage);
    // Nobody answers until the copy is made: a call of each account is under way, two wait.
    stage.simulator.freeze();
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    client.confirm_all(&stage.names, &requests).await;
    until("all are in the ledger", PATIENCE, || {
        worker.metric("rescind_open", &[]) == requests.len() as f64
    })
    .await;
    worker.kill9();
    let old = stage.dir().join("old.db");
    copy(&stage.ledger(), &old);
    stage.simulator.thaw();
    worker.restart();
    let before = ended(&stage, &mut results, &requests).await;
    all_noted(&worker).await;

    worker.kill9();
    copy(&old, &stage.ledger());
    let mut results = stage.results().await;
    worker.reconcile();
    let started = Instant::now();
    worker.restart();
    // 5 s, and twice the timeout: what was sent and forgotten has ended.
    assert!(
        started.elapsed() >= Duration::from_secs(13),
        "{}",
        worker.log()
    );
    let after = ended(&stage, &mut results, &requests).await;
    for (id, (first, money)) in &before {
        let (again, later) = &after[id];
        assert_eq!(again.message_id(), first.message_id(), "{id}");
        // Migo has nobody to ask, and says the same of what was cancelled and of what was paid.
        let expected = if id.starts_with("migo") {
            "unresolved"
        } else {
            "cancelled"
        };
        assert_eq!(again.json()["outcome"], expected, "{id}: {later:#?}");
        assert_eq!(later.effects, money.effects, "{id}: {later:#?}");
        // Who can be asked is asked; the other two are called once more, Pismo with the same key.
        let repeated = u64::from(id.starts_with("migo") || id.starts_with("pismo"));
        let calls = money.cancel_calls + repeated;
        assert_eq!(later.cancel_calls, calls, "{id}: {later:#?}");
    }
}

/// Nothing is left that could be asked about: the keys, which are made of the request, and what the
/// providers know of their payments.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_ledger_what_is_published_again_is_not_done_again() {
    let mut stage = Stage::new("lost");
    let requests = three_each(&mut stage);
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    client.confirm_all(&stage.names, &requests).await;
    let before = ended(&stage, &mut results, &requests).await;
    all_noted(&worker).await;

    worker.kill9();
    lose(&stage.ledger());
    // It would keep a new ledger from being made.
    std::fs::remove_file(format!("{}.lock", stage.ledger().display())).unwrap();
    let mut results = stage.results().await;
    worker.restart();
    client.confirm_all(&stage.names, &requests).await;
    for (id, (again, later)) in ended(&stage, &mut results, &requests).await {
        let (first, money) = &before[&id];
        assert_eq!(again.message_id(), first.message_id(), "{id}");
        // A call that Migo refuses changed nothing, and that there was another one is forgotten.
        let expected = if id.starts_with("migo") {
            "refused"
        } else {
            "cancelled"
        };
        assert_eq!(again.json()["outcome"], expected, "{id}: {later:#?}");
        assert_eq!(later.effects, money.effects, "{id}: {later:#?}");
    }
}

/// A database that is away when the worker starts is not one that needs no questions.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_away_is_reconciled_once_it_is_back() {
    let database = Database::start();
    let mut stage = Stage::new("reconciled");
    stage.set("ledger.url", database.create());
    let mut results = stage.results().await;
    let (mut worker, [_, waiting]) = one_sent_and_one_not(&mut stage, "midtrans").await;
    worker.kill9();
    stage.simulator.thaw();
    database.stop();
    worker.reconcile();
    worker.respawn();
    until("it waits", PATIENCE, || {
        worker.log().contains("--reconcile waits for the ledger")
    })
    .await;
    database.start_again();
    worker.become_ready(PATIENCE).unwrap();
    // It was never sent, and would not be asked about otherwise.
    let ended = endings(&stage, &mut results, &[waiting], PATIENCE).await;
    assert_eq!(ended[0].result["outcome"], "cancelled", "{ended:#?}");
    assert!(ended[0].result["lookups"].as_u64() >= Some(1), "{ended:#?}");
    assert!(
        worker
            .log()
            .contains("asked about every open request first")
    );
}

async fn all_noted(worker: &Worker) {
    until("all is noted as published", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == 0.0
    })
    .await;
}
