//! Committing the changes that calls led to, inside a transaction.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};

use super::outbox;
use super::rows::json;
use crate::ledger::column::millis;
use crate::ledger::{Change, CommitAnswer, Committed};
use crate::lifecycle::Progress;
use crate::outcome::Outcome;

pub(super) fn commit(db: &Connection, change: &Change) -> rusqlite::Result<CommitAnswer> {
    let (progress, hinted) = change.written(is_hinted(db, change)?);
    if !write_progress(db, change, progress)? {
        return Ok(CommitAnswer::LOST);
    }
    end_call(db, change)?;
    let rows = outbox::insert(db, Some(change.id.seq), &change.messages, change.at)?;
    if let Some(dead) = &change.dead_letter {
        outbox::dead_letter(db, Some(change.id.seq), dead)?;
    }
    let committed = match change.outcome.is_some() && unpark(db, change.id.seq, change.at)? {
        true => Committed::Freed,
        false if hinted => Committed::Hinted,
        false => Committed::Done,
    };
    Ok(CommitAnswer { committed, rows })
}

/// Whether a notification came since the claim, and means something to this change.
fn is_hinted(db: &Connection, change: &Change) -> rusqlite::Result<bool> {
    if change.hinted.is_none() {
        return Ok(false);
    }
    db.prepare_cached("SELECT notified FROM requests WHERE seq = ?1 AND token = ?2")?
        .query_row(params![change.id.seq, change.id.token], |row| row.get(0))
        .optional()
        .map(|notified| notified.unwrap_or(false))
}

/// Without RETURNING, which would make SQLite keep a journal of each statement, a sixth of a commit.
fn write_progress(db: &Connection, change: &Change, progress: &Progress) -> rusqlite::Result<bool> {
    // The check of a finished request leaves its end as it is. A replayed request ends once more,
    // and keeps the outcome of its result.
    let statement = if change.is_check() {
        "UPDATE requests SET state = ?3, due_at = ?4, attempts = ?5, lookups = ?6, progress = ?7,
           notified = (?4 IS NOT NULL)
         WHERE seq = ?1 AND token = ?2 AND due_at IS NULL AND state = 'finished' AND notified = 1
           AND ?8 IS NULL AND ?9 IS NULL AND ?10 IS NULL"
    } else {
        "UPDATE requests SET state = ?3, due_at = ?4, attempts = ?5, lookups = ?6, progress = ?7,
           outcome = coalesce(outcome, ?8), reason = coalesce(reason, ?9), finished_at = ?10, notified = (?3 = 'finished' AND ?4 IS NOT NULL)
         WHERE seq = ?1 AND token = ?2 AND due_at IS NULL AND parked = 0 AND state <> 'finished'"
    };
    let written = db.prepare_cached(statement)?.execute(params![
        change.id.seq,
        change.id.token,
        progress.state.as_str(),
        progress.due_at.map(millis),
        progress.attempts,
        progress.lookups,
        json(progress)?,
        change.outcome.map(Outcome::as_str),
        change.outcome.map(Outcome::reason),
        change.outcome.map(|_| millis(change.at)),
    ])?;
    Ok(written == 1)
}

fn end_call(db: &Connection, change: &Change) -> rusqlite::Result<()> {
    let Some(call) = &change.call else {
        return Ok(());
    };
    db.prepare_cached(
        "UPDATE calls SET finished_at = ?3, verdict = ?4, evidence = ?5 WHERE request = ?1 AND number = ?2",
    )?
    .execute(params![
        change.id.seq,
        change.progress.calls,
        millis(change.at),
        call.verdict,
        json(&call.evidence)?
    ])
    .map(drop)
}

/// Gives the turn to the next request on the same payment, if one waits.
fn unpark(db: &Connection, finished: i64, now: Timestamp) -> rusqlite::Result<bool> {
    let next: Option<i64> = db
        .prepare_cached(
            "SELECT next.seq FROM requests done JOIN requests next INDEXED BY parked_requests
               ON next.provider = done.provider AND next.payment_key = done.payment_key
             WHERE done.seq = ?1 AND next.parked = 1 ORDER BY next.seq LIMIT 1",
        )?
        .query_row([finished], |row| row.get(0))
        .optional()?;
    let Some(next) = next else { return Ok(false) };
    db.prepare_cached("UPDATE requests SET turn = NULL WHERE seq = ?1")?
        .execute([finished])?;
    db.prepare_cached("UPDATE requests SET turn = 0, parked = 0, due_at = ?2 WHERE seq = ?1")?
        .execute(params![next, millis(now)])?;
    Ok(true)
}
