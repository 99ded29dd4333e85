//! What the parts of a worker have in common.

use std::sync::Arc;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::handover::Handover;
use crate::hold::Hold;
use crate::ledger::Ledger;
use crate::metrics::Metrics;
use crate::spans::Spans;

/// One for the whole process.
pub struct Shared {
    /// The truth.
    pub ledger: Arc<dyn Ledger>,
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// What a collector is told.
    pub spans: Spans,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// Given what is to be published.
    pub outbox: Handover,
    /// On while too much waits for the broker: nothing is taken in or begun.
    pub hold: Hold,
    /// Every call that is under way, and what leads to one: claims, and requests being stored.
    pub tasks: TaskTracker,
    /// The worker is stopping: nothing new is begun.
    pub stop: CancellationToken,
}
