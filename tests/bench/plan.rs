//! How much is measured, and what the scenarios of one run have in common.

use tokio::sync::{Mutex, MutexGuard};

use crate::large::Large;

/// Sizes of a run; `--quick` makes them small.
pub(crate) struct Plan {
    /// The broker.
    pub(crate) amqp: String,
    pub(crate) quick: bool,
    /// Requests in the queue of one run.
    pub(crate) requests: usize,
    /// Runs of each kind; the middle one counts.
    pub(crate) rounds: usize,
    /// Seconds of one run at a steady rate.
    pub(crate) seconds: usize,
    /// Rows of each kind in the large ledger.
    pub(crate) rows: usize,
    /// Requests of the burst.
    pub(crate) burst: usize,
    large: Mutex<Option<Large>>,
}

impl Plan {
    pub(crate) fn new(quick: bool) -> Self {
        let size = |full: usize, small: usize| if quick { small } else { full };
        Self {
            amqp: std::env::var("AMQP_URL")
                .expect("AMQP_URL names a RabbitMQ of the benchmark's own"),
            quick,
            requests: size(20_000, 4_000),
            rounds: size(5, 1),
            seconds: size(10, 3),
            rows: size(1_000_000, 100_000),
            burst: size(200_000, 20_000),
            large: Mutex::default(),
        }
    }

    /// The large ledger, with at least so many rows of each kind.
    pub(crate) async fn large(&self, rows: usize) -> MutexGuard<'_, Option<Large>> {
        let mut large = self.large.lock().await;
        if large.is_none() {
            *large = Some(Large::new(&self.amqp).await);
        }
        large.as_mut().unwrap().grow(rows);
        large
    }

    /// Removes what the scenarios left for each other.
    pub(crate) fn clear(&self) {
        Large::remove();
    }
}
