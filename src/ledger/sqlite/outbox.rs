//! Messages and dead letters, written in the transaction whose change they report.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::rows::json;
use crate::ledger::column::millis;
use crate::ledger::pending::RESULT_KINDS;
use crate::ledger::{DeadLetter, Delivered};
use crate::wire::Outgoing;

/// Returns the rows. Not meaningful without a request: a message that exists is only marked for
/// republication.
pub(super) fn insert(
    db: &Connection,
    request: Option<i64>,
    messages: &[Outgoing],
    now: Timestamp,
) -> rusqlite::Result<Vec<i64>> {
    // A message that exists is published again with its stored bytes, not with the new ones.
    let mut insert = db.prepare_cached(
        "INSERT INTO messages (message_id, request, kind, routing_key, properties, body, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (message_id) WHERE request IS NULL DO UPDATE SET published_at = NULL, repeats = messages.repeats + 1",
    )?;
    let mut rows = Vec::with_capacity(messages.len());
    for message in messages {
        insert.execute(params![
            message.id.to_string(),
            request,
            message.kind.as_str(),
            message.routing_key,
            json(&message.properties)?,
            message.body,
            millis(now),
        ])?;
        rows.push(db.last_insert_rowid());
    }
    Ok(rows)
}

/// Returns whether it is new.
pub(super) fn dead_letter(
    db: &Connection,
    request: Option<i64>,
    dead: &DeadLetter,
) -> rusqlite::Result<bool> {
    let inserted = db
        .prepare_cached(
            "INSERT OR IGNORE INTO dead_letters
           (id, request, request_id, provider, outcome, reason, detail, body, received_at, dead_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        )?
        .execute(params![
            dead.id.to_string(),
            request,
            dead.request_id,
            dead.provider,
            dead.outcome.as_str(),
            dead.outcome.reason(),
            dead.detail,
            dead.body,
            millis(dead.received_at),
            millis(dead.dead_at),
        ])?;
    Ok(inserted == 1)
}

/// The same invalid message came again: closing its dead letter has not stopped the publisher.
pub(super) fn open_again(db: &Connection, dead: &DeadLetter) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE dead_letters SET closed_at = NULL, closed_by = NULL, dead_at = ?2
         WHERE id = ?1 AND closed_at IS NOT NULL",
    )?
    .execute(params![dead.id.to_string(), millis(dead.dead_at)])
    .map(drop)
}

pub(super) fn publish_again(db: &Connection, request: i64) -> rusqlite::Result<()> {
    db.prepare_cached(&format!(
        "UPDATE messages SET published_at = NULL, repeats = repeats + 1
         WHERE request = ?1 AND kind IN {RESULT_KINDS}"
    ))?
    .execute([request])
    .map(drop)
}

/// Marks messages as confirmed by the broker.
pub(super) fn published(
    db: &Connection,
    messages: &[Delivered],
    now: Timestamp,
) -> rusqlite::Result<()> {
    let mut mark = db.prepare_cached(
        "UPDATE messages SET published_at = ?3, publications = publications + 1
         WHERE seq = ?1 AND repeats = ?2 AND message_id = ?4",
    )?;
    messages.iter().try_for_each(|message| {
        let id = message.id.to_string();
        mark.execute(params![message.seq, message.repeats, millis(now), id])
            .map(drop)
    })
}
