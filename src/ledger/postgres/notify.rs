//! A notification's changes to the ledger, inside a transaction.

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;

use super::error::TxError;
use super::rows::{STORED, json, outcome, stored, text};
use crate::ledger::column::{millis, time};
use crate::ledger::heard::{Found, Update};
use crate::ledger::{HEARERS_MAX, Hear, Heard};
use crate::outcome::State;

/// A notification about a payment.
pub(super) struct Notification {
    pub(super) provider: String,
    pub(super) payment_keys: Vec<String>,
    pub(super) hear: Hear,
}

/// Answers once for each request on the payment that hears of the notification.
pub(super) async fn notified(
    db: &ClientWrapper,
    notification: &Notification,
) -> Result<Vec<Heard>, TxError> {
    let mut heard = Vec::with_capacity(notification.payment_keys.len());
    for key in &notification.payment_keys {
        for found in find(db, &notification.provider, &text(key)).await? {
            heard.push(tell(db, found, &notification.hear).await?);
        }
    }
    Ok(heard)
}

/// The open request on the payment, without those that wait behind it, and the last finished ones,
/// each of whose results may be contradicted. The rows are locked before they are read: until then
/// they may change, and the first waiting request may have its turn. A payment can have more
/// requests than can be read at once.
async fn find(db: &ClientWrapper, provider: &str, key: &str) -> Result<Vec<Found>, TxError> {
    let query = format!(
        "SELECT seq, parked, due_at, notified, outcome, reason, {STORED} FROM requests WHERE seq IN (
           (SELECT seq FROM requests WHERE provider = $1 AND payment_key = $2 AND NOT parked AND state <> 'finished')
           UNION ALL (SELECT seq FROM requests WHERE provider = $1 AND payment_key = $2 AND parked ORDER BY seq LIMIT 1)
           UNION ALL (SELECT seq FROM requests WHERE provider = $1 AND payment_key = $2 AND state = 'finished'
             ORDER BY seq DESC LIMIT {HEARERS_MAX}))
         ORDER BY seq FOR UPDATE"
    );
    let query = db.prepare_cached(&query).await?;
    let rows = db.query(&query, &[&provider, &key]).await?;
    let mut all = Vec::with_capacity(rows.len());
    for row in &rows {
        if !row.try_get::<_, bool>("parked")? {
            all.push(found(row)?);
        }
    }
    all.sort_by_key(|found| {
        let finished = found.progress.state == State::Finished;
        (finished, std::cmp::Reverse(found.seq))
    });
    all.truncate(HEARERS_MAX);
    Ok(all)
}

fn found(row: &Row) -> Result<Found, TxError> {
    let (stored, mut progress) = stored(row)?;
    progress.due_at = row.try_get::<_, Option<i64>>("due_at")?.map(time);
    Ok(Found {
        seq: row.try_get("seq")?,
        stored,
        progress,
        outcome: outcome(row)?,
        notified: row.try_get("notified")?,
    })
}

async fn tell(db: &ClientWrapper, found: Found, hear: &Hear) -> Result<Heard, TxError> {
    let seq = found.seq;
    let (heard, update) = found.tell(hear);
    match update {
        Update::Nothing => {}
        Update::Remember => {
            let remember = db
                .prepare_cached("UPDATE requests SET notified = true WHERE seq = $1")
                .await?;
            db.execute(&remember, &[&seq]).await?;
        }
        Update::Write { progress, checks } => {
            let write = db
                .prepare_cached(
                    "UPDATE requests SET due_at = $2, progress = $3, notified = $4, owner = NULL WHERE seq = $1",
                )
                .await?;
            let (due_at, progress) = (progress.due_at.map(millis), json(&progress)?);
            db.execute(&write, &[&seq, &due_at, &progress, &checks])
                .await?;
        }
    }
    Ok(heard)
}
