//! Passes messages from their commit to the outbox in memory, so that they need not be read back.
//!
//! A short cut and nothing else: every message that is given is in the ledger, and one that is dropped
//! here is found there.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::ledger::Pending;
use crate::wire::Kind;

/// Most messages that wait here; more are read from the ledger, a window after the other.
const MOST: usize = 1024;
/// Most bytes of their bodies: dead letters have those of their requests.
const MOST_BYTES: usize = 4 * 1024 * 1024;

/// Shared by every part that commits messages, and the outbox, which takes them.
#[derive(Debug, Default)]
pub struct Handover {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    rows: VecDeque<Pending>,
    bytes: usize,
    /// The ledger has something that is not here.
    more: bool,
}

impl Inner {
    fn has_room(&self, rows: &[Pending]) -> bool {
        self.rows.len() + rows.len() <= MOST && self.bytes + bytes(rows) <= MOST_BYTES
    }

    /// Drops all of it, which the outbox then reads from the ledger.
    fn leave_to_ledger(&mut self) {
        *self = Self {
            more: true,
            ..Self::default()
        };
    }
}

fn bytes<'p>(rows: impl IntoIterator<Item = &'p Pending>) -> usize {
    rows.into_iter().map(|row| row.message.body.len()).sum()
}

impl Handover {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These were committed just now, in this order. A correction is left to the ledger, which returns it
    /// only after the message that it corrects.
    pub fn give(&self, rows: Vec<Pending>) {
        let mut inner = self.inner();
        let corrects = |row: &Pending| row.message.kind == Kind::Correction;
        if rows.iter().any(corrects) || !inner.has_room(&rows) {
            inner.leave_to_ledger();
        }
        if !inner.more {
            inner.bytes += bytes(&rows);
            inner.rows.extend(rows);
        }
        drop(inner);
        self.news.notify_one();
    }

    /// The ledger has something to publish that was not given here.
    pub fn require_read(&self) {
        self.inner().leave_to_ledger();
        self.news.notify_one();
    }

    /// Waits until something was given, or the ledger has to be read.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Up to `most` of the given messages, oldest first. `None`: the ledger has to be read.
    pub fn take(&self, most: usize) -> Option<Vec<Pending>> {
        let mut inner = self.inner();
        if inner.more {
            return None;
        }
        let most = most.min(inner.rows.len());
        let taken: Vec<Pending> = inner.rows.drain(..most).collect();
        inner.bytes = inner.bytes.saturating_sub(bytes(&taken));
        Some(taken)
    }

    /// The ledger is about to be read, and has every message that was given until now.
    pub fn clear(&self) {
        *self.inner() = Inner::default();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;
    use crate::outbox::tests::rows;

    fn taken(handover: &Handover, most: usize) -> Option<Vec<i64>> {
        let rows = handover.take(most)?;
        Some(rows.iter().map(|row| row.seq).collect())
    }

    #[test]
    fn what_was_given_is_taken_once_and_in_its_order() {
        let handover = Handover::default();
        assert_eq!(taken(&handover, 9), Some(vec![]));
        handover.give(rows([1, 2], Kind::Result));
        handover.give(rows([3], Kind::DeadLetter));
        assert!(handover.news().now_or_never().is_some());
        assert_eq!(taken(&handover, 2), Some(vec![1, 2]));
        assert_eq!(taken(&handover, 2), Some(vec![3]));
        assert_eq!(taken(&handover, 2), Some(vec![]));
        assert!(handover.news().now_or_never().is_none());
    }

    /// Whatever came before it or comes after it: the ledger has all of it in its order.
    #[test]
    fn a_correction_is_left_to_the_ledger_and_so_is_what_comes_with_it() {
        let handover = Handover::default();
        handover.give(rows([1], Kind::Result));
        handover.give(rows([2], Kind::Correction));
        handover.give(rows([3], Kind::Result));
        assert_eq!(taken(&handover, 9), None);
        assert!(handover.news().now_or_never().is_some());
        handover.clear();
        assert_eq!(taken(&handover, 9), Some(vec![]));
        handover.give(rows([4], Kind::Result));
        assert_eq!(taken(&handover, 9), Some(vec![4]));
    }

    #[test]
    fn what_is_too_much_is_left_to_the_ledger() {
        let handover = Handover::default();
        handover.give(rows(0..1024, Kind::Result));
        assert_eq!(handover.take(1).unwrap().len(), 1);
        handover.give(rows([1024], Kind::Result));
        assert_eq!(
            handover.take(1).unwrap().len(),
            1,
            "for one more there was room"
        );
        handover.give(rows(1025..1027, Kind::Result));
        assert_eq!(taken(&handover, 9), None);
    }

    #[test]
    fn what_is_too_large_is_left_to_the_ledger() {
        let handover = Handover::default();
        let large = |seq| {
            let mut rows = rows([seq], Kind::DeadLetter);
            rows[0].message.body = vec![b'x'; 1024 * 1024];
            rows
        };
        (0..4).for_each(|seq| handover.give(large(seq)));
        assert_eq!(taken(&handover, 1), Some(vec![0]));
        handover.give(large(4));
        assert_eq!(taken(&handover, 1), Some(vec![1]), "room for as many again");
        handover.give(large(5));
        handover.give(rows([6], Kind::Result));
        assert_eq!(taken(&handover, 9), Some(vec![2, 3, 4, 5, 6]));
        (0..5).for_each(|seq| handover.give(large(seq)));
        assert_eq!(taken(&handover, 9), None);
    }

    #[test]
    fn what_only_the_ledger_has_is_looked_for() {
        let handover = Handover::default();
        handover.require_read();
        assert!(handover.news().now_or_never().is_some());
        assert_eq!(taken(&handover, 9), None);
    }
}
