//! A message in the outbox: pending, or delivered.

use jiff::Timestamp;
use uuid::Uuid;

use crate::wire::{Kind, Outgoing};

/// A look at the pending messages ends once their bodies have this many bytes.
pub const PENDING_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Kinds of message that say how a request ended, as a list in SQL.
pub(super) const RESULT_KINDS: &str = "('result', 'correction')";

/// A message that the broker has confirmed, as it was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// Row.
    pub seq: i64,
    /// The message's id: a database that lost its last commits gives a row's number once more.
    pub id: Uuid,
    /// How often the message had entered the outbox again.
    pub repeats: i64,
}

/// A message in the outbox.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Row.
    pub seq: i64,
    /// How often it has entered the outbox again.
    pub repeats: i64,
    /// The message to publish.
    pub message: Outgoing,
    /// Account and outcome, for the metric of time from intake to confirmed result.
    pub about: Option<About>,
}

impl Pending {
    /// The same message once the broker has it.
    pub fn delivered(&self) -> Delivered {
        Delivered {
            seq: self.seq,
            id: self.message.id,
            repeats: self.repeats,
        }
    }
}

/// What a result is about.
#[derive(Debug, Clone)]
pub struct About {
    /// Account.
    pub provider: String,
    /// Outcome's name.
    pub outcome: String,
    /// When the request was taken in.
    pub received_at: Timestamp,
}

impl About {
    /// For the first publication of a result only. An invalid message has no request: provider and
    /// outcome come from its routing key.
    pub(super) fn of_first(
        message: &Outgoing,
        publications: i64,
        request: Option<Self>,
        created_at: Timestamp,
    ) -> Option<Self> {
        if publications > 0 || message.kind != Kind::Result {
            return None;
        }
        request.or_else(|| {
            let key = message.routing_key.strip_prefix("result.")?;
            let (provider, outcome) = key.rsplit_once('.')?;
            Some(Self {
                provider: provider.to_owned(),
                outcome: outcome.to_owned(),
                received_at: created_at,
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_corrections_say_how_a_request_ended() {
        for kind in Kind::ALL {
            let listed = RESULT_KINDS.contains(&format!("'{}'", kind.as_str()));
            let says = matches!(kind, Kind::Result | Kind::Correction);
            assert_eq!(listed, says, "{kind:?}");
        }
    }
}
