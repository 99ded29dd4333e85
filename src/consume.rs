//! Reads a queue in batches, and notices when the broker has forgotten that it is read.
//!
//! A consumer can be gone at the broker while connection, channel and subscription look well
//! from here. So whenever nothing has come for a while, the broker is asked how many messages wait.

use std::future::Future;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::ReadyChunks;
use lapin::message::Delivery;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, Channel, Connection, Consumer};
use tokio::time::Instant;

use crate::amqp::{AmqpError, PRECONDITION_FAILED, STEP, open_channel, step, step_within};

/// How long nothing may come before the broker is asked.
const SILENCE: Duration = Duration::from_secs(5);
/// Longest wait for an answer that may come behind deliveries.
const ANSWER: Duration = Duration::from_secs(30);

/// A subscription.
pub(crate) struct Batches {
    queue: String,
    channel: Channel,
    deliveries: ReadyChunks<Consumer>,
    silence: Silence,
}

/// It goes on while nobody waits for deliveries: whoever does so may have other things to do now and then.
struct Silence {
    /// When something came, or the broker was asked.
    since: Instant,
    /// Nothing came, and the queue held something: once may be chance.
    suspicious: bool,
}

impl Silence {
    /// Something came.
    fn broken() -> Self {
        Self {
            since: Instant::now(),
            suspicious: false,
        }
    }

    /// What comes next; None if there was nothing for too long.
    async fn until<T>(&self, next: impl Future<Output = T>) -> Option<T> {
        tokio::time::timeout_at(self.since + SILENCE, next)
            .await
            .ok()
    }
}

/// A channel with a prefetch.
pub(crate) async fn channel(connection: &Connection, prefetch: u16) -> Result<Channel, AmqpError> {
    let channel = open_channel(connection).await?;
    let options = BasicQosOptions::default();
    step("set the prefetch", channel.basic_qos(prefetch, options)).await?;
    Ok(channel)
}

/// Whether this user may read the queue. The broker judges that first, and then refuses the priority, which is no number:
/// nobody subscribes.
pub(crate) async fn probe(connection: &Connection, queue: &str) -> Result<(), AmqpError> {
    // Should a broker take it for a number, one message is here until the channel closes.
    let channel = channel(connection, 1).await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-priority".into(), AMQPValue::LongString("none".into()));
    let options = BasicConsumeOptions::default();
    let consuming = channel.basic_consume(queue.into(), "".into(), options, arguments);
    match step("subscribe", consuming).await {
        Ok(_) => step("close a channel", channel.close(200, "done".into())).await,
        Err(error) if matches!(error.refusal(), Some((PRECONDITION_FAILED, _))) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Acknowledges a delivery and all older ones of its channel.
pub(crate) async fn acknowledge(last: &Acker) -> Result<(), AmqpError> {
    acknowledge_by(last, true).await
}

/// Acknowledges a delivery alone: older ones may not be done.
pub(crate) async fn acknowledge_alone(acker: &Acker) -> Result<(), AmqpError> {
    acknowledge_by(acker, false).await
}

async fn acknowledge_by(acker: &Acker, multiple: bool) -> Result<(), AmqpError> {
    let acking = acker.ack(BasicAckOptions { multiple });
    if step("acknowledge", acking).await? {
        Ok(())
    } else {
        Err(AmqpError::Lost)
    }
}

impl Batches {
    /// Subscribes to a queue; a batch has `most` deliveries at most.
    pub(crate) async fn of(channel: &Channel, queue: &str, most: usize) -> Result<Self, AmqpError> {
        Self::within(STEP, channel, queue, most).await
    }

    /// The same on a connection on which another queue is read: the answer may come behind all that is being
    /// delivered.
    pub(crate) async fn beside_others(
        channel: &Channel,
        queue: &str,
        most: usize,
    ) -> Result<Self, AmqpError> {
        Self::within(ANSWER, channel, queue, most).await
    }

    async fn within(
        longest: Duration,
        channel: &Channel,
        queue: &str,
        most: usize,
    ) -> Result<Self, AmqpError> {
        let options = BasicConsumeOptions::default();
        let consuming =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = step_within("subscribe", longest, consuming).await?;
        Ok(Self {
            queue: queue.to_owned(),
            channel: channel.clone(),
            deliveries: consumer.ready_chunks(most),
            silence: Silence::broken(),
        })
    }

    /// The deliveries that have come, at least one.
    pub(crate) async fn next(&mut self) -> Result<Vec<Delivery>, AmqpError> {
        loop {
            match self.silence.until(self.deliveries.next()).await {
                Some(Some(batch)) => {
                    self.silence = Silence::broken();
                    let batch: lapin::Result<Vec<Delivery>> = batch.into_iter().collect();
                    return batch.map_err(|error| AmqpError::Protocol("consume", error));
                }
                Some(None) => return Err(AmqpError::Cancelled(self.queue.clone())),
                None => self.ask().await?,
            }
        }
    }

    /// The broker delivers no more for now, since it waits for acknowledgements: nothing follows from its silence.
    pub(crate) fn expect_none(&mut self) {
        self.silence = Silence::broken();
    }

    async fn ask(&mut self) -> Result<(), AmqpError> {
        let options = QueueDeclareOptions {
            passive: true,
            durable: true,
            ..QueueDeclareOptions::default()
        };
        let queue = self.queue.as_str().into();
        let asking = self
            .channel
            .queue_declare(queue, options, FieldTable::default());
        // The answer may come behind all that is being delivered.
        let asked = step_within("look at a queue", ANSWER, asking).await?;
        let waiting = asked.message_count() > 0;
        if waiting && self.silence.suspicious {
            return Err(AmqpError::Forgotten(self.queue.clone()));
        }
        self.silence.since = Instant::now();
        self.silence.suspicious = waiting;
        Ok(())
    }

    /// Ends the subscription. Deliveries that were not acknowledged return to the queue when the channel
    /// closes.
    pub(crate) async fn cancel(self) -> Result<(), AmqpError> {
        let tag = self.deliveries.get_ref().tag();
        let options = BasicCancelOptions::default();
        step("cancel a consumer", self.channel.basic_cancel(tag, options)).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// As an intake does that stores again, every now and then, what it holds.
    #[tokio::test]
    async fn silence_goes_on_while_nobody_waits_for_deliveries() {
        let mut silence = Silence::broken();
        silence.since = Instant::now() + Duration::from_millis(100) - SILENCE;
        let waiting = |most| tokio::time::timeout(most, silence.until(pending::<()>()));
        assert!(waiting(Duration::from_millis(10)).await.is_err());
        assert_eq!(waiting(SILENCE / 2).await, Ok(None));
        // What is there already has come.
        assert_eq!(silence.until(async { 7 }).await, Some(7));
    }
}
