//! Time from publishing a request to seeing its result, at a steady rate.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};

use crate::Plan;
use crate::load::{Load, Names};
use crate::process::Process;
use crate::provider::{self, Answer};

/// Requests a second.
const RATE: usize = 200;

/// Percentiles, in milliseconds.
pub(crate) async fn measure(plan: &Plan) -> Value {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.url, Names::new("latency")).await;
    let process = Process::worker(&plan.url, load.names(), provider, "");
    let measured = run(plan, &load).await;
    drop(process);
    measured
}

/// At a worker that has just been started.
pub(crate) async fn run(plan: &Plan, load: &Load) -> Value {
    let mut results = load.results().await;
    // The first ones wait for the worker to start and for its connections.
    load.publish(1_000_000..1_000_200).await;
    for _ in 0..200 {
        results.next().await.unwrap().unwrap();
    }
    let count = RATE * plan.seconds;
    let started = Instant::now();
    let seen = async {
        let mut seen = HashMap::with_capacity(count);
        while seen.len() < count {
            let delivery = results.next().await.unwrap().unwrap();
            let at = Instant::now();
            let result: Value = serde_json::from_slice(&delivery.data).unwrap();
            seen.insert(result["request_id"].as_str().unwrap().to_owned(), at);
        }
        seen
    };
    let sending = async {
        let mut sent = Vec::with_capacity(count);
        let mut ticks =
            tokio::time::interval(Duration::from_secs(1) / u32::try_from(RATE).unwrap());
        for id in 0..count {
            ticks.tick().await;
            sent.push(Instant::now());
            load.publish_one(id).await.await.unwrap();
        }
        sent
    };
    let (seen, sent) = tokio::join!(seen, sending);
    let mut millis: Vec<f64> = sent
        .iter()
        .enumerate()
        .map(|(id, at)| {
            seen[&format!("bench-{id}")]
                .duration_since(*at)
                .as_secs_f64()
                * 1000.0
        })
        .collect();
    millis.sort_by(f64::total_cmp);
    let percentile = |p: usize| millis[(millis.len() * p / 100).min(millis.len() - 1)];
    let (p50, p99) = (percentile(50), percentile(99));
    println!(
        "latency at {RATE}/s for {:.0} s, publish to result: p50 {p50:.1} ms, p99 {p99:.1} ms, worst {:.1} ms",
        started.elapsed().as_secs_f64(),
        millis[millis.len() - 1]
    );
    json!({ "per_second": RATE, "p50_ms": p50, "p99_ms": p99, "worst_ms": millis[millis.len() - 1] })
}
