//! Bytes to nouns: the request that comes in, and the form of every message that goes out. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::job::is_account_name;
use crate::names::names;

mod request;

pub use request::{
    Misunderstood, Understood, content_digest, glimpse, is_too_large, read_new_request,
    read_request,
};

/// Namespace of every identifier that Rescind derives.
const NAMESPACE: Uuid = Uuid::from_u128(0x7265_7363_696e_6400_8000_6361_6e63_656c);

/// An id that is the same whenever and wherever it is made of this name.
pub(crate) fn derived(name: impl AsRef<[u8]>) -> Uuid {
    Uuid::new_v5(&NAMESPACE, name.as_ref())
}

/// The idempotency key that a provider sees: the same for every send of one cancellation,
/// and the same again after the loss of everything but the request.
pub fn idempotency_key(provider: &str, request_id: &str) -> String {
    derived(format!("cancel\n{provider}\n{request_id}")).to_string()
}

/// A message to be published; results, corrections and dead letters wait for that in the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Outgoing {
    /// `message_id`; for a result also its `result_id`.
    pub id: Uuid,
    /// Which exchange and which metric.
    pub kind: Kind,
    /// Routing key.
    pub routing_key: String,
    /// Everything beside the body.
    pub properties: Properties,
    /// The bytes that every publication repeats.
    pub body: Vec<u8>,
}

names! {
    /// What a message of ours is, in the ledger and in metrics.
    Kind {
        /// The one result of a request.
        Result = "result",
        /// A later finding that contradicts it.
        Correction = "correction",
        /// A request that a person has to look at.
        DeadLetter = "dead_letter",
        /// A provider's notification, passed on.
        Notification = "notification",
    }
}

/// The exchanges that a worker publishes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// What consumers are told.
    Results,
    /// What a person has to look at.
    Dead,
}

impl Kind {
    /// Where a message of this kind is published.
    pub const fn route(self) -> Route {
        match self {
            Self::Result | Self::Correction | Self::Notification => Route::Results,
            Self::DeadLetter => Route::Dead,
        }
    }
}

names! {
    /// How a publication ended.
    Receipt {
        /// The broker has it in a queue.
        Confirmed = "confirmed",
        /// No queue wanted it.
        Returned = "returned",
        /// The broker could not take it.
        Nacked = "nacked",
    }
}

/// AMQP properties and headers of an outgoing message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct Properties {
    /// `correlation_id`
    pub correlation_id: Option<String>,
    /// `type`
    pub message_type: Option<String>,
    /// Where a copy is wanted (`amqp.reply_to`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<String>,
    /// Seconds since the epoch.
    pub timestamp: i64,
    /// Flat headers.
    pub headers: BTreeMap<String, Header>,
}

/// A flat header value: nothing else survives a change of protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Header {
    /// A count.
    Count(i64),
    /// Text.
    Text(String),
}

/// A delivery as the broker gave it, kept with the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope {
    /// The bytes exactly as received.
    pub body: Vec<u8>,
    /// `correlation_id` of the delivery.
    pub correlation_id: Option<String>,
    /// `reply_to` of the delivery.
    pub reply_to: Option<String>,
    /// W3C trace context, passed through.
    pub traceparent: Option<String>,
    /// W3C trace state, passed through.
    pub tracestate: Option<String>,
    /// When it was taken in.
    pub received_at: Timestamp,
}

impl Envelope {
    /// The trace that the publisher's `traceparent` names: `00-<trace id>-<span id>-<flags>`.
    pub fn trace_id(&self) -> Option<&str> {
        let id = self.traceparent.as_deref()?.split('-').nth(1)?;
        (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then_some(id)
    }
}

/// `00-<32 digits>-<16 digits>-<2 digits>`, lower-case hexadecimal: W3C's header, version 0.
pub fn is_traceparent(text: &str) -> bool {
    let hex = |part: &str| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let parts: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = parts.iter().map(|part| part.len()).collect();
    lengths == [2, 32, 16, 2] && parts[0] == "00" && parts.iter().all(|part| hex(part))
}

/// A header of a published notification: when the provider's call was received.
pub const RECEIVED_AT: &str = "rescind-received-at";
/// Before the names of the provider's own headers.
pub const HTTP_HEADER: &str = "http-";

/// A provider's notification, byte by byte, with the headers that verify it. `id` is unique.
pub fn notification(
    provider: &str,
    id: Uuid,
    headers: impl Iterator<Item = (&'static str, String)>,
    body: Vec<u8>,
    received_at: Timestamp,
) -> Outgoing {
    let mut all: BTreeMap<String, Header> = headers
        .map(|(name, value)| (format!("{HTTP_HEADER}{name}"), Header::Text(value)))
        .collect();
    let received = Header::Text(received_at.to_string());
    all.insert(RECEIVED_AT.to_owned(), received);
    Outgoing {
        id,
        kind: Kind::Notification,
        routing_key: format!("notification.{provider}"),
        properties: Properties {
            message_type: Some("provider.notification".to_owned()),
            timestamp: received_at.as_second(),
            headers: all,
            ..Properties::default()
        },
        body,
    }
}

/// The account in the key of a notification.
pub fn notified_provider(routing_key: &str) -> Option<&str> {
    routing_key
        .strip_prefix("notification.")
        .filter(|name| is_account_name(name))
}

/// The same for every repetition of a provider's event.
pub fn event_id(provider: &str, event: &str) -> Uuid {
    derived(format!("notification\n{provider}\n{event}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_traceparent_is_one() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_traceparent(good));
        let long = format!("{good}-x");
        for bad in [
            "",
            "00",
            good.trim_start_matches('0'),
            &good.to_uppercase(),
            &long,
            "ff-x-y-z",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn the_key_is_a_uuid_that_depends_on_account_and_request_only() {
        let key = idempotency_key("midtrans", "r-1");
        assert_eq!(key.len(), 36);
        assert_eq!(key, idempotency_key("midtrans", "r-1"));
        assert_ne!(key, idempotency_key("midtrans", "r-2"));
        assert_ne!(key, idempotency_key("midtrans2", "r-1"));
    }
}
