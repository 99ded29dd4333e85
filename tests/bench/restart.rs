//! From the start of the process to its first result, on a ledger in which very many wait.

use std::time::Instant;

use futures_util::StreamExt;
use serde_json::json;

use crate::drain::settle;
use crate::large::Large;
use crate::load::Load;
use crate::middle::median;
use crate::plan::Plan;
use crate::process::Worker;
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured, thousands};

/// Starts after a crash, in turn with starts on an empty ledger.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let large = plan.large(plan.rows).await;
    let large = large.as_ref().unwrap();
    let (mut empty, mut waiting) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        empty.push(run(plan, None).await);
        waiting.push(run(plan, Some(large)).await);
    }
    let seconds = median(waiting.iter().copied());
    let figures = json!({
        "waiting": plan.rows, "seconds": seconds, "empty_seconds": median(empty.iter().copied()),
        "runs": { "waiting": waiting, "empty": empty },
    });
    let rows = thousands(plan.rows);
    let what = format!("from the start to the first result, {rows} requests waiting");
    let aims = vec![Aim::at_most(&what, seconds, 2.0, "s")];
    Measured { aims, figures }
}

/// Seconds from the start to the result of a request that is in the queue.
async fn run(plan: &Plan, large: Option<&Large>) -> f64 {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, "restart").await;
    load.publish(load.ids(1)).await;
    let mut results = load.results().await;
    settle();
    let started = Instant::now();
    let process = match large {
        Some(large) => large.worker(&load, &provider).start(),
        None => Worker::new(&load, &provider).start(),
    };
    drop(results.next().await.unwrap().unwrap());
    let seconds = started.elapsed().as_secs_f64();
    println!("{:<8} {seconds:.2} s", large.map_or("empty", |_| "waiting"));
    drop(process);
    load.close().await;
    seconds
}
