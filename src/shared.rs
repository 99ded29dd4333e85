//! What the parts of a worker have in common.

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

/// Pause after the ledger did not do what it was asked.
pub const LEDGER_PAUSE: Duration = Duration::from_millis(500);

/// What the ledger has not done by then counts as not done, until it is.
const LEDGER_LATE: Duration = Duration::from_secs(20);

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
    /// Operations that the ledger has not carried out and that are tried again.
    pub unwritten: AtomicUsize,
    /// Given what is to be published.
    pub outbox: Handover,
    /// On while too much waits for the broker: nothing is taken in or begun.
    pub hold: Hold,
    /// Every call that is under way, and what leads to one: claims, and requests being stored.
    pub tasks: TaskTracker,
    /// The worker is stopping: nothing new is begun.
    pub stop: CancellationToken,
}

impl Shared {
    /// Asks the ledger for as long as it takes; `failed` is told each time that it does not do it.
    pub async fn insist<'l, T>(
        &'l self,
        failed: &str,
        mut ask: impl FnMut(&'l dyn Ledger) -> Answer<'l, T>,
    ) -> T {
        let mut unwritten = Unwritten(self, false);
        loop {
            let mut asked = ask(&*self.ledger);
            // It may take as long as a standby is away.
            let answer = match tokio::time::timeout(LEDGER_LATE, &mut asked).await {
                Ok(answer) => answer,
                Err(_) => {
                    self.note(&mut unwritten.1, true);
                    asked.await
                }
            };
            self.note(&mut unwritten.1, answer.is_err());
            match answer {
                Ok(done) => return done,
                Err(error) => error!(%error, "{failed}; trying again"),
            }
            tokio::time::sleep(LEDGER_PAUSE).await;
        }
    }

    /// Counts an operation while it fails, however often.
    pub fn note(&self, counted: &mut bool, fails: bool) {
        match (*counted, fails) {
            (false, true) => self.unwritten.fetch_add(1, Ordering::AcqRel),
            (true, false) => self.unwritten.fetch_sub(1, Ordering::AcqRel),
            _ => return,
        };
        *counted = fails;
    }
}

/// Whether it is counted. Who asks may be gone before the ledger does it.
struct Unwritten<'s>(&'s Shared, bool);

impl Drop for Unwritten<'_> {
    fn drop(&mut self) {
        self.0.note(&mut self.1, false);
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
            outbox: Handover::default(),
            hold: Hold::new(1),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    #[tokio::test]
    async fn who_asks_may_be_gone_before_the_ledger_does_it() {
        let folder = tempfile::tempdir().unwrap();
        let shared = shared(&folder);
        let failing = |_| -> Answer<'_, ()> { Box::pin(async { Err(LedgerError::Busy) }) };
        let mut asked = Box::pin(shared.insist("it fails", failing));
        let moment = Duration::from_millis(10);
        assert!(tokio::time::timeout(moment, &mut asked).await.is_err());
        assert_eq!(shared.unwritten.load(Ordering::Acquire), 1);
        drop(asked);
        assert_eq!(shared.unwritten.load(Ordering::Acquire), 0);
    }
}
