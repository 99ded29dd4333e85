//! What the lifecycle remembers of a request. Pure.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Hints, Replays};
use crate::outcome::{Operation, State};
use crate::reading::Learned;

/// Everything the lifecycle remembers of one request. Stored as JSON without what is unset:
/// most requests are finished by their first call and have little to remember.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// Where it stands.
    pub state: State,
    /// The call under way: while `calling`, or the check of a result.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub operation: Option<Operation>,
    /// When it is looked at next; `None` during a call, and when it is finished with no check pending.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub due_at: Option<Timestamp>,
    /// Calls begun, sent or not: numbers the call log.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub calls: u32,
    /// Cancel calls sent.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub attempts: u32,
    /// Look-ups sent.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub lookups: u32,
    /// Retries in a row, for the backoff.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub retries: u32,
    /// Look-ups in a row, for the backoff.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub polls: u32,
    /// Times the provider changed nothing although a look-up says it could have.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub refusals: u32,
    /// The first of two agreeing answers.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub sighting: Option<Sighting>,
    /// The last attempt may have been applied and nothing has cleared it up.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub doubtful: bool,
    /// Some attempt may have been applied, ever. Decides `already`.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub exposed: bool,
    /// It is exposed only since the ledger may have forgotten calls, or for a replay: none on record may have been
    /// applied.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub presumed: bool,
    /// The provider took an attempt and has not finished it.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub accepted: bool,
    /// A cancellation was seen under way at the provider, ours or not: what becomes of it is open.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub under_way: bool,
    /// The provider has shown the payment as not cancelled: what is not found later has become something.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub was_there: bool,
    /// A call in doubt has been repeated once ([`AskOnceMore`](crate::providers::DoubtPolicy::AskOnceMore)).
    #[serde(default, skip_serializing_if = "is_unset")]
    pub asked_again: bool,
    /// The state was asked before the first cancel ([`look_first`](crate::providers::Abilities::look_first)).
    #[serde(default, skip_serializing_if = "is_unset")]
    pub looked: bool,
    /// First cancel call, for the life of the key.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub first_sent_at: Option<Timestamp>,
    /// Since when it is retried, for `retry.give_up_after`.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub retrying_since: Option<Timestamp>,
    /// Until when a call without an answer may still be applied: what a look-up does not see before
    /// then may yet come.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub quiet_until: Option<Timestamp>,
    /// How long the last cancel without an answer may take to be applied, in milliseconds: by the settings
    /// with which it was sent, which whoever finds it lost need not have.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub quiet_ms: u64,
    /// Nobody can be asked what became of the last cancel: until it must have ended it is neither repeated nor given up.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub blind: bool,
    /// Since when the provider is asked, for `poll.give_up_after`.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub waiting_since: Option<Timestamp>,
    /// When the provider was asked last.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub asked_at: Option<Timestamp>,
    /// What earlier answers taught.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub learned: Learned,
    /// What notifications led to.
    #[serde(default)]
    pub hints: Hints,
    /// What replays led to.
    #[serde(default, skip_serializing_if = "is_unset")]
    pub replays: Replays,
}

pub(super) fn is_unset<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One answer that is believed once a second one, spaced, agrees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sighting {
    /// What was seen.
    pub what: Seen,
    /// When.
    pub at: Timestamp,
}

/// What has to be seen twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seen {
    /// Certainly not cancelled.
    StillOpen,
    /// No such payment.
    NotFound,
}

impl Progress {
    /// A request that has just been accepted.
    pub fn new(now: Timestamp) -> Self {
        Self {
            due_at: Some(now),
            ..Self::default()
        }
    }
}
