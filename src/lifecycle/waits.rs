//! When a request goes on: sent again or asked about, how much later, and not for ever. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{Moment, Plan, Progress, Step};
use crate::outcome::{Cause, Failed, Outcome, State};

impl Progress {
    /// Send again later. A repeat under the same key that was not processed leaves it as doubtful as before.
    pub(super) fn again(
        &mut self,
        after: Option<Duration>,
        cause: Cause,
        moment: Moment<'_>,
    ) -> Step {
        if self.doubtful || self.accepted {
            return self.ask_later(after, moment);
        }
        self.send_later(after, cause, moment)
    }

    /// Ask later what became of it. Where nothing was ever sent, the look-up before the first cancel is
    /// what failed, and is retried.
    pub(super) fn ask(&mut self, after: Option<Duration>, moment: Moment<'_>) -> Step {
        if self.asking_state() == State::WaitingRetry {
            return self.send_later(after, Cause::Retryable, moment);
        }
        self.ask_later(after, moment)
    }

    /// A wait that would end after the deadline or after giving up is shorter, or not waited for.
    fn send_later(&mut self, after: Option<Duration>, cause: Cause, moment: Moment<'_>) -> Step {
        let Moment { terms, now, jitter } = moment;
        let since = *self.retrying_since.get_or_insert(now);
        let given_up = terms.retry.end(since);
        let end = terms.deadline.map_or(given_up, |at| at.min(given_up));
        let due = terms
            .retry
            .due_before(end, self.retries, after, now, jitter);
        let Some(due) = due else {
            return Step::Finish(Outcome::Failed(if terms.is_past_deadline(end) {
                Failed::DeadlinePassed
            } else {
                Failed::RetriesExhausted
            }));
        };
        self.retries += 1;
        self.waiting_since = None;
        self.wait(State::WaitingRetry, due, cause)
    }

    pub(super) fn send_at_once(&mut self, now: Timestamp) -> Step {
        self.waiting_since = None;
        self.wait(State::Due, now, Cause::Retryable)
    }

    fn ask_later(&mut self, after: Option<Duration>, moment: Moment<'_>) -> Step {
        let Moment { terms, now, jitter } = moment;
        // A repeat is all that can be asked where there is no look-up, and the first call may still be carried out.
        let quiet = self.quiet(now).filter(|_| !terms.abilities.lookup);
        let begins = quiet.unwrap_or(now);
        let since = *self.waiting_since.get_or_insert(begins);
        let due = terms.poll.due(self.polls, after, now, jitter).max(begins);
        self.polls += 1;
        self.wait_for_answer(due.min(terms.poll.end(since).max(begins)), moment)
    }

    /// Ask as ever, but not much later than `end`.
    pub(super) fn ask_by(&mut self, end: Timestamp, moment: Moment<'_>) -> Step {
        let step = self.ask(None, moment);
        self.due_at = self.due_at.map(|due| due.min(end));
        step
    }

    /// Ask at once, unless the provider wants to be left alone or has no look-up.
    pub(super) fn ask_soon(&mut self, after: Option<Duration>, moment: Moment<'_>) -> Step {
        if after.is_some() || !moment.terms.abilities.lookup {
            return self.ask(after, moment);
        }
        self.waiting_since.get_or_insert(moment.now);
        self.wait_for_answer(moment.now, moment)
    }

    /// Ask again, late enough for a second answer to count as a second one.
    pub(super) fn ask_spaced(&mut self, moment: Moment<'_>) -> Step {
        self.waiting_since.get_or_insert(moment.now);
        self.polls += 1;
        self.wait_for_answer(moment.spaced(), moment)
    }

    /// The answer to the last question, if this is it, is what the result rests on.
    fn wait_for_answer(&mut self, due: Timestamp, moment: Moment<'_>) -> Step {
        let step = self.wait(self.asking_state(), due, self.asking_cause());
        match self.plan(moment.terms, moment.now) {
            Plan::Finish(outcome) if moment.terms.abilities.lookup => Step::Finish(outcome),
            _ => step,
        }
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
