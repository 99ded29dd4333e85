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

/// Who drains the queue.
#[derive(Clone, Copy)]
enum Who {
    Relay,
    Sqlite,
    Postgres,
}

/// Deliveries held and calls made at once: what the relay is defined with, and four times as many.
/// A request stays in the worker for two commits longer, so it takes more of them to fill the
/// same cores.
const FEW: u16 = 256;
const MANY: u16 = 1024;

/// The relay has its best in the aims, by its middle runs.
const KINDS: [(&str, Who, u16); 5] = [
    ("relay_256", Who::Relay, FEW),
    ("relay_1024", Who::Relay, MANY),
    ("sqlite_256", Who::Sqlite, FEW),
    ("sqlite_1024", Who::Sqlite, MANY),
    ("postgres_1024", Who::Postgres, MANY),
];

/// Runs in turn, each round beginning with another one.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    println!(
        "{} requests in the queue, {} rounds",
        plan.requests, plan.rounds
    );
    let mut runs: [Vec<Drained>; KINDS.len()] = Default::default();
    for round in 0..plan.rounds {
        for turn in 0..KINDS.len() {
            let kind = (round + turn) % KINDS.len();
            runs[kind].push(run(plan, KINDS[kind]).await);
        }
    }
    let kinds = KINDS.iter().zip(&runs);
    let mut all: serde_json::Map<_, _> = kinds
        .map(|((name, ..), runs)| ((*name).to_owned(), figures(runs)))
        .collect();
    all.insert("requests".into(), json!(plan.requests));
    Measured {
        aims: aims(&runs),
        figures: all.into(),
    }
}

fn aims(runs: &[Vec<Drained>; KINDS.len()]) -> Vec<Aim> {
    let [few, many, _, sqlite, postgres] = runs;
    let relay = if rate(many) > rate(few) { many } else { few };
    vec![
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
    ]
}

async fn run(plan: &Plan, (name, who, at_once): (&str, Who, u16)) -> Drained {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, name).await;
    let database = matches!(who, Who::Postgres).then(Database::new);
    let worker = || {
        Worker::new(&load, &provider)
            .with("RESCIND_DEFAULTS__MAX_IN_FLIGHT", at_once)
            .with("RESCIND_AMQP__PREFETCH", at_once)
    };
    let start = || match (who, &database) {
        (Who::Relay, _) => process::relay(&load, &provider, at_once),
        (_, Some(database)) => worker().on(&database.url).start(),
        (_, None) => worker().start(),
    };
    let run = drain(&load, plan.requests, start).await;
    run.print(name);
    load.close().await;
    run
}
