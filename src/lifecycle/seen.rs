//! What has to be seen twice before it is believed: open, or not found. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{Moment, Progress, REFUSALS_MAX, Seen, Sighting, Step, Terms};
use crate::backoff::elapsed;
use crate::outcome::{Cause, Outcome, Refused, Unresolved};

impl Progress {
    pub(super) fn not_found_when_sent(&mut self, moment: Moment<'_>) -> Step {
        if moment.terms.abilities.lookup {
            self.sight(Seen::NotFound, moment.now);
            return self.ask_spaced(moment);
        }
        if self.exposed {
            return Step::Finish(Outcome::Unresolved(Unresolved::NoLookup));
        }
        if self.agrees(Seen::NotFound, moment.terms, moment.now) {
            return Step::Finish(Outcome::Refused(Refused::NotFound));
        }
        if self
            .sighting
            .as_ref()
            .is_none_or(|s| s.what != Seen::NotFound)
        {
            self.sight(Seen::NotFound, moment.now);
        }
        self.again(Some(moment.terms.poll.first), Cause::Retryable, moment)
    }

    pub(super) fn not_found_when_asked(&mut self, moment: Moment<'_>) -> Step {
        if let Some(end) = self.quiet_when_asked(moment.now) {
            return self.ask_by(end, moment);
        }
        let untouched = self.attempts == 0 && !self.exposed && !self.is_undecided();
        if untouched && !moment.terms.abilities.finds_all {
            // It may be there all the same: the cancel finds it, or says so as well.
            self.looked = true;
            return self.send_at_once(moment.now);
        }
        if !self.agrees(Seen::NotFound, moment.terms, moment.now) {
            self.sight(Seen::NotFound, moment.now);
            return self.ask_spaced(moment);
        }
        // What was accepted, seen under way or refused for its state was there, and so was what was seen
        // open; where nothing was sent since, nothing of ours has become of it.
        let was_there = self.was_there && self.exposed;
        if self.accepted || self.under_way || self.refusals > 0 || was_there {
            Step::Finish(Outcome::Unresolved(Unresolved::ContradictoryEvidence))
        } else if self.exposed && !moment.terms.abilities.finds_all {
            // It may be there all the same, and cancelled.
            Step::Finish(Outcome::Unresolved(Unresolved::NoLookup))
        } else {
            Step::Finish(Outcome::Refused(Refused::NotFound))
        }
    }

    /// The provider says that what it had accepted, or may have, did not happen.
    pub(super) fn failed_when_asked(
        &mut self,
        after: Option<Duration>,
        cause: Cause,
        moment: Moment<'_>,
    ) -> Step {
        self.was_there = true;
        if self.quiet_when_asked(moment.now).is_some() {
            return self.ask(after, moment);
        }
        // It may speak of an earlier attempt than the one in doubt.
        if self.doubtful && !self.agrees(Seen::StillOpen, moment.terms, moment.now) {
            self.sight(Seen::StillOpen, moment.now);
            return self.ask_spaced(moment);
        }
        self.doubtful = false;
        self.accepted = false;
        self.under_way = false;
        self.sighting = None;
        self.again(after, cause, moment)
    }

    pub(super) fn still_open(&mut self, moment: Moment<'_>) -> Step {
        self.was_there = true;
        if self.accepted {
            return self.ask(None, moment);
        }
        if let Some(end) = self.quiet_when_asked(moment.now) {
            return self.ask_by(end, moment);
        }
        // One answer may come from a copy that lags behind.
        let has_to_agree = self.doubtful || self.under_way;
        if has_to_agree && !self.agrees(Seen::StillOpen, moment.terms, moment.now) {
            self.sight(Seen::StillOpen, moment.now);
            return self.ask_spaced(moment);
        }
        if self.refusals >= REFUSALS_MAX {
            // `refused` promises that nothing was changed, and one of ours may have been taken first.
            return Step::Finish(if self.exposed {
                Outcome::Unresolved(Unresolved::ContradictoryEvidence)
            } else {
                Outcome::Refused(Refused::NotEligible)
            });
        }
        self.doubtful = false;
        self.under_way = false;
        self.looked = true;
        self.sighting = None;
        match self.attempts {
            0 => self.send_at_once(moment.now),
            // A repetition like any other: later and later, and not for ever.
            _ => self.again(None, Cause::Retryable, moment),
        }
    }

    pub(super) fn sight(&mut self, what: Seen, now: Timestamp) {
        self.sighting = Some(Sighting { what, at: now });
    }

    pub(super) fn agrees(&self, what: Seen, terms: &Terms, now: Timestamp) -> bool {
        self.sighting
            .as_ref()
            .is_some_and(|s| s.what == what && elapsed(s.at, now) >= terms.poll.first)
    }
}
