//! Outcomes that are known and not committed yet: a notification that comes after an answer about its payment is told
//! after it, and while there are very many no call begins.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// So few are no reason to wait.
const FEW: usize = 32;

/// Those of one account.
pub(super) struct Uncommitted {
    most: usize,
    numbers: Mutex<Numbers>,
    committed: Notify,
}

#[derive(Default)]
struct Numbers {
    next: u64,
    /// And the payment of each.
    open: BTreeMap<u64, Option<String>>,
}

/// One of them, until it is dropped.
pub(super) struct Outstanding<'u> {
    all: &'u Uncommitted,
    number: u64,
}

impl Uncommitted {
    /// Of an account that makes so many calls at once.
    pub(super) fn of(calls: u32) -> Self {
        let calls = usize::try_from(calls).unwrap_or(usize::MAX);
        Self {
            most: calls.saturating_mul(2).max(FEW),
            numbers: Mutex::default(),
            committed: Notify::new(),
        }
    }

    /// Should the worker be killed all of them are in doubt: no more are to be added to very many.
    pub(super) fn are_many(&self) -> bool {
        self.numbers().open.len() >= self.most
    }

    /// How many may be added beside those that calls lead to.
    pub(super) fn room(&self) -> usize {
        (self.most / 2).saturating_sub(self.numbers().open.len())
    }

    /// An outcome is known, of a call about this payment.
    pub(super) fn begin(&self, payment: Option<String>) -> Outstanding<'_> {
        let mut numbers = self.numbers();
        let number = numbers.next;
        numbers.next += 1;
        numbers.open.insert(number, payment);
        Outstanding { all: self, number }
    }

    /// Waits until all of these payments' that are known now are committed, however many follow.
    pub(super) async fn until_committed(&self, payments: &[String]) {
        let next = self.numbers().next;
        loop {
            let committed = self.committed.notified();
            tokio::pin!(committed);
            committed.as_mut().enable();
            if !self.waits(payments, next) {
                return;
            }
            committed.await;
        }
    }

    fn waits(&self, payments: &[String], next: u64) -> bool {
        let numbers = self.numbers();
        let mut known = numbers
            .open
            .range(..next)
            .filter_map(|(_, payment)| payment.as_ref());
        known.any(|payment| payments.contains(payment))
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outstanding<'_> {
    /// It is committed. `true`: there were very many until now.
    pub(super) fn end(self) -> bool {
        let mut numbers = self.all.numbers();
        let were_many = numbers.open.len() >= self.all.most;
        numbers.open.remove(&self.number);
        were_many
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
        let all = Uncommitted::of(1);
        let payments = ["a", "b"].map(str::to_owned);
        let begin = |payment: &str| all.begin(Some(payment.to_owned()));
        all.until_committed(&payments).await;
        let (first, second, _other) = (begin("a"), begin("b"), begin("c"));
        let _without_a_call = all.begin(None);
        let mut waiting = Box::pin(all.until_committed(&payments));
        assert!(poll!(&mut waiting).is_pending());
        let _later = begin("a");
        drop(second);
        assert!(poll!(&mut waiting).is_pending());
        drop(first);
        assert!(poll!(&mut waiting).is_ready());
    }

    #[test]
    fn twice_as_many_as_calls_at_once_are_many_and_a_few_never_are() {
        for (calls, most) in [(0, FEW), (1, FEW), (100, 200)] {
            let all = Uncommitted::of(calls);
            let mut open: Vec<_> = (1..most).map(|_| all.begin(None)).collect();
            assert!(!all.are_many(), "{calls}");
            open.push(all.begin(None));
            assert!(all.are_many(), "{calls}");
            assert!(open.pop().unwrap().end(), "{calls}");
            assert!(!all.are_many(), "{calls}");
            assert!(!open.pop().unwrap().end(), "{calls}");
        }
    }
}
