//! What is added to the provider's own time at a steady rate, by the worker and by the relay.

use std::time::Duration;

use serde_json::{Value, json};

use crate::drain::settle;
use crate::load::Load;
use crate::middle::{distribution, median, percentile, sorted};
use crate::pace::pace;
use crate::plan::Plan;
use crate::process::{self, Worker};
use crate::provider::{self, Answer, Taken};
use crate::report::{Aim, Measured};

/// Requests a second.
const RATE: usize = 500;
/// What the provider takes, at least.
const PROVIDER: Duration = Duration::from_millis(20);

struct Run {
    /// Milliseconds beyond the provider's own time, sorted.
    added: Vec<f64>,
    lag_ms: f64,
    /// Microseconds of the process's processor time for a request.
    cpu: f64,
}

/// Runs in turn.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let (mut relay, mut worker) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        for turn in 0..2 {
            match (round + turn) % 2 {
                0 => relay.push(run(plan, "relay").await),
                _ => worker.push(run(plan, "worker").await),
            }
        }
    }
    let aims = vec![
        aim("p50", 50.0, 2.0, &relay, &worker),
        aim("p99", 99.0, 10.0, &relay, &worker),
    ];
    let figures = json!({
        "per_second": RATE, "seconds": plan.seconds, "provider_ms": PROVIDER.as_millis(),
        "relay": figures(&relay), "worker": figures(&worker),
    });
    Measured { aims, figures }
}

fn aim(name: &str, of_hundred: f64, bound: f64, relay: &[Run], worker: &[Run]) -> Aim {
    let beside = middle(relay, of_hundred);
    let what = format!("added to the provider's time at {RATE}/s, {name} (relay {beside:.1} ms)");
    Aim::at_most(&what, middle(worker, of_hundred), bound, "ms")
}

async fn run(plan: &Plan, who: &str) -> Run {
    let taken = Taken::default();
    let provider = provider::start(Answer::After(PROVIDER, taken.clone())).await;
    let load = Load::new(&plan.amqp, who).await;
    settle();
    let process = match who {
        "relay" => process::relay(&load, &provider, 256),
        _ => Worker::new(&load, &provider).start(),
    };
    let paced = pace(&load, RATE, plan.seconds).await;
    let cpu = process.cpu_seconds() / paced.times.len() as f64 * 1e6;
    drop(process);
    load.close().await;
    let taken = taken.lock().unwrap();
    let added = paced.times.iter().map(|(name, time)| {
        let own = taken[&format!("order-{name}")];
        (time.as_secs_f64() - own.as_secs_f64()) * 1000.0
    });
    let run = Run {
        added: sorted(added),
        lag_ms: paced.lag.as_secs_f64() * 1000.0,
        cpu,
    };
    run.print(who);
    run
}

impl Run {
    fn at(&self, of_hundred: f64) -> f64 {
        percentile(&self.added, of_hundred)
    }

    fn print(&self, who: &str) {
        println!(
            "{who:<10} adds p50 {:>5.1} ms  p99 {:>5.1} ms  worst {:>6.1} ms  {:>5.0} us CPU a request   (published {:.1} ms late at the most)",
            self.at(50.0),
            self.at(99.0),
            self.at(100.0),
            self.cpu,
            self.lag_ms
        );
    }
}

/// Of the percentiles of all runs the middle one.
fn middle(runs: &[Run], of_hundred: f64) -> f64 {
    median(runs.iter().map(|run| run.at(of_hundred)))
}

/// The distribution is that of all runs together.
fn figures(runs: &[Run]) -> Value {
    let all = sorted(runs.iter().flat_map(|run| run.added.iter().copied()));
    let each = |of_hundred| {
        runs.iter()
            .map(|run| run.at(of_hundred))
            .collect::<Vec<_>>()
    };
    json!({
        "p50_ms": middle(runs, 50.0), "p99_ms": middle(runs, 99.0),
        "distribution": distribution(&all),
        "runs": {
            "p50_ms": each(50.0), "p99_ms": each(99.0), "worst_ms": each(100.0),
            "cpu_us": runs.iter().map(|run| run.cpu).collect::<Vec<_>>(),
            "lag_ms": runs.iter().map(|run| run.lag_ms).collect::<Vec<_>>(),
        },
    })
}
