//! The wall clock at an account's dispatcher: noticing that it was set, and what follows.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Dispatcher;
use crate::backoff::plus;
use crate::ledger::LedgerError;

impl Dispatcher {
    /// Notices that the clock was set, and brings forward what would wait for a time that is
    /// an hour away again. At the first look also what an earlier worker left behind.
    pub(super) async fn look_at_the_clock(&self, now: Timestamp) -> Result<(), LedgerError> {
        if let Some(step) = self.wall().look(now, self.started.elapsed()) {
            let seconds = step.as_secs_f64();
            warn!(provider = self.name(), seconds, "the wall clock was set");
            self.astray.store(true, Ordering::Release);
        }
        if !self.astray.load(Ordering::Acquire) {
            return Ok(());
        }
        let longest = self.config.retry.longest().max(self.config.poll.longest());
        let latest = plus(now, longest);
        let hastened = self.shared.ledger.hasten(self.name(), latest, now).await?;
        self.astray.store(false, Ordering::Release);
        if hastened > 0 {
            info!(
                provider = self.name(),
                requests = hastened,
                "due later than any wait can reach; looked at now"
            );
        }
        Ok(())
    }

    /// Wall times before this are not compared with later ones.
    pub(super) fn steady_since(&self) -> Timestamp {
        self.wall().steady_since()
    }

    fn wall(&self) -> std::sync::MutexGuard<'_, crate::wall::Wall> {
        self.wall.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
