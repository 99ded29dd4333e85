//! What is counted adds up, whatever comes in and whatever the worker goes through.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{PATIENCE, kinds};
use crate::rig::checker::endings;
use crate::rig::stage::{Stage, request};
use crate::rig::{Client, Worker, until};

/// Behaviours that end in every outcome but `invalid`.
const ENDING: [&str; 6] = [
    "success",
    "settled",
    "expired",
    "accepted-then-done",
    "error-after-effect",
    "wrong-token",
];

/// One end of the conservation law each.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Counted {
    new: f64,
    results: f64,
    invalid: f64,
    open: f64,
}

impl Counted {
    /// From one page of a worker's metrics.
    fn by(worker: &Worker) -> Self {
        let metrics = worker.metrics();
        let invalid = metrics.sum("rescind_cancellations_total", &[("outcome", "invalid")]);
        Self {
            new: metrics.sum("rescind_requests_received_total", &[("kind", "new")]),
            results: metrics.sum("rescind_cancellations_total", &[]) - invalid,
            invalid,
            open: metrics.sum("rescind_open", &[]),
        }
    }
}

fn received(worker: &Worker, kind: &str) -> f64 {
    worker.metric("rescind_requests_received_total", &[("kind", kind)])
}

/// Requests that stay open for longer than the test: calls that hang, and some that are made again and again.
fn staying_open(stage: &mut Stage) -> Vec<Value> {
    stage.set("providers.tingg.timeout", "5m");
    stage.set("providers.pismo.timeout", "300ms");
    stage.set("providers.pismo.poll.give_up_after", "1h");
    let hanging = (0..5).map(|_| request("tingg", "hang"));
    let retried = (0..3).map(|_| request("pismo", "hang"));
    hanging.chain(retried).collect()
}

/// Of the account whose calls all fail by now, and of no other.
async fn until_the_breaker_opens(worker: &Worker) {
    let open = |labels: &[(&str, &str)]| worker.metric("rescind_breaker_open", labels);
    let put_off = [("provider", "pismo"), ("cause", "breaker_open")];
    until("the breaker opens", PATIENCE, || {
        open(&[("provider", "pismo")]) == 1.0
            && worker.metric("rescind_retries_scheduled_total", &put_off) > 0.0
    })
    .await;
    assert_eq!(open(&[("provider", "midtrans")]), 0.0);
}

/// The same id with other content, no JSON, and an account that nobody configured.
async fn send_what_makes_no_request(stage: &Stage, client: &Client, known: &[Value]) {
    for request in known {
        let mut other = request.clone();
        other["reason"] = json!("fraud_suspected");
        client.publish(&stage.names, &other).await;
    }
    for _ in 0..3 {
        client.publish_raw(&stage.names, "cancel.x", b"{").await;
    }
    client
        .publish(&stage.names, &request("nowhere", "success"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn new_requests_are_results_plus_what_is_open_over_a_mixed_load_and_a_kill() {
    let mut stage = Stage::new("counting");
    let open = staying_open(&mut stage);
    let ending: Vec<Value> = kinds()
        .flat_map(|kind| ENDING.map(|word| request(kind, word)))
        .collect();
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    for requests in [&ending, &open, &ending] {
        client.confirm_all(&stage.names, requests).await;
    }
    send_what_makes_no_request(&stage, &client, &open).await;

    let ended = endings(&stage, &mut results, &ending, PATIENCE).await;
    let conflicting = open.len() as f64;
    let expected = Counted {
        new: (ending.len() + open.len()) as f64,
        results: ending.len() as f64,
        // The message that is no JSON came three times.
        invalid: conflicting + 2.0,
        open: open.len() as f64,
    };
    until("all is counted", PATIENCE, || {
        Counted::by(&worker) == expected
    })
    .await;
    until_the_breaker_opens(&worker).await;
    assert_eq!(received(&worker, "repeated"), ending.len() as f64 + 2.0);
    assert_eq!(received(&worker, "conflicting"), conflicting);
    assert_eq!(received(&worker, "invalid"), 2.0);

    // By provider and outcome, it is what was published.
    let mut told: BTreeMap<(String, String), f64> = BTreeMap::new();
    for ending in &ended {
        let text = |key: &str| ending.result[key].as_str().unwrap().to_owned();
        *told.entry((text("provider"), text("outcome"))).or_default() += 1.0;
    }
    assert!(told.len() > 2 * ENDING.len(), "many outcomes: {told:?}");
    for ((provider, outcome), count) in &told {
        let labels = [("provider", provider.as_str()), ("outcome", outcome)];
        let counted = worker.metric("rescind_cancellations_total", &labels);
        assert_eq!(counted, *count, "{provider} {outcome}");
    }

    // Counters begin anew with a process, the ledger does not.
    worker.restart();
    let more: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    client.confirm_all(&stage.names, &more).await;
    endings(&stage, &mut results, &more, PATIENCE).await;
    until("it adds up over both runs", PATIENCE, || {
        let now = Counted::by(&worker);
        now.new == more.len() as f64
            && expected.new + now.new == expected.results + now.results + now.open
    })
    .await;
}
