//! A row whose progress cannot be read, e.g. after an edit by hand: it stops no other row, and is told of.

use jiff::Timestamp;
use tracing::error;

use crate::lifecycle::Progress;
use crate::outcome::State;

/// What stands in columns of its own, beside the progress.
pub(super) struct Columns {
    pub(super) request_id: String,
    pub(super) state: String,
    pub(super) attempts: u32,
    pub(super) lookups: u32,
    pub(super) received_at: Timestamp,
}

impl Columns {
    /// The progress to go on with: until the request is claimed again, every reading tells of it.
    pub(super) fn doubted(self, why: &impl std::fmt::Display) -> Progress {
        let Self { request_id, .. } = &self;
        error!(request_id, error = %why,
            "what the ledger remembers of this request cannot be read, so it counts as in doubt: its provider is asked before anything is sent. Was the ledger edited, or is its disk failing?");
        // A name that nobody knows is one that nobody finished.
        let state = State::named(&self.state).unwrap_or(State::InDoubt);
        Progress::illegible(state, self.attempts, self.lookups, self.received_at)
    }
}
