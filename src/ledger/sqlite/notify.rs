//! What a notification changes in the ledger, inside a transaction.

use rusqlite::{Connection, Row, params};

use super::rows::{OUTCOME, STORED, json, millis, outcome, stored, time};
use crate::ledger::{HEARERS_MAX, Hear, Heard, Stored};
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};

/// A request that a notification is about.
struct Found {
    seq: i64,
    stored: Stored,
    progress: Progress,
    outcome: Option<Outcome>,
    /// Nobody works on it.
    idle: bool,
    /// Its result is being checked.
    checked: bool,
}

/// Once for each request on the payment that hears of it.
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

/// The open request on the payment, and not one that waits behind it; and the last ones that have
/// their results, each of which may be contradicted.
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
    let finished = progress.state == State::Finished;
    let idle = finished || progress.due_at.is_some();
    let checked = finished && progress.due_at.is_none() && row.get("notified")?;
    Ok(Found {
        seq: row.get("seq")?,
        stored,
        progress,
        outcome: outcome(row)?,
        idle,
        checked,
    })
}

fn tell(db: &Connection, mut found: Found, hear: &Hear) -> rusqlite::Result<Heard> {
    let finished = found.progress.state == State::Finished;
    if !found.idle {
        db.prepare_cached("UPDATE requests SET notified = 1 WHERE seq = ?1")?
            .execute([found.seq])?;
        return Ok(Heard::Open);
    }
    let before = found.progress.clone();
    // One that is replayed has its outcome, and is open.
    let outcome = found.outcome.filter(|_| finished);
    let heard = hear(&found.stored, &mut found.progress, outcome);
    let due_at = found.progress.due_at.map(millis);
    // A new due time takes the claim of a check that is under way: its answer may be too old.
    let changed = found.progress != before && (due_at.is_some() || !found.checked);
    if changed {
        db.prepare_cached(
            "UPDATE requests SET due_at = ?2, progress = ?3, notified = ?4 WHERE seq = ?1",
        )?
        .execute(params![
            found.seq,
            due_at,
            json(&found.progress)?,
            finished && due_at.is_some(),
        ])?;
    }
    Ok(heard)
}
