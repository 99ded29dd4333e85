//! Throughput and processor time of a full queue, the worker against the bare relay.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Load, Names, time_results};
use crate::process::Process;
use crate::provider::{self, Answer};
use crate::{Plan, median};

struct Run {
    per_second: f64,
    cpu_microseconds: f64,
}

/// Alternating runs; medians and their ratio.
pub(crate) async fn measure(plan: &Plan) -> Value {
    println!(
        "throughput: {} requests waiting in the queue, {} rounds",
        plan.requests, plan.rounds
    );
    println!("{:<10} {:>12} {:>16}", "", "requests/s", "CPU us/request");
    let (mut relay, mut worker) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds {
        relay.push(run(plan, "relay").await);
        worker.push(run(plan, "worker").await);
    }
    let of = |runs: &[Run], what: fn(&Run) -> f64| median(runs.iter().map(what).collect());
    let relay_rate = of(&relay, |run| run.per_second);
    let worker_rate = of(&worker, |run| run.per_second);
    let relay_cpu = of(&relay, |run| run.cpu_microseconds);
    let worker_cpu = of(&worker, |run| run.cpu_microseconds);
    println!(
        "ratio      {:>12.2} {:>16.2}",
        worker_rate / relay_rate,
        worker_cpu / relay_cpu
    );
    json!({
        "requests": plan.requests,
        "rounds": plan.rounds,
        "relay_per_second": relay_rate,
        "worker_per_second": worker_rate,
        "ratio": worker_rate / relay_rate,
        "relay_cpu_us": relay_cpu,
        "worker_cpu_us": worker_cpu,
        "cpu_ratio": worker_cpu / relay_cpu,
    })
}

async fn run(plan: &Plan, who: &str) -> Run {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.url, Names::new(who)).await;
    load.publish(0..plan.requests).await;
    let mut results = load.results().await;
    let process = match who {
        "relay" => Process::relay(&plan.url, load.names(), provider),
        _ => Process::worker(&plan.url, load.names(), provider, ""),
    };
    let started = Instant::now();
    let took = time_results(&mut results, plan.requests).await;
    let cpu = process.cpu_seconds();
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = plan.requests as f64;
    let run = Run {
        per_second: count / took.as_secs_f64(),
        cpu_microseconds: cpu / count * 1e6,
    };
    println!(
        "{who:<10} {:>12.0} {:>16.1}   ({:.1} s with the start)",
        run.per_second,
        run.cpu_microseconds,
        started.elapsed().as_secs_f64()
    );
    drop(process);
    tokio::time::sleep(Duration::from_millis(500)).await;
    run
}
