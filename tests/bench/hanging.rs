//! Throughput of five accounts while a sixth one's provider never answers.

use serde_json::json;

use crate::drain::{Drained, drain_of, figures, rate};
use crate::load::Load;
use crate::plan::Plan;
use crate::process::Worker;
use crate::provider::{self, Answer, Provider};
use crate::report::{Aim, Measured};

const ACCOUNTS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];
/// The one that hangs.
const HANGS: usize = 5;

/// With and without the one that hangs, in turn.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let (mut well, mut ill) = (Vec::new(), Vec::new());
    for round in 0..plan.rounds {
        for turn in 0..2 {
            match (round + turn) % 2 {
                0 => well.push(run(plan, Answer::Cancelled).await),
                _ => ill.push(run(plan, Answer::Never).await),
            }
        }
    }
    let aims = vec![Aim::at_least(
        "throughput of five providers while the sixth hangs, of what it was",
        rate(&ill) / rate(&well),
        0.95,
    )];
    let figures = json!({
        "requests_of_five": plan.requests, "well": figures(&well), "hanging": figures(&ill),
    });
    Measured { aims, figures }
}

/// The six take turns in the queue; only the five count.
async fn run(plan: &Plan, sixth: Answer) -> Drained {
    let what = if matches!(sixth, Answer::Never) {
        "hanging"
    } else {
        "well"
    };
    let providers = providers(sixth).await;
    let load = Load::new(&plan.amqp, "hanging").await;
    let ids = load.ids(plan.requests / 5 * 6);
    load.publish_to(ids, |id| ACCOUNTS[id % 6]).await;
    let start = || {
        let accounts = ACCOUNTS.iter().zip(&providers);
        Worker::of(&load, accounts.map(|(name, provider)| (*name, provider))).start()
    };
    let count = plan.requests / 5 * 5;
    let hung = format!(".{}.", ACCOUNTS[HANGS]);
    let run = drain_of(&load, count, |key| !key.contains(&hung), start).await;
    run.print(what);
    load.close().await;
    run
}

async fn providers(sixth: Answer) -> Vec<Provider> {
    let mut providers = Vec::new();
    for account in 0..ACCOUNTS.len() {
        let answer = if account == HANGS {
            sixth.clone()
        } else {
            Answer::Cancelled
        };
        providers.push(provider::start(answer).await);
    }
    providers
}
