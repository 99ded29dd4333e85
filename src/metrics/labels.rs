//! The values of labels other than the accounts' names: each set is closed, and a series exists for each.

use crate::ledger::Accepted;
use crate::names::names;
use crate::outcome::{Operation, State, Verdict};

names! {
    /// How an arriving message was taken in.
    Received {
        /// A request seen for the first time.
        New = "new",
        /// A request that was known.
        Repeated = "repeated",
        /// An id that was taken by other content.
        Conflicting = "conflicting",
        /// A message that was not understood.
        Invalid = "invalid",
        /// New, from the queue of what the broker gave up on; counted beside `new`.
        Dropped = "dropped",
    }
}

impl From<&Accepted> for Received {
    fn from(accepted: &Accepted) -> Self {
        match accepted {
            Accepted::New(_) => Self::New,
            Accepted::Repeated => Self::Repeated,
            Accepted::Conflicting => Self::Conflicting,
            Accepted::Recorded => Self::Invalid,
        }
    }
}

names! {
    /// What became of a notification.
    Notified {
        /// It is about an open request, whose next look-up it may bring forward.
        Applied = "applied",
        /// The look-up that it caused brought the result.
        ConfirmedByLookup = "confirmed_by_lookup",
        /// No request asks to cancel its payment.
        Unmatched = "unmatched",
        /// It did not prove that it comes from the provider, or could not be read.
        Forged = "forged",
        /// It says what the result says, or no clear answer speaks against that.
        Duplicate = "duplicate",
        /// It speaks against the result: a look-up confirmed that, or the provider cannot be asked.
        Contradictory = "contradictory",
    }
}

/// Operations of calls: the provider's, and that of a token.
pub(super) fn operations() -> impl Iterator<Item = &'static str> {
    let known = Operation::ALL.iter().map(|operation| operation.as_str());
    known.chain(["token"])
}

/// How a call can end; a call for a token with `issued`.
pub(super) fn verdicts() -> impl Iterator<Item = &'static str> {
    Verdict::NAMES.into_iter().chain(["not_sent", "issued"])
}

/// The states of a request without a result.
pub(super) fn open_states() -> impl Iterator<Item = State> {
    let states = State::ALL.iter().copied();
    states.filter(|state| *state != State::Finished)
}
