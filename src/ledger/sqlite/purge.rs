//! Retention: removing old requests from the ledger, inside a transaction.

use jiff::Timestamp;
use rusqlite::{Connection, params};

use crate::ledger::column::millis;
use crate::ledger::dead::OVERTAKING;

/// Removes requests that ended before that time and are not being checked, with all that is about
/// them. A request whose dead letter was closed since stays: the decision can still be taken back. And so does
/// what has overtaken it: a replay is told of that.
pub(super) fn purge(db: &Connection, before: Timestamp, most: usize) -> rusqlite::Result<u64> {
    let old: Vec<i64> = db
        .prepare_cached(&format!(
            "SELECT seq FROM requests r WHERE finished_at < ?1 AND notified = 0
               AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.request = r.seq AND m.published_at IS NULL)
               AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.request = r.seq
                               AND (d.closed_at IS NULL OR d.closed_at >= ?1))
               AND NOT (outcome IN {OVERTAKING}
                        AND EXISTS (SELECT 1 FROM requests o JOIN dead_letters d ON d.request = o.seq
                                    WHERE o.provider = r.provider AND o.payment_key = r.payment_key AND o.seq < r.seq
                                    AND (d.closed_at IS NULL OR d.closed_at >= ?1)))
             LIMIT ?2",
        ))?
        .query_map(params![millis(before), most], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for seq in &old {
        for statement in [
            "DELETE FROM calls WHERE request = ?1",
            "DELETE FROM messages WHERE request = ?1",
            "DELETE FROM actions WHERE request = ?1",
            "DELETE FROM dead_letters WHERE request = ?1",
            "DELETE FROM requests WHERE seq = ?1",
        ] {
            db.prepare_cached(statement)?.execute([seq])?;
        }
    }
    Ok(old.len() as u64 + purge_invalid(db, before, most)?)
}

/// Removes invalid messages, which belong to no request, and their dead letters.
fn purge_invalid(db: &Connection, before: Timestamp, most: usize) -> rusqlite::Result<u64> {
    let closed: Vec<String> = db
        .prepare_cached(
            "SELECT id FROM dead_letters WHERE request IS NULL AND closed_at < ?1 LIMIT ?2",
        )?
        .query_map(params![millis(before), most], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for id in &closed {
        for statement in [
            "DELETE FROM actions WHERE dead_letter = ?1",
            "DELETE FROM dead_letters WHERE id = ?1",
        ] {
            db.prepare_cached(statement)?.execute([id])?;
        }
    }
    let messages = db
        .prepare_cached(
            "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages
               WHERE request IS NULL AND published_at < ?1 LIMIT ?2)",
        )?
        .execute(params![millis(before), most])?;
    Ok((closed.len() + messages) as u64)
}
