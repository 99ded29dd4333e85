//! Removes requests that ended before the retention, bit by bit, so that no other work waits for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::shared::Shared;

/// Rows that are removed in one transaction.
const BATCH: usize = 200;
/// It rests that many times as long as it works: the pages that it changed are copied after that, at the others' cost.
const REST: u32 = 24;
/// Shortest rest.
const PAUSE: Duration = Duration::from_millis(10);
/// How often it looks for old requests. More often where the retention is shorter, down to the second.
const EVERY: Duration = Duration::from_secs(60);
const EVERY_LEAST: Duration = Duration::from_secs(1);

/// Runs until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>, retention: Duration) {
    let every = retention.clamp(EVERY_LEAST, EVERY);
    while rest(&shared, every).await {
        if let Ok(before) = (shared.clock)().checked_sub(retention) {
            purge(&shared, before).await;
        }
    }
}

async fn purge(shared: &Shared, before: Timestamp) {
    let mut removed = 0;
    loop {
        let began = Instant::now();
        match shared.ledger.purge(before, BATCH).await {
            Ok(0) => break,
            Ok(more) => removed += more,
            Err(error) => break warn!(%error, "cannot remove old requests"),
        }
        if !rest(shared, (began.elapsed() * REST).max(PAUSE)).await {
            break;
        }
    }
    if removed > 0 {
        info!(
            removed,
            "removed finished requests older than ledger.retention"
        );
    }
}

/// Waits. `false`: the worker stops.
async fn rest(shared: &Shared, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = shared.stop.cancelled() => false,
    }
}
