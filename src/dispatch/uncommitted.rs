//! Outcomes that are known and not committed yet: a notification that comes after an answer is told after it.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Those of one account.
#[derive(Default)]
pub(super) struct Uncommitted {
    numbers: Mutex<Numbers>,
    committed: Notify,
}

#[derive(Default)]
struct Numbers {
    next: u64,
    open: BTreeSet<u64>,
}

/// One of them, until it is dropped.
pub(super) struct Outstanding<'u> {
    all: &'u Uncommitted,
    number: u64,
}

impl Uncommitted {
    /// An outcome is known.
    pub(super) fn begin(&self) -> Outstanding<'_> {
        let mut numbers = self.numbers();
        let number = numbers.next;
        numbers.next += 1;
        numbers.open.insert(number);
        Outstanding { all: self, number }
    }

    /// Waits until all that are known now are committed, however many follow.
    pub(super) async fn until_committed(&self) {
        let next = self.numbers().next;
        loop {
            let committed = self.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if self
                .numbers()
                .open
                .first()
                .is_none_or(|first| *first >= next)
            {
                return;
            }
            committed.await;
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.all.numbers().open.remove(&self.number);
        self.all.committed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::poll;

    use super::*;

    #[tokio::test]
    async fn what_was_known_before_is_waited_for_and_nothing_else() {
        let all = Uncommitted::default();
        all.until_committed().await;
        let (first, second) = (all.begin(), all.begin());
        let mut waiting = Box::pin(all.until_committed());
        assert!(poll!(&mut waiting).is_pending());
        let _later = all.begin();
        drop(second);
        assert!(poll!(&mut waiting).is_pending());
        drop(first);
        assert!(poll!(&mut waiting).is_ready());
    }
}
