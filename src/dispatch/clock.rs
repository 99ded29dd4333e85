//! The wall clock at an account's dispatcher: noticing that it was set, and what follows.

use jiff::{SignedDuration, Timestamp};
use tracing::{info, warn};

use super::Dispatcher;
use crate::backoff::plus;
use crate::ledger::LedgerError;
use crate::wall::Wall;

/// The wall clock as the loop of one dispatcher has seen it.
pub(super) struct Clock {
    wall: Wall,
    /// Due times may be out of reach: the clock went back, perhaps before this start.
    due_times_suspect: bool,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            wall: Wall::default(),
            due_times_suspect: true,
        }
    }
}

impl Clock {
    /// Wall times before this are not compared with later ones.
    pub(super) fn steady_since(&self) -> Timestamp {
        self.wall.steady_since()
    }
}

impl Dispatcher {
    /// Notices that the clock was set, and brings forward the requests that would wait for a time that
    /// is an hour away again. The first time also those that an earlier worker left behind.
    pub(super) async fn check_clock(
        &self,
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let set_by = clock.wall.observe(now, self.started.elapsed());
        if let Some(seconds) = set_by.as_ref().map(SignedDuration::as_secs_f64) {
            warn!(provider = self.name(), seconds, "the wall clock was set");
            clock.due_times_suspect = true;
        }
        if !clock.due_times_suspect {
            return Ok(());
        }
        let longest = self.config.retry.longest().max(self.config.poll.longest());
        let latest = plus(now, longest);
        let hastened = self.shared.ledger.hasten(self.name(), latest, now).await?;
        clock.due_times_suspect = false;
        if hastened > 0 {
            info!(
                provider = self.name(),
                requests = hastened,
                "requests were due later than the longest wait; they are due now"
            );
        }
        Ok(())
    }
}
