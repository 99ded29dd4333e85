//! Values in rows: nouns as text and JSON.

use rusqlite::Row;

use crate::ledger::Stored;
use crate::ledger::column::time;
use crate::ledger::illegible::Columns;
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};
use crate::wire::{Envelope, Kind};

/// The columns that [`stored`] reads.
pub(super) const STORED: &str =
    "request_id, provider, body, correlation_id, reply_to, traceparent, tracestate,
   received_at, state, attempts, lookups, progress";

pub(super) fn stored(row: &Row<'_>) -> rusqlite::Result<(Stored, Progress)> {
    let envelope = Envelope {
        body: row.get("body")?,
        correlation_id: row.get("correlation_id")?,
        reply_to: row.get("reply_to")?,
        traceparent: row.get("traceparent")?,
        tracestate: row.get("tracestate")?,
        received_at: time(row.get("received_at")?),
    };
    let stored = Stored {
        request_id: row.get("request_id")?,
        provider: row.get("provider")?,
        envelope,
    };
    Ok((stored, progress(row)?))
}

/// The columns that [`progress`] reads.
pub(super) const PROGRESS: &str = "request_id, received_at, state, attempts, lookups, progress";

pub(super) fn progress(row: &Row<'_>) -> rusqlite::Result<Progress> {
    let text: String = row.get("progress")?;
    serde_json::from_str(&text).or_else(|error| {
        let columns = Columns {
            request_id: row.get("request_id")?,
            state: row.get("state")?,
            attempts: row.get("attempts")?,
            lookups: row.get("lookups")?,
            received_at: time(row.get("received_at")?),
        };
        Ok(columns.doubted(&error))
    })
}

/// The columns that [`outcome`] reads.
pub(super) const OUTCOME: &str = "outcome, reason";

/// The end of a finished request.
pub(super) fn outcome(row: &Row<'_>) -> rusqlite::Result<Option<Outcome>> {
    let (outcome, reason): (Option<String>, Option<String>) =
        (row.get("outcome")?, row.get("reason")?);
    Ok(outcome
        .zip(reason)
        .and_then(|(outcome, reason)| Outcome::named(&outcome, &reason)))
}

pub(super) fn kind(name: &str) -> rusqlite::Result<Kind> {
    Kind::named(name).ok_or_else(|| unknown("kind of message", name))
}

pub(super) fn state(name: &str) -> rusqlite::Result<State> {
    State::named(name).ok_or_else(|| unknown("state", name))
}

fn unknown(what: &str, name: &str) -> rusqlite::Error {
    unreadable(std::io::Error::other(format!("unknown {what} {name:?}")))
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

pub(super) fn parse<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(unreadable)
}

pub(super) fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}
