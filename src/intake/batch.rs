//! Deliveries before their messages are read: how many are stored together, how often each was delivered,
//! and what the broker tells beside the body.

use std::collections::VecDeque;

use lapin::message::Delivery;
use lapin::types::{AMQPValue, ShortString};

use crate::amqp;
use crate::wire::Envelope;

/// Deliveries in one transaction.
pub(super) const BATCH_MAX: usize = 256;
/// Bytes of deliveries in one transaction: of a message that is not understood several copies are stored,
/// and a database takes only so much in its time.
const BATCH_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The first deliveries that fit together, at least one.
pub(super) fn part(batch: &mut VecDeque<Delivery>) -> Vec<Delivery> {
    first_that_fit(batch, |delivery| delivery.data.len())
}

/// The same of what has such a size each; nothing of nothing.
pub(super) fn first_that_fit<T>(all: &mut VecDeque<T>, size: impl Fn(&T) -> usize) -> Vec<T> {
    let mut bytes = 0;
    let fits = |one: &&T| {
        bytes += size(one);
        bytes <= BATCH_BYTES_MAX
    };
    let count = all.iter().take(BATCH_MAX).take_while(fits).count();
    all.drain(..count.max(1).min(all.len())).collect()
}

/// Returns that RabbitMQ 4's quorum queues allow by default: the next one moves a message.
const BROKERS_LIMIT: i64 = 20;

/// How often a quorum queue has delivered this message before. RabbitMQ 4 leaves on a message the count
/// of the queue that it was moved from, for the first delivery, and since 4.3 counts on from there.
pub(super) fn delivery_count(delivery: &Delivery) -> i64 {
    // A publisher may have written such a header itself.
    if !delivery.redelivered {
        return 0;
    }
    let headers = delivery.properties.headers().as_ref();
    let count = match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        _ => 1,
    };
    if count > BROKERS_LIMIT {
        count - BROKERS_LIMIT - 1
    } else {
        count
    }
}

/// The delivery as it is stored; takes the body out of it.
pub(super) fn envelope(delivery: &mut Delivery, now: jiff::Timestamp) -> Envelope {
    let body = std::mem::take(&mut delivery.data);
    let properties = &delivery.properties;
    let text = |value: &ShortString| value.as_str().to_owned();
    Envelope {
        body,
        correlation_id: properties.correlation_id().as_ref().map(text),
        reply_to: properties.reply_to().as_ref().map(text),
        traceparent: amqp::header(delivery, "traceparent").map(str::to_owned),
        tracestate: amqp::header(delivery, "tracestate").map(str::to_owned),
        received_at: now,
    }
}

#[cfg(test)]
mod tests {
    use lapin::types::FieldTable;

    use super::*;

    fn delivered(redelivered: bool, header: Option<i64>) -> i64 {
        let mut delivery = Delivery::mock(1, "".into(), "".into(), redelivered, Vec::new());
        if let Some(count) = header {
            let mut headers = FieldTable::default();
            headers.insert("x-delivery-count".into(), AMQPValue::LongLongInt(count));
            delivery.properties = delivery.properties.with_headers(headers);
        }
        delivery_count(&delivery)
    }

    #[test]
    fn what_is_stored_at_once_is_bounded_in_bytes_and_keeps_its_order() {
        let delivery =
            |tag: u64, bytes| Delivery::mock(tag, "".into(), "".into(), false, vec![0; bytes]);
        let half = BATCH_BYTES_MAX / 2;
        let bytes = [1, half, half, half, 3 * half, 1];
        let mut batch: VecDeque<_> = (1..).zip(bytes).map(|(t, b)| delivery(t, b)).collect();
        let mut parts = Vec::new();
        while !batch.is_empty() {
            let part = part(&mut batch);
            parts.push(part.iter().map(|d| d.delivery_tag).collect::<Vec<_>>());
        }
        assert_eq!(parts, [vec![1, 2], vec![3, 4], vec![5], vec![6]]);
        let mut held: VecDeque<_> = (0..600).collect();
        let mut next = || first_that_fit(&mut held, |_| 1).len();
        assert_eq!([next(), next(), next(), next()], [256, 256, 88, 0]);
    }

    /// As RabbitMQ 3.10, 4.0 and 4.3 tell it, of what was moved after 21 deliveries too.
    #[test]
    fn deliveries_are_counted_in_the_queue_that_they_come_from() {
        for (redelivered, header, count) in [
            (false, None, 0),
            (false, Some(0), 0),
            (false, Some(7), 0),
            (true, None, 1),
            (true, Some(1), 1),
            (true, Some(3), 3),
            (true, Some(21), 0),
            (true, Some(22), 1),
            (true, Some(24), 3),
        ] {
            assert_eq!(delivered(redelivered, header), count, "{header:?}");
        }
    }
}
