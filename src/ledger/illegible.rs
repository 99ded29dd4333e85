//! A row that cannot be read, e.g. after an edit by hand: it stops no other row, and is told of.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

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

/// A message in the outbox that is passed by, and only what corrects it waits for it. The outbox is read each second: the log is told once.
pub(super) fn pass_by(seq: i64, why: &impl std::fmt::Display) {
    static TOLD: Mutex<Option<HashSet<i64>>> = Mutex::new(None);
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    if told.get_or_insert_default().insert(seq) {
        error!(seq, error = %why,
            "a message in the ledger's outbox cannot be read, so it is not published, and no later correction of the same request is; all others are. Was the ledger edited, or is its disk failing?");
    }
}
