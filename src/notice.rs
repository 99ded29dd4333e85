//! Provider notifications: taken at the endpoint, published, and matched to requests.
//!
//! ```text
//! POST /notifications/<provider> ─▶ verify ─▶ rescind.results ─▶ rescind.notifications
//!                                                                        │
//!                    dispatcher ◀─ due at once ─ ledger ◀─ verify again ─┘
//! ```
//!
//! The two halves share nothing but the broker: a user's own gateway may be the first one,
//! and any worker on the same ledger may be the second one. Neither shares a connection, a
//! limit or a wait with intake and dispatch.
//!
//! A notification that matches no request is counted and let go. It is not held for a request that may
//! follow: nothing is sent for a payment before its request is stored, so an earlier notification
//! was not caused by us, and the first call will meet the state that it reports. The exchange
//! gives every other consumer a copy of its own.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use futures_util::future::join_all;
use jiff::Timestamp;
use lapin::message::Delivery;
use lapin::{Channel, Connection};
use tokio::sync::{Mutex, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};
use uuid::Uuid;

use crate::amqp::{self, AmqpError};
use crate::config::Amqp;
use crate::consume::{self, Batches};
use crate::dispatch::{Dispatcher, Dispatchers};
use crate::metrics::{Notified, Published};
use crate::providers::{Arrived, NOTIFICATION_BYTES_MAX, Notification, Via};
use crate::publish::{self, Line};
use crate::shared::Shared;
use crate::wire::{self, Kind, Outgoing};

/// Notifications that are taken at once; a further one is asked to come again.
const PERMITS: usize = 128;
/// Longest wait for a body.
const BODY_WAIT: Duration = Duration::from_secs(2);
/// Longest time to an answer. Gr4vy gives up after 5 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// Deliveries held at once, and published at once.
const WINDOW: u16 = 64;
/// Between two lines in the log about notifications that are not believed: anybody may send those.
const TOLD_EVERY: Duration = Duration::from_secs(1);

/// Both halves.
pub struct Notices {
    settings: Amqp,
    dispatchers: Dispatchers,
    shared: Arc<Shared>,
    permits: Semaphore,
    to_publish: mpsc::Sender<Waiting>,
    /// Taken by the one publishing session.
    waiting: Mutex<mpsc::Receiver<Waiting>>,
    publishing: AtomicBool,
    consuming: AtomicBool,
    disbelieved: std::sync::Mutex<Disbelieved>,
}

/// What the log was told of notifications that were not believed.
#[derive(Default)]
struct Disbelieved {
    told_at: Option<Instant>,
    untold: u64,
}

/// A notification that is answered once the broker has it.
struct Waiting {
    message: Outgoing,
    done: oneshot::Sender<bool>,
}

impl Notices {
    /// For the accounts of these dispatchers.
    pub fn new(settings: Amqp, dispatchers: Dispatchers, shared: Arc<Shared>) -> Self {
        let (to_publish, waiting) = mpsc::channel(PERMITS);
        Self {
            settings,
            dispatchers,
            shared,
            permits: Semaphore::new(PERMITS),
            to_publish,
            waiting: Mutex::new(waiting),
            publishing: AtomicBool::new(false),
            consuming: AtomicBool::new(false),
            disbelieved: std::sync::Mutex::default(),
        }
    }

    /// Notifications can be taken and are matched.
    pub fn ready(&self) -> bool {
        self.publishing.load(Ordering::Acquire) && self.consuming.load(Ordering::Acquire)
    }

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
        let kept = dispatcher.provider().notification_headers().iter();
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
            let fates = line.publish(channel, messages).await?;
            for (waiting, fate) in window.drain(..).zip(fates) {
                self.shared.metrics.publication(Kind::Notification, fate);
                // Its sender may have gone away.
                waiting.done.send(fate == Published::Confirmed).ok();
            }
        }
        Ok(())
    }

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

    async fn take_all(&self, batches: &mut Batches) -> Result<(), AmqpError> {
        loop {
            let batch = batches.next().await?;
            join_all(batch.iter().map(|delivery| self.take(delivery))).await;
            // Every one that concerns the ledger is in it.
            if let Some(last) = batch.last() {
                consume::acknowledge(&last.acker).await?;
            }
        }
    }

    async fn take(&self, delivery: &Delivery) {
        let provider = wire::notified_provider(delivery.routing_key.as_str());
        let Some(dispatcher) = provider.and_then(|name| self.dispatchers.get(name)) else {
            return debug!(key = %delivery.routing_key, "a notification for no account of ours");
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

    /// Reads a notification; one that cannot be believed is counted and logged.
    fn read(&self, dispatcher: &Dispatcher, arrived: &Arrived<'_>) -> Notification {
        let read = match arrived.body.len() {
            0..=NOTIFICATION_BYTES_MAX => dispatcher.read_notification(arrived),
            _ => Notification::Unreadable("it is larger than 64 KiB"),
        };
        if let Notification::Forged(why) | Notification::Unreadable(why) = read {
            self.tell(dispatcher.name(), why);
            dispatcher.notified(Notified::Forged);
        }
        read
    }

    /// Logs it, or counts it for the next line.
    fn tell(&self, provider: &str, why: &str) {
        let disbelieved = self.disbelieved.lock();
        let mut disbelieved = disbelieved.unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if disbelieved.told_at.is_some_and(|at| now < at + TOLD_EVERY) {
            disbelieved.untold += 1;
            return;
        }
        let untold = std::mem::take(&mut disbelieved.untold);
        disbelieved.told_at = Some(now);
        warn!(provider, why, untold, "a notification was not believed");
    }
}

/// When the endpoint, ours or a gateway's, received it: a signed time is judged by that.
fn received_at(delivery: &Delivery) -> Option<Timestamp> {
    amqp::header(delivery, wire::RECEIVED_AT)?.parse().ok()
}
