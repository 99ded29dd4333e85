//! What a notification changes: when the provider is asked, never what is believed. Pure.
//!
//! ```text
//! open, next step a look-up ── heard ─▶ the look-up is due at once
//! finished ── heard ─▶ due ─▶ check ─▶ look-up ─┬─ agrees: nothing
//!                                               └─ contradicts: a correction
//! ```

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::progress::is_unset;
use super::{Moment, Plan, Progress, Seen, Terms};
use crate::backoff::{elapsed, plus};
use crate::outcome::{Operation, Outcome, Refused, Unresolved, Verdict};

/// A result is checked at most this often, however many notifications contradict it.
pub const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Questions of one check that find no such payment.
const CHECKS_NOT_FOUND_MAX: u32 = 10;
/// How often in a row a notification may restart a check that is under way, so that a flood cannot keep
/// it from ending.
const RESTARTS_MAX: u32 = 3;
/// Events that are remembered, against repeats.
const EVENTS_MAX: usize = 8;

/// What the lifecycle remembers of notifications.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hints {
    /// The next look-up was brought forward by one.
    pub waiting: bool,
    /// To when one brought a look-up forward last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// The last ones, by the provider's key against repeats.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<String>,
    /// When the result was checked last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Timestamp>,
    /// Since when the check under way is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checking_since: Option<Timestamp>,
    /// Checks in a row that were begun anew, since a notification came during the question.
    #[serde(skip_serializing_if = "is_unset")]
    pub restarts: u32,
    /// Outcome and reason of the last correction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub corrected: Option<(String, String)>,
    /// The message's id, which the next correction supersedes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub correction: Option<Uuid>,
}

/// What the check of a result found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checked {
    /// It holds.
    Holds,
    /// It does not.
    Contradicted {
        /// What is so instead.
        found: Outcome,
        /// The order system believes that no money is taken, and it may be.
        at_stake: bool,
    },
    /// No clear answer yet; asked again at [`Progress::due_at`].
    Again,
    /// No clear answer, for as long as it was asked.
    Unclear,
}

/// What a look-up says of a result.
enum Judgement {
    Agrees,
    Contradicts(Outcome),
    Silent,
}

impl Progress {
    /// A notification about an open request that nobody works on. `true` if it brought a
    /// look-up forward. One that would repeat a cancel waits for its time.
    pub fn heard(&mut self, event: Option<&str>, terms: &Terms, now: Timestamp) -> bool {
        // A notification that changes nothing now is listened to when it comes again.
        if self.plan(terms, now) != Plan::Call(Operation::Lookup) {
            return false;
        }
        if !self.remember(event) {
            return false;
        }
        // However many come: not more often than the schedule's own shortest wait, and no
        // second answer earlier than it would count as one.
        let earlier = [self.hints.at, self.sighting.as_ref().map(|seen| seen.at)];
        let spaced = earlier
            .into_iter()
            .flatten()
            .map(|at| plus(at, terms.poll.first));
        let at = spaced.fold(now, Timestamp::max);
        self.hints.waiting = true;
        if self.due_at.is_some_and(|due| due <= at) {
            return false;
        }
        self.due_at = Some(at);
        self.hints.at = Some(at);
        true
    }

    /// A notification about a request that has its result. `true` if that is to be checked:
    /// the notification does not just say the same.
    pub fn heard_after(
        &mut self,
        outcome: Outcome,
        claim: Option<&Verdict>,
        event: Option<&str>,
        terms: &Terms,
        now: Timestamp,
    ) -> bool {
        let told = self.last_told(outcome);
        let agrees = claim.is_some_and(|claim| matches!(judge(told, claim), Judgement::Agrees));
        let is_new = self.remember(event);
        if !is_new || agrees || !terms.abilities.lookup || self.due_at.is_some() {
            return false;
        }
        // The provider may have been asked before the notification was true: asked again.
        if self.operation.is_some() {
            if self.hints.restarts >= RESTARTS_MAX {
                return false;
            }
            self.hints.restarts += 1;
        }
        // One in the future was written before the clock went back.
        let checked_at = self.hints.checked_at.filter(|at| *at <= now);
        let earliest = checked_at.map(|at| plus(at, CHECK_EVERY));
        self.due_at = Some(earliest.unwrap_or(now).max(now));
        self.hints.checking_since = None;
        self.sighting = None;
        self.polls = 0;
        true
    }

    /// Whether a notification says something else than the result, if that says anything. Where nobody can
    /// be asked, that is all there will be.
    pub fn is_contradicted(&self, outcome: Outcome, claim: &Verdict) -> bool {
        let told = self.last_told(outcome);
        let is_open = matches!(told, Outcome::Unresolved(_));
        !is_open && matches!(judge(told, claim), Judgement::Contradicts(_))
    }

    /// Where a request with this end stands if a notification came during the call that ended it, whose answer may be
    /// older: the result is checked. `None`: what was cancelled tells of that itself, and so do most notifications.
    pub fn ended_unheard(&self, outcome: Outcome, terms: &Terms, now: Timestamp) -> Option<Self> {
        let is_checked = terms.abilities.lookup && !matches!(outcome, Outcome::Cancelled { .. });
        is_checked.then(|| Self {
            due_at: Some(plus(now, terms.poll.first)),
            sighting: None,
            polls: 0,
            ..self.clone()
        })
    }

    /// `false` if this event is known. One without a key is always new.
    fn remember(&mut self, event: Option<&str>) -> bool {
        let Some(event) = event else { return true };
        let event: String = event.chars().take(64).collect();
        if self.hints.events.contains(&event) {
            return false;
        }
        if self.hints.events.len() >= EVENTS_MAX {
            self.hints.events.remove(0);
        }
        self.hints.events.push(event);
        true
    }

    /// The question whether the result holds is about to be asked.
    pub fn begin_check(&mut self, now: Timestamp) {
        self.calls += 1;
        self.lookups += 1;
        self.operation = Some(Operation::Lookup);
        self.due_at = None;
        self.hints.checked_at = Some(now);
        self.hints.checking_since.get_or_insert(now);
    }

    /// What the answer to that question, or none, says of the result.
    pub fn after_check(
        &mut self,
        outcome: Outcome,
        verdict: &Verdict,
        terms: &Terms,
        now: Timestamp,
        jitter: f64,
    ) -> Checked {
        let moment = Moment { terms, now, jitter };
        self.operation = None;
        self.hints.restarts = 0;
        let told = self.last_told(outcome);
        match judge(told, verdict) {
            // A look-up may lag behind the notification that it was asked for.
            Judgement::Agrees if self.is_early(terms, now) => self.ask_check_again(moment),
            Judgement::Agrees => Checked::Holds,
            Judgement::Contradicts(_)
                if *verdict == Verdict::StillOpen && !self.agrees(Seen::StillOpen, terms, now) =>
            {
                self.sight(Seen::StillOpen, now);
                self.ask_check_again(moment)
            }
            Judgement::Contradicts(found) => {
                self.correct(found);
                Checked::Contradicted {
                    found,
                    at_stake: is_at_stake(told, found),
                }
            }
            Judgement::Silent => self.check_again(verdict, moment),
        }
    }

    fn is_early(&self, terms: &Terms, now: Timestamp) -> bool {
        let since = self.hints.checking_since.unwrap_or(now);
        elapsed(since, now) < terms.poll.first
    }

    /// Late enough for a second answer to count as a second one.
    fn ask_check_again(&mut self, moment: Moment<'_>) -> Checked {
        self.due_at = Some(moment.spaced());
        Checked::Again
    }

    fn check_again(&mut self, verdict: &Verdict, moment: Moment<'_>) -> Checked {
        let Moment { terms, now, jitter } = moment;
        let since = self.hints.checking_since.unwrap_or(now);
        self.polls += 1;
        let missing = *verdict == Verdict::NotFound && self.polls >= CHECKS_NOT_FOUND_MAX;
        if missing || elapsed(since, now) >= terms.poll.give_up_after {
            // What was heard without effect is listened to when it comes again.
            self.hints.events.clear();
            return Checked::Unclear;
        }
        let after = match verdict {
            Verdict::NotYet { after } | Verdict::Again { after, .. } => *after,
            _ => None,
        };
        let least = plus(now, terms.poll.first);
        let due = terms.poll.due(self.polls, after, now, jitter);
        self.due_at = Some(due.max(least));
        Checked::Again
    }

    /// Consumers are told this from now on.
    pub fn correct(&mut self, found: Outcome) {
        let (outcome, reason) = found.names();
        self.hints.corrected = Some((outcome.to_owned(), reason.to_owned()));
    }

    /// What consumers were told last.
    pub fn last_told(&self, outcome: Outcome) -> Outcome {
        let corrected = self.hints.corrected.as_ref();
        corrected
            .and_then(|(outcome, reason)| Outcome::named(outcome, reason))
            .unwrap_or(outcome)
    }
}

/// No money is taken for the payment, by this result.
pub(super) const fn has_ended(told: Outcome) -> bool {
    matches!(
        told,
        Outcome::Cancelled { .. } | Outcome::NothingToCancel(_)
    )
}

/// An answer that says neither yes nor no, a payment that is not found, a login that was
/// refused: none of these speaks for a result or against it.
fn judge(told: Outcome, verdict: &Verdict) -> Judgement {
    use Judgement::{Agrees, Contradicts, Silent};
    let ended = has_ended(told);
    // It may have been made since.
    let was_not_there = told == Outcome::Refused(Refused::NotFound);
    let unknown = was_not_there || matches!(told, Outcome::Unresolved(_));
    match *verdict {
        Verdict::Cancelled { .. } | Verdict::NothingToCancel(_) if ended => Agrees,
        Verdict::Cancelled { reason, .. } => Contradicts(Outcome::Cancelled {
            reason,
            already: false,
        }),
        Verdict::NothingToCancel(reason) => Contradicts(Outcome::NothingToCancel(reason)),
        Verdict::Refused(Refused::AlreadyRefunded) if ended => Agrees,
        Verdict::Refused(reason) if ended || unknown => Contradicts(Outcome::Refused(reason)),
        Verdict::StillOpen if ended => {
            Contradicts(Outcome::Unresolved(Unresolved::ContradictoryEvidence))
        }
        Verdict::Refused(_) | Verdict::StillOpen => Agrees,
        Verdict::Unresolved(why) if was_not_there => Contradicts(Outcome::Unresolved(why)),
        Verdict::Unresolved(why @ Unresolved::RefundFailed) if ended => {
            Contradicts(Outcome::Unresolved(why))
        }
        // A payment that was made later, or somebody else's refund, says nothing about ours.
        Verdict::Unresolved(_) => Agrees,
        _ => Silent,
    }
}

/// "No money is taken" was said, and it is or can be; or only a person can tell.
fn is_at_stake(told: Outcome, found: Outcome) -> bool {
    match found {
        Outcome::Unresolved(_) => true,
        Outcome::Refused(_) => has_ended(told),
        _ => false,
    }
}
