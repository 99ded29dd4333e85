//! Acknowledgements: deliveries that are in the ledger are acknowledged, many at once.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::Acker;
use tokio::time::Instant;
use tracing::warn;

use super::admission::{Sorted, Taken};
use super::batch::first_that_fit;
use crate::amqp::AmqpError;
use crate::consume;
use crate::ledger::LedgerError;
use crate::shared::Failing;

/// How long a delivery waits to be acknowledged together with others: each acknowledgement is a
/// write to the broker's own log, before which no other message gets on.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(20);

/// When a delivery is stored again that needed what somebody has locked: each attempt keeps the ledger waiting.
const STORE_AGAIN_EVERY: Duration = Duration::from_secs(5);

/// Deliveries of a channel that are in the ledger and not yet acknowledged. Many together cost
/// the broker as little as one; while more keep coming they are acknowledged now and then.
pub(super) struct Acks {
    /// In the order of their delivery.
    stored: Vec<Acker>,
    /// They could not be stored: nothing is acknowledged past them.
    held: VecDeque<Taken>,
    /// Some are held, or being stored again.
    holds: bool,
    /// Why the last of them could not be stored.
    reason: Option<LedgerError>,
    prefetch: usize,
    /// When they are acknowledged at the latest.
    due_at: Instant,
    /// When those that are held are stored again.
    again_at: Instant,
}

impl Acks {
    /// Of a channel with this prefetch.
    pub(super) fn of(prefetch: u16) -> Self {
        let now = Instant::now();
        Self {
            stored: Vec::new(),
            held: VecDeque::new(),
            holds: false,
            reason: None,
            prefetch: prefetch.into(),
            due_at: now,
            again_at: now,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stored.is_empty()
    }

    /// When they are acknowledged, if not before.
    pub(super) fn due_at(&self) -> Instant {
        self.due_at
    }

    /// Whether any could not be stored.
    pub(super) fn holds(&self) -> bool {
        self.holds
    }

    /// Whether so many are held that the broker delivers no more.
    pub(super) fn are_all_held(&self) -> bool {
        self.held.len() >= self.prefetch
    }

    /// When those are to be stored again.
    pub(super) fn again_at(&self) -> Instant {
        self.again_at
    }

    /// The next ones of the channel; those that could not be stored are held.
    pub(super) async fn add(
        &mut self,
        sorted: Sorted,
        holding: &mut Failing<'_>,
    ) -> Result<(), AmqpError> {
        if self.is_empty() {
            self.due_at = Instant::now() + ACKNOWLEDGE_WITHIN;
        }
        if !self.holds {
            self.again_at = Instant::now() + STORE_AGAIN_EVERY;
        }
        let some = !sorted.held.is_empty();
        self.hold(sorted.held, sorted.reason);
        if some {
            self.tell(holding);
        }
        self.stored.extend(sorted.stored);
        // A quarter of the prefetch may wait: the broker does not stop delivering for that.
        if self.stored.len() < self.prefetch / 4 {
            Ok(())
        } else {
            self.acknowledge().await
        }
    }

    fn hold(&mut self, held: Vec<Taken>, reason: Option<LedgerError>) {
        self.held.extend(held);
        self.holds = !self.held.is_empty();
        self.reason = reason.or(self.reason.take());
    }

    /// The first of those that could not be stored, as many as fit together. They count as held until
    /// [`put_back`](Self::put_back).
    pub(super) fn take_held(&mut self) -> Vec<Taken> {
        first_that_fit(&mut self.held, Taken::size)
    }

    /// Those that were taken are stored now, or are held again, behind all others: it is their turn next. Once all
    /// were stored that was tried, the next ones need not wait.
    pub(super) async fn put_back(
        &mut self,
        sorted: Sorted,
        holding: &mut Failing<'_>,
    ) -> Result<(), AmqpError> {
        for acker in &sorted.stored {
            consume::acknowledge_alone(acker).await?;
        }
        self.again_at = Instant::now();
        if !sorted.held.is_empty() {
            self.again_at += STORE_AGAIN_EVERY;
        }
        self.hold(sorted.held, sorted.reason);
        self.tell(holding);
        Ok(())
    }

    /// Tells of deliveries that are held; they count as not stored.
    fn tell(&self, holding: &mut Failing<'_>) {
        holding.set(self.holds);
        if let (true, Some(first), Some(error)) =
            (holding.is_told(), self.held.front(), &self.reason)
        {
            warn!(
                request_id = first.request_id(),
                held = self.held.len(),
                %error,
                "deliveries cannot be stored, since somebody has locked rows that they need; others go on, and these are tried again: docs/operations.md says how to find who has locked them"
            );
        }
    }

    /// All that are stored: together, if this channel has no older delivery open.
    pub(super) async fn acknowledge(&mut self) -> Result<(), AmqpError> {
        let stored = std::mem::take(&mut self.stored);
        if !self.holds {
            return match stored.last() {
                Some(last) => consume::acknowledge(last).await,
                None => Ok(()),
            };
        }
        for acker in &stored {
            consume::acknowledge_alone(acker).await?;
        }
        Ok(())
    }
}
