//! Acknowledgements: deliveries that are in the ledger are acknowledged, many at once.

use std::time::Duration;

use lapin::Acker;
use tokio::time::Instant;

use crate::amqp::AmqpError;
use crate::consume;

/// How long a delivery waits to be acknowledged together with others: each acknowledgement is a
/// write to the broker's own log, before which no other message gets on.
const ACKNOWLEDGE_WITHIN: Duration = Duration::from_millis(20);

/// Deliveries of a channel that are in the ledger and not yet acknowledged. Many together cost
/// the broker as little as one; while more keep coming they are acknowledged now and then.
pub(super) struct Acks {
    last: Option<Acker>,
    count: usize,
    most: usize,
    /// When they are acknowledged at the latest.
    due_at: Instant,
}

impl Acks {
    /// A quarter of the prefetch may wait: the broker does not stop delivering for that.
    pub(super) fn of(prefetch: u16) -> Self {
        Self {
            last: None,
            count: 0,
            most: usize::from(prefetch / 4),
            due_at: Instant::now(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.last.is_none()
    }

    /// When they are acknowledged, if not before.
    pub(super) fn due_at(&self) -> Instant {
        self.due_at
    }

    pub(super) async fn add(&mut self, last: Option<Acker>, count: usize) -> Result<(), AmqpError> {
        if self.is_empty() {
            self.due_at = Instant::now() + ACKNOWLEDGE_WITHIN;
        }
        self.last = last.or(self.last.take());
        self.count += count;
        if self.count < self.most {
            Ok(())
        } else {
            self.acknowledge().await
        }
    }

    /// All of them: this channel has no older delivery open.
    pub(super) async fn acknowledge(&mut self) -> Result<(), AmqpError> {
        self.count = 0;
        match self.last.take() {
            Some(last) => consume::acknowledge(&last).await,
            None => Ok(()),
        }
    }
}
