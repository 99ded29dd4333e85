//! Memory of a worker whose requests all wait for a later retry.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Plan;
use crate::load::{Load, Names};
use crate::process::Process;
use crate::provider::{self, Answer};

/// Resident megabytes, now and at the most.
pub(crate) async fn measure(plan: &Plan) -> Value {
    let provider = provider::start(Answer::Later).await;
    let load = Load::new(&plan.url, Names::new("memory")).await;
    load.publish(0..plan.waiting).await;
    let more = "[defaults]\nretry = { first = \"1h\", max = \"2h\" }\n";
    let process = Process::worker(&plan.url, load.names(), provider, more);
    let started = Instant::now();
    let ledger = process.dir.path().join("rescind.db");
    loop {
        tokio::time::sleep(Duration::from_millis(500)).await;
        if waiting(&ledger) == plan.waiting {
            break;
        }
        assert!(
            started.elapsed() < Duration::from_secs(300),
            "the requests are not waiting"
        );
    }
    let (now, most) = (process.megabytes("VmRSS"), process.megabytes("VmHWM"));
    println!(
        "memory with {} requests waiting: {now:.0} MB, at the most {most:.0} MB",
        plan.waiting
    );
    drop(process);
    json!({ "waiting": plan.waiting, "resident_mb": now, "most_mb": most })
}

fn waiting(ledger: &std::path::Path) -> usize {
    let Ok(db) =
        rusqlite::Connection::open_with_flags(ledger, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
    else {
        return 0;
    };
    db.query_row(
        "SELECT count(*) FROM requests WHERE state = 'waiting_retry'",
        [],
        |row| row.get(0),
    )
    .unwrap_or(0)
}
