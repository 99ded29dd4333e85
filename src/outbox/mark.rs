//! Marks in the ledger what the broker has confirmed, many messages in one commit.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{AGAIN_EVERY, Outbox};
use crate::ledger::Delivered;

/// How long a confirmation waits to be marked together with others: hardly anybody waits for that, and a
/// commit of its own would keep everything else waiting. A message that was not marked before a crash is
/// published again.
pub(super) const MARK_WITHIN: Duration = Duration::from_millis(100);
/// Messages that are marked in one commit: while one waited for its standby, as many as may wait for the broker
/// were published, and all of them at once could take longer than the database lets a statement.
pub(super) const MARKED_MOST: usize = 5_000;

impl Outbox {
    /// Marks confirmed messages until the session is over.
    pub(super) async fn keep_marking(&self, over: &CancellationToken) {
        let marking = async {
            loop {
                self.notes.wait().await;
                if !self.mark().await {
                    tokio::time::sleep(AGAIN_EVERY).await;
                }
            }
        };
        over.run_until_cancelled(marking).await;
    }

    /// A ledger that does not answer must not keep messages from being published that can be read. Those
    /// that were not marked are marked later, or published again.
    pub(super) async fn mark_soon(&self) {
        drop(tokio::time::timeout(AGAIN_EVERY, self.mark()).await);
    }

    /// Marks the messages that the broker confirmed. Those that cannot be marked now are tried later, and not
    /// published again in this session: a full disk must not make a flood.
    pub(super) async fn mark(&self) -> bool {
        let mut misses = self.notes.marking().await;
        // What is locked goes behind all others, and waits for the next time.
        let (mut to_come, mut locked) = (self.notes.count(), Vec::new());
        while to_come > 0 {
            let confirmed = self.notes.confirmed();
            to_come = to_come.saturating_sub(confirmed.len());
            let Some(missed) = self.mark_these(&confirmed).await else {
                self.notes.try_later();
                return false;
            };
            locked.extend(missed);
        }
        if misses.is_told(&locked) {
            warn!(
                row = locked.first(),
                rows = locked.len(),
                "messages cannot be marked as published, since somebody has locked their rows; trying again"
            );
        }
        if !locked.is_empty() {
            self.notes.try_later();
        }
        locked.is_empty()
    }

    /// The rows that are locked; all others were marked. None if the ledger could do nothing.
    async fn mark_these(&self, confirmed: &[Delivered]) -> Option<Vec<i64>> {
        let now = (self.shared.clock)();
        match self.shared.ledger.published(confirmed.to_vec(), now).await {
            Ok(locked) => {
                self.notes.marked(confirmed, &locked);
                Some(locked)
            }
            Err(error) => {
                error!(%error, "cannot mark messages as published; trying again");
                None
            }
        }
    }
}

/// How often in a row some messages could not be marked, since their rows were locked.
#[derive(Default)]
pub(super) struct Misses(u32);

impl Misses {
    /// Whether the log is told of what was locked this time: not of the first time, for another worker may have
    /// the lock for a moment, but of the 2nd, 4th, 8th in a row.
    fn is_told(&mut self, locked: &[i64]) -> bool {
        self.0 = match locked {
            [] => 0,
            _ => self.0.saturating_add(1),
        };
        self.0 > 1 && self.0.is_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::Instant;

    use super::super::tests::rows;
    use super::*;
    use crate::config::{Sources, load};
    use crate::ledger::Pending;
    use crate::shared::tests::shared;
    use crate::wire::Kind;

    #[tokio::test]
    async fn however_many_were_confirmed_all_are_marked_and_not_too_many_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let settings = load(&Sources::default(), crate::providers::ALL).unwrap();
        let outbox = Outbox::new(settings.config.amqp, Arc::new(shared(&folder)));
        let confirmed = rows(0..12_000, Kind::Result);
        let delivered = confirmed.iter().map(Pending::delivered);
        outbox.notes.add(delivered, Instant::now());
        assert_eq!(outbox.notes.confirmed().len(), 5_000);
        assert!(outbox.mark().await);
        assert!(outbox.notes.confirmed().is_empty());
    }

    #[test]
    fn a_row_that_stays_locked_is_told_of_now_and_then_and_one_of_a_moment_is_not() {
        let mut misses = Misses::default();
        let mut told =
            |locked: &[i64], times: u32| (1..=times).filter(|_| misses.is_told(locked)).count();
        assert_eq!(told(&[7], 1), 0);
        assert_eq!(told(&[], 1), 0);
        assert_eq!(told(&[7], 100), 6);
        assert_eq!(told(&[], 1), 0);
        assert_eq!(told(&[7], 2), 1);
    }
}
