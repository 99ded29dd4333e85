//! The consumer: verifies notifications once more, and tells them to the dispatchers of their accounts.

use std::sync::atomic::Ordering;

use futures_util::future::try_join_all;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::{Acker, Connection};
use tracing::{debug, info};

use super::{Notices, WINDOW};
use crate::amqp::{self, AmqpError};
use crate::consume::{self, Batches};
use crate::dispatch::Dispatcher;
use crate::metrics::Notified;
use crate::providers::{Arrived, Notification, Via};
use crate::wire;

impl Notices {
    /// One session of the consumer.
    pub async fn session(&self) -> Result<(), AmqpError> {
        let connection = amqp::connect(&self.settings, "rescind notifications in").await?;
        let ended = self.consume(&connection).await;
        self.consuming.store(false, Ordering::Release);
        amqp::close(&connection).await;
        ended
    }

    async fn consume(&self, connection: &Connection) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let channel = consume::channel(connection, WINDOW).await?;
        let queue = &self.settings.notifications_queue;
        let mut batches = Batches::of(&channel, queue, WINDOW.into()).await?;
        self.consuming.store(true, Ordering::Release);
        info!(queue, "consuming");
        let channels = [&channel];
        let ended = tokio::select! {
            ended = self.take_all(&mut batches) => ended,
            () = amqp::watch(connection, &channels) => Err(AmqpError::Lost),
            () = self.shared.stop.cancelled() => Ok(()),
        };
        if ended.is_ok() {
            batches.cancel().await?;
        }
        ended
    }

    /// Each by itself: one waits for as long as its request's outcome cannot be written, and must hold up no other.
    async fn take_all(&self, batches: &mut Batches) -> Result<(), AmqpError> {
        let mut taking = FuturesUnordered::new();
        loop {
            tokio::select! {
                // While all are here that the broker may give, it would seem to have forgotten the consumer.
                batch = batches.next(), if taking.len() < usize::from(WINDOW) => {
                    taking.extend(batch?.into_iter().map(|delivery| self.take(delivery)));
                }
                // If it concerns the ledger, it is in it.
                Some(first) = taking.next() => {
                    let mut taken = vec![first];
                    while let Some(Some(another)) = taking.next().now_or_never() {
                        taken.push(another);
                    }
                    try_join_all(taken.iter().map(consume::acknowledge_alone)).await?;
                }
            }
        }
    }

    async fn take(&self, delivery: Delivery) -> Acker {
        self.tell_dispatcher(&delivery).await;
        delivery.acker
    }

    async fn tell_dispatcher(&self, delivery: &Delivery) {
        let provider = wire::notified_provider(delivery.routing_key.as_str());
        let Some(dispatcher) = provider.and_then(|name| self.dispatchers.get(name)) else {
            return debug!(key = ?delivery.routing_key.as_str(), "a notification for no account of ours");
        };
        match self.verify_again(dispatcher, delivery) {
            Notification::Hint(hint) => dispatcher.hear(&hint).await,
            Notification::Unsupported => dispatcher.notified(Notified::Unmatched),
            Notification::Forged(_) | Notification::Unreadable(_) => {}
        }
    }

    fn verify_again(&self, dispatcher: &Dispatcher, delivery: &Delivery) -> Notification {
        let now = (self.shared.clock)();
        let header = |name: &str| amqp::header(delivery, &format!("{}{name}", wire::HTTP_HEADER));
        let arrived = Arrived {
            body: &delivery.data,
            header: &header,
            at: received_at(delivery).map_or(now, |at| at.min(now)),
            via: Via::Queue,
        };
        self.read(dispatcher, &arrived)
    }
}

/// When the endpoint, ours or a gateway's, received it: a signed time is judged by that.
fn received_at(delivery: &Delivery) -> Option<Timestamp> {
    amqp::header(delivery, wire::RECEIVED_AT)?.parse().ok()
}
