//! The request that comes in: bytes to a job, or why not. Pure.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use crate::job::{Amount, Currency, Job, is_account_name};
use crate::outcome::Invalid;
use crate::providers::{Asked, Provider};
use crate::reading::shorten;
use crate::strict::{self, Member};

/// Largest request that is understood, in bytes.
const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// Largest message that is searched for a `request_id`, in bytes.
const SEARCHED_BYTES_MAX: usize = 1024 * 1024;

/// A request as published, before its provider's kind has read the payment.
#[derive(Deserialize)]
struct Body<'a> {
    request_id: String,
    provider: String,
    #[serde(deserialize_with = "strict::object")]
    payment: serde_json::Map<String, Value>,
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

/// A new request that was understood.
#[derive(Debug, Clone)]
pub struct Understood {
    /// The cancellation to carry out.
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

/// Reads a request that was taken, as its account's adapter does today.
pub fn read_request(bytes: &[u8], adapter: &'static dyn Provider) -> Result<Job, Misunderstood> {
    let body = parse(bytes)?;
    check_form(&body)
        .and_then(|()| understand(body, adapter))
        .map_err(|why| misunderstood(bytes, Invalid::Schema, why))
}

/// Reads one that is new: its form has to be exactly right, and it has to fit into a ledger.
/// `provider_of` gives the adapter of a configured account.
pub fn read_new_request(
    bytes: &[u8],
    provider_of: impl Fn(&str) -> Option<&'static dyn Provider>,
) -> Result<Understood, Misunderstood> {
    let schema = |why: String| misunderstood(bytes, Invalid::Schema, why);
    let body = parse(bytes)?;
    check_new(bytes, &body).map_err(schema)?;
    check_form(&body).map_err(schema)?;
    let Some(provider) = provider_of(&body.provider) else {
        let detail = format!("no provider named {:?} is configured", body.provider);
        return Err(misunderstood(bytes, Invalid::UnknownProvider, detail));
    };
    let digest = digest(&body).map_err(schema)?;
    let job = understand(body, provider).map_err(schema)?;
    job.payment.check_length().map_err(schema)?;
    Ok(Understood { job, digest })
}

/// Whether the message is larger than any request may be.
pub fn is_too_large(bytes: &[u8]) -> bool {
    bytes.len() > REQUEST_BYTES_MAX
}

fn parse(bytes: &[u8]) -> Result<Body<'_>, Misunderstood> {
    if is_too_large(bytes) {
        let detail = format!(
            "the message has {} bytes; at most {REQUEST_BYTES_MAX} are taken",
            bytes.len()
        );
        return Err(misunderstood(bytes, Invalid::TooLarge, detail));
    }
    if let Some(what) = another_form(bytes) {
        return Err(misunderstood(bytes, Invalid::NotJson, what.into()));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let detail = format!("the message is not UTF-8: {error}");
        misunderstood(bytes, Invalid::NotJson, detail)
    })?;
    serde_json::from_str(text).map_err(|error| {
        let reason = match error.classify() {
            serde_json::error::Category::Data => Invalid::Schema,
            _ => Invalid::NotJson,
        };
        let detail = match wrong_member(text) {
            Some(what) => what,
            None => format!("the request cannot be read: {error}"),
        };
        misunderstood(bytes, reason, detail)
    })
}

/// What publishers' libraries make of a text by themselves, by its first bytes: no JSON begins so.
fn another_form(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x1f, 0x8b, ..] => Some("the message is compressed with gzip; publish the JSON as it is"),
        [0xef, 0xbb, 0xbf, ..] => {
            Some("the message begins with a byte order mark; publish the JSON without one")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            Some("the message looks like UTF-16; publish the JSON as UTF-8")
        }
        _ => None,
    }
}

/// The member that is missing or has another type than it must have. The parser's own words name a line and a
/// column, which a publisher does not have.
fn wrong_member(text: &str) -> Option<String> {
    let request: Value = serde_json::from_str(text).ok()?;
    let Value::Object(request) = request else {
        return Some("the request must be an object".into());
    };
    let members = [
        ("request_id", true, "a string"),
        ("provider", true, "a string"),
        ("payment", true, "an object"),
        ("amount", false, "a string"),
        ("currency", false, "a string"),
        ("reason", false, "a string"),
        ("deadline", false, "a string"),
    ];
    members.into_iter().find_map(|(name, is_required, wanted)| {
        let found = match request.get(name) {
            None if is_required => return Some(format!("{name} is missing")),
            None => return None,
            Some(Value::Null) if !is_required => return None,
            Some(found) => type_name(found),
        };
        (found != wanted).then(|| format!("{name} must be {wanted}, not {found}"))
    })
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// The rules for a new request. One that an earlier version took may break them.
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
    if !is_account_name(&body.provider) {
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
            Currency::parse(code).ok_or(format!(
                "currency {code:?} is not one of ISO 4217's codes of three capitals"
            ))
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

/// A point in time to the nanosecond, without its zone.
const FINEST: usize = "2026-11-29T18:00:00.123456789".len();

/// The last hours of the year 9999, which some publishers write for "no end", are beyond the range of a
/// timestamp. What is finer than a nanosecond is cut off.
fn point_in_time(text: &str) -> Result<Timestamp, String> {
    let (time, zone) = text.split_at(text.rfind(['Z', 'z', '+', '-']).unwrap_or(text.len()));
    let finest = time.get(..FINEST).filter(|_| strict::is_date_time(text));
    let cut = finest.map(|finest| format!("{finest}{zone}"));
    match cut.as_deref().unwrap_or(text).parse() {
        Ok(time) => Ok(time),
        Err(_) if strict::is_date_time(text) && text.starts_with("9999-12-3") => Ok(Timestamp::MAX),
        Err(_) => Err(not_a_time(text)),
    }
}

fn not_a_time(text: &str) -> String {
    format!("deadline {text:?} is not an RFC 3339 time, e.g. 2026-11-29T18:00:00Z")
}

/// Content, not bytes: a publisher that serialises again has not changed its mind. Metadata that few
/// readers can read (a number beyond all bounds, half a character, a depth without end) is refused.
fn digest(body: &Body<'_>) -> Result<[u8; 32], String> {
    let metadata = body.metadata.get().map_or("null", |raw| raw.get());
    let metadata: Value = serde_json::from_str(metadata)
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

/// What tells two messages of one `request_id` apart: SHA-256 of the content, or of the bytes where they
/// are no request.
pub fn content_digest(bytes: &[u8]) -> [u8; 32] {
    let content = parse(bytes).ok().and_then(|body| digest(&body).ok());
    content.unwrap_or_else(|| Sha256::digest(bytes).into())
}

/// `request_id` and `provider` of a message that may not be a request, where they can be read and are names.
pub fn glimpse(bytes: &[u8]) -> (Option<String>, Option<String>) {
    #[derive(Deserialize)]
    struct Id {
        request_id: Value,
    }
    #[derive(Deserialize)]
    struct Account {
        provider: Value,
    }
    if bytes.len() > SEARCHED_BYTES_MAX || !strict::is_object(bytes) {
        return (None, None);
    }
    let text = |value: Value| value.as_str().map(str::to_owned);
    // Each for itself: one that stands twice says nothing, and hides nothing of the other.
    let id: Option<Id> = serde_json::from_slice(bytes).ok();
    let account: Option<Account> = serde_json::from_slice(bytes).ok();
    let id = id.and_then(|id| text(id.request_id));
    let name = account.and_then(|account| text(account.provider));
    (
        id.filter(|id| is_request_id(id)),
        name.filter(|name| is_account_name(name)),
    )
}

fn misunderstood(bytes: &[u8], reason: Invalid, detail: String) -> Misunderstood {
    let (request_id, provider) = glimpse(bytes);
    Misunderstood {
        request_id,
        provider,
        reason,
        // It may hold the publisher's own words, and has to fit into a header.
        detail: shorten(&detail),
    }
}

/// `^[A-Za-z0-9._:-]{1,128}$`
fn is_request_id(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:-".contains(&b))
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
            let error = read_new_request(bytes, no_provider).expect_err("understood");
            assert_eq!(
                (error.reason, error.request_id.as_deref()),
                (reason, id),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn what_a_library_made_of_a_text_is_named() {
        for (bytes, detail) in [
            (&b"\x1f\x8b\x08"[..], "compressed"),
            (b"\xef\xbb\xbf{}", "byte order mark"),
            (b"\xff\xfe{\0", "UTF-16"),
            (b"\xfe\xff\0{", "UTF-16"),
        ] {
            let error = read_new_request(bytes, midtrans).expect_err("understood");
            assert_eq!(error.reason, Invalid::NotJson);
            assert!(error.detail.contains(detail), "{error:?}");
        }
    }

    #[test]
    fn a_member_that_is_missing_or_of_another_type_is_named() {
        for (members, detail) in [
            (
                r#""provider":"m","payment":{"order_id":"o"}"#,
                "request_id is missing",
            ),
            (
                r#""request_id":7,"provider":"m","payment":{"order_id":"o"}"#,
                "request_id must be a string, not a number",
            ),
            (
                r#""request_id":"a","provider":null,"payment":{"order_id":"o"}"#,
                "provider must be a string, not null",
            ),
            (
                r#""request_id":"a","provider":"m","payment":"o""#,
                "payment must be an object, not a string",
            ),
            (
                r#""request_id":"a","provider":"m","payment":{"order_id":"o"},"amount":50.0"#,
                "amount must be a string, not a number",
            ),
            (
                r#""request_id":"a","provider":"m","payment":{"order_id":"o"},"amount":null,"deadline":1"#,
                "deadline must be a string, not a number",
            ),
            (
                r#""request_id":"a","provider":"m","payment":{"order_id":"o","order_id":"p"}"#,
                "the request cannot be read: duplicate key \"order_id\" at line 1 column 74",
            ),
        ] {
            let message = format!("{{{members}}}");
            let error = read_new_request(message.as_bytes(), midtrans).expect_err("understood");
            assert_eq!((error.reason, &*error.detail), (Invalid::Schema, detail));
        }
        let twice = r#""{\"request_id\":\"a\"}""#;
        let error = read_new_request(twice.as_bytes(), midtrans).expect_err("understood");
        assert_eq!(error.detail, "the request must be an object");
    }

    /// It is echoed as it came, to every reader of the result.
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
            let stored = read_request(message.as_bytes(), midtrans("m").unwrap());
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
        // Finer than a nanosecond.
        let cut = deadline("2026-11-29T18:00:00.123456789999Z").map(|time| time.to_string());
        assert_eq!(cut.as_deref(), Some("2026-11-29T18:00:00.123456789Z"));
        assert_eq!(deadline("2026-11-29T18:00:00.1234567899+25:00"), None);
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
        let error = read_new_request(message.as_bytes(), no_provider).expect_err("understood");
        assert_eq!(
            (error.reason, error.request_id.as_deref()),
            (Invalid::TooLarge, Some("big"))
        );
    }
}
