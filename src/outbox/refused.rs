//! Messages that the broker refuses by closing the channel they come on, e.g. one above its
//! `max_message_size`. They wait, and keep no other message waiting.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::amqp::{ACCESS_REFUSED, AmqpError, PRECONDITION_FAILED};
use crate::ledger::Pending;
use crate::wire::Route;

/// Time from one try to the next one that fails: each costs a channel, and an error in the broker's log.
const TRY_EVERY: Duration = Duration::from_secs(10);

/// Those of all exchanges: what is wrong with one of them says nothing of the other one.
#[derive(Default)]
pub(super) struct Refused {
    results: Tries,
    dead: Tries,
}

impl Refused {
    pub(super) fn add(&mut self, pending: &Pending, now: Instant) {
        let tries = match pending.message.kind.route() {
            Route::Results => &mut self.results,
            Route::Dead => &mut self.dead,
        };
        tries.add(pending.seq, now);
    }

    /// It was refused when it was last tried, and has to go alone.
    pub(super) fn has(&self, row: i64) -> bool {
        self.results.has(row) || self.dead.has(row)
    }

    /// Which of these rows are tried now.
    pub(super) fn due(
        &mut self,
        rows: impl Iterator<Item = i64> + Clone,
        now: Instant,
    ) -> Vec<i64> {
        let mut due = self.results.due(rows.clone(), now);
        due.extend(self.dead.due(rows, now));
        due
    }

    /// The broker has these now.
    pub(super) fn confirmed(&mut self, rows: impl Iterator<Item = i64> + Clone) {
        self.results.confirmed(rows.clone());
        self.dead.confirmed(rows);
    }
}

/// Rows of one exchange, and when each was tried last.
#[derive(Default)]
struct Tries {
    tried: HashMap<i64, Instant>,
    /// No try before; none: all may go.
    next_at: Option<Instant>,
}

impl Tries {
    fn add(&mut self, row: i64, now: Instant) {
        self.tried.insert(row, now);
        self.next_at.get_or_insert(now + TRY_EVERY);
    }

    fn has(&self, row: i64) -> bool {
        self.tried.contains_key(&row)
    }

    /// Of these rows the one whose last try is longest ago, or all of them.
    fn due(&mut self, rows: impl Iterator<Item = i64>, now: Instant) -> Vec<i64> {
        let refused = rows.filter(|row| self.has(*row));
        let Some(next_at) = self.next_at else {
            return refused.collect();
        };
        let longest = refused.min_by_key(|row| self.tried[row]);
        let due = longest.filter(|_| now >= next_at);
        if due.is_some() {
            self.next_at = Some(now + TRY_EVERY);
        }
        due.into_iter().collect()
    }

    /// If one of these was refused, the others are worth a try at once.
    fn confirmed(&mut self, rows: impl IntoIterator<Item = i64>) {
        for row in rows {
            if self.tried.remove(&row).is_some() {
                self.next_at = None;
            }
        }
    }
}

/// Another message may be taken: this one is too large, or nothing may be written to its exchange. An
/// exchange that is not there is made by the next session.
pub(super) fn is_of_one(error: &AmqpError) -> bool {
    let code = error.refusal().map(|(code, _)| code);
    matches!(code, Some(ACCESS_REFUSED | PRECONDITION_FAILED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_tried_at_a_time_each_in_its_turn_and_all_of_them_once_one_is_taken() {
        let mut refused = Tries::default();
        let now = Instant::now();
        assert!(refused.due(1..9, now).is_empty());
        for row in [3, 5, 4] {
            refused.add(row, now + Duration::from_millis(row.unsigned_abs()));
        }
        assert!(refused.has(4) && !refused.has(6));
        let early = now + TRY_EVERY / 2;
        assert!(refused.due(1..9, early).is_empty());
        let second = now + TRY_EVERY * 2;
        assert_eq!(refused.due(1..9, second), [3]);
        assert!(refused.due(1..9, second).is_empty(), "one is on its way");
        refused.add(3, second);
        let third = second + TRY_EVERY;
        assert!(refused.due(6..9, third).is_empty(), "it is not there");
        assert_eq!(refused.due(1..9, third), [4]);
        refused.confirmed([1, 2]);
        assert!(refused.due(1..9, third).is_empty());
        refused.confirmed([4]);
        assert_eq!(refused.due(1..9, third), [3, 5]);
        refused.add(3, third);
        assert!(refused.due(1..9, third).is_empty());
    }
}
