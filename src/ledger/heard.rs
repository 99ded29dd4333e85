//! What a notification does to a request's row, the same in every ledger. Pure.

use super::{Hear, Heard, Stored};
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};

/// A request that a notification is about, as its row is.
pub(super) struct Found {
    pub(super) seq: i64,
    pub(super) stored: Stored,
    /// With the row's due time, which is empty while somebody works on it.
    pub(super) progress: Progress,
    pub(super) outcome: Option<Outcome>,
    pub(super) notified: bool,
}

/// What is to be written of it.
pub(super) enum Change {
    Nothing,
    /// That a notification came: a call is under way, and its commit looks.
    Remember,
    /// Where it stands, and whether its result is to be checked.
    Stands(Box<Progress>, bool),
}

impl Found {
    pub(super) fn tell(mut self, hear: &Hear) -> (Heard, Change) {
        let finished = self.progress.state == State::Finished;
        let claimed = self.progress.due_at.is_none();
        if claimed && !finished {
            return (Heard::Open, Change::Remember);
        }
        let checked = claimed && finished && self.notified;
        let before = self.progress.clone();
        // One that is replayed has its outcome, and is open.
        let outcome = self.outcome.filter(|_| finished);
        let heard = hear(&self.stored, &mut self.progress, outcome);
        let due = self.progress.due_at.is_some();
        // A new due time takes the claim of a check that is under way: its answer may be too old.
        let changed = self.progress != before && (due || !checked);
        match changed {
            true => (heard, Change::Stands(self.progress.into(), finished && due)),
            false => (heard, Change::Nothing),
        }
    }
}
