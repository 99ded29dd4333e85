//! Throughput on a ledger with very many rows, against an empty one.

use serde_json::{Value, json};

use crate::drain::{Drained, drain, figures, rate};
use crate::large::Large;
use crate::load::Load;
use crate::plan::Plan;
use crate::process::Worker;
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured, thousands};

/// Each size beside an empty ledger, in turn; the last one is what the aim is about.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let mut steps = Vec::new();
    let mut ratio = 1.0;
    for (share, rounds) in [(100, 3), (10, 3), (1, plan.rounds)] {
        let rows = plan.rows / share;
        let (empty, sized) = step(plan, rows, rounds.min(plan.rounds)).await;
        ratio = rate(&sized) / rate(&empty);
        println!("{rows} rows of each kind: times {ratio:.2}");
        steps.push(entry(rows, &empty, &sized));
    }
    let aims = vec![Aim::at_least(
        &format!(
            "throughput with {} finished and as many waiting, of an empty ledger's",
            thousands(plan.rows)
        ),
        ratio,
        0.9,
    )];
    let figures = json!({ "requests": plan.requests, "steps": steps });
    Measured { aims, figures }
}

async fn step(plan: &Plan, rows: usize, rounds: usize) -> (Vec<Drained>, Vec<Drained>) {
    let mut large = plan.large(rows).await;
    let large = large.as_mut().unwrap();
    let (mut empty, mut sized) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        for turn in 0..2 {
            match (round + turn) % 2 {
                0 => empty.push(run(plan, None).await),
                _ => sized.push(run(plan, Some(large)).await),
            }
        }
    }
    (empty, sized)
}

async fn run(plan: &Plan, large: Option<&Large>) -> Drained {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, "size").await;
    let worker = || match large {
        Some(large) => large.worker(&load, &provider),
        None => Worker::new(&load, &provider),
    };
    let run = drain(&load, plan.requests, || worker().start()).await;
    run.print(if large.is_some() { "large" } else { "empty" });
    load.close().await;
    run
}

fn entry(rows: usize, empty: &[Drained], sized: &[Drained]) -> Value {
    json!({
        "rows": rows, "ratio": rate(sized) / rate(empty),
        "empty": figures(empty), "sized": figures(sized),
    })
}
