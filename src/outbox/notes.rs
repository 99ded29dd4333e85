//! Which messages are on their way, and which of them the broker has: so that none is published
//! twice at once, and many are marked in one commit.
//!
//! The life of a row: it is read, or handed over by who committed it; taken, so that no other window has it;
//! published. If the broker has it, it is confirmed, and with others marked in the ledger; then forgotten. If no
//! queue took it, or the broker refused it, it is released, and waits its time before it is taken again.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

use super::WINDOW;
use super::mark::{MARK_WITHIN, MARKED_MOST, Misses};
use super::refused::Refused;
use super::returned::Returned;
use crate::ledger::{Delivered, Pending};
use crate::wire::Receipt;

/// Shared by the publishing windows and the task that marks.
#[derive(Default)]
pub(super) struct Notes {
    inner: Mutex<Inner>,
    /// Held while messages are marked.
    marking: tokio::sync::Mutex<Misses>,
    /// There is something to mark.
    some: Notify,
    /// There is enough to mark it now.
    enough: Notify,
}

#[derive(Default)]
struct Inner {
    /// Rows that are being published, or are published and not marked yet.
    busy: HashSet<i64>,
    /// Released since the last read began: it may show them as they were before.
    released: HashSet<i64>,
    confirmed: Vec<Delivered>,
    refused: Refused,
    returned: Returned,
}

impl Inner {
    /// This row can be read again: it is marked, or to be published once more.
    fn release(&mut self, row: i64) {
        self.busy.remove(&row);
        self.released.insert(row);
    }
}

impl Notes {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A read begins.
    pub(super) fn begin_read(&self) {
        self.inner().released.clear();
    }

    /// Those of the rows that are not on their way; from now on they are.
    pub(super) fn take(&self, rows: Vec<Pending>, now: Instant) -> Vec<Pending> {
        let Inner {
            busy,
            released,
            refused,
            returned,
            ..
        } = &mut *self.inner();
        returned.release_due(now);
        let waits = |seq| released.contains(&seq) || returned.has(seq) || busy.contains(&seq);
        let idle: Vec<_> = rows.into_iter().filter(|row| !waits(row.seq)).collect();
        let due = refused.due(idle.iter().map(|row| row.seq), now);
        let may_go = |row: &Pending| !refused.has(row.seq) || due.contains(&row.seq);
        let taken: Vec<_> = idle.into_iter().filter(may_go).collect();
        busy.extend(taken.iter().map(|row| row.seq));
        taken
    }

    /// The messages that go together, and those that the broker refused before, each of which goes alone.
    pub(super) fn apart(&self, window: Vec<Pending>) -> (Vec<Pending>, Vec<Pending>) {
        let inner = self.inner();
        let refused = |row: &Pending| inner.refused.has(row.seq);
        window.into_iter().partition(|row| !refused(row))
    }

    /// The broker closed the channel that only this message was published on.
    pub(super) fn refused(&self, pending: &Pending, now: Instant) {
        let mut inner = self.inner();
        inner.release(pending.seq);
        inner.refused.add(pending, now);
    }

    /// No queue took these messages, or theirs refused them.
    pub(super) fn came_back(&self, messages: &[(&Pending, Receipt)], now: Instant) {
        let mut inner = self.inner();
        for (pending, receipt) in messages {
            inner.release(pending.seq);
            inner.returned.add(pending, *receipt, now);
        }
    }

    /// The worker stops: every message that came back is tried once more at once.
    pub(super) fn hurry(&self, now: Instant) {
        self.inner().returned.hurry(now);
    }

    /// The broker has these messages.
    pub(super) fn add(&self, delivered: impl Iterator<Item = Delivered>, now: Instant) {
        let mut inner = self.inner();
        let before = inner.confirmed.len();
        inner.confirmed.extend(delivered);
        let Inner {
            confirmed,
            refused,
            returned,
            ..
        } = &mut *inner;
        let taken = confirmed[before..].iter().map(|message| message.seq);
        refused.confirmed(taken.clone());
        returned.confirmed(taken, now);
        self.wake(&inner);
    }

    fn wake(&self, inner: &Inner) {
        if !inner.confirmed.is_empty() {
            self.some.notify_one();
        }
        if inner.confirmed.len() >= WINDOW {
            self.enough.notify_one();
        }
    }

    /// One task marks at a time, and knows every message that was marked before.
    pub(super) async fn marking(&self) -> tokio::sync::MutexGuard<'_, Misses> {
        self.marking.lock().await
    }

    /// How many messages are to be marked.
    pub(super) fn count(&self) -> usize {
        self.inner().confirmed.len()
    }

    /// The messages to be marked, oldest first, [`MARKED_MOST`] of them. They stay until they are marked.
    pub(super) fn confirmed(&self) -> Vec<Delivered> {
        let inner = self.inner();
        inner.confirmed.iter().take(MARKED_MOST).copied().collect()
    }

    /// These, the oldest ones, are marked, but for the rows that are locked: they go behind all others.
    pub(super) fn marked(&self, messages: &[Delivered], locked: &[i64]) {
        let locked: HashSet<i64> = locked.iter().copied().collect();
        let mut inner = self.inner();
        inner.confirmed.drain(..messages.len());
        for message in messages {
            if locked.contains(&message.seq) {
                inner.confirmed.push(*message);
            } else {
                inner.release(message.seq);
            }
        }
    }

    /// They could not be marked now.
    pub(super) fn try_later(&self) {
        self.wake(&self.inner());
    }

    /// Waits until a message has waited long enough to be marked, or enough of them wait.
    pub(super) async fn wait(&self) {
        self.some.notified().await;
        drop(tokio::time::timeout(MARK_WITHIN, self.enough.notified()).await);
    }

    /// The session is over: nothing is on its way. A message that the broker has is not published once more,
    /// even if it could not be marked.
    pub(super) fn forget(&self) {
        let Inner {
            busy,
            confirmed,
            returned,
            ..
        } = &mut *self.inner();
        *busy = confirmed.iter().map(|message| message.seq).collect();
        // The next session may find the queue that is missing: it declares what it can.
        returned.tell();
        *returned = Returned::default();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;

    use super::super::tests::rows;
    use super::*;
    use crate::wire::Kind;

    fn seqs(rows: &[Pending]) -> Vec<i64> {
        rows.iter().map(|row| row.seq).collect()
    }

    #[test]
    fn what_is_on_its_way_is_not_taken_once_more_until_it_is_released() {
        let (notes, now) = (Notes::default(), Instant::now());
        assert_eq!(seqs(&notes.take(rows(1..4, Kind::Result), now)), [1, 2, 3]);
        assert_eq!(seqs(&notes.take(rows(2..6, Kind::Result), now)), [4, 5]);
        // Confirmed, but not marked yet: a reader finds it still.
        let confirmed = rows([2], Kind::Result);
        notes.add(confirmed.iter().map(Pending::delivered), now);
        assert!(notes.take(rows(1..6, Kind::Result), now).is_empty());
        assert_eq!(notes.confirmed(), [confirmed[0].delivered()]);
        notes.marked(&[confirmed[0].delivered()], &[]);
        notes.inner().release(1);
        // By a read that had begun before.
        assert!(notes.take(rows(1..6, Kind::Result), now).is_empty());
        notes.begin_read();
        assert_eq!(seqs(&notes.take(rows(1..6, Kind::Result), now)), [1, 2]);
        notes.add([confirmed[0].delivered()].into_iter(), now);
        notes.forget();
        assert_eq!(seqs(&notes.take(rows(1..4, Kind::Result), now)), [1, 3]);
    }

    #[test]
    fn what_is_locked_is_marked_behind_all_others_and_still_on_its_way() {
        let (notes, now) = (Notes::default(), Instant::now());
        let all = rows(1..4, Kind::Result);
        notes.take(all.clone(), now);
        let delivered: Vec<_> = all.iter().map(Pending::delivered).collect();
        notes.add(delivered[..2].iter().copied(), now);
        let first = notes.confirmed();
        notes.add(delivered[2..].iter().copied(), now);
        notes.marked(&first, &[1]);
        assert_eq!(notes.confirmed(), [delivered[2], delivered[0]]);
        notes.forget();
        notes.begin_read();
        assert_eq!(seqs(&notes.take(all, now)), [2]);
    }

    #[test]
    fn what_the_broker_refused_waits_and_keeps_nothing_else_waiting() {
        let (notes, now) = (Notes::default(), Instant::now());
        notes.take(rows(1..5, Kind::Result), now);
        notes.refused(&rows([2], Kind::Result)[0], now);
        notes.forget();
        notes.begin_read();
        let rest = notes.take(rows(1..5, Kind::Result), now);
        assert_eq!(seqs(&rest), [1, 3, 4]);
        for row in [1, 3] {
            notes.inner().release(row);
        }
        notes.begin_read();
        let later = now + Duration::from_secs(60);
        let parts = |now| {
            let taken = notes.take(rows(1..5, Kind::Result), now);
            let (together, alone) = notes.apart(taken);
            (seqs(&together), seqs(&alone))
        };
        assert_eq!(parts(later), (vec![1, 3], vec![2]));
        let taken = rows([2], Kind::Result);
        notes.add(taken.iter().map(Pending::delivered), now);
        notes.forget();
        notes.inner().release(2);
        notes.begin_read();
        assert_eq!(parts(now), (vec![1, 2, 3, 4], vec![]), "it was taken");
    }

    /// Whoever reads dead letters may have no room, say, while results are wanted.
    #[test]
    fn what_one_exchange_refuses_is_no_reason_to_try_what_another_one_does_less_often() {
        let (notes, start) = (Notes::default(), Instant::now());
        let windows = [rows(0..256, Kind::DeadLetter), rows(256..300, Kind::Result)];
        for row in windows.iter().flatten() {
            notes.refused(row, start);
        }
        let mut tried = Vec::new();
        for second in 0..60 {
            let now = start + Duration::from_secs(second);
            for window in &windows {
                notes.begin_read();
                for row in notes.take(window.clone(), now) {
                    tried.push((second, row.message.kind));
                    notes.refused(&row, now);
                }
            }
        }
        let each = [Kind::DeadLetter, Kind::Result];
        let expected = (1..6).flat_map(|n| each.map(|kind| (n * 10, kind)));
        assert_eq!(tried, expected.collect::<Vec<_>>());

        let result = rows([256], Kind::Result);
        notes.add(result.iter().map(Pending::delivered), start);
        let go = |window: &Vec<Pending>| notes.take(window.clone(), start).len();
        notes.begin_read();
        assert_eq!(windows.each_ref().map(go), [0, 44]);
    }

    #[tokio::test]
    async fn few_wait_to_be_noted_together_and_many_do_not() {
        let notes = Notes::default();
        let confirmed = |count| {
            rows(0..count, Kind::Result)
                .into_iter()
                .map(|row| row.delivered())
        };
        notes.add(confirmed(255), Instant::now());
        assert!(notes.wait().now_or_never().is_none());
        notes.add(confirmed(1), Instant::now());
        assert!(notes.wait().now_or_never().is_some());
    }
}
