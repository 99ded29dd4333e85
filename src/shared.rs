//! State that the parts of a worker share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::error;

use crate::handover::Handover;
use crate::hold::Hold;
use crate::ledger::{Answer, Ledger};
use crate::metrics::Metrics;
use crate::spans::Spans;

/// Pause after a failure of the ledger.
pub const LEDGER_PAUSE: Duration = Duration::from_millis(500);

/// An operation that takes longer than this counts as failing until it is done.
const LEDGER_LATE: Duration = Duration::from_secs(20);

/// One for the whole worker.
pub struct Shared {
    /// Holds every request, call and message.
    pub ledger: Arc<dyn Ledger>,
    /// Counters and gauges.
    pub metrics: Arc<Metrics>,
    /// Exports spans.
    pub spans: Spans,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// Operations that the ledger has not carried out and that are tried again.
    pub unwritten: AtomicUsize,
    /// Passes committed messages to the outbox in memory.
    pub handover: Handover,
    /// On while too much waits for the broker: nothing is taken in or begun.
    pub hold: Hold,
    /// Every call that is under way, and every claim and request being stored, which may lead to one.
    pub tasks: TaskTracker,
    /// The worker is stopping: nothing new is begun.
    pub stop: CancellationToken,
}

impl Shared {
    /// Asks the ledger until it has done what it is asked; `failed` is logged each time that it has not.
    pub async fn retry_until_done<'l, T>(
        &'l self,
        failed: &str,
        mut ask: impl FnMut(&'l dyn Ledger) -> Answer<'l, T>,
    ) -> T {
        let mut failing = Failing::of(self);
        loop {
            let mut asked = ask(&*self.ledger);
            // It may take as long as a standby is away.
            let answer = match tokio::time::timeout(LEDGER_LATE, &mut asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    failing.set(true);
                    asked.await
                }
            };
            failing.set(answer.is_err());
            match answer {
                Ok(done) => return done,
                Err(error) if failing.is_told() => error!(%error, "{failed}; trying again"),
                Err(_) => {}
            }
            tokio::time::sleep(LEDGER_PAUSE).await;
        }
    }
}

/// One operation, counted in [`Shared::unwritten`] while it fails. A caller may end before the ledger
/// has done what it was asked: dropped, this counts no longer.
pub struct Failing<'s> {
    shared: &'s Shared,
    counted: bool,
    /// In a row.
    failures: u32,
}

impl<'s> Failing<'s> {
    /// An operation that has not failed yet.
    pub fn of(shared: &'s Shared) -> Self {
        Self {
            shared,
            counted: false,
            failures: 0,
        }
    }

    /// Whether its last try failed.
    pub fn set(&mut self, fails: bool) {
        self.failures = if fails { self.failures + 1 } else { 0 };
        match (self.counted, fails) {
            (false, true) => self.shared.unwritten.fetch_add(1, Ordering::AcqRel),
            (true, false) => self.shared.unwritten.fetch_sub(1, Ordering::AcqRel),
            _ => return,
        };
        self.counted = fails;
    }

    /// Whether the log is told of the last failure: of the 1st, 2nd, 4th, 8th in a row. Hundreds of
    /// operations may wait for the same ledger.
    pub fn is_told(&self) -> bool {
        self.failures.is_power_of_two()
    }
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        self.set(false);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::ledger::LedgerError;
    use crate::ledger::sqlite::Sqlite;

    /// With an empty ledger in the folder.
    pub(crate) fn shared(folder: &TempDir) -> Shared {
        let ledger = Sqlite::open(&folder.path().join("ledger"), |_, _| ()).unwrap();
        Shared {
            ledger: Arc::new(ledger),
            metrics: Arc::new(Metrics::new(&[], "test").unwrap()),
            spans: Spans::start(&[]),
            clock: || Timestamp::UNIX_EPOCH,
            unwritten: AtomicUsize::new(0),
            handover: Handover::default(),
            hold: Hold::new(1),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn a_caller_may_end_before_the_ledger_does_what_it_was_asked() {
        let folder = tempfile::tempdir().unwrap();
        let shared = shared(&folder);
        let failing = |_| -> Answer<'_, ()> { Box::pin(async { Err(LedgerError::Busy) }) };
        let mut asked = Box::pin(shared.retry_until_done("it fails", failing));
        let moment = Duration::from_millis(10);
        assert!(tokio::time::timeout(moment, &mut asked).await.is_err());
        assert_eq!(shared.unwritten.load(Ordering::Acquire), 1);
        drop(asked);
        assert_eq!(shared.unwritten.load(Ordering::Acquire), 0);
    }
}
