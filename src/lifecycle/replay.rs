//! A request that a person has carried out again: its provider is asked first. Pure.
//!
//! ```text
//! unresolved ── replay ─▶ in_doubt ─▶ look-up, or the provider's policy for doubt
//! failed     ── replay ─▶ due ──────▶ look-up where there is one, else the same call again
//! ```

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::hints::has_ended;
use super::{Plan, Progress, Terms};
use crate::backoff::elapsed;
use crate::names::names;
use crate::outcome::{Failed, Outcome, State, Unresolved};
use crate::providers::{Abilities, DoubtPolicy};

/// What the lifecycle remembers of replays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Replays {
    /// Times it was replayed.
    pub begun: u32,
    /// Dead letters that it has had: numbers the next one.
    pub letters: u32,
}

names! {
    /// Why a dead letter cannot be replayed.
    #[derive(PartialOrd, Ord)]
    Hindrance {
        /// It is no request: the message was not understood.
        Invalid = "invalid",
        /// Nothing may be sent any more.
        DeadlinePassed = "deadline_passed",
        /// It may have been applied, and nobody can be asked.
        NobodyToAsk = "nobody_to_ask",
        /// Its account is gone, or is of another kind by now.
        Unreadable = "unreadable",
        /// It is worked on at this moment.
        UnderWay = "under_way",
        /// A later request on the same payment may have done its work, or is about to.
        NewerRequest = "newer_request",
    }
}

impl Hindrance {
    /// What it is, and what to do instead.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Invalid => {
                "the message is no request; do what `rescind dead show` says, and discard the dead letter"
            }
            Self::DeadlinePassed => {
                "its deadline has passed, so nothing may be sent; discard the dead letter, then publish a new request if it is still wanted"
            }
            Self::NobodyToAsk => {
                "it may have been carried out and nobody can be asked; look at the payment in the provider's portal, then discard the dead letter"
            }
            Self::Unreadable => {
                "this configuration has no account that can read it; configure the account as it was, then replay"
            }
            Self::UnderWay => "the worker is processing it now; see `rescind show` in a moment",
            Self::NewerRequest => {
                "a later request on the same payment may have done its work, or is about to; `rescind show` names it. Discard this dead letter, or replay it with --despite-newer if both are wanted"
            }
        }
    }
}

impl Progress {
    /// The same request once more, given up with this outcome: with all its time to try and to
    /// ask again, and with everything that is known of what may have been applied.
    pub fn replay(
        &self,
        outcome: Outcome,
        terms: &Terms,
        now: Timestamp,
    ) -> Result<Self, Hindrance> {
        let mut again = Self {
            state: State::Due,
            operation: None,
            due_at: Some(now),
            retries: 0,
            polls: 0,
            was_there: self.was_there || self.refusals > 0,
            refusals: 0,
            sighting: None,
            looked: false,
            retrying_since: None,
            waiting_since: None,
            ..self.clone()
        };
        again.hints.waiting = false;
        again.hints.checking_since = None;
        again.replays.begun += 1;
        again.replays.letters = again.replays.letters.max(1);
        match outcome {
            Outcome::Unresolved(_) => again.doubt_again(),
            Outcome::Failed(_) => again.forget_dead_key(terms, now),
            _ => return Err(Hindrance::Invalid),
        }
        match again.plan(terms, now) {
            Plan::Call(_) => Ok(again),
            Plan::Finish(Outcome::Failed(Failed::DeadlinePassed)) => Err(Hindrance::DeadlinePassed),
            Plan::Finish(_) | Plan::Check => Err(Hindrance::NobodyToAsk),
        }
    }

    /// Whether a replay that ends so has nothing to say against what consumers were told: that is the provider's
    /// own word, and this an end for want of one.
    pub fn has_learned_nothing(&self, told: Outcome, found: Outcome) -> bool {
        let is_unanswered = match found {
            Outcome::Failed(_) => !self.looked,
            Outcome::Unresolved(why) => {
                matches!(why, Unresolved::NoLookup | Unresolved::LookupsExhausted)
            }
            _ => false,
        };
        has_ended(told) && is_unanswered
    }

    /// The time to ask begins with the first question, however long that waits for a worker.
    fn doubt_again(&mut self) {
        if self.under_way && !self.exposed {
            // Nothing of ours was applied: all that is in doubt is what somebody else began.
            self.state = State::WaitingProvider;
            return;
        }
        self.doubtful = true;
        self.presumed |= !self.exposed;
        self.exposed = true;
        self.state = State::InDoubt;
    }

    /// Nothing was applied under a key that the provider has forgotten: its life begins anew.
    fn forget_dead_key(&mut self, terms: &Terms, now: Timestamp) {
        let dead = |first: Timestamp, life| first <= now && elapsed(first, now) >= life;
        if let DoubtPolicy::SameKey { key_life } = terms.abilities.doubt
            && self
                .first_sent_at
                .is_some_and(|first| dead(first, key_life))
        {
            self.first_sent_at = None;
        }
    }

    /// A key that was first used in the future is of an unknown age: the clock went back.
    pub(super) fn key_lives(&self, life: Duration, now: Timestamp) -> bool {
        self.first_sent_at
            .is_some_and(|first| first <= now && elapsed(first, now) < life)
    }

    /// Whether the state is asked before a cancel: a replay never sends blind.
    pub(super) fn looks_first(&self, abilities: &Abilities) -> bool {
        abilities.look_first || (self.replays.begun > 0 && abilities.lookup)
    }
}
