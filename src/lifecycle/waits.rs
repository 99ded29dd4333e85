//! When a request goes on: sent again or asked about, how much later, and not for ever. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{Progress, Step, Terms};
use crate::outcome::{Cause, Failed, Outcome, State};

impl Progress {
    /// Send again later. A wait that could only end after the deadline or after giving up
    /// is not waited for.
    pub(super) fn again(
        &mut self,
        after: Option<Duration>,
        cause: Cause,
        terms: &Terms,
        now: Timestamp,
        jitter: f64,
    ) -> Step {
        if self.doubtful || self.accepted {
            // A repeat under the same key that was not processed: still as doubtful as before.
            return self.ask(after, terms, now, jitter);
        }
        let since = *self.retrying_since.get_or_insert(now);
        let due = terms.retry.due(self.retries, after, now, jitter);
        if terms.deadline.is_some_and(|deadline| deadline <= due) {
            return Step::Finish(Outcome::Failed(Failed::DeadlinePassed));
        }
        if terms.retry.is_over(since, due) {
            return Step::Finish(Outcome::Failed(Failed::RetriesExhausted));
        }
        self.retries += 1;
        self.waiting_since = None;
        self.wait(State::WaitingRetry, due, cause)
    }

    pub(super) fn send_at_once(&mut self, now: Timestamp) -> Step {
        self.waiting_since = None;
        self.wait(State::Due, now, Cause::Retryable)
    }

    /// Ask later what became of it.
    pub(super) fn ask(
        &mut self,
        after: Option<Duration>,
        terms: &Terms,
        now: Timestamp,
        jitter: f64,
    ) -> Step {
        let state = self.asking_state();
        if state == State::WaitingRetry {
            // Nothing was ever sent; the look-up before the first cancel is what failed.
            return self.again(after, Cause::Retryable, terms, now, jitter);
        }
        let since = *self.waiting_since.get_or_insert(now);
        let end = terms.poll.end(since);
        let due = terms.poll.due(self.polls, after, now, jitter).min(end);
        self.polls += 1;
        self.wait(state, due, self.asking_cause())
    }

    /// Ask as ever, but not much later than `end`.
    pub(super) fn ask_by(
        &mut self,
        end: Timestamp,
        terms: &Terms,
        now: Timestamp,
        jitter: f64,
    ) -> Step {
        let step = self.ask(None, terms, now, jitter);
        self.due_at = self.due_at.map(|due| due.min(end));
        step
    }

    pub(super) fn ask_at_once(
        &mut self,
        after: Option<Duration>,
        terms: &Terms,
        now: Timestamp,
        jitter: f64,
    ) -> Step {
        if after.is_some() || !terms.abilities.lookup {
            return self.ask(after, terms, now, jitter);
        }
        self.waiting_since.get_or_insert(now);
        self.wait(self.asking_state(), now, self.asking_cause())
    }

    /// Ask again, late enough for a second answer to count as a second one.
    pub(super) fn ask_spaced(&mut self, terms: &Terms, now: Timestamp, jitter: f64) -> Step {
        self.waiting_since.get_or_insert(now);
        let due = crate::backoff::plus(now, terms.poll.first.mul_f64(1.0 + jitter));
        self.polls += 1;
        self.wait(self.asking_state(), due, self.asking_cause())
    }

    fn wait(&mut self, state: State, due: Timestamp, cause: Cause) -> Step {
        self.state = state;
        self.due_at = Some(due);
        Step::Wait(cause)
    }

    pub(super) fn asking_state(&self) -> State {
        if self.doubtful || self.refusals > 0 || self.sighting.is_some() {
            State::InDoubt
        } else if self.accepted || self.under_way {
            State::WaitingProvider
        } else if self.exposed {
            State::InDoubt
        } else {
            State::WaitingRetry
        }
    }

    fn asking_cause(&self) -> Cause {
        if self.accepted || self.under_way {
            Cause::Accepted
        } else {
            Cause::Unknown
        }
    }
}
