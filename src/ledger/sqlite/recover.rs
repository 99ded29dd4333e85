//! Recovery: claims of a worker that is gone, doubts after a restore, a clock that went back.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use super::claim::write_claim;
use super::rows::{PROGRESS, json, progress};
use crate::ledger::column::{millis, time};
use crate::ledger::{ClaimId, Quiet};
use crate::lifecycle::Progress;

/// The most requests that are in memory at once.
const RECONCILED_MOST: i64 = 5_000;

pub(super) fn recover(db: &Connection, now: Timestamp, quiet: &Quiet) -> rusqlite::Result<u64> {
    let claimed: Vec<(i64, i64, String, Progress)> = db
        .prepare(&format!(
            "SELECT seq, token, provider, {PROGRESS} FROM requests
             WHERE state <> 'finished' AND parked = 0 AND due_at IS NULL
             UNION ALL SELECT seq, token, provider, {PROGRESS} FROM requests
             WHERE state = 'finished' AND notified = 1 AND due_at IS NULL",
        ))?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, progress(row)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let found = claimed.len();
    for (seq, token, provider, mut progress) in claimed {
        progress.recovered(now, quiet(&provider));
        let id = ClaimId {
            seq,
            token: token + 1,
        };
        write_claim(db, id, &progress, progress.due_at)?;
    }
    Ok(found as u64)
}

/// Puts the first open requests behind row `after` in doubt. Returns their number, and the last one's row.
pub(super) fn reconcile(
    db: &Connection,
    now: Timestamp,
    after: i64,
    quiet: &Quiet,
) -> rusqlite::Result<(u64, Option<i64>)> {
    let open: Vec<(i64, bool, Timestamp, Progress, String)> = db
        .prepare(&format!(
            "SELECT seq, due_at IS NOT NULL, provider, {PROGRESS} FROM requests
             WHERE state <> 'finished' AND seq > ?1 ORDER BY seq LIMIT ?2",
        ))?
        .query_map([after, RECONCILED_MOST], |row| {
            Ok((
                row.get(0)?,
                row.get(1)?,
                time(row.get("received_at")?),
                progress(row)?,
                row.get(2)?,
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let (found, last) = (open.len() as u64, open.last().map(|open| open.0));
    let mut update =
        db.prepare("UPDATE requests SET state = ?2, due_at = ?3, progress = ?4 WHERE seq = ?1")?;
    for (seq, idle, received_at, mut progress, provider) in open {
        progress.reconcile(now, received_at, quiet(&provider));
        let due_at = progress.due_at.filter(|_| idle).map(millis);
        update.execute(params![
            seq,
            progress.state.as_str(),
            due_at,
            json(&progress)?
        ])?;
    }
    Ok((found, last))
}

pub(super) fn hasten(
    db: &Connection,
    provider: &str,
    latest: Timestamp,
    now: Timestamp,
) -> rusqlite::Result<u64> {
    db.prepare_cached("UPDATE requests SET due_at = ?3 WHERE provider = ?1 AND due_at > ?2")?
        .execute(params![provider, millis(latest), millis(now)])
        .map(|found| found as u64)
}
