//! Dead letters as a person works on them: looking, replaying, discarding, taking back.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Serialize;

use super::Stored;
use crate::lifecycle::{Hindrance, Progress};
use crate::names::names;
use crate::outcome::{Outcome, State};
use crate::reading::Evidence;

/// A look at dead letters with their messages ends once those have this many bytes.
pub(super) const BODIES_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Which dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadFilter {
    /// Its id, or its request's.
    pub id: Option<String>,
    /// Account.
    pub provider: Option<String>,
    /// Outcome's name.
    pub outcome: Option<String>,
    /// Reason's name.
    pub reason: Option<String>,
    /// Given up before.
    pub dead_before: Option<Timestamp>,
    /// With this text in the message, as it was received.
    pub containing: Option<String>,
    /// Open ones only, or closed ones only.
    pub open: Option<bool>,
    /// Those of requests only, not those of messages that were not understood.
    pub of_requests: bool,
    /// Behind this one, in their order.
    pub after: Option<(Timestamp, String)>,
    /// With the bytes of the message; then fewer are answered at once where those are many.
    pub with_body: bool,
    /// At most so many.
    pub most: usize,
}

impl DeadFilter {
    /// All with this id, their own or their request's. The one whose own it is comes first, then those of
    /// the request: a publisher with one id for everything makes any number of others.
    pub fn with_id(id: &str) -> Self {
        Self {
            id: Some(id.to_owned()),
            most: 1_000,
            ..Self::default()
        }
    }

    /// The condition that this makes on the row `d`, in SQL.
    pub(super) const fn open_condition(&self) -> &'static str {
        match self.open {
            Some(true) => "d.closed_at IS NULL",
            Some(false) => "d.closed_at IS NOT NULL",
            None => "true",
        }
    }

    /// The same for those of requests.
    pub(super) const fn request_condition(&self) -> &'static str {
        if self.of_requests {
            "d.request IS NOT NULL"
        } else {
            "true"
        }
    }

    /// Milliseconds and id behind which they begin.
    pub(super) fn behind(&self) -> (i64, &str) {
        match &self.after {
            Some((at, id)) => (at.as_millisecond(), id.as_str()),
            None => (i64::MIN, ""),
        }
    }
}

/// The order of dead letters that have a request's id, in SQL: its own, then what is open of the others.
pub(super) const OWN_FIRST: &str =
    "d.request IS NULL, (d.request IS NULL AND d.closed_at IS NOT NULL)";

/// A dead letter as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRecord {
    /// Its id, which is its message's too.
    pub id: String,
    /// Where it could be read.
    pub request_id: Option<String>,
    /// Whether it belongs to a request in the ledger; if not, to a message that was not understood.
    pub is_request: bool,
    /// Account, or `unknown`.
    pub provider: String,
    /// Outcome's name.
    pub outcome: String,
    /// Reason's name.
    pub reason: String,
    /// One sentence.
    pub detail: String,
    /// The provider's words in the last call before it was given up.
    pub evidence: Option<Evidence>,
    /// The message's bytes; empty unless they were asked for.
    pub body: Vec<u8>,
    /// When it was taken in.
    pub received_at: Timestamp,
    /// When it was given up.
    pub dead_at: Timestamp,
    /// When it was closed.
    pub closed_at: Option<Timestamp>,
    /// A person's last decision about it.
    pub last: Option<ActionRecord>,
}

/// A person's decision about a dead letter; programs read it under these names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActionRecord {
    /// The dead letter.
    #[serde(rename = "dead_letter")]
    pub letter: String,
    /// [`Action`]'s name.
    pub action: String,
    /// The person.
    pub who: String,
    /// The reason, in their words.
    pub why: String,
    /// When.
    pub at: Timestamp,
}

names! {
    /// A kind of decision about a dead letter, in the ledger and in the metric.
    Action {
        /// The request was carried out again.
        Replayed = "replayed",
        /// Nothing is to be done.
        Discarded = "discarded",
        /// Something is to be done after all.
        TakenBack = "taken_back",
    }
}

impl Action {
    /// Those that close a dead letter.
    pub const CLOSING: [Self; 2] = [Self::Replayed, Self::Discarded];
}

/// A decision about a dead letter that is to be carried out.
#[derive(Clone)]
pub struct Closing {
    /// The decision.
    pub resolution: Resolution,
    /// The person who decided.
    pub who: String,
    /// The reason.
    pub why: String,
    /// Now.
    pub at: Timestamp,
}

/// How a dead letter is resolved; see [`Action`].
#[derive(Clone)]
pub enum Resolution {
    /// Carries the request out again.
    Replay(Reopen),
    /// Closes the dead letter.
    Discard,
    /// Opens a discarded one again.
    TakeBack,
}

impl Resolution {
    /// The action that is recorded.
    pub const fn action(&self) -> Action {
        match self {
            Self::Replay(_) => Action::Replayed,
            Self::Discard => Action::Discarded,
            Self::TakeBack => Action::TakenBack,
        }
    }
}

/// Decides, inside the transaction, where a request stands when it is replayed after it was given
/// up with that outcome. The flag says whether it was overtaken: a later request on the same
/// payment is open, or may have moved money, or may be replayed. Pure.
pub type Reopen =
    Arc<dyn Fn(&Stored, &Progress, Outcome, bool) -> Result<Progress, Hindrance> + Send + Sync>;

/// Outcomes of a later request that overtake an earlier one on the same payment, as a list in SQL:
/// the later one may have moved money, or may be replayed and then move it.
pub(super) const OVERTAKING: &str = "('cancelled', 'unresolved', 'failed')";

/// A dead letter, as its row is.
pub(super) struct Letter {
    pub(super) request: Option<i64>,
    pub(super) outcome: Option<Outcome>,
    pub(super) closed: bool,
    pub(super) closed_by: Option<String>,
}

impl Letter {
    pub(super) fn allows(&self, resolution: &Resolution) -> bool {
        match resolution {
            Resolution::Replay(_) | Resolution::Discard => !self.closed,
            Resolution::TakeBack => self.closed_by.as_deref() == Some(Action::Discarded.as_str()),
        }
    }
}

/// The request of a dead letter, as its row is.
pub(super) struct DeadRequest {
    pub(super) stored: Stored,
    pub(super) progress: Progress,
    /// Whether its result is being checked at this moment.
    pub(super) is_checked: bool,
    /// See [`Reopen`].
    pub(super) overtaken: bool,
}

impl DeadRequest {
    pub(super) fn reopened(
        &self,
        reopen: &Reopen,
        outcome: Outcome,
    ) -> Result<Progress, Hindrance> {
        if self.progress.state != State::Finished || self.is_checked {
            return Err(Hindrance::UnderWay);
        }
        reopen(&self.stored, &self.progress, outcome, self.overtaken)
    }
}

impl Closing {
    /// When and by which action the letter is closed; `None` if the decision opens it again.
    pub(super) fn mark(&self) -> Option<(i64, &'static str)> {
        match self.resolution {
            Resolution::TakeBack => None,
            Resolution::Replay(_) | Resolution::Discard => {
                Some((self.at.as_millisecond(), self.resolution.action().as_str()))
            }
        }
    }
}

/// The answer to a [`Closing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Closed {
    /// Carried out and recorded.
    Done,
    /// Another decision came first, which is given; nothing was written.
    Changed(Option<ActionRecord>),
    /// It cannot be replayed; nothing was written.
    Hindered(Hindrance),
    /// There is no such dead letter.
    Unknown,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_outcome_overtakes_but_those_in_which_no_money_moves() {
        let harmless = ["nothing_to_cancel", "refused", "invalid"];
        for name in Outcome::NAMES {
            let overtakes = OVERTAKING.contains(&format!("'{name}'"));
            assert_eq!(overtakes, !harmless.contains(&name), "{name}");
        }
    }
}
