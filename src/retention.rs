//! Removes requests that ended before the retention, bit by bit, so that no other work waits for it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::shared::Shared;

/// Rows that are removed in one transaction, at the most.
const BATCH: usize = 200;
/// Fewer where it takes longer than this, since nothing else is committed meanwhile: rows of a payment with very
/// many requests cost more than others.
const LONG: Duration = Duration::from_millis(250);
/// But so many: what each transaction costs, whatever it removes, is not to be paid for each row.
const BATCH_LEAST: usize = 25;
/// It rests that many times as long as it works: the pages that it changed are copied after that, at the others' cost.
const REST: u32 = 24;
/// Shortest rest, and the longest: a commit may have waited for a standby for an hour.
const PAUSE: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_secs(600);
/// How often it looks for old requests. More often where the retention is shorter, down to the second.
const EVERY: Duration = Duration::from_secs(60);
const EVERY_LEAST: Duration = Duration::from_secs(1);

/// Runs until the worker stops.
pub(crate) async fn run(shared: Arc<Shared>, retention: Duration) {
    let every = retention.clamp(EVERY_LEAST, EVERY);
    let mut batch = BATCH;
    while rest(&shared, every).await {
        if let Ok(before) = (shared.clock)().checked_sub(retention) {
            purge(&shared, before, &mut batch).await;
        }
    }
}

async fn purge(shared: &Shared, before: Timestamp, batch: &mut usize) {
    let mut removed = 0;
    loop {
        let began = Instant::now();
        let purged = shared.ledger.purge(before, *batch).await;
        let took = began.elapsed();
        *batch = fitting(*batch, took);
        match purged {
            Ok(0) => break,
            Ok(more) => removed += more,
            Err(error) => break warn!(%error, "cannot remove old requests"),
        }
        if !rest(shared, (took * REST).clamp(PAUSE, PAUSE_MOST)).await {
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

/// How many rows are removed next, after so many took so long.
fn fitting(batch: usize, took: Duration) -> usize {
    if took > LONG {
        (batch / 2).max(BATCH_LEAST)
    } else {
        (batch * 2).min(BATCH)
    }
}

/// Waits. `false`: the worker stops.
async fn rest(shared: &Shared, time: Duration) -> bool {
    tokio::select! {
        () = tokio::time::sleep(time) => true,
        () = shared.stop.cancelled() => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_takes_long_is_made_smaller_until_it_does_not() {
        let slow = |batch| fitting(batch, 2 * LONG);
        assert_eq!(
            [200, 30, BATCH_LEAST].map(slow),
            [100, BATCH_LEAST, BATCH_LEAST]
        );
        let fast = |batch| fitting(batch, LONG);
        assert_eq!([25, 150, 200].map(fast), [50, 200, 200]);
    }
}
