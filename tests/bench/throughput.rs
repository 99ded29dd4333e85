//! Throughput and processor time of a full queue: the worker on SQLite and on PostgreSQL
//! against the bare relay.

use serde_json::json;

use crate::database::Database;
use crate::drain::{Drained, cpu, drain, figures, rate};
use crate::load::Load;
use crate::plan::Plan;
use crate::process::{self, Worker};
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured};

const WHO: [&str; 3] = ["relay", "sqlite", "postgres"];

/// Runs in turn, each round beginning with another one.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    println!(
        "{} requests in the queue, {} rounds",
        plan.requests, plan.rounds
    );
    let mut runs: [Vec<Drained>; 3] = Default::default();
    for round in 0..plan.rounds {
        for turn in 0..WHO.len() {
            let who = (round + turn) % WHO.len();
            runs[who].push(run(plan, WHO[who]).await);
        }
    }
    let [relay, sqlite, postgres] = &runs;
    let aims = vec![
        Aim::at_least(
            "throughput on SQLite, of the relay's",
            rate(sqlite) / rate(relay),
            0.75,
        ),
        Aim::at_most(
            "processor time of a request on SQLite, of the relay's",
            cpu(sqlite) / cpu(relay),
            2.0,
            "",
        ),
        Aim::at_least(
            "throughput on PostgreSQL, of the relay's",
            rate(postgres) / rate(relay),
            0.5,
        ),
    ];
    let figures = json!({
        "requests": plan.requests,
        "relay": figures(relay),
        "sqlite": figures(sqlite),
        "postgres": figures(postgres),
    });
    Measured { aims, figures }
}

async fn run(plan: &Plan, who: &str) -> Drained {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, who).await;
    let database = (who == "postgres").then(Database::new);
    // As many calls at once as the relay.
    let worker = || Worker::new(&load, &provider).with("RESCIND_DEFAULTS__MAX_IN_FLIGHT", "256");
    let start = || match &database {
        Some(database) => worker().on(&database.url).start(),
        None if who == "relay" => process::relay(&load, &provider),
        None => worker().start(),
    };
    let run = drain(&load, plan.requests, start).await;
    run.print(who);
    load.close().await;
    run
}
