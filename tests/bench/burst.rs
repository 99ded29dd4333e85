//! Memory while a worker drains a queue with very many requests.

use serde_json::json;

use crate::drain::drain;
use crate::load::Load;
use crate::plan::Plan;
use crate::process::Worker;
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured, thousands};

/// Resident megabytes at the most.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, "burst").await;
    let start = || Worker::new(&load, &provider).start();
    let run = drain(&load, plan.burst, start).await;
    run.print("burst");
    load.close().await;
    let figures = json!({
        "requests": plan.burst, "most_mb": run.most_mb, "per_second": run.per_second,
    });
    let requests = thousands(plan.burst);
    let what = format!("memory while {requests} queued requests drain, at the most");
    let aims = vec![Aim::at_most(&what, run.most_mb, 150.0, "MB")];
    Measured { aims, figures }
}
