//! Recovery: requests of a worker that is gone, doubts after a restore, a clock that went back.

use std::ops::Range;

use deadpool_postgres::ClientWrapper;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::claim::{next_id, write_claims};
use super::error::TxError;
use super::lease::LEASE;
use super::rows::{PROGRESS, json, progress};
use crate::ledger::column::{millis, time};
use crate::ledger::{ClaimId, Quiet};
use crate::lifecycle::Progress;

/// The most rows that are hastened in one transaction, during which other workers wait.
pub(super) const HASTENED_MOST: i64 = 5_000;
/// The most messages that are inherited in one transaction, for the same reason.
const INHERITED_MOST: i64 = 5_000;

/// Recovers the requests of workers whose lease has run out. Their unpublished messages go to this
/// worker, some at each call; until then any worker may publish them. What somebody else has locked is left to
/// a later call.
pub(super) async fn take_over(
    db: &ClientWrapper,
    worker: i64,
    now: Timestamp,
    quiet: &Quiet,
) -> Result<u64, TxError> {
    shorten(db).await?;
    let gone = gone(db).await?;
    if gone.is_empty() {
        return Ok(0);
    }
    let claimed = db
        .prepare_cached(
            &format!("SELECT seq, provider, {PROGRESS} FROM requests WHERE owner = ANY ($1) ORDER BY seq FOR UPDATE SKIP LOCKED"),
        )
        .await?;
    let claimed = db.query(&claimed, &[&gone]).await?;
    let lost = claimed.iter().map(|row| lost(row, now, quiet));
    let lost: Vec<(ClaimId, Progress)> = lost.collect::<Result<_, _>>()?;
    let taken: Vec<_> = lost.iter().map(|(id, progress)| (*id, progress)).collect();
    write_claims(db, None, &taken).await?;
    if inherit(db, worker, &gone).await? < INHERITED_MOST.unsigned_abs() {
        forget(db, &gone).await?;
    }
    Ok(lost.len() as u64)
}

/// After the database's clock went back, a worker that is gone would count as alive for that long.
/// Shortens leases that end too late; a worker that is alive renews its own in time.
async fn shorten(db: &ClientWrapper) -> Result<(), TxError> {
    let shorten = db
        .prepare_cached(
            "UPDATE workers SET alive_until = clock_timestamp() + $1::text::interval WHERE id IN (
               SELECT id FROM workers WHERE alive_until > clock_timestamp() + 2 * $1::text::interval
               FOR NO KEY UPDATE SKIP LOCKED)",
        )
        .await?;
    db.execute(&shorten, &[&LEASE]).await?;
    Ok(())
}

/// A worker that is writing is not gone, whatever the clock says: its lease is locked.
async fn gone(db: &ClientWrapper) -> Result<Vec<i64>, TxError> {
    let gone = db
        .prepare_cached(
            "SELECT id FROM workers WHERE alive_until <= clock_timestamp() ORDER BY id FOR UPDATE SKIP LOCKED",
        )
        .await?;
    let rows = db.query(&gone, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

fn lost(row: &Row, now: Timestamp, quiet: &Quiet) -> Result<(ClaimId, Progress), TxError> {
    let mut progress = progress(row)?;
    progress.recovered(now, quiet(row.try_get("provider")?));
    Ok((next_id(row)?, progress))
}

async fn inherit(db: &ClientWrapper, worker: i64, gone: &[i64]) -> Result<u64, TxError> {
    let messages = db
        .prepare_cached(
            "UPDATE messages SET owner = $2 WHERE seq IN (
               SELECT seq FROM messages WHERE owner = ANY ($1) AND published_at IS NULL ORDER BY seq LIMIT $3
               FOR UPDATE SKIP LOCKED)",
        )
        .await?;
    Ok(db
        .execute(&messages, &[&gone, &worker, &INHERITED_MOST])
        .await?)
}

/// Removes those workers that own nothing any more: what was locked by somebody else is still theirs.
async fn forget(db: &ClientWrapper, gone: &[i64]) -> Result<(), TxError> {
    let idle = db
        .prepare_cached(
            "SELECT id FROM unnest($1::bigint[]) w (id)
             WHERE NOT EXISTS (SELECT 1 FROM requests r WHERE r.owner = w.id)
               AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.owner = w.id AND m.published_at IS NULL)",
        )
        .await?;
    let idle = db.query(&idle, &[&gone]).await?;
    let idle: Vec<i64> = idle
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    for statement in [
        "DELETE FROM lanes WHERE worker = ANY ($1)",
        "DELETE FROM workers WHERE id = ANY ($1)",
    ] {
        let statement = db.prepare_cached(statement).await?;
        db.execute(&statement, &[&idle]).await?;
    }
    Ok(())
}

/// Puts the open requests of these rows in doubt; a claimed one is asked about once it is taken over.
pub(super) async fn reconcile(
    db: &ClientWrapper,
    now: Timestamp,
    seqs: &Range<i64>,
    quiet: &Quiet,
) -> Result<u64, TxError> {
    let open = db
        .query(
            &format!(
                "SELECT seq, parked, due_at, provider, {PROGRESS} FROM requests
                 WHERE seq >= $1 AND seq < $2 AND state <> 'finished' ORDER BY seq FOR UPDATE"
            ),
            &[&seqs.start, &seqs.end],
        )
        .await?;
    let (mut seqs, mut states, mut due, mut doubts) = (vec![], vec![], vec![], vec![]);
    for row in &open {
        let mut progress = progress(row)?;
        let quiet = quiet(row.try_get("provider")?);
        progress.reconcile(now, time(row.try_get("received_at")?), quiet);
        let idle = row.try_get::<_, Option<i64>>("due_at")?.is_some();
        seqs.push(row.try_get::<_, i64>("seq")?);
        states.push(progress.state.as_str());
        due.push(progress.due_at.filter(|_| idle).map(millis));
        doubts.push(json(&progress)?);
    }
    db.execute(
        "UPDATE requests r SET state = d.state, due_at = d.due_at, progress = d.progress
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::text[]) d (seq, state, due_at, progress)
         WHERE r.seq = d.seq",
        &[&seqs, &states, &due, &doubts],
    )
    .await?;
    Ok(open.len() as u64)
}

/// The clock went back: requests that are due later than any wait can reach become due now, some at
/// each call. One that was claimed meanwhile stays as it is.
pub(super) async fn hasten(
    db: &ClientWrapper,
    provider: &str,
    latest: Timestamp,
    now: Timestamp,
) -> Result<u64, TxError> {
    let hasten = db
        .prepare_cached(
            "UPDATE requests SET due_at = $3 WHERE due_at > $2 AND seq IN (
               SELECT seq FROM requests WHERE provider = $1 AND due_at > $2 ORDER BY due_at LIMIT $4)",
        )
        .await?;
    let (latest, now, most) = (millis(latest), millis(now), HASTENED_MOST);
    Ok(db
        .execute(&hasten, &[&provider, &latest, &now, &most])
        .await?)
}
