//! Acknowledgements: deliveries that are in the ledger are acknowledged, many at once.

use std::time::Duration;

use lapin::Acker;
use tokio::time::Instant;

use super::admission::{Sorted, Taken};
use crate::amqp::AmqpError;
use crate::consume;

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
    held: Vec<Taken>,
    /// Some are held, or being stored again.
    holds: bool,
    most: usize,
    /// When they are acknowledged at the latest.
    due_at: Instant,
    /// When those that are held are stored again.
    again_at: Instant,
}

impl Acks {
    /// A quarter of the prefetch may wait: the broker does not stop delivering for that.
    pub(super) fn of(prefetch: u16) -> Self {
        let now = Instant::now();
        Self {
            stored: Vec::new(),
            held: Vec::new(),
            holds: false,
            most: usize::from(prefetch / 4),
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

    /// When those are to be stored again.
    pub(super) fn again_at(&self) -> Instant {
        self.again_at
    }

    /// The next ones of the channel; those that could not be stored are held.
    pub(super) async fn add(&mut self, sorted: Sorted) -> Result<(), AmqpError> {
        if self.is_empty() {
            self.due_at = Instant::now() + ACKNOWLEDGE_WITHIN;
        }
        self.hold(sorted.held);
        self.stored.extend(sorted.stored);
        if self.stored.len() < self.most {
            Ok(())
        } else {
            self.acknowledge().await
        }
    }

    fn hold(&mut self, held: Vec<Taken>) {
        if !self.holds {
            self.again_at = Instant::now() + STORE_AGAIN_EVERY;
        }
        self.held.extend(held);
        self.holds = !self.held.is_empty();
    }

    /// Those that could not be stored. They count as held until [`put_back`](Self::put_back).
    pub(super) fn take_held(&mut self) -> Vec<Taken> {
        std::mem::take(&mut self.held)
    }

    /// Those that were held are stored now, or are held again.
    pub(super) async fn put_back(&mut self, sorted: Sorted) -> Result<(), AmqpError> {
        for acker in &sorted.stored {
            consume::acknowledge_alone(acker).await?;
        }
        self.holds = false;
        self.hold(sorted.held);
        Ok(())
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
