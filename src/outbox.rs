//! Publishes what the ledger holds, until the broker has it in a queue.
//!
//! Persistent, mandatory, confirmed; the stored bytes under the stored id, every time. A
//! publication of unknown fate is simply made again: its id tells consumers that it is the
//! same message.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection};
use tracing::{error, warn};

use crate::amqp::{self, AmqpError, step};
use crate::config::Amqp;
use crate::dispatch::Shared;
use crate::failpoint::{self, Point};
use crate::ledger::Pending;
use crate::metrics::Published;
use crate::wire::{Header, Kind, Outgoing};

/// Messages that are on their way at once.
const WINDOW: usize = 256;
/// Wait before what was returned or refused is tried again, and for a signal that was lost.
const AGAIN_EVERY: Duration = Duration::from_secs(1);

/// The publishing side of a worker.
pub struct Outbox {
    settings: Amqp,
    shared: Arc<Shared>,
    /// Messages can be published.
    pub publishing: AtomicBool,
}

/// How a window of publications ended, by row.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settled {
    confirmed: Vec<usize>,
    returned: Vec<usize>,
    nacked: Vec<usize>,
}

impl Outbox {
    /// An outbox that has not been started.
    pub fn new(settings: Amqp, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            shared,
            publishing: AtomicBool::new(false),
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
        amqp::close(&connection).await;
        ended
    }

    async fn publish_all(
        &self,
        connection: &Connection,
        drain: &tokio_util::sync::CancellationToken,
    ) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let channel = step("open a channel", connection.create_channel()).await?;
        step(
            "ask for confirms",
            channel.confirm_select(ConfirmSelectOptions::default()),
        )
        .await?;
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
        loop {
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
                self.publish_window(connection, channel, window).await?;
                continue;
            }
            if drain.is_cancelled() {
                return Ok(());
            }
            tokio::select! {
                () = self.shared.outbox.notified() => {}
                () = tokio::time::sleep(AGAIN_EVERY) => tried = 0,
                () = drain.cancelled() => tried = 0,
            }
        }
    }

    async fn publish_window(
        &self,
        connection: &Connection,
        channel: &Channel,
        window: Vec<Pending>,
    ) -> Result<(), AmqpError> {
        let settled = self.send(channel, &window).await?;
        failpoint::pass(Point::AfterPublish);
        self.count(&window, &settled);
        let rows: Vec<i64> = settled
            .confirmed
            .iter()
            .map(|&index| window[index].seq)
            .collect();
        if !rows.is_empty() {
            // If this fails they are published again, under the same ids.
            if let Err(error) = self
                .shared
                .ledger
                .published(rows, (self.shared.clock)())
                .await
            {
                error!(%error, "cannot mark messages as published");
            }
            self.reply(connection, &window, &settled).await;
        }
        Ok(())
    }

    /// Publishes a window and settles it as a whole: lapin may attach a returned message to
    /// another message's confirm, so only the ids of the returned ones are believed.
    async fn send(&self, channel: &Channel, window: &[Pending]) -> Result<Settled, AmqpError> {
        let mut confirms = Vec::with_capacity(window.len());
        for pending in window {
            let publishing = channel.basic_publish(
                self.exchange(pending.message.kind).into(),
                pending.message.routing_key.as_str().into(),
                BasicPublishOptions {
                    mandatory: true,
                    ..BasicPublishOptions::default()
                },
                &pending.message.body,
                properties(&pending.message),
            );
            confirms.push(step("publish", publishing).await?);
        }
        let mut answers = Vec::with_capacity(window.len());
        for confirm in confirms {
            answers.push(step("await a confirm", confirm).await?);
        }
        Ok(settle(window, answers))
    }

    fn exchange(&self, kind: Kind) -> &str {
        match kind {
            Kind::DeadLetter => &self.settings.dead_exchange,
            Kind::Result | Kind::Correction | Kind::Notification => &self.settings.results_exchange,
        }
    }

    fn count(&self, window: &[Pending], settled: &Settled) {
        let metrics = &self.shared.metrics;
        let now = (self.shared.clock)();
        for &index in &settled.confirmed {
            let pending = &window[index];
            metrics.publication(pending.message.kind, Published::Confirmed);
            if let Some(about) = &pending.about {
                let took = crate::backoff::elapsed(about.received_at, now);
                metrics.end_to_end(&about.provider, &about.outcome, took);
            }
        }
        for (rows, status) in [
            (&settled.returned, Published::Returned),
            (&settled.nacked, Published::Nacked),
        ] {
            for &index in rows {
                let message = &window[index].message;
                metrics.publication(message.kind, status);
                warn!(message_id = %message.id, routing_key = message.routing_key, ?status, "not delivered; it will be tried again");
            }
        }
    }

    /// A convenience beside the real result: a copy to the publisher's own queue, on a
    /// channel of its own since the broker closes it where that is not allowed.
    async fn reply(&self, connection: &Connection, window: &[Pending], settled: &Settled) {
        if !self.settings.reply_to {
            return;
        }
        let confirmed = settled
            .confirmed
            .iter()
            .map(|&index| &window[index].message);
        for message in confirmed.filter(|message| message.kind == Kind::Result) {
            let Some(queue) = &message.properties.reply_to else {
                continue;
            };
            if let Err(error) = copy(connection, queue, message).await {
                warn!(message_id = %message.id, %error, "the copy for reply_to was not delivered");
            }
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
        properties(message),
    );
    step("publish", publishing).await?;
    step("close a channel", channel.close(200, "done".into())).await
}

/// Delivered is what was acknowledged and not returned.
fn settle(window: &[Pending], answers: Vec<Confirmation>) -> Settled {
    let acked: Vec<bool> = answers.iter().map(Confirmation::is_ack).collect();
    let returned: HashSet<String> = answers
        .into_iter()
        .filter_map(Confirmation::take_message)
        .filter_map(|returned| {
            Some(
                returned
                    .delivery
                    .properties
                    .message_id()
                    .as_ref()?
                    .as_str()
                    .to_owned(),
            )
        })
        .collect();
    let mut settled = Settled::default();
    for (index, pending) in window.iter().enumerate() {
        let place = if returned.contains(&pending.message.id.to_string()) {
            &mut settled.returned
        } else if acked[index] {
            &mut settled.confirmed
        } else {
            &mut settled.nacked
        };
        place.push(index);
    }
    settled
}

fn properties(message: &Outgoing) -> BasicProperties {
    let own = &message.properties;
    let mut headers = FieldTable::default();
    for (name, value) in &own.headers {
        let value = match value {
            Header::Count(count) => AMQPValue::LongLongInt(*count),
            Header::Text(text) => AMQPValue::LongString(text.as_str().into()),
        };
        headers.insert(name.as_str().into(), value);
    }
    let timestamp = u64::try_from(own.timestamp).unwrap_or_default();
    let mut properties = BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_app_id("rescind".into())
        .with_message_id(message.id.to_string().as_str().into())
        .with_timestamp(timestamp)
        .with_headers(headers);
    if let Some(correlation_id) = &own.correlation_id {
        properties = properties.with_correlation_id(correlation_id.as_str().into());
    }
    if let Some(message_type) = &own.message_type {
        properties = properties.with_type(message_type.as_str().into());
    }
    properties
}
