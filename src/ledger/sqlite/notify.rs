//! A notification's changes to the ledger, inside a transaction.

use rusqlite::{Connection, Row, params};

use super::rows::{OUTCOME, STORED, json, outcome, stored};
use crate::ledger::column::{millis, time};
use crate::ledger::heard::{Found, Update};
use crate::ledger::{HEARERS_MAX, Hear, Heard};

/// Answers once for each request on the payment that hears of the notification.
pub(super) fn notified(
    db: &Connection,
    provider: &str,
    payment_keys: &[String],
    hear: &Hear,
) -> rusqlite::Result<Vec<Heard>> {
    let mut heard = Vec::with_capacity(payment_keys.len());
    for key in payment_keys {
        for found in find(db, provider, key)? {
            heard.push(tell(db, found, hear)?);
        }
    }
    Ok(heard)
}

/// The open request on the payment, without those that wait behind it, and the last finished ones,
/// each of whose results may be contradicted.
fn find(db: &Connection, provider: &str, key: &str) -> rusqlite::Result<Vec<Found>> {
    db.prepare_cached(&format!(
        "SELECT seq, due_at, notified, {OUTCOME}, {STORED} FROM requests
         WHERE provider = ?1 AND payment_key = ?2 AND parked = 0
         ORDER BY state = 'finished', seq DESC LIMIT {HEARERS_MAX}"
    ))?
    .query_map([provider, key], found)?
    .collect()
}

fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let (stored, mut progress) = stored(row)?;
    progress.due_at = row.get::<_, Option<i64>>("due_at")?.map(time);
    Ok(Found {
        seq: row.get("seq")?,
        stored,
        progress,
        outcome: outcome(row)?,
        notified: row.get("notified")?,
    })
}

fn tell(db: &Connection, found: Found, hear: &Hear) -> rusqlite::Result<Heard> {
    let seq = found.seq;
    let (heard, update) = found.tell(hear);
    match update {
        Update::Nothing => {}
        Update::Remember => {
            db.prepare_cached("UPDATE requests SET notified = 1 WHERE seq = ?1")?
                .execute([seq])?;
        }
        Update::Write { progress, checks } => {
            db.prepare_cached(
                "UPDATE requests SET due_at = ?2, progress = ?3, notified = ?4 WHERE seq = ?1",
            )?
            .execute(params![
                seq,
                progress.due_at.map(millis),
                json(&progress)?,
                checks
            ])?;
        }
    }
    Ok(heard)
}
