//! Messages that the broker refuses by closing the channel they come on, e.g. one above its
//! `max_message_size`. They wait, and keep no other message waiting.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::amqp::{AmqpError, refusal};

/// Wait before one is tried again: each try costs a channel, and an error in the broker's log.
const AGAIN_EVERY: Duration = Duration::from_secs(10);

/// Their rows, and when each was refused.
#[derive(Default)]
pub(super) struct Refused(HashMap<i64, Instant>);

impl Refused {
    /// How many there are with it.
    pub(super) fn add(&mut self, row: i64, now: Instant) -> usize {
        self.0.insert(row, now);
        self.0.len()
    }

    /// The broker took them after all.
    pub(super) fn forget(&mut self, rows: impl IntoIterator<Item = i64>) {
        for row in rows {
            self.0.remove(&row);
        }
    }

    /// It was refused when it was last tried, and has to go alone.
    pub(super) fn has(&self, row: i64) -> bool {
        self.0.contains_key(&row)
    }

    pub(super) fn rests(&self, row: i64, now: Instant) -> bool {
        self.0
            .get(&row)
            .is_some_and(|&refused| now < refused + AGAIN_EVERY)
    }
}

/// Another message may be taken: this one is too large, or nothing may be written to its exchange. An
/// exchange that is not there is made by the next session.
pub(super) fn is_of_one(error: &AmqpError) -> bool {
    const ACCESS_REFUSED: u16 = 403;
    const PRECONDITION_FAILED: u16 = 406;
    let AmqpError::Protocol(_, error) = error else {
        return false;
    };
    refusal(error).is_some_and(|(code, _)| [ACCESS_REFUSED, PRECONDITION_FAILED].contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_rests_and_then_goes_alone_until_it_is_taken() {
        let mut refused = Refused::default();
        let now = Instant::now();
        assert!(!refused.has(7) && !refused.rests(7, now));
        assert_eq!(refused.add(7, now), 1);
        let later = now + AGAIN_EVERY;
        assert!(refused.has(7) && refused.rests(7, now) && !refused.rests(7, later));
        assert_eq!(refused.add(7, later), 1);
        assert!(refused.rests(7, later));
        refused.forget([7]);
        assert!(!refused.has(7) && !refused.rests(7, later));
    }
}
