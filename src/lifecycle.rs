//! What happens to a request after each answer: the state machine. Pure.
//!
//! ```text
//!            ┌──────────── Again, NotSent ───────────┐
//!            ▼                                       │
//!   due ─▶ plan ─▶ calling ─▶ answer ─┬─ Accepted ─▶ waiting_provider ─▶ plan (look-up) ─▶ …
//!            ▲                        ├─ Doubt, crash ─▶ in_doubt ─▶ plan (look-up or policy) ─▶ …
//!            │                        └─ evidence ─▶ one of the five results
//!            └── StillOpen, twice and spaced when in doubt ── look-up
//! ```
//!
//! Two functions: [`Progress::plan`] says what is to be done when a request is due, and
//! [`Progress::after`] what an answer leads to. Neither reads a clock or draws a number.

use jiff::Timestamp;

use crate::backoff::{Schedule, plus};
use crate::outcome::{
    Cancelled, Cause, Failed, Operation, Outcome, Refused, State, Unresolved, Verdict, Why,
};
use crate::providers::{Abilities, DoubtPolicy};

mod hints;
mod lost;
mod progress;
mod replay;
mod seen;
mod waits;

pub use hints::{CHECK_EVERY, Checked, Hints};
pub use progress::{Progress, Seen, Sighting};
pub use replay::{Hindrance, Replays};

/// What applies to a request: its provider's abilities and its account's settings.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What the provider offers.
    pub abilities: Abilities,
    /// Repeating a call that was certainly not applied.
    pub retry: Schedule,
    /// Asking what became of a call.
    pub poll: Schedule,
    /// The request's deadline.
    pub deadline: Option<Timestamp>,
}

impl Terms {
    /// A deadline that is exactly `at` has passed.
    fn is_past_deadline(&self, at: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= at)
    }
}

/// What every decision after an event rests on, beside what is remembered.
#[derive(Clone, Copy)]
struct Moment<'a> {
    terms: &'a Terms,
    now: Timestamp,
    /// Drawn from [0, 1).
    jitter: f64,
}

impl Moment<'_> {
    /// Late enough for a second answer to count as a second one.
    fn spaced(&self) -> Timestamp {
        let first = self.terms.poll.first;
        plus(self.now, first.mul_f64(1.0 + self.jitter))
    }
}

/// What is to be done with a request that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Make this call; its intent is committed first.
    Call(Operation),
    /// Nothing more can be done: this is the result.
    Finish(Outcome),
    /// It has its result: ask whether that still holds.
    Check,
}

/// What an event led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes on at [`Progress::due_at`].
    Wait(Cause),
    /// It has its result.
    Finish(Outcome),
}

/// A provider that says a payment is open but changes nothing is believed after this many
/// tries (Midtrans: some banks refuse by the hour of the day).
pub const REFUSALS_MAX: u32 = 4;

impl Progress {
    /// What to do now that the request is due.
    pub fn plan(&self, terms: &Terms, now: Timestamp) -> Plan {
        match self.state {
            State::Due | State::WaitingRetry => self.plan_send(terms, now),
            State::WaitingProvider | State::InDoubt => self.plan_question(terms, now),
            // A row found calling is a crash; `lost` turns it into doubt before it is planned.
            State::Calling => Plan::Call(Operation::Lookup),
            State::Finished => Plan::Check,
        }
    }

    fn plan_send(&self, terms: &Terms, now: Timestamp) -> Plan {
        if terms.is_past_deadline(now) {
            return Plan::Finish(Outcome::Failed(Failed::DeadlinePassed));
        }
        if self
            .retrying_since
            .is_some_and(|since| terms.retry.is_over(since, now))
        {
            return Plan::Finish(Outcome::Failed(Failed::RetriesExhausted));
        }
        if self.looked || !self.looks_first(&terms.abilities) {
            return Plan::Call(Operation::Cancel);
        }
        if terms.abilities.lookup {
            Plan::Call(Operation::Lookup)
        } else {
            // Its state has to be known before anything is sent, and cannot be.
            Plan::Finish(Outcome::Refused(Refused::Unsupported))
        }
    }

    fn plan_question(&self, terms: &Terms, now: Timestamp) -> Plan {
        let over = self
            .waiting_since
            .is_some_and(|since| terms.poll.is_over(since, now));
        if terms.abilities.lookup {
            return if over && self.was_asked_at_the_end(terms) {
                Plan::Finish(Outcome::Unresolved(Unresolved::LookupsExhausted))
            } else {
                Plan::Call(Operation::Lookup)
            };
        }
        let no_lookup = Plan::Finish(Outcome::Unresolved(Unresolved::NoLookup));
        if over || terms.is_past_deadline(now) {
            return no_lookup;
        }
        match terms.abilities.doubt {
            DoubtPolicy::SameKey { key_life } if self.key_lives(key_life, now) => {
                Plan::Call(Operation::Cancel)
            }
            DoubtPolicy::AskOnceMore if !self.asked_again => Plan::Call(Operation::Cancel),
            _ => no_lookup,
        }
    }

    /// Time also passes while no worker runs, or while the provider is left alone. So a request is given up
    /// only after a look-up that was *begun* at or after the end of its schedule. Begun, not answered: one
    /// that crashes the worker would be repeated for ever.
    fn was_asked_at_the_end(&self, terms: &Terms) -> bool {
        let end = self.waiting_since.map(|since| terms.poll.end(since));
        self.asked_at >= end
    }

    /// The call is about to be made. Committed before its first byte.
    pub fn begin(&mut self, operation: Operation, now: Timestamp) {
        match operation {
            Operation::Cancel => {
                self.attempts += 1;
                self.asked_again |= self.doubtful || self.accepted;
                self.first_sent_at.get_or_insert(now);
            }
            Operation::Lookup => {
                self.lookups += 1;
                self.asked_at = Some(now);
            }
        }
        self.calls += 1;
        self.state = State::Calling;
        self.operation = Some(operation);
        self.due_at = None;
    }

    /// Nothing was sent: no connection, no TLS, no answer about a token.
    pub fn not_sent(&mut self, terms: &Terms, now: Timestamp, jitter: f64) -> Step {
        self.take_back();
        // Nothing on record: as a look-up, which changes nothing at the provider.
        let operation = self.operation.unwrap_or(Operation::Lookup);
        let verdict = Verdict::unprocessed(operation, None, Cause::Retryable);
        self.after(&verdict, terms, now, jitter)
    }

    /// Nothing was sent: a token was refused.
    pub fn no_token(&mut self, terms: &Terms, now: Timestamp, jitter: f64) -> Step {
        self.take_back();
        let verdict = Verdict::Misconfigured(Why::Credentials);
        self.after(&verdict, terms, now, jitter)
    }

    /// What was begun was not sent, and does not count.
    fn take_back(&mut self) {
        match self.operation {
            Some(Operation::Cancel) => {
                self.attempts = self.attempts.saturating_sub(1);
                self.asked_again &= !(self.doubtful || self.accepted);
            }
            _ => self.lookups = self.lookups.saturating_sub(1),
        }
    }

    /// What the answer to the call on the wire leads to. `jitter` is drawn from [0, 1).
    pub fn after(&mut self, verdict: &Verdict, terms: &Terms, now: Timestamp, jitter: f64) -> Step {
        let moment = Moment { terms, now, jitter };
        let operation = self.operation.take().unwrap_or(Operation::Lookup);
        let step = match operation {
            Operation::Cancel => {
                if self.quiet(now).is_none() {
                    self.quiet_ms = 0;
                }
                self.after_cancel(verdict, moment)
            }
            Operation::Lookup => self.after_lookup(verdict, moment),
        };
        if let Step::Finish(_) = step {
            self.finish();
        }
        step
    }

    /// It has its result.
    pub fn finish(&mut self) {
        self.state = State::Finished;
        self.operation = None;
        self.due_at = None;
    }

    fn after_cancel(&mut self, verdict: &Verdict, moment: Moment<'_>) -> Step {
        match *verdict {
            Verdict::Cancelled { reason, already } => self.cancelled(reason, already),
            Verdict::NothingToCancel(reason) => Step::Finish(Outcome::NothingToCancel(reason)),
            Verdict::Unresolved(reason) => {
                // Something was begun, and a replay asks what became of it.
                self.expose();
                Step::Finish(Outcome::Unresolved(reason))
            }
            Verdict::Refused(reason) => self.refused_when_sent(reason, moment),
            Verdict::NotFound => self.not_found_when_sent(moment),
            Verdict::Misconfigured(why) | Verdict::Barred(why) => self.misconfigured(why, moment),
            // If it was a repeat in doubt, then none was made.
            Verdict::Unauthorized => {
                self.asked_again = false;
                self.misconfigured(Why::Credentials, moment)
            }
            Verdict::Again { after, cause } => {
                self.asked_again = false;
                self.again(after, cause, moment)
            }
            Verdict::StillOpen => self.again(None, Cause::Retryable, moment),
            Verdict::Accepted => {
                self.accepted = true;
                self.expose();
                self.doubtful = false;
                self.ask(None, moment)
            }
            Verdict::Doubt => {
                self.doubtful = true;
                self.expose();
                self.sighting = None;
                self.ask(None, moment)
            }
            Verdict::NotYet { after } => {
                self.refusals += 1;
                self.ask_soon(after, moment)
            }
        }
    }

    fn after_lookup(&mut self, verdict: &Verdict, moment: Moment<'_>) -> Step {
        let is_sighted = matches!(
            verdict,
            Verdict::StillOpen | Verdict::NotFound | Verdict::Again { .. }
        );
        if !is_sighted {
            self.sighting = None;
        }
        match *verdict {
            Verdict::Cancelled { reason, already } => self.cancelled(reason, already),
            Verdict::NothingToCancel(reason) => Step::Finish(Outcome::NothingToCancel(reason)),
            Verdict::Refused(reason) => self.refused_when_asked(reason, moment),
            Verdict::Unresolved(reason) => Step::Finish(Outcome::Unresolved(reason)),
            Verdict::StillOpen => self.still_open(moment),
            Verdict::NotFound => self.not_found_when_asked(moment),
            // It is the question that failed: what the last cancel came to is still to be asked.
            Verdict::Misconfigured(_) | Verdict::Unauthorized
                if self.exposed || self.refusals > 0 =>
            {
                self.ask(None, moment)
            }
            Verdict::Barred(Why::Rejected) if self.has_exposed() && !self.is_undecided() => {
                self.still_open(moment)
            }
            Verdict::Misconfigured(why) | Verdict::Barred(why) => self.misconfigured(why, moment),
            Verdict::Unauthorized => self.misconfigured(Why::Credentials, moment),
            Verdict::Again { after, cause } => self.failed_when_asked(after, cause, moment),
            Verdict::NotYet { after } => self.ask(after, moment),
            Verdict::Accepted => {
                self.under_way = true;
                self.ask(None, moment)
            }
            Verdict::Doubt => self.ask(None, moment),
        }
    }

    /// A call of ours that is on record may have been applied.
    fn expose(&mut self) {
        self.exposed = true;
        self.presumed = false;
    }

    /// What became of the last call is still to be asked.
    fn is_undecided(&self) -> bool {
        self.doubtful || self.accepted || self.under_way
    }

    /// As against what is exposed only to be asked about.
    fn has_exposed(&self) -> bool {
        self.exposed && !self.presumed
    }

    fn cancelled(&self, reason: Cancelled, already: bool) -> Step {
        Step::Finish(Outcome::Cancelled {
            reason,
            already: already && !self.exposed,
        })
    }

    fn refused_when_sent(&mut self, reason: Refused, moment: Moment<'_>) -> Step {
        if self.exposed {
            return self.repeat_refused(moment);
        }
        Step::Finish(Outcome::Refused(reason))
    }

    /// After an attempt that may have been applied, the refusal of a repeat says nothing
    /// about the first.
    fn repeat_refused(&mut self, moment: Moment<'_>) -> Step {
        if !moment.terms.abilities.lookup {
            return Step::Finish(Outcome::Unresolved(Unresolved::NoLookup));
        }
        self.refusals += 1;
        self.ask_soon(None, moment)
    }

    /// A state in which nothing can be sent any more: what was sent before may yet be carried out, while that lasts.
    fn refused_when_asked(&mut self, reason: Refused, moment: Moment<'_>) -> Step {
        match self.quiet_when_asked(moment.now) {
            Some(end) => self.ask_by(end, moment),
            None => Step::Finish(Outcome::Refused(reason)),
        }
    }

    /// `failed` promises that nothing was cancelled, so it needs to be certain of that.
    fn misconfigured(&mut self, why: Why, moment: Moment<'_>) -> Step {
        if self.is_undecided() {
            return self.ask(None, moment);
        }
        if why == Why::Rejected && self.has_exposed() {
            return self.repeat_refused(moment);
        }
        Step::Finish(Outcome::Failed(match why {
            Why::Credentials => Failed::CredentialsRefused,
            Why::Rejected => Failed::RejectedByProvider,
        }))
    }
}
