//! What a notification changes in the ledger, inside a transaction.

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;

use super::rows::{STORED, json, millis, outcome, stored, text, time};
use super::trouble::Trouble;
use crate::ledger::{HEARERS_MAX, Hear, Heard, Stored};
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};

/// A notification about a payment.
pub(super) struct Notification {
    pub(super) provider: String,
    pub(super) payment_keys: Vec<String>,
    pub(super) hear: Hear,
}

/// A request that a notification is about.
struct Found {
    seq: i64,
    stored: Stored,
    progress: Progress,
    outcome: Option<Outcome>,
    parked: bool,
    /// Nobody works on it.
    idle: bool,
    /// Its result is being checked.
    checked: bool,
}

/// Once for each request on the payment that hears of it.
pub(super) async fn notified(
    db: &ClientWrapper,
    notification: &Notification,
) -> Result<Vec<Heard>, Trouble> {
    let mut heard = Vec::with_capacity(notification.payment_keys.len());
    for key in &notification.payment_keys {
        for found in find(db, &notification.provider, &text(key)).await? {
            heard.push(tell(db, found, &notification.hear).await?);
        }
    }
    Ok(heard)
}

/// The open request on the payment, and not one that waits behind it; and the last ones that have
/// their results, each of which may be contradicted. Locked before they are read: what they are may
/// change until then, and the first of those that wait may have its turn. A payment can have more
/// requests than can be read at once.
async fn find(db: &ClientWrapper, provider: &str, key: &str) -> Result<Vec<Found>, Trouble> {
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
    let mut rows: Vec<Found> = rows.iter().map(found).collect::<Result<_, _>>()?;
    rows.retain(|found| !found.parked);
    rows.sort_by_key(|found| {
        let finished = found.progress.state == State::Finished;
        (finished, std::cmp::Reverse(found.seq))
    });
    rows.truncate(HEARERS_MAX);
    Ok(rows)
}

fn found(row: &Row) -> Result<Found, Trouble> {
    let (stored, mut progress) = stored(row)?;
    progress.due_at = row.try_get::<_, Option<i64>>("due_at")?.map(time);
    let finished = progress.state == State::Finished;
    let idle = finished || progress.due_at.is_some();
    let checked = finished && progress.due_at.is_none() && row.try_get("notified")?;
    Ok(Found {
        seq: row.try_get("seq")?,
        stored,
        progress,
        outcome: outcome(row)?,
        parked: row.try_get("parked")?,
        idle,
        checked,
    })
}

async fn tell(db: &ClientWrapper, mut found: Found, hear: &Hear) -> Result<Heard, Trouble> {
    let finished = found.progress.state == State::Finished;
    if !found.idle {
        let remember = db
            .prepare_cached("UPDATE requests SET notified = true WHERE seq = $1")
            .await?;
        db.execute(&remember, &[&found.seq]).await?;
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
        let notified = finished && due_at.is_some();
        let change = db
            .prepare_cached(
                "UPDATE requests SET due_at = $2, progress = $3, notified = $4, owner = NULL WHERE seq = $1",
            )
            .await?;
        let progress = json(&found.progress)?;
        db.execute(&change, &[&found.seq, &due_at, &progress, &notified])
            .await?;
    }
    Ok(heard)
}
