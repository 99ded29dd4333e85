//! Dead letters: finding them, and carrying out a person's decision inside a transaction.

use deadpool_postgres::{ClientWrapper, Object};
use jiff::Timestamp;
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::error::TxError;
use super::rows::{STORED, count, json, parse, stored, text};
use crate::ledger::column::{limit, millis, time};
use crate::ledger::dead::{BODIES_BYTES_MAX, DeadRequest, Letter, OVERTAKING, OWN_FIRST};
use crate::ledger::{ActionRecord, Closed, Closing, DeadFilter, DeadRecord, Reopen, Resolution};
use crate::lifecycle::{Hindrance, Progress};
use crate::outcome::Outcome;

/// Oldest first; by an id, see [`DeadFilter::with_id`].
pub(super) async fn list(db: &Object, filter: &DeadFilter) -> Result<Vec<DeadRecord>, TxError> {
    let (open, of_request) = (filter.open_condition(), filter.request_condition());
    let (named, first) = match filter.id {
        Some(_) => (
            "(d.id = $1 OR d.request_id = $1)",
            format!("d.id <> $1, {OWN_FIRST}, "),
        ),
        None => ("$1::text IS NULL", String::new()),
    };
    let (after, after_id) = filter.behind();
    let before = filter.dead_before.map_or(i64::MAX, millis);
    let query = format!(
        "SELECT * FROM (SELECT d.id, d.request_id, d.request IS NOT NULL, d.provider, d.outcome, d.reason, d.detail,
                CASE WHEN $8::boolean THEN d.body END, d.received_at, d.dead_at, d.closed_at,
                (SELECT c.evidence FROM calls c WHERE c.request = d.request AND c.started_at <= d.dead_at
                 ORDER BY c.number DESC LIMIT 1),
                a.dead_letter, a.action, a.who, a.why, a.at,
                row_number() OVER w AS place, sum(octet_length(d.body)) OVER w - octet_length(d.body) AS bytes_before
         FROM dead_letters d LEFT JOIN actions a
           ON a.seq = (SELECT max(l.seq) FROM actions l WHERE l.dead_letter = d.id)
         WHERE {open} AND {of_request} AND {named} AND ($2::text IS NULL OR d.provider = $2)
           AND ($3::text IS NULL OR d.outcome = $3) AND ($4::text IS NULL OR d.reason = $4)
           AND d.dead_at < $5 AND (d.dead_at, d.id) > ($6, $7)
           AND ($10::bytea IS NULL OR position($10 IN d.body) > 0)
         WINDOW w AS (ORDER BY {first}d.dead_at, d.id ROWS UNBOUNDED PRECEDING)
         ORDER BY {first}d.dead_at, d.id LIMIT $9) l
         WHERE NOT $8 OR bytes_before < $11 ORDER BY place"
    );
    let query = db.prepare_cached(&query).await?;
    let id = filter.id.as_deref().map(text);
    let rows = db
        .query(
            &query,
            &[
                &id,
                &filter.provider,
                &filter.outcome,
                &filter.reason,
                &before,
                &after,
                &after_id,
                &filter.with_body,
                &limit(filter.most),
                &filter.containing.as_deref().map(str::as_bytes),
                &limit(BODIES_BYTES_MAX),
            ],
        )
        .await?;
    rows.iter().map(record).collect()
}

fn record(row: &Row) -> Result<DeadRecord, TxError> {
    let evidence: Option<&str> = row.try_get(11)?;
    Ok(DeadRecord {
        id: row.try_get(0)?,
        request_id: row.try_get(1)?,
        is_request: row.try_get(2)?,
        provider: row.try_get(3)?,
        outcome: row.try_get(4)?,
        reason: row.try_get(5)?,
        detail: row.try_get(6)?,
        body: row.try_get::<_, Option<Vec<u8>>>(7)?.unwrap_or_default(),
        received_at: time(row.try_get(8)?),
        dead_at: time(row.try_get(9)?),
        closed_at: row.try_get::<_, Option<i64>>(10)?.map(time),
        evidence: evidence.map(parse).transpose()?,
        last: row
            .try_get::<_, Option<&str>>(12)?
            .map(|_| action(row, 12))
            .transpose()?,
    })
}

fn action(row: &Row, from: usize) -> Result<ActionRecord, TxError> {
    Ok(ActionRecord {
        letter: row.try_get(from)?,
        action: row.try_get(from + 1)?,
        who: row.try_get(from + 2)?,
        why: row.try_get(from + 3)?,
        at: time(row.try_get(from + 4)?),
    })
}

/// The dead letters of a request, oldest first.
pub(super) async fn of_request(db: &Object, request_id: &str) -> Result<Vec<DeadRecord>, TxError> {
    let filter = DeadFilter {
        // A message that took the request's id and was refused is not one of the request's own.
        of_requests: true,
        ..DeadFilter::with_id(request_id)
    };
    list(db, &filter).await
}

/// People's decisions about a request, oldest first.
pub(super) async fn actions(db: &Object, request: i64) -> Result<Vec<ActionRecord>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT dead_letter, action, who, why, at FROM actions WHERE request = $1 ORDER BY seq",
        )
        .await?;
    let rows = db.query(&query, &[&request]).await?;
    rows.iter().map(|row| action(row, 0)).collect()
}

/// How many were ever closed, by action.
pub(super) async fn closings(db: &Object) -> Result<Vec<(String, u64)>, TxError> {
    let rows = db.query("SELECT action, number FROM closings", &[]).await?;
    let closing = |row: &Row| Ok((row.try_get(0)?, count(row.try_get(1)?)));
    rows.iter().map(closing).collect()
}

pub(super) async fn close(
    db: &ClientWrapper,
    id: &str,
    closing: &Closing,
) -> Result<Closed, TxError> {
    lock_request(db, id).await?;
    let Some(letter) = find(db, id).await? else {
        return Ok(Closed::Unknown);
    };
    if !letter.allows(&closing.resolution) {
        return last_action(db, id).await.map(Closed::Changed);
    }
    if let Resolution::Replay(reopen) = &closing.resolution
        && let Some(hindrance) = begin_again(db, &letter, reopen, closing.at).await?
    {
        return Ok(Closed::Hindered(hindrance));
    }
    write_down(db, id, letter.request, closing).await?;
    Ok(Closed::Done)
}

/// Retention locks the request first, too: so only one of both is at its letters.
async fn lock_request(db: &ClientWrapper, id: &str) -> Result<(), TxError> {
    let query = db
        .prepare_cached(
            "SELECT 1 FROM requests WHERE seq = (SELECT request FROM dead_letters WHERE id = $1) FOR UPDATE",
        )
        .await?;
    db.query_opt(&query, &[&text(id)]).await?;
    Ok(())
}

async fn find(db: &ClientWrapper, id: &str) -> Result<Option<Letter>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT request, outcome, reason, closed_at IS NOT NULL, closed_by FROM dead_letters
             WHERE id = $1 FOR UPDATE",
        )
        .await?;
    let row = db.query_opt(&query, &[&text(id)]).await?;
    let letter = |row: Row| {
        Ok(Letter {
            request: row.try_get(0)?,
            outcome: Outcome::named(row.try_get(1)?, row.try_get(2)?),
            closed: row.try_get(3)?,
            closed_by: row.try_get(4)?,
        })
    };
    row.map(letter).transpose()
}

async fn last_action(db: &ClientWrapper, id: &str) -> Result<Option<ActionRecord>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT dead_letter, action, who, why, at FROM actions WHERE dead_letter = $1
             ORDER BY seq DESC LIMIT 1",
        )
        .await?;
    let row = db.query_opt(&query, &[&text(id)]).await?;
    row.map(|row| action(&row, 0)).transpose()
}

/// Reopens the request, or lets it wait for its turn. Its earlier claims no longer count.
async fn begin_again(
    db: &ClientWrapper,
    letter: &Letter,
    reopen: &Reopen,
    now: Timestamp,
) -> Result<Option<Hindrance>, TxError> {
    let (Some(request), Some(outcome)) = (letter.request, letter.outcome) else {
        return Ok(Some(Hindrance::Invalid));
    };
    let query = format!(
        "SELECT notified AND due_at IS NULL AS is_checked, {STORED} FROM requests WHERE seq = $1 FOR UPDATE"
    );
    let query = db.prepare_cached(&query).await?;
    let row = db.query_one(&query, &[&request]).await?;
    let (stored, progress) = stored(&row)?;
    let overtaken = newer(db, request).await?.is_some();
    let dead = DeadRequest {
        stored,
        progress,
        is_checked: row.try_get("is_checked")?,
        overtaken,
    };
    match dead.reopened(reopen, outcome) {
        Ok(again) => take_up(db, request, &again, now).await?,
        Err(hindrance) => return Ok(Some(hindrance)),
    }
    // From now on a later one waits for this one. One that came a moment ago has to be told of: run again.
    if !overtaken && newer(db, request).await?.is_some() {
        return Err(TxError::Again("a later request has come".into()));
    }
    Ok(None)
}

/// The last of the later requests on the same payment that may have moved money, or may still.
pub(super) async fn newer(db: &ClientWrapper, request: i64) -> Result<Option<String>, TxError> {
    let query = db
        .prepare_cached(&format!(
            "SELECT o.request_id FROM requests r JOIN requests o
               ON o.provider = r.provider AND o.payment_key = r.payment_key AND o.seq > r.seq
             WHERE r.seq = $1 AND (o.outcome IS NULL OR o.outcome IN {OVERTAKING})
             ORDER BY o.seq DESC LIMIT 1",
        ))
        .await?;
    let row = db.query_opt(&query, &[&request]).await?;
    Ok(row.map(|row| row.try_get(0)).transpose()?)
}

/// Locks the payment's open request until this is written, or its end would not see that this one
/// waits.
async fn take_up(
    db: &ClientWrapper,
    request: i64,
    progress: &Progress,
    now: Timestamp,
) -> Result<(), TxError> {
    let holder = db
        .prepare_cached(
            "SELECT o.seq FROM requests o JOIN requests r
               ON o.provider = r.provider AND o.payment_key = r.payment_key
             WHERE r.seq = $1 AND o.state <> 'finished' AND NOT o.parked FOR SHARE OF o",
        )
        .await?;
    let parked = db.query_opt(&holder, &[&request]).await?.is_some();
    let due_at = (!parked).then(|| millis(progress.due_at.unwrap_or(now)));
    let take = db
        .prepare_cached(
            "UPDATE requests SET token = token + 1, state = $2, due_at = $3, progress = $4, parked = $5,
               finished_at = NULL, notified = false, owner = NULL WHERE seq = $1",
        )
        .await?;
    let (state, progress) = (progress.state.as_str(), json(progress)?);
    let taken = db
        .execute(&take, &[&request, &state, &due_at, &progress, &parked])
        .await;
    match taken {
        // Another request took the payment a moment ago: run again, this one waits for its turn.
        Err(error) if error.code() == Some(&SqlState::UNIQUE_VIOLATION) => {
            Err(TxError::Again("another request took the payment".into()))
        }
        taken => Ok(taken.map(drop)?),
    }
}

async fn write_down(
    db: &ClientWrapper,
    id: &str,
    request: Option<i64>,
    closing: &Closing,
) -> Result<(), TxError> {
    let (action, at) = (closing.resolution.action().as_str(), millis(closing.at));
    let closed = closing.mark();
    let close = db
        .prepare_cached("UPDATE dead_letters SET closed_at = $2, closed_by = $3 WHERE id = $1")
        .await?;
    let (closed_at, closed_by) = closed.unzip();
    db.execute(&close, &[&text(id), &closed_at, &closed_by])
        .await?;
    let note = db
        .prepare_cached(
            "INSERT INTO actions (dead_letter, request, action, who, why, at) VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .await?;
    let (who, why) = (text(&closing.who), text(&closing.why));
    db.execute(&note, &[&text(id), &request, &action, &who, &why, &at])
        .await?;
    if closed.is_some() {
        let number = db
            .prepare_cached(
                "INSERT INTO closings (action, number) VALUES ($1, 1)
                 ON CONFLICT (action) DO UPDATE SET number = closings.number + 1",
            )
            .await?;
        db.execute(&number, &[&action]).await?;
    }
    Ok(())
}
