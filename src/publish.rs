//! Publishes a window of messages, mandatory and confirmed, and says what became of each.

use std::collections::HashSet;
use std::pin::pin;
use std::time::Duration;

use futures_util::future::{FutureExt as _, maybe_done};
use futures_util::{Stream, StreamExt as _, poll};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event, PublisherConfirm};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::amqp::{AmqpError, STEP, open_channel, step, step_within};
use crate::wire::{Header, Outgoing, Receipt};

/// Throughput of the slowest line to a broker: 2 Mbit/s.
const SLOWEST_BYTES_PER_SECOND: usize = 256 * 1024;

/// A channel on which every publication is confirmed.
pub async fn channel(connection: &Connection) -> Result<Channel, AmqpError> {
    let channel = open_channel(connection).await?;
    let confirms = channel.confirm_select(ConfirmSelectOptions::default());
    step("ask for confirms", confirms).await?;
    Ok(channel)
}

/// A connection on which windows are published, several at once, each on a channel of its own.
pub struct Line<'c> {
    /// The connection.
    pub connection: &'c Connection,
    /// Held while a window is given to the connection, which writes one after the other anyway: the time
    /// of a window that waits here does not run.
    writing: Mutex<()>,
}

impl<'c> Line<'c> {
    /// Over this connection.
    pub fn over(connection: &'c Connection) -> Self {
        Self {
            connection,
            writing: Mutex::new(()),
        }
    }

    /// Publishes messages to exchanges and judges them as a whole: lapin may attach a returned
    /// message to another message's confirm, so only the ids of the returned ones are believed.
    /// One window at a time on a channel.
    pub async fn publish<'m>(
        &self,
        channel: &Channel,
        messages: impl Iterator<Item = (&'m str, &'m Outgoing)> + Clone,
    ) -> Result<Vec<Receipt>, AmqpError> {
        let most = time_for(messages.clone().map(|(_, message)| message));
        let confirms = self.write(channel, messages.clone(), most).await?;
        let mut answers = Vec::with_capacity(confirms.len());
        for confirm in confirms {
            answers.push(self.step("await a confirm", most, confirm).await?);
        }
        Ok(match_confirms(
            messages.map(|(_, message)| message),
            answers,
        ))
    }

    async fn write<'m>(
        &self,
        channel: &Channel,
        messages: impl Iterator<Item = (&'m str, &'m Outgoing)>,
        most: Duration,
    ) -> Result<Vec<PublisherConfirm>, AmqpError> {
        let _writing = self.writing.lock().await;
        // Each is given to the connection by the first poll of its future, in this order, and none is
        // waited for before the last one is given: the connection's thread writes what it finds at
        // once, and a wait for each would make that a write, and two changes of thread, for each.
        let mut sending = Vec::new();
        for (exchange, message) in messages {
            let options = BasicPublishOptions {
                mandatory: true,
                ..BasicPublishOptions::default()
            };
            let mut publishing = Box::pin(maybe_done(channel.basic_publish(
                exchange.into(),
                message.routing_key.as_str().into(),
                options,
                &message.body,
                properties(message),
            )));
            let _first = poll!(publishing.as_mut());
            sending.push(publishing);
        }
        // In their order, so that a slow broker has the time of a step for each, not for all of them.
        let mut confirms = Vec::with_capacity(sending.len());
        for mut publishing in sending {
            let sent = async {
                publishing.as_mut().await;
                publishing.as_mut().take_output().transpose()
            };
            confirms.extend(self.step("publish", most, sent).await?);
        }
        Ok(confirms)
    }

    /// A step whose time does not run while the broker has an alarm: it takes and answers nothing
    /// then, and all that it was given when the alarm is over. A new connection would wait as long,
    /// and the old one's messages would come as well.
    async fn step<T>(
        &self,
        what: &'static str,
        most: Duration,
        future: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, AmqpError> {
        let mut future = pin!(future);
        loop {
            match step_within(what, most, future.as_mut()).await {
                Err(AmqpError::Timeout(..)) if self.connection.status().blocked() => {}
                done => return done,
            }
        }
    }
}

/// A dead letter is as large as its request. A slow line takes its time for it, and for the messages
/// before it.
fn time_for<'m>(messages: impl Iterator<Item = &'m Outgoing>) -> Duration {
    let bytes: usize = messages.map(|message| message.body.len()).sum();
    let seconds = u64::try_from(bytes / SLOWEST_BYTES_PER_SECOND).unwrap_or(u64::MAX);
    STEP.saturating_add(Duration::from_secs(seconds))
}

/// What became of each message: delivered are those that were acknowledged and not returned.
fn match_confirms<'m>(
    messages: impl Iterator<Item = &'m Outgoing>,
    answers: Vec<Confirmation>,
) -> Vec<Receipt> {
    let acked: Vec<bool> = answers.iter().map(Confirmation::is_ack).collect();
    let returned: HashSet<Uuid> = answers
        .into_iter()
        .filter_map(Confirmation::take_message)
        .filter_map(|returned| {
            let id = returned.delivery.properties.message_id().as_ref()?;
            id.as_str().parse().ok()
        })
        .collect();
    messages
        .zip(acked)
        .map(|(message, acked)| match acked {
            _ if returned.contains(&message.id) => Receipt::Returned,
            true => Receipt::Confirmed,
            false => Receipt::Nacked,
        })
        .collect()
}

/// The AMQP properties of a message of ours.
pub fn properties(message: &Outgoing) -> BasicProperties {
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

/// Whether this user may publish to the exchange under the key. The broker judges a publication when it comes, and
/// nobody gets this one: its transaction is rolled back.
pub async fn probe(connection: &Connection, exchange: &str, key: &str) -> Result<(), AmqpError> {
    let mut events = Box::pin(connection.events_listener());
    // What was told before is about other channels.
    while let Some(Some(_)) = events.next().now_or_never() {}
    match probe_once(connection, exchange, key).await {
        // A refusal that comes between two steps has its reason in no answer. During an alarm there is none.
        Err(error) if error.refusal().is_none() && !connection.status().blocked() => {
            Err(refusal_among(events).await.unwrap_or(error))
        }
        probed => probed,
    }
}

/// The first refusal that is told, if one is.
async fn refusal_among(mut events: impl Stream<Item = Event> + Unpin) -> Option<AmqpError> {
    let told = async {
        while let Some(event) = events.next().await {
            let Event::Error(error) = event else { continue };
            let error = AmqpError::Protocol("publish", error);
            if error.refusal().is_some() {
                return Some(error);
            }
        }
        None
    };
    tokio::time::timeout(STEP, told).await.ok().flatten()
}

async fn probe_once(connection: &Connection, exchange: &str, key: &str) -> Result<(), AmqpError> {
    let channel = open_channel(connection).await?;
    step("begin a transaction", channel.tx_select()).await?;
    let publishing = channel.basic_publish(
        exchange.into(),
        key.into(),
        BasicPublishOptions::default(),
        b"",
        BasicProperties::default(),
    );
    step("publish", publishing).await?;
    step("roll back", channel.tx_rollback()).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::tests::rows;
    use crate::wire::Kind;

    #[test]
    fn a_large_message_has_the_time_that_a_slow_line_takes_for_it() {
        let mut rows = rows(0..3, Kind::DeadLetter);
        let time = |rows: &[crate::ledger::Pending]| time_for(rows.iter().map(|row| &row.message));
        assert_eq!(time(&rows), STEP);
        rows[1].message.body = vec![0; 12 * 1024 * 1024];
        assert_eq!(time(&rows), STEP + Duration::from_secs(48));
    }
}
