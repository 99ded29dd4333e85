//! Values in rows: nouns as text and JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::error::TxError;
use crate::ledger::Stored;
use crate::ledger::column::time;
use crate::ledger::illegible::Columns;
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};
use crate::wire::{Envelope, Kind};

/// The columns that [`stored`] reads.
pub(super) const STORED: &str =
    "request_id, provider, body, envelope, received_at, state, attempts, lookups, progress";

/// A delivery's properties. As JSON, since PostgreSQL's text cannot hold every text.
#[derive(Default, Serialize, Deserialize)]
struct Delivery<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_to: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tracestate: Option<Cow<'a, str>>,
}

pub(super) fn delivery(envelope: &Envelope) -> Result<String, TxError> {
    json(&Delivery {
        correlation_id: envelope.correlation_id.as_deref().map(Into::into),
        reply_to: envelope.reply_to.as_deref().map(Into::into),
        traceparent: envelope.traceparent.as_deref().map(Into::into),
        tracestate: envelope.tracestate.as_deref().map(Into::into),
    })
}

pub(super) fn stored(row: &Row) -> Result<(Stored, Progress), TxError> {
    let delivery: Delivery<'_> = parse(row.try_get("envelope")?)?;
    let envelope = Envelope {
        body: row.try_get("body")?,
        correlation_id: delivery.correlation_id.map(Into::into),
        reply_to: delivery.reply_to.map(Into::into),
        traceparent: delivery.traceparent.map(Into::into),
        tracestate: delivery.tracestate.map(Into::into),
        received_at: time(row.try_get("received_at")?),
    };
    let stored = Stored {
        request_id: row.try_get("request_id")?,
        provider: row.try_get("provider")?,
        envelope,
    };
    Ok((stored, progress(row)?))
}

/// The columns that [`progress`] reads.
pub(super) const PROGRESS: &str = "request_id, received_at, state, attempts, lookups, progress";

pub(super) fn progress(row: &Row) -> Result<Progress, TxError> {
    serde_json::from_str(row.try_get("progress")?).or_else(|error| {
        let columns = Columns {
            request_id: row.try_get("request_id")?,
            state: row.try_get("state")?,
            attempts: number(row.try_get("attempts")?),
            lookups: number(row.try_get("lookups")?),
            received_at: time(row.try_get("received_at")?),
        };
        Ok(columns.doubted(&error))
    })
}

/// The end of a finished request, from the columns `outcome` and `reason`.
pub(super) fn outcome(row: &Row) -> Result<Option<Outcome>, TxError> {
    let (outcome, reason): (Option<&str>, Option<&str>) =
        (row.try_get("outcome")?, row.try_get("reason")?);
    Ok(outcome
        .zip(reason)
        .and_then(|(outcome, reason)| Outcome::named(outcome, reason)))
}

pub(super) fn kind(name: &str) -> Result<Kind, TxError> {
    Kind::named(name)
        .ok_or_else(|| TxError::unreadable(format_args!("unknown kind of message {name:?}")))
}

pub(super) fn state(name: &str) -> Result<State, TxError> {
    State::named(name).ok_or_else(|| TxError::unreadable(format_args!("unknown state {name:?}")))
}

pub(super) fn json(value: &impl Serialize) -> Result<String, TxError> {
    serde_json::to_string(value).map_err(TxError::unreadable)
}

pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, TxError> {
    serde_json::from_str(text).map_err(TxError::unreadable)
}

/// One column of rows that are written together.
pub(super) fn column<'a, R, T>(rows: &'a [R], of: impl FnMut(&'a R) -> T) -> Vec<T> {
    rows.iter().map(of).collect()
}

/// The same, of values that are written as text first.
pub(super) fn written<'a, R>(
    rows: &'a [R],
    of: impl FnMut(&'a R) -> Result<String, TxError>,
) -> Result<Vec<String>, TxError> {
    rows.iter().map(of).collect()
}

/// Text for people and keys, without NUL, the only character that PostgreSQL's text cannot hold.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        text.replace('\0', "\u{2400}").into()
    } else {
        text.into()
    }
}

pub(super) fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

pub(super) fn number(number: i64) -> u32 {
    u32::try_from(number).unwrap_or_default()
}
