//! Publishes what the ledger holds, until the broker has it in a queue.
//!
//! Persistent, mandatory, confirmed; the stored bytes under the stored id, every time. A
//! publication of unknown fate is simply made again: its id tells consumers that it is the
//! same message.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{Channel, Connection};
use tokio::time::Instant;
use tracing::{error, info, warn};

use crate::amqp::{self, AmqpError, step};
use crate::config::Amqp;
use crate::dispatch::Shared;
use crate::failpoint::{self, Point};
use crate::ledger::{Delivered, Pending};
use crate::metrics::Published;
use crate::publish;
use crate::spans::Step;
use crate::wire::{Kind, Outgoing};

/// Messages that are on their way at once.
const WINDOW: usize = 256;
/// How long a confirmation waits to be noted together with others: nobody waits for that, and a
/// commit of its own would keep everything else waiting. What a crash forgets is published again.
const NOTE_WITHIN: Duration = Duration::from_millis(100);
/// A window this large says that more are on their way: together they cost the broker less.
const CROWD: usize = 8;
/// How long is waited for them.
const GATHER: Duration = Duration::from_millis(2);
/// Wait before what was returned or refused is tried again, and for a signal that was lost.
const AGAIN_EVERY: Duration = Duration::from_secs(1);

/// The publishing side of a worker.
pub struct Outbox {
    settings: Amqp,
    shared: Arc<Shared>,
    /// Messages can be published.
    pub publishing: AtomicBool,
    confirmed: Mutex<Vec<Delivered>>,
}

impl Outbox {
    /// An outbox that has not been started.
    pub fn new(settings: Amqp, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            shared,
            publishing: AtomicBool::new(false),
            confirmed: Mutex::default(),
        }
    }

    /// One session: connect, publish until something ends it. `flushed` ends it once
    /// nothing is left.
    pub async fn session(
        &self,
        drain: &tokio_util::sync::CancellationToken,
    ) -> Result<(), AmqpError> {
        let connection = amqp::connect(&self.settings, "rescind outbox").await?;
        let ended = self.publish_all(&connection, drain).await;
        self.publishing.store(false, Ordering::Release);
        self.note().await;
        amqp::close(&connection).await;
        ended
    }

    /// Holds intake and dispatch while more waits than may. Never ends by itself.
    pub async fn mind_the_bound(&self) {
        loop {
            tokio::time::sleep(AGAIN_EVERY).await;
            let most = self.shared.hold.counts_to();
            let Ok(messages) = self.shared.ledger.unpublished(most).await else {
                continue;
            };
            match self.shared.hold.look(messages) {
                Some(true) => warn!(
                    messages,
                    "too many messages wait for the broker (amqp.max_unpublished); nothing is taken in or begun until half of that is published"
                ),
                Some(false) => info!(messages, "published enough; going on"),
                None => {}
            }
            self.shared.metrics.held(self.shared.hold.is_on());
        }
    }

    async fn publish_all(
        &self,
        connection: &Connection,
        drain: &tokio_util::sync::CancellationToken,
    ) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let channel = publish::channel(connection).await?;
        self.publishing.store(true, Ordering::Release);
        let channels = [&channel];
        tokio::select! {
            ended = self.windows(connection, &channel, drain) => ended,
            () = amqp::watch(connection, &channels) => Err(AmqpError::Lost),
        }
    }

    async fn windows(
        &self,
        connection: &Connection,
        channel: &Channel,
        drain: &tokio_util::sync::CancellationToken,
    ) -> Result<(), AmqpError> {
        // Rows up to here were tried in this round; what came back waits for the next one
        // and keeps nothing behind it waiting.
        let mut tried = 0;
        let mut noted_at = Instant::now();
        loop {
            if self.to_note() >= WINDOW || noted_at.elapsed() >= NOTE_WITHIN {
                self.note().await;
                noted_at = Instant::now();
            }
            if connection.status().blocked() {
                // An alarm at the broker: whatever is sent now would hang.
                tokio::time::sleep(AGAIN_EVERY).await;
                continue;
            }
            let window = match self.shared.ledger.pending(tried, WINDOW).await {
                Ok(window) => window,
                Err(error) => {
                    error!(%error, "cannot read the outbox; trying again");
                    tokio::time::sleep(AGAIN_EVERY).await;
                    continue;
                }
            };
            if let Some(last) = window.last() {
                tried = last.seq;
                let crowd = (CROWD..WINDOW).contains(&window.len());
                self.publish_window(connection, channel, window).await?;
                if crowd && !drain.is_cancelled() {
                    tokio::time::sleep(GATHER).await;
                }
                continue;
            }
            if drain.is_cancelled() {
                return Ok(());
            }
            let wait = match self.to_note() {
                0 => AGAIN_EVERY,
                _ => NOTE_WITHIN,
            };
            tokio::select! {
                () = self.shared.outbox.notified() => continue,
                () = tokio::time::sleep(wait) => {}
                () = drain.cancelled() => {}
            }
            // Or else it would be found, and published, once more.
            self.note().await;
            if wait == AGAIN_EVERY || drain.is_cancelled() {
                tried = 0;
            }
        }
    }

    fn to_note(&self) -> usize {
        let confirmed = self.confirmed.lock();
        confirmed.unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Marks what was confirmed. If this fails it is published again, under the same ids.
    async fn note(&self) {
        let confirmed = {
            let mut confirmed = self
                .confirmed
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *confirmed)
        };
        if confirmed.is_empty() {
            return;
        }
        let noting = self
            .shared
            .ledger
            .published(confirmed, (self.shared.clock)());
        if let Err(error) = noting.await {
            error!(%error, "cannot mark messages as published");
        }
    }

    async fn publish_window(
        &self,
        connection: &Connection,
        channel: &Channel,
        window: Vec<Pending>,
    ) -> Result<(), AmqpError> {
        let messages = window
            .iter()
            .map(|pending| (self.exchange(pending.message.kind), &pending.message));
        let spans = &self.shared.spans;
        // Dropped without a word, and with it ended, where the window fails as a whole.
        let steps: Vec<Step> = messages
            .clone()
            .map(|(exchange, message)| spans.publication(exchange, message))
            .collect();
        let fates = publish::window(channel, messages).await?;
        told(steps, &fates);
        failpoint::pass(Point::AfterPublish);
        self.count(&window, &fates);
        let confirmed: Vec<&Pending> = window
            .iter()
            .zip(&fates)
            .filter(|(_, fate)| **fate == Published::Confirmed)
            .map(|(pending, _)| pending)
            .collect();
        self.confirmed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(confirmed.iter().map(|pending| pending.delivered()));
        self.reply(connection, &confirmed).await;
        Ok(())
    }

    fn exchange(&self, kind: Kind) -> &str {
        match kind {
            Kind::DeadLetter => &self.settings.dead_exchange,
            Kind::Result | Kind::Correction | Kind::Notification => &self.settings.results_exchange,
        }
    }

    fn count(&self, window: &[Pending], fates: &[Published]) {
        let metrics = &self.shared.metrics;
        let now = (self.shared.clock)();
        for (pending, &fate) in window.iter().zip(fates) {
            let message = &pending.message;
            metrics.publication(message.kind, fate);
            match (fate, &pending.about) {
                (Published::Confirmed, Some(about)) => {
                    let took = crate::backoff::elapsed(about.received_at, now);
                    metrics.end_to_end(&about.provider, &about.outcome, took);
                }
                (Published::Confirmed, None) => {}
                (status, _) => {
                    warn!(message_id = %message.id, routing_key = message.routing_key, ?status, "not delivered; it will be tried again");
                }
            }
        }
    }

    /// A convenience beside the real result: a copy to the publisher's own queue, on a
    /// channel of its own since the broker closes it where that is not allowed.
    async fn reply(&self, connection: &Connection, confirmed: &[&Pending]) {
        if !self.settings.reply_to {
            return;
        }
        let messages = confirmed.iter().map(|pending| &pending.message);
        for message in messages.filter(|message| message.kind == Kind::Result) {
            let Some(queue) = &message.properties.reply_to else {
                continue;
            };
            if let Err(error) = copy(connection, queue, message).await {
                warn!(message_id = %message.id, %error, "the copy for reply_to was not delivered");
            }
        }
    }
}

fn told(steps: Vec<Step>, fates: &[Published]) {
    for (mut step, fate) in steps.into_iter().zip(fates) {
        match fate {
            Published::Confirmed => {}
            Published::Returned => step.failed("returned"),
            Published::Nacked => step.failed("nacked"),
        }
    }
}

async fn copy(connection: &Connection, queue: &str, message: &Outgoing) -> Result<(), AmqpError> {
    let channel = step("open a channel", connection.create_channel()).await?;
    let options = BasicPublishOptions::default();
    let publishing = channel.basic_publish(
        "".into(),
        queue.into(),
        options,
        &message.body,
        publish::properties(message),
    );
    step("publish", publishing).await?;
    step("close a channel", channel.close(200, "done".into())).await
}
