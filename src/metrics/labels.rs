//! The values of labels that are no names: each set is closed, and a series exists for each.

use crate::outcome::State;

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

pub(super) const OPEN_STATES: [State; 5] = [
    State::Due,
    State::Calling,
    State::WaitingRetry,
    State::WaitingProvider,
    State::InDoubt,
];
pub(super) const OPERATIONS: [&str; 3] = ["cancel", "lookup", "token"];
pub(super) const VERDICTS: [&str; 14] = [
    "cancelled",
    "nothing_to_cancel",
    "refused",
    "accepted",
    "again",
    "doubt",
    "still_open",
    "not_yet",
    "not_found",
    "unauthorized",
    "misconfigured",
    "unresolved",
    "not_sent",
    "issued",
];
pub(super) const DEAD_REASONS: [&str; 13] = [
    "retries_exhausted",
    "deadline_passed",
    "credentials_refused",
    "rejected_by_provider",
    "no_lookup",
    "lookups_exhausted",
    "contradictory_evidence",
    "refund_failed",
    "not_json",
    "schema",
    "too_large",
    "unknown_provider",
    "request_id_conflict",
];
