//! Bytes to nouns: the request that comes in, and the form of every message that goes out. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::job::{Amount, Currency, Job};
use crate::outcome::Invalid;
use crate::providers::{Asked, Provider};
use crate::reading::shorten;
use crate::strict::{self, Member};

/// Largest request that is understood, in bytes.
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest message that is searched for a `request_id`, in bytes.
pub const SEARCHED_BYTES_MAX: usize = 1024 * 1024;
/// Stands where no provider could be read.
pub const UNKNOWN_PROVIDER: &str = "unknown";

/// Namespace of every identifier that Rescind derives.
pub(crate) const NAMESPACE: Uuid = Uuid::from_u128(0x7265_7363_696e_6400_8000_6361_6e63_656c);

/// A request as published, before its provider's kind has read the payment.
#[derive(Deserialize)]
struct Body<'a> {
    request_id: String,
    provider: String,
    #[serde(deserialize_with = "strict::object")]
    payment: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    amount: Member<String>,
    #[serde(default)]
    currency: Member<String>,
    #[serde(default)]
    reason: Member<String>,
    #[serde(default)]
    deadline: Member<String>,
    #[serde(default, borrow)]
    metadata: Member<&'a RawValue>,
}

/// A request that was understood.
#[derive(Debug, Clone)]
pub struct Understood {
    /// What is to be done.
    pub job: Job,
    /// SHA-256 of the content, independent of white space and the order of keys.
    pub digest: [u8; 32],
}

/// A request that was not understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misunderstood {
    /// The id, where it could be read.
    pub request_id: Option<String>,
    /// The provider, where it could be read.
    pub provider: Option<String>,
    /// Why.
    pub reason: Invalid,
    /// One sentence for the publisher.
    pub detail: String,
}

/// Reads a request that was taken. `provider_of` gives the adapter of a configured account.
pub fn read_request(
    bytes: &[u8],
    provider_of: impl Fn(&str) -> Option<&'static dyn Provider>,
) -> Result<Understood, Misunderstood> {
    read(bytes, parse(bytes)?, provider_of)
}

/// The same for one that is new: its form has to be exactly right, and it has to fit into a ledger.
pub fn read_new_request(
    bytes: &[u8],
    provider_of: impl Fn(&str) -> Option<&'static dyn Provider>,
) -> Result<Understood, Misunderstood> {
    let schema = |why: String| misunderstood(bytes, Invalid::Schema, why);
    let body = parse(bytes)?;
    check_new(bytes, &body).map_err(schema)?;
    let read = read(bytes, body, provider_of)?;
    read.job.payment.check_length().map_err(schema)?;
    Ok(read)
}

fn parse(bytes: &[u8]) -> Result<Body<'_>, Misunderstood> {
    if bytes.len() > REQUEST_BYTES_MAX {
        let detail = format!(
            "the message has {} bytes; at most {REQUEST_BYTES_MAX} are taken",
            bytes.len()
        );
        return Err(misunderstood(bytes, Invalid::TooLarge, detail));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let reason = match error.classify() {
            serde_json::error::Category::Data => Invalid::Schema,
            _ => Invalid::NotJson,
        };
        let detail = format!("the request cannot be read: {error}");
        misunderstood(bytes, reason, detail)
    })
}

fn read(
    bytes: &[u8],
    body: Body<'_>,
    provider_of: impl Fn(&str) -> Option<&'static dyn Provider>,
) -> Result<Understood, Misunderstood> {
    let schema = |detail: String| misunderstood(bytes, Invalid::Schema, detail);
    check_form(&body).map_err(schema)?;
    let Some(provider) = provider_of(&body.provider) else {
        let detail = format!("no provider named {:?} is configured", body.provider);
        return Err(misunderstood(bytes, Invalid::UnknownProvider, detail));
    };
    let digest = digest(&body).map_err(schema)?;
    let job = understand(body, provider).map_err(schema)?;
    Ok(Understood { job, digest })
}

/// What is not asked of a request that an earlier version took.
fn check_new(bytes: &[u8], body: &Body<'_>) -> Result<(), String> {
    if !strict::is_object(bytes) {
        return Err("the request must be an object".into());
    }
    let nulls = [
        ("amount", body.amount.is_null()),
        ("currency", body.currency.is_null()),
        ("reason", body.reason.is_null()),
        ("deadline", body.deadline.is_null()),
        ("metadata", body.metadata.is_null()),
    ];
    if let Some((name, _)) = nulls.into_iter().find(|(_, is_null)| *is_null) {
        return Err(format!("{name} is null; leave it out, or give it a value"));
    }
    match body.deadline.get() {
        Some(text) if !strict::is_date_time(text) => Err(not_a_time(text)),
        _ => Ok(()),
    }
}

fn check_form(body: &Body<'_>) -> Result<(), String> {
    if !is_request_id(&body.request_id) {
        return Err("request_id must match ^[A-Za-z0-9._:-]{1,128}$".into());
    }
    if !is_provider_name(&body.provider) {
        return Err("provider must match ^[a-z0-9_-]{1,64}$".into());
    }
    if body.payment.is_empty() {
        return Err("payment is empty".into());
    }
    if body
        .reason
        .get()
        .is_some_and(|reason| reason.chars().count() > 255)
    {
        return Err("reason has more than 255 characters".into());
    }
    if body
        .metadata
        .get()
        .is_some_and(|metadata| !metadata.get().starts_with('{'))
    {
        return Err("metadata must be an object".into());
    }
    Ok(())
}

fn understand(body: Body<'_>, provider: &'static dyn Provider) -> Result<Job, String> {
    let amount = body
        .amount
        .get()
        .map(|text| Amount::parse(text))
        .transpose()
        .map_err(|error| error.to_string())?;
    let currency = body
        .currency
        .get()
        .map(|code| {
            Currency::parse(code).ok_or(format!("currency {code:?} is not known to ISO 4217"))
        })
        .transpose()?;
    let deadline = body.deadline.get();
    let deadline = deadline.map(|text| point_in_time(text)).transpose()?;
    if amount.is_some_and(Amount::is_zero) {
        return Err("amount is zero; leave it out to cancel the whole payment".into());
    }
    let asked = Asked {
        payment: &body.payment,
        amount,
        currency,
    };
    let payment = provider.payment(&asked)?;
    Ok(Job {
        request_id: body.request_id,
        provider: body.provider,
        payment,
        amount,
        currency,
        reason: body.reason.into_option(),
        deadline,
    })
}

/// The last hours of the year 9999, in which others write that there is no end, are beyond what a
/// timestamp holds.
fn point_in_time(text: &str) -> Result<Timestamp, String> {
    match text.parse() {
        Ok(time) => Ok(time),
        Err(_) if strict::is_date_time(text) && text.starts_with("9999-12-3") => Ok(Timestamp::MAX),
        Err(_) => Err(not_a_time(text)),
    }
}

fn not_a_time(text: &str) -> String {
    format!("deadline {text:?} is not an RFC 3339 time, e.g. 2026-11-29T18:00:00Z")
}

/// Content, not bytes: a publisher that serialises again has not changed its mind. Metadata that few
/// can read (a number beyond all bounds, half a character, a depth without end) is none.
fn digest(body: &Body<'_>) -> Result<[u8; 32], String> {
    let metadata = body.metadata.get().map_or("null", |raw| raw.get());
    let metadata: serde_json::Value = serde_json::from_str(metadata)
        .map_err(|error| format!("metadata cannot be read: {error}"))?;
    let content = (
        &body.provider,
        &body.payment,
        body.amount.get(),
        body.currency.get(),
        body.reason.get(),
        body.deadline.get(),
        metadata,
    );
    Ok(Sha256::digest(serde_json::to_vec(&content).unwrap_or_default()).into())
}

/// `request_id` and `provider` of what may be no request, where they can be read and are names.
pub fn glimpse(bytes: &[u8]) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct Glimpse {
        request_id: Option<serde_json::Value>,
        provider: Option<serde_json::Value>,
    }
    let glimpse = (bytes.len() <= SEARCHED_BYTES_MAX && strict::is_object(bytes))
        .then(|| serde_json::from_slice::<Glimpse>(bytes).ok())
        .flatten();
    let text = |value: Option<serde_json::Value>| value?.as_str().map(str::to_owned);
    let (request_id, provider) = glimpse.map_or((None, None), |glimpse| {
        (text(glimpse.request_id), text(glimpse.provider))
    });
    (
        request_id.filter(|id| is_request_id(id)),
        provider.filter(|name| is_provider_name(name)),
    )
}

fn misunderstood(bytes: &[u8], reason: Invalid, detail: String) -> Misunderstood {
    let (request_id, provider) = glimpse(bytes);
    Misunderstood {
        request_id,
        provider,
        reason,
        // It holds the publisher's own words, and is to fit into a header.
        detail: shorten(&detail),
    }
}

/// `^[A-Za-z0-9._:-]{1,128}$`
pub fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
}

/// `^[a-z0-9_-]{1,64}$`
pub fn is_provider_name(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"_-".contains(&b))
}

/// The idempotency key that a provider sees: the same for every send of one cancellation,
/// and the same again after the loss of everything but the request.
pub fn idempotency_key(provider: &str, request_id: &str) -> String {
    Uuid::new_v5(
        &NAMESPACE,
        format!("cancel\n{provider}\n{request_id}").as_bytes(),
    )
    .to_string()
}

/// A message that waits in the outbox until the broker has confirmed it.
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

/// What a message of ours is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The one result of a request.
    Result,
    /// A later finding that contradicts it.
    Correction,
    /// A request that a person has to look at.
    DeadLetter,
    /// A provider's notification, passed on.
    Notification,
}

impl Kind {
    /// Every kind, in the order of the metric's labels.
    pub const ALL: [Self; 4] = [
        Self::Result,
        Self::Correction,
        Self::DeadLetter,
        Self::Notification,
    ];

    /// Name in the ledger and in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Correction => "correction",
            Self::DeadLetter => "dead_letter",
            Self::Notification => "notification",
        }
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

/// `00-<32 digits>-<16 digits>-<2 digits>`, hexadecimal and small: W3C's header, version 0.
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

/// The same for every repetition of a provider's event.
pub fn event_id(provider: &str, event: &str) -> Uuid {
    let name = format!("notification\n{provider}\n{event}");
    Uuid::new_v5(&NAMESPACE, name.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::PAYMENT_KEY_BYTES_MAX;

    fn no_provider(_: &str) -> Option<&'static dyn Provider> {
        None
    }

    fn midtrans(_: &str) -> Option<&'static dyn Provider> {
        crate::providers::by_kind("midtrans")
    }

    #[test]
    fn what_cannot_be_understood_says_why_and_whose_it_was() {
        let cases: [(&[u8], Invalid, Option<&str>); 7] = [
            (b"{", Invalid::NotJson, None),
            (b"\xff\xfe", Invalid::NotJson, None),
            (br#"{"request_id":"a"}"#, Invalid::Schema, Some("a")),
            (
                br#"{"request_id":"a b","provider":"x","payment":{"a":1}}"#,
                Invalid::Schema,
                None,
            ),
            (
                br#"{"request_id":"a","provider":"x","payment":{}}"#,
                Invalid::Schema,
                Some("a"),
            ),
            (
                br#"{"request_id":"a","provider":"x","payment":{"k":"v"}}"#,
                Invalid::UnknownProvider,
                Some("a"),
            ),
            // Two readers may see two payments.
            (
                br#"{"request_id":"a","provider":"x","payment":{"k":"v","k":"w"}}"#,
                Invalid::Schema,
                Some("a"),
            ),
        ];
        for (bytes, reason, id) in cases {
            let error = read_request(bytes, no_provider).expect_err("understood");
            assert_eq!(
                (error.reason, error.request_id.as_deref()),
                (reason, id),
                "{bytes:?}"
            );
        }
    }

    /// It is echoed as it came, to whoever reads the result.
    #[test]
    fn metadata_that_not_everybody_can_read_is_not_understood() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        for (metadata, fits) in [
            (r#"{"a":[1e300,"\ud83d\ude00"]}"#, true),
            (r#"{"a":1e400}"#, false),
            (r#"{"a":"\ud800"}"#, false),
            (&deep, false),
        ] {
            let message = format!(
                r#"{{"request_id":"a","provider":"m","payment":{{"order_id":"o"}},"metadata":{metadata}}}"#
            );
            let reason = read_new_request(message.as_bytes(), midtrans).err();
            let reason = reason.map(|why| why.reason);
            let expected = (!fits).then_some(Invalid::Schema);
            assert_eq!(reason, expected, "{metadata}");
        }
    }

    /// A stored request is read as the version read it that took it.
    #[test]
    fn a_new_request_has_exactly_its_form_and_a_stored_one_stays_readable() {
        for message in [
            r#"["a","m",{"order_id":"o"}]"#,
            r#"{"request_id":"a","provider":"m","payment":{"order_id":"o"},"amount":null}"#,
            r#"{"request_id":"a","provider":"m","payment":{"order_id":"o"},"metadata":null}"#,
            r#"{"request_id":"a","provider":"m","payment":{"order_id":"o"},"deadline":"2026-11-29T18Z"}"#,
        ] {
            let new = read_new_request(message.as_bytes(), midtrans).err();
            let reason = new.map(|why| why.reason);
            assert_eq!(reason, Some(Invalid::Schema), "{message}");
            let stored = read_request(message.as_bytes(), midtrans);
            assert!(stored.is_ok(), "{message}");
        }
    }

    #[test]
    fn a_deadline_may_be_the_end_of_all_times() {
        let deadline = |text: &str| {
            let message = format!(
                r#"{{"request_id":"a","provider":"m","payment":{{"order_id":"o"}},"deadline":"{text}"}}"#
            );
            let read = read_new_request(message.as_bytes(), midtrans);
            read.ok().and_then(|read| read.job.deadline)
        };
        let last = Some(Timestamp::MAX);
        assert_eq!(deadline("9999-12-31T23:59:59Z"), last);
        assert_eq!(deadline("9999-12-31T23:59:59.999999999-12:00"), last);
        let early = deadline("2026-11-29t18:00:00.5+07:00").map(|time| time.to_string());
        assert_eq!(early.as_deref(), Some("2026-11-29T11:00:00.5Z"));
        assert_eq!(deadline("9999-13-31T23:59:59Z"), None);
        assert_eq!(deadline("2026-02-30T00:00:00Z"), None);
    }

    #[test]
    fn a_payment_whose_ids_are_too_long_is_not_understood() {
        let read = |id: &str| {
            let message =
                format!(r#"{{"request_id":"a","provider":"m","payment":{{"order_id":"{id}"}}}}"#);
            read_new_request(message.as_bytes(), midtrans)
        };
        let longest = PAYMENT_KEY_BYTES_MAX - "order_id:".len();
        assert!(read(&"x".repeat(longest)).is_ok());
        let error = read(&"x".repeat(longest + 1)).expect_err("understood");
        assert_eq!(error.reason, Invalid::Schema);
        assert!(
            error.detail.contains("1025 bytes; at most 1024"),
            "{error:?}"
        );
    }

    #[test]
    fn the_id_of_a_message_over_the_limit_is_still_read() {
        let filler = "x".repeat(REQUEST_BYTES_MAX);
        let message =
            format!(r#"{{"request_id":"big","provider":"x","payment":{{"k":"{filler}"}}}}"#);
        let error = read_request(message.as_bytes(), no_provider).expect_err("understood");
        assert_eq!(
            (error.reason, error.request_id.as_deref()),
            (Invalid::TooLarge, Some("big"))
        );
    }

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
