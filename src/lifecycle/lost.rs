//! A worker that is gone, or a ledger that may have forgotten: what was sent is in doubt. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::Progress;
use crate::backoff::plus;
use crate::outcome::{Operation, State};

/// More calls than a request makes that were begun and not sent.
const UNCOUNTED: u32 = 1 << 20;

impl Progress {
    /// A cancel that has just begun may still be applied for so long, should nobody hear of it again, and
    /// perhaps nobody can be asked then.
    pub fn set_quiet(&mut self, quiet: Duration, has_lookup: bool) {
        if self.operation == Some(Operation::Cancel) {
            self.remember_quiet(quiet);
            self.blind = !has_lookup;
        }
    }

    /// When it goes on: at once with a question, and with a repeat once the lost call cannot arrive any more.
    fn goes_on_at(&self, now: Timestamp) -> Timestamp {
        let quiet = self.quiet(now).filter(|_| self.blind);
        quiet.unwrap_or(now)
    }

    fn remember_quiet(&mut self, quiet: Duration) {
        self.quiet_ms = u64::try_from(quiet.as_millis()).unwrap_or(u64::MAX);
    }

    /// The longer of `quiet`, by the settings of now, and the one that the last cancel was sent with.
    fn longer_quiet(&self, quiet: Duration) -> Duration {
        quiet.max(Duration::from_millis(self.quiet_ms))
    }

    /// The worker that had the request is gone: a call that was under way is lost, and anything
    /// else is due now.
    pub fn recovered(&mut self, now: Timestamp, quiet: Duration) {
        match self.state {
            State::Calling => self.lost(now, quiet),
            _ => self.due_at = Some(now),
        }
    }

    /// The worker died during the call, or lost its claim: it may have been applied, or may
    /// be for another `quiet`, if the worker is only out of reach.
    pub fn lost(&mut self, now: Timestamp, quiet: Duration) {
        let quiet = self.longer_quiet(quiet);
        let operation = self.operation.take();
        if operation == Some(Operation::Cancel) {
            self.doubtful = true;
            self.expose();
            self.sighting = None;
            self.quiet_until = (!quiet.is_zero()).then(|| plus(now, quiet));
        }
        self.state = self.asking_state();
        let goes_on_at = self.goes_on_at(now);
        match self.state {
            State::WaitingRetry => self.retrying_since.get_or_insert(now),
            _ => self.waiting_since.get_or_insert(goes_on_at),
        };
        self.due_at = Some(goes_on_at);
    }

    /// The provider did not answer a cancel itself, and may be carrying it out: what a look-up does not see
    /// for another `quiet` may yet come. Before [`after`](Self::after), with its doubt.
    pub fn unheard(&mut self, now: Timestamp, quiet: Duration) {
        if self.operation == Some(Operation::Cancel) {
            self.quiet_until = self.quiet_until.max(Some(plus(now, quiet)));
        }
    }

    /// The ledger may have forgotten what was sent, e.g. an older copy was restored: an open
    /// request is asked about before anything else. While it is claimed it stays its owner's, who
    /// knows; whoever takes it over finds it in doubt. What was sent and forgotten may still be applied for
    /// another `quiet`.
    pub fn reconcile(&mut self, now: Timestamp, received_at: Timestamp, quiet: Duration) {
        let quiet = self.longer_quiet(quiet);
        if !quiet.is_zero() {
            self.remember_quiet(quiet);
            self.quiet_until = self.quiet_until.max(Some(plus(now, quiet)));
        }
        self.doubtful = true;
        self.presumed |= !self.exposed;
        self.exposed = true;
        self.sighting = None;
        // It cannot have been sent before: the life of its key ends no later than this says.
        self.first_sent_at.get_or_insert(received_at);
        // The time to ask begins with the first question, however long it was asked before.
        self.waiting_since = None;
        self.polls = 0;
        if self.state != State::Calling {
            self.state = self.asking_state();
            self.due_at = Some(self.goes_on_at(now));
        }
    }

    /// What was remembered of a request cannot be read, beside what is given: it is asked about before anything
    /// else, and a call may have begun a moment ago. Its next call has a number that none had.
    pub fn illegible(state: State, attempts: u32, lookups: u32, received_at: Timestamp) -> Self {
        let calls = attempts.saturating_add(lookups).saturating_add(UNCOUNTED);
        let known = Self {
            attempts,
            lookups,
            calls,
            ..Self::default()
        };
        match state {
            State::Finished => Self { state, ..known },
            State::Calling => Self {
                state,
                operation: Some(Operation::Cancel),
                ..known.in_doubt_since(received_at)
            },
            _ => known.in_doubt_since(received_at),
        }
    }

    fn in_doubt_since(self, received_at: Timestamp) -> Self {
        Self {
            state: State::InDoubt,
            doubtful: true,
            exposed: true,
            presumed: self.attempts == 0,
            first_sent_at: Some(received_at),
            // Until the clock is asked: `distrust` brings it within reach.
            quiet_until: Some(Timestamp::MAX),
            ..self
        }
    }

    /// It is exposed, if it is, only to be asked about: no call on record may have been applied.
    pub fn is_presumed(&self) -> bool {
        // Older versions did not say so.
        self.presumed || self.attempts == 0
    }

    /// The clock was set at `since`: how long ago anything before that was is not known.
    /// - A sighting from before it is forgotten: the next answer counts as the first.
    /// - A question that was asked in the future was not asked.
    /// - A schedule that began in the future begins now, or it would last for as long as the clock was wrong.
    /// - A lost call may still arrive for its whole `quiet`, counted from now, and for no longer.
    pub fn distrust(&mut self, since: Timestamp, now: Timestamp, quiet: Duration) {
        let quiet = self.longer_quiet(quiet);
        self.sighting.take_if(|seen| seen.at < since);
        self.asked_at.take_if(|at| *at > now);
        for begun in [&mut self.waiting_since, &mut self.retrying_since] {
            *begun = begun.map(|at| at.min(now));
        }
        let measured = plus(since, quiet)..=plus(now, quiet);
        if self.quiet_until.is_some_and(|end| !measured.contains(&end)) {
            self.quiet_until = Some(plus(now, quiet));
        }
    }

    /// The end of the time in which a call without an answer may still be applied, if the provider was asked within
    /// it: what it saw then may have changed before its answer is here.
    pub(super) fn quiet_when_asked(&self, now: Timestamp) -> Option<Timestamp> {
        self.quiet(self.asked_at.map_or(now, |asked_at| asked_at.min(now)))
    }

    /// The end of the time in which a call without an answer may still be applied, while that lasts.
    pub fn quiet(&self, now: Timestamp) -> Option<Timestamp> {
        self.quiet_until.filter(|end| *end > now)
    }
}
