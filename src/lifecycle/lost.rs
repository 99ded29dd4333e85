//! A worker that is gone, or a ledger that may have forgotten: what was sent is in doubt. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::Progress;
use crate::backoff::plus;
use crate::outcome::{Operation, State};

impl Progress {
    /// The worker died during the call, or lost its claim: it may have been applied, or may
    /// be for another `quiet`, if the worker is only out of reach.
    pub fn lost(&mut self, now: Timestamp, quiet: Duration) {
        let operation = self.operation.take();
        if operation == Some(Operation::Cancel) {
            self.doubtful = true;
            self.exposed = true;
            self.sighting = None;
            self.quiet_until = (!quiet.is_zero()).then(|| plus(now, quiet));
        }
        self.state = self.asking_state();
        match self.state {
            State::WaitingRetry => self.retrying_since.get_or_insert(now),
            _ => self.waiting_since.get_or_insert(now),
        };
        self.due_at = Some(now);
    }

    /// The ledger may have forgotten what was sent, e.g. an older copy was restored: an open
    /// request that nobody works on is asked about before anything else.
    pub fn reconcile(&mut self, now: Timestamp, received_at: Timestamp) {
        self.doubtful = true;
        self.exposed = true;
        self.sighting = None;
        // It cannot have been sent before: the life of its key ends no later than this says.
        self.first_sent_at.get_or_insert(received_at);
        self.waiting_since.get_or_insert(now);
        self.state = self.asking_state();
        self.due_at = Some(now);
    }

    /// The end of the time in which a lost call may still arrive, while that lasts.
    pub(super) fn quiet(&self, now: Timestamp) -> Option<Timestamp> {
        self.quiet_until.filter(|end| *end > now)
    }
}
