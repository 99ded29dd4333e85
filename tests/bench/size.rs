//! Throughput on a ledger with very many rows, against an empty one.

use serde_json::{Value, json};

use crate::drain::{Drained, drain, figures, rate};
use crate::large::Large;
use crate::load::{Load, ascending, spread};
use crate::plan::Plan;
use crate::process::Worker;
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured, thousands};

/// How requests and their orders are named.
type Name = fn(usize) -> String;

/// Each size beside an empty ledger, in turn; the largest is what the aims are about.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let mut steps = Vec::new();
    let mut ratio = 1.0;
    for (share, rounds) in [(100, 3), (10, 3), (1, plan.rounds)] {
        let rows = plan.rows / share;
        let step = step(plan, rows, rounds.min(plan.rounds), spread).await;
        ratio = step.ratio("spread");
        steps.push(step.entry());
    }
    let last = step(plan, plan.rows, plan.rounds, ascending).await;
    let aims = vec![
        aim(plan, "spread", ratio),
        aim(plan, "ascending", last.ratio("ascending")),
    ];
    let figures = json!({ "requests": plan.requests, "steps": steps, "ascending": last.entry() });
    Measured { aims, figures }
}

fn aim(plan: &Plan, names: &str, ratio: f64) -> Aim {
    let rows = thousands(plan.rows);
    let what = format!(
        "throughput with {rows} finished and as many waiting, names {names}, of an empty ledger's"
    );
    Aim::at_least(&what, ratio, 0.9)
}

/// Runs on a ledger with so many rows of each kind, and on an empty one.
struct Step {
    rows: usize,
    empty: Vec<Drained>,
    sized: Vec<Drained>,
}

impl Step {
    fn ratio(&self, names: &str) -> f64 {
        let ratio = rate(&self.sized) / rate(&self.empty);
        println!(
            "{} rows of each kind, names {names}: times {ratio:.2}",
            self.rows
        );
        ratio
    }

    fn entry(&self) -> Value {
        json!({
            "rows": self.rows, "ratio": rate(&self.sized) / rate(&self.empty),
            "empty": figures(&self.empty), "sized": figures(&self.sized),
        })
    }
}

async fn step(plan: &Plan, rows: usize, rounds: usize, name: Name) -> Step {
    let mut large = plan.large(rows).await;
    let large = large.as_mut().unwrap();
    let (mut empty, mut sized) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            match (round + turn) % 2 {
                0 => empty.push(run(plan, None, name).await),
                _ => sized.push(run(plan, Some(large), name).await),
            }
        }
    }
    Step { rows, empty, sized }
}

async fn run(plan: &Plan, large: Option<&Large>, name: Name) -> Drained {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, "size").await.named(name);
    let worker = || match large {
        Some(large) => large.worker(&load, &provider),
        None => Worker::new(&load, &provider),
    };
    let run = drain(&load, plan.requests, || worker().start()).await;
    run.print(if large.is_some() { "large" } else { "empty" });
    load.close().await;
    run
}
