//! What a ledger answers to queries that change nothing: counts, histories, lists.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ActionRecord, DeadRecord, Stored};
use crate::lifecycle::Progress;
use crate::outcome::State;
use crate::reading::Evidence;

/// Counts for the gauges.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// Open requests by account and state, with the oldest arrival among those that do not wait for
    /// another request on their payment.
    pub open: Vec<(String, State, u64, Option<Timestamp>)>,
    /// Requests that are replayed by account, with the beginning of the oldest replay.
    pub replaying: Vec<(String, u64, Option<Timestamp>)>,
    /// Open dead letters by account and reason.
    pub dead: Vec<(String, String, u64)>,
    /// The oldest open dead letter.
    pub oldest_dead: Option<Timestamp>,
    /// Messages waiting for the broker.
    pub outbox: u64,
    /// When the oldest result or correction among them was made.
    pub oldest_result: Option<Timestamp>,
    /// Dead letters that were ever closed, by action.
    pub closed: Vec<(String, u64)>,
}

impl Stats {
    /// How many requests are open or replayed at each account that is not configured, by its name.
    pub fn unconfigured(&self, is_configured: impl Fn(&str) -> bool) -> BTreeMap<&str, u64> {
        let open = self.open.iter().map(|(name, _, count, _)| (name, *count));
        let replaying = self.replaying.iter().map(|(name, count, _)| (name, *count));
        let mut gone = BTreeMap::new();
        for (name, count) in open.chain(replaying) {
            if count > 0 && !is_configured(name) {
                *gone.entry(name.as_str()).or_default() += count;
            }
        }
        gone
    }
}

/// Everything that is known of one request.
#[derive(Debug, Clone)]
pub struct History {
    /// The request.
    pub stored: Stored,
    /// Where it stands.
    pub progress: Progress,
    /// Whether it waits for another request on the same payment.
    pub parked: bool,
    /// Outcome and reason of its result; they stay while it is replayed.
    pub outcome: Option<(String, String)>,
    /// When it was finished, unless it is open or replayed.
    pub finished_at: Option<Timestamp>,
    /// Its calls, oldest first.
    pub calls: Vec<CallRecord>,
    /// Its messages.
    pub messages: Vec<MessageRecord>,
    /// Its dead letters, oldest first.
    pub letters: Vec<DeadRecord>,
    /// People's decisions about them.
    pub actions: Vec<ActionRecord>,
    /// The last later request on the same payment that may have moved money, or may still.
    pub newer: Option<String>,
}

/// One line of the call log; programs read it under these names.
#[derive(Debug, Clone, Serialize)]
pub struct CallRecord {
    /// `cancel` or `lookup`.
    pub operation: String,
    /// The intent's commit.
    pub started_at: Timestamp,
    /// The outcome's commit; `None` for a call that is on the wire or died there.
    pub finished_at: Option<Timestamp>,
    /// Verdict's name.
    pub verdict: Option<String>,
    /// The provider's words.
    #[serde(flatten)]
    pub evidence: Evidence,
}

/// One message of a request; programs read it under these names.
#[derive(Debug, Clone, Serialize)]
pub struct MessageRecord {
    /// Its id.
    pub id: String,
    /// `result`, `correction`, `dead_letter`.
    pub kind: String,
    /// Routing key.
    pub routing_key: String,
    /// The bytes.
    #[serde(skip)]
    pub body: Vec<u8>,
    /// Last confirmed publication.
    #[serde(rename = "confirmed_at")]
    pub published_at: Option<Timestamp>,
}

/// Which requests to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// A state, an outcome's name, or `open`: every state but finished.
    pub state: Option<String>,
    /// Account.
    pub provider: Option<String>,
    /// Taken in before.
    pub received_before: Option<Timestamp>,
    /// Taken in after.
    pub received_after: Option<Timestamp>,
    /// With this text in the message, as it was received.
    pub containing: Option<String>,
    /// At most so many.
    pub most: usize,
}

/// One line of a list.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The publisher's id.
    pub request_id: String,
    /// Account.
    pub provider: String,
    /// State's name.
    pub state: String,
    /// Outcome and reason of its result.
    pub outcome: Option<(String, String)>,
    /// Outcome and reason of the last correction of it.
    pub corrected: Option<(String, String)>,
    /// Cancel calls sent.
    pub attempts: u32,
    /// Look-ups sent.
    pub lookups: u32,
    /// Taken in.
    pub received_at: Timestamp,
    /// Next look at it.
    pub due_at: Option<Timestamp>,
}

/// The last correction, of a progress as it is stored. A list reads no more of it, and goes on past one that cannot
/// be read.
pub(super) fn corrected(progress: &str) -> Option<(String, String)> {
    #[derive(Default, Deserialize)]
    struct Stored {
        #[serde(default)]
        hints: Corrected,
    }
    #[derive(Default, Deserialize)]
    struct Corrected {
        corrected: Option<(String, String)>,
    }
    let stored: Stored = serde_json::from_str(progress).unwrap_or_default();
    stored.hints.corrected
}
