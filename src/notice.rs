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

use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::Instant;
use tracing::warn;

use self::endpoint::{PERMITS, Waiting};
use crate::config::Amqp;
use crate::dispatch::{Dispatcher, Dispatchers};
use crate::metrics::Notified;
use crate::providers::{Arrived, NOTIFICATION_BYTES_MAX, Notification};
use crate::shared::Shared;

mod consumer;
mod endpoint;

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
