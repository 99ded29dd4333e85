//! Messages that came back: no queue is bound for them, or theirs is full. They are tried again together,
//! more and more seldom while none of them is taken, and keep no other message waiting.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::AGAIN_EVERY;
use crate::ledger::Pending;
use crate::wire::Receipt;

/// Longest wait for the next try.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Their rows.
#[derive(Default)]
pub(super) struct Returned {
    waiting: HashSet<i64>,
    /// Tried once more, or about to be when a round comes to them.
    again: HashSet<i64>,
    /// Tries since one of them was taken.
    tries: u32,
    /// When all waiting messages are tried again.
    next_at: Option<Instant>,
    /// One of those that were not logged yet.
    sample: Option<Sample>,
}

struct Sample {
    id: Uuid,
    routing_key: String,
    receipt: Receipt,
}

impl Returned {
    /// Whether it waits for its next try.
    pub(super) fn has(&self, row: i64) -> bool {
        self.waiting.contains(&row)
    }

    pub(super) fn add(&mut self, pending: &Pending, receipt: Receipt, now: Instant) {
        let once_more = self.again.remove(&pending.seq);
        self.waiting.insert(pending.seq);
        // The last of those that were tried again counts; newer ones come all the time.
        if once_more || self.next_at.is_none() {
            self.next_at = Some(now + self.wait());
        }
        self.sample.get_or_insert_with(|| Sample {
            id: pending.message.id,
            routing_key: pending.message.routing_key.clone(),
            receipt,
        });
    }

    fn wait(&self) -> Duration {
        let longer = 2_u32.saturating_pow(self.tries);
        AGAIN_EVERY.saturating_mul(longer).min(WAIT_MAX)
    }

    /// The broker has these now. If one of them had come back, the others are worth a try soon.
    pub(super) fn confirmed(&mut self, rows: impl IntoIterator<Item = i64>, now: Instant) {
        for row in rows {
            if self.again.remove(&row) {
                self.tries = 0;
                self.next_at = self.next_at.map(|at| at.min(now + AGAIN_EVERY));
            }
        }
    }

    /// Lets all waiting messages go, if it is time for their next try.
    pub(super) fn release_due(&mut self, now: Instant) {
        if self.next_at.is_some_and(|at| now >= at) {
            self.tell();
            self.next_at = None;
            self.tries = self.tries.saturating_add(1);
            self.again = std::mem::take(&mut self.waiting);
        }
    }

    /// It is time for the next try.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next_at = self.next_at.map(|_| now);
    }

    /// One line for all of them: there may be very many.
    pub(super) fn tell(&mut self) {
        let Some(sample) = self.sample.take() else {
            return;
        };
        warn!(
            messages = self.waiting.len(),
            message_id = %sample.id,
            routing_key = sample.routing_key,
            fate = ?sample.receipt,
            "messages came back, this one among them; they are tried again, at the latest every {} s",
            WAIT_MAX.as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::rows;
    use super::*;
    use crate::wire::Kind;

    fn come_back(returned: &mut Returned, numbers: impl IntoIterator<Item = i64>, now: Instant) {
        for row in rows(numbers, Kind::Result) {
            returned.add(&row, Receipt::Nacked, now);
        }
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn what_nobody_takes_is_tried_more_and_more_seldom_and_every_second_once_one_is_taken() {
        let (mut returned, start) = (Returned::default(), Instant::now());
        come_back(&mut returned, [1, 2], start);
        let mut tries = Vec::new();
        for second in 0..130 {
            returned.release_due(at(start, second));
            if !returned.has(1) {
                tries.push(second);
                come_back(&mut returned, [1, 2], at(start, second));
            }
        }
        assert_eq!(tries, [1, 3, 7, 15, 31, 61, 91, 121]);
        returned.release_due(at(start, 151));
        come_back(&mut returned, [1], at(start, 151));
        returned.confirmed([2, 99], at(start, 151));
        returned.release_due(at(start, 151));
        assert!(returned.has(1) && !returned.has(2));
        returned.release_due(at(start, 152));
        assert!(!returned.has(1));
        come_back(&mut returned, [1], at(start, 152));
        returned.release_due(at(start, 154));
        assert!(!returned.has(1), "as in the beginning");
    }

    #[test]
    fn newer_ones_that_come_back_put_no_try_off_and_what_was_tried_does() {
        let (mut returned, start) = (Returned::default(), Instant::now());
        come_back(&mut returned, [1], start);
        come_back(&mut returned, [2], start + AGAIN_EVERY / 2);
        returned.release_due(at(start, 1));
        assert!(!returned.has(1) && !returned.has(2));
        come_back(&mut returned, [1], at(start, 1));
        returned.release_due(at(start, 2));
        assert!(returned.has(1) && !returned.has(2), "a round may be long");
        come_back(&mut returned, [2], at(start, 2));
        returned.release_due(at(start, 3));
        assert!(returned.has(1) && returned.has(2));
        returned.release_due(at(start, 4));
        assert!(!returned.has(1) && !returned.has(2));
    }

    #[test]
    fn at_the_end_all_are_tried_once_more() {
        let (mut returned, start) = (Returned::default(), Instant::now());
        returned.hurry(start);
        come_back(&mut returned, [1], start);
        returned.hurry(start);
        returned.release_due(start);
        assert!(!returned.has(1));
    }
}
