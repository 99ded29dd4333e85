//! The values of labels that are no names: each set is closed, and a series exists for each.

use crate::outcome::{Operation, State, Verdict};

/// How an arriving message was taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// A request seen for the first time.
    New,
    /// A request that was known.
    Repeated,
    /// An id that was taken by other content.
    Conflicting,
    /// A message that was not understood.
    Invalid,
    /// Taken from the queue of what the broker gave up on.
    Dropped,
}

impl Received {
    pub(super) const ALL: [Self; 5] = [
        Self::New,
        Self::Repeated,
        Self::Conflicting,
        Self::Invalid,
        Self::Dropped,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Repeated => "repeated",
            Self::Conflicting => "conflicting",
            Self::Invalid => "invalid",
            Self::Dropped => "dropped",
        }
    }
}

/// How a publication ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Published {
    /// The broker has it in a queue.
    Confirmed,
    /// No queue wanted it.
    Returned,
    /// The broker could not take it.
    Nacked,
}

impl Published {
    pub(super) const ALL: [Self; 3] = [Self::Confirmed, Self::Returned, Self::Nacked];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Returned => "returned",
            Self::Nacked => "nacked",
        }
    }
}

/// What became of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notified {
    /// An open request is asked about at once, or as soon as its call has ended.
    Applied,
    /// The look-up that it caused brought the result.
    ConfirmedByLookup,
    /// Nobody asked to cancel its payment.
    Unmatched,
    /// It was not shown to come from the provider, or could not be read.
    Forged,
    /// It says what the result says.
    Duplicate,
    /// A look-up confirmed that the result does not hold.
    Contradictory,
}

impl Notified {
    pub(super) const ALL: [Self; 6] = [
        Self::Applied,
        Self::ConfirmedByLookup,
        Self::Unmatched,
        Self::Forged,
        Self::Duplicate,
        Self::Contradictory,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::ConfirmedByLookup => "confirmed_by_lookup",
            Self::Unmatched => "unmatched",
            Self::Forged => "forged",
            Self::Duplicate => "duplicate",
            Self::Contradictory => "contradictory",
        }
    }
}

/// Operations of calls: the provider's, and that of a token.
pub(super) fn operations() -> impl Iterator<Item = &'static str> {
    let known = Operation::ALL.iter().map(|operation| operation.as_str());
    known.chain(["token"])
}

/// What a call can come to; of a token, that it was issued.
pub(super) fn verdicts() -> impl Iterator<Item = &'static str> {
    Verdict::NAMES.into_iter().chain(["not_sent", "issued"])
}

/// Where a request without a result can stand.
pub(super) fn open_states() -> impl Iterator<Item = State> {
    let states = State::ALL.iter().copied();
    states.filter(|state| *state != State::Finished)
}
