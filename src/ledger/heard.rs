//! What a notification does to a request's row, the same in every ledger. Pure.

use super::{Hear, Heard, Stored};
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};

/// A request that a notification is about, as its row is.
pub(super) struct Found {
    pub(super) seq: i64,
    pub(super) stored: Stored,
    /// With the row's due time, which is empty while the request is claimed.
    pub(super) progress: Progress,
    pub(super) outcome: Option<Outcome>,
    pub(super) notified: bool,
}

/// The update of the request's row.
pub(super) enum Update {
    Nothing,
    /// Note that a notification came: a call is under way, and its commit will look.
    Remember,
    /// Write the new progress; `checks`: the result is to be checked.
    Write {
        progress: Box<Progress>,
        checks: bool,
    },
}

impl Found {
    pub(super) fn tell(mut self, hear: &Hear) -> (Heard, Update) {
        let finished = self.progress.state == State::Finished;
        let claimed = self.progress.due_at.is_none();
        if claimed && !finished {
            return (Heard::Open, Update::Remember);
        }
        let checked = claimed && finished && self.notified;
        let before = self.progress.clone();
        // A replayed request has its outcome already, and is open.
        let outcome = self.outcome.filter(|_| finished);
        let heard = hear(&self.stored, &mut self.progress, outcome);
        let due = self.progress.due_at.is_some();
        // A new due time takes the claim from a check that is under way: its answer may be too old.
        let changed = self.progress != before && (due || !checked);
        if changed {
            let progress = self.progress.into();
            let checks = finished && due;
            (heard, Update::Write { progress, checks })
        } else {
            (heard, Update::Nothing)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::outcome::Refused;
    use crate::wire::Envelope;

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;
    const ENDED: Option<Outcome> = Some(Outcome::Refused(Refused::Settled));

    /// The update that follows when the listener leaves that due time, and changes something or not.
    fn written(
        state: State,
        due: bool,
        notified: bool,
        leaves: (bool, bool),
    ) -> Option<(bool, bool)> {
        let mut progress = Progress::new(NOW);
        progress.state = state;
        progress.due_at = due.then_some(NOW);
        let found = Found {
            seq: 1,
            stored: Stored {
                request_id: "a".into(),
                provider: "migo".into(),
                envelope: Envelope::default(),
            },
            progress,
            outcome: ENDED,
            notified,
        };
        let hear: Hear = Arc::new(move |_, progress, outcome| {
            assert_eq!(outcome, ENDED.filter(|_| state == State::Finished));
            progress.due_at = leaves.0.then_some(NOW);
            progress.polls += u32::from(leaves.1);
            Heard::Known
        });
        match found.tell(&hear) {
            (Heard::Open, Update::Remember) => None,
            (Heard::Known, Update::Nothing) => Some((false, false)),
            (Heard::Known, Update::Write { checks, .. }) => Some((true, checks)),
            _ => panic!("it was heard in another way"),
        }
    }

    #[test]
    fn what_is_written_depends_on_who_works_on_it() {
        use State::{Calling, Finished, InDoubt};
        for (state, due, notified, leaves, expected) in [
            // On the wire: the call's commit will look and decide.
            (Calling, false, false, (true, true), None),
            (InDoubt, true, false, (true, true), Some((true, false))),
            (InDoubt, true, false, (true, false), Some((false, false))),
            // Finished: to be checked, or something is remembered.
            (Finished, false, false, (true, true), Some((true, true))),
            (Finished, false, false, (false, true), Some((true, false))),
            (Finished, true, true, (false, true), Some((true, false))),
            // Being checked: only a new due time is worth the claim that it takes.
            (Finished, false, true, (false, true), Some((false, false))),
            (Finished, false, true, (true, true), Some((true, true))),
        ] {
            let found = written(state, due, notified, leaves);
            assert_eq!(found, expected, "{state:?} {due} {notified} {leaves:?}");
        }
    }
}
