//! Retention: removing requests that are finished, published and closed, a batch at a time.

use deadpool_postgres::ClientWrapper;
use jiff::Timestamp;

use super::error::TxError;
use crate::ledger::column::{limit, millis};
use crate::ledger::dead::OVERTAKING;

/// A request `r` has no unpublished message, no check under way and no dead letter open after $1. Nor has one
/// that it has overtaken, whose replay has to be told of `r`.
fn nobody_needs() -> String {
    format!(
        "NOT r.notified AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.request = r.seq AND m.published_at IS NULL)
         AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.request = r.seq
                         AND (d.closed_at IS NULL OR d.closed_at >= $1))
         AND NOT (r.outcome IN {OVERTAKING}
                  AND EXISTS (SELECT 1 FROM requests o JOIN dead_letters d ON d.request = o.seq
                              WHERE o.provider = r.provider AND o.payment_key = r.payment_key AND o.seq < r.seq
                              AND (d.closed_at IS NULL OR d.closed_at >= $1)))"
    )
}

/// Several workers may run this at once: each skips the rows that another one has locked.
pub(super) async fn purge(
    db: &ClientWrapper,
    before: Timestamp,
    most: usize,
) -> Result<u64, TxError> {
    let (before, most) = (millis(before), limit(most));
    let old = db
        .prepare_cached(&format!(
            "SELECT seq FROM requests r WHERE finished_at < $1 AND {}
             ORDER BY finished_at LIMIT $2 FOR UPDATE SKIP LOCKED",
            nobody_needs()
        ))
        .await?;
    let old = db.query(&old, &[&before, &most]).await?;
    let old: Vec<i64> = old
        .iter()
        .map(|row| row.try_get(0))
        .collect::<Result<_, _>>()?;
    let old = still_unneeded(db, &old, before).await?;
    for statement in [
        "DELETE FROM calls WHERE request = ANY ($1)",
        "DELETE FROM messages WHERE request = ANY ($1)",
        "DELETE FROM actions WHERE request = ANY ($1)",
        "DELETE FROM dead_letters WHERE request = ANY ($1)",
        "DELETE FROM requests WHERE seq = ANY ($1)",
    ] {
        let statement = db.prepare_cached(statement).await?;
        db.execute(&statement, &[&old]).await?;
    }
    let mut removed = old.len() as u64;
    // Invalid messages belong to no request; their dead letters end with them.
    for statement in [
        "WITH gone AS (DELETE FROM dead_letters WHERE id IN (SELECT id FROM dead_letters
             WHERE request IS NULL AND closed_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED) RETURNING id),
           said AS (DELETE FROM actions WHERE dead_letter IN (SELECT id FROM gone))
         SELECT id FROM gone",
        "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages
           WHERE request IS NULL AND published_at < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)",
    ] {
        let statement = db.prepare_cached(statement).await?;
        removed += db.execute(&statement, &[&before, &most]).await?;
    }
    Ok(removed)
}

/// Those of the locked requests that still may go: a repeat may have come before they were locked.
async fn still_unneeded(db: &ClientWrapper, old: &[i64], before: i64) -> Result<Vec<i64>, TxError> {
    let still = db
        .prepare_cached(&format!(
            "SELECT seq FROM requests r WHERE seq = ANY ($2) AND {}",
            nobody_needs()
        ))
        .await?;
    let rows = db.query(&still, &[&before, &old]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
