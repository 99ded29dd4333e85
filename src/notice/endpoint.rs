//! The endpoint: takes notifications, verifies them, and answers once the broker has them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use lapin::{Channel, Connection};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tracing::info;
use uuid::Uuid;

use super::{Notices, WINDOW};
use crate::amqp::{self, AmqpError};
use crate::dispatch::Dispatcher;
use crate::providers::{Arrived, NOTIFICATION_BYTES_MAX, Notification, Via};
use crate::publish::{self, Line};
use crate::wire::{self, Kind, Outgoing, Receipt};

/// Notifications that are taken at once; a further one is asked to come again.
pub(super) const PERMITS: usize = 128;
/// Longest wait for a body.
const BODY_WAIT: Duration = Duration::from_secs(2);
/// Longest time to an answer. Gr4vy gives up after 5 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);

/// A notification that is answered once the broker has it.
pub(super) struct Waiting {
    message: Outgoing,
    done: oneshot::Sender<bool>,
}

impl Notices {
    /// The endpoint: 200 once the broker has it, 503 for "send it again".
    pub async fn receive(&self, provider: &str, headers: &HeaderMap, body: Body) -> StatusCode {
        let end = Instant::now() + ANSWER_WITHIN;
        let Some(dispatcher) = self.dispatchers.get(provider) else {
            return StatusCode::NOT_FOUND;
        };
        let reading = axum::body::to_bytes(body, NOTIFICATION_BYTES_MAX);
        let body = match tokio::time::timeout(BODY_WAIT, reading).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => return StatusCode::PAYLOAD_TOO_LARGE,
            Err(_) => return StatusCode::REQUEST_TIMEOUT,
        };
        let message = match self.verify(dispatcher, headers, &body) {
            Ok(message) => message,
            Err(refusal) => return refusal,
        };
        // Only now: a caller that sends its body slowly, or a forged one, takes no permit.
        let Ok(_permit) = self.permits.try_acquire() else {
            return StatusCode::SERVICE_UNAVAILABLE;
        };
        match timeout_at(end, self.publish(message)).await {
            Ok(true) => StatusCode::OK,
            Ok(false) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The message to publish, or the answer to a notification that is not taken.
    fn verify(
        &self,
        dispatcher: &Dispatcher,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Outgoing, StatusCode> {
        let now = (self.shared.clock)();
        let header = |name: &str| headers.get(name)?.to_str().ok();
        let arrived = Arrived {
            body,
            header: &header,
            at: now,
            via: Via::Endpoint,
        };
        let event = match self.read(dispatcher, &arrived) {
            Notification::Unsupported => return Err(StatusCode::NOT_FOUND),
            Notification::Forged(_) => return Err(StatusCode::UNAUTHORIZED),
            Notification::Unreadable(_) => return Err(StatusCode::BAD_REQUEST),
            Notification::Hint(hint) => hint.event,
        };
        let name = dispatcher.name();
        let id = event.map_or_else(Uuid::new_v4, |event| wire::event_id(name, &event));
        let kept = dispatcher.adapter().notification_headers().iter();
        let kept = kept.filter_map(|name| Some((*name, header(name)?.to_owned())));
        let message = wire::notification(name, id, kept, body.to_vec(), now);
        Ok(message)
    }

    async fn publish(&self, message: Outgoing) -> bool {
        if !self.publishing.load(Ordering::Acquire) {
            return false;
        }
        let (done, published) = oneshot::channel();
        let queued = self.to_publish.send(Waiting { message, done }).await;
        queued.is_ok() && published.await.unwrap_or(false)
    }

    /// One session of the endpoint's publisher.
    pub async fn publish_session(&self) -> Result<(), AmqpError> {
        let connection = amqp::connect(&self.settings, "rescind notifications out").await?;
        let ended = self.publish_all(&connection).await;
        self.publishing.store(false, Ordering::Release);
        amqp::close(&connection).await;
        ended
    }

    async fn publish_all(&self, connection: &Connection) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let channel = publish::channel(connection).await?;
        self.publishing.store(true, Ordering::Release);
        info!("publishing notifications");
        let channels = [&channel];
        tokio::select! {
            ended = self.windows(connection, &channel) => ended,
            () = amqp::watch(connection, &channels) => Err(AmqpError::Lost),
            () = self.shared.stop.cancelled() => Ok(()),
        }
    }

    async fn windows(&self, connection: &Connection, channel: &Channel) -> Result<(), AmqpError> {
        let mut queue = self.waiting.lock().await;
        let line = Line::over(connection);
        let mut window = Vec::new();
        while queue.recv_many(&mut window, WINDOW.into()).await > 0 {
            // A caller that was answered meanwhile sends it again. During an alarm at the broker every
            // publication would hang.
            window.retain(|waiting| !waiting.done.is_closed());
            if connection.status().blocked() {
                window.clear();
                continue;
            }
            let exchange = self.settings.results_exchange.as_str();
            let messages = window.iter().map(|waiting| (exchange, &waiting.message));
            let receipts = line.publish(channel, messages).await?;
            for (waiting, receipt) in window.drain(..).zip(receipts) {
                self.shared.metrics.publication(Kind::Notification, receipt);
                // Its sender may have gone away.
                waiting.done.send(receipt == Receipt::Confirmed).ok();
            }
        }
        Ok(())
    }
}
