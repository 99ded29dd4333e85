//! Dead letters: finding them, and carrying out a person's decision inside a transaction.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::rows::{STORED, json, parse, stored};
use crate::ledger::column::{limit, millis, time};
use crate::ledger::dead::{BODIES_BYTES_MAX, DeadRequest, Letter, OVERTAKING, OWN_FIRST};
use crate::ledger::{ActionRecord, Closed, Closing, DeadFilter, DeadRecord, Reopen, Resolution};
use crate::lifecycle::{Hindrance, Progress};
use crate::outcome::Outcome;

/// Oldest first; by an id, see [`DeadFilter::with_id`].
pub(super) fn list(db: &Connection, filter: &DeadFilter) -> rusqlite::Result<Vec<DeadRecord>> {
    let (open, of_request) = (filter.open_condition(), filter.request_condition());
    let (named, first) = match filter.id {
        Some(_) => (
            "(d.id = ?1 OR d.request_id = ?1)",
            format!("d.id <> ?1, {OWN_FIRST}, "),
        ),
        None => ("?1 IS NULL", String::new()),
    };
    let (after, after_id) = filter.behind();
    let before = filter.dead_before.map_or(i64::MAX, millis);
    let mut query = db.prepare_cached(&format!(
        "SELECT d.id, d.request_id, d.request IS NOT NULL, d.provider, d.outcome, d.reason, d.detail,
                CASE WHEN ?8 THEN d.body END, d.received_at, d.dead_at, d.closed_at,
                (SELECT c.evidence FROM calls c WHERE c.request = d.request AND c.started_at <= d.dead_at
                 ORDER BY c.number DESC LIMIT 1),
                a.dead_letter, a.action, a.who, a.why, a.at
         FROM dead_letters d LEFT JOIN actions a
           ON a.seq = (SELECT max(l.seq) FROM actions l WHERE l.dead_letter = d.id)
         WHERE {open} AND {of_request} AND {named} AND (?2 IS NULL OR d.provider = ?2) AND (?3 IS NULL OR d.outcome = ?3)
           AND (?4 IS NULL OR d.reason = ?4) AND d.dead_at < ?5 AND (d.dead_at, d.id) > (?6, ?7)
           AND (?10 IS NULL OR instr(d.body, CAST(?10 AS BLOB)) > 0)
         ORDER BY {first}d.dead_at, d.id LIMIT ?9"
    ))?;
    let mut rows = query.query(params![
        filter.id,
        filter.provider,
        filter.outcome,
        filter.reason,
        before,
        after,
        after_id,
        filter.with_body,
        limit(filter.most),
        filter.containing,
    ])?;
    let (mut letters, mut bytes) = (Vec::new(), 0);
    while bytes < BODIES_BYTES_MAX
        && let Some(row) = rows.next()?
    {
        let letter = record(row)?;
        bytes += letter.body.len();
        letters.push(letter);
    }
    Ok(letters)
}

fn record(row: &Row<'_>) -> rusqlite::Result<DeadRecord> {
    let evidence: Option<String> = row.get(11)?;
    Ok(DeadRecord {
        id: row.get(0)?,
        request_id: row.get(1)?,
        is_request: row.get(2)?,
        provider: row.get(3)?,
        outcome: row.get(4)?,
        reason: row.get(5)?,
        detail: row.get(6)?,
        body: row.get::<_, Option<Vec<u8>>>(7)?.unwrap_or_default(),
        received_at: time(row.get(8)?),
        dead_at: time(row.get(9)?),
        closed_at: row.get::<_, Option<i64>>(10)?.map(time),
        evidence: evidence.map(|text| parse(&text)).transpose()?,
        last: row
            .get::<_, Option<String>>(12)?
            .map(|_| action(row, 12))
            .transpose()?,
    })
}

fn action(row: &Row<'_>, from: usize) -> rusqlite::Result<ActionRecord> {
    Ok(ActionRecord {
        letter: row.get(from)?,
        action: row.get(from + 1)?,
        who: row.get(from + 2)?,
        why: row.get(from + 3)?,
        at: time(row.get(from + 4)?),
    })
}

/// The dead letters of a request, oldest first.
pub(super) fn of_request(db: &Connection, request_id: &str) -> rusqlite::Result<Vec<DeadRecord>> {
    let filter = DeadFilter {
        // A message that took the request's id and was refused is not one of the request's own.
        of_requests: true,
        ..DeadFilter::with_id(request_id)
    };
    list(db, &filter)
}

/// People's decisions about a request, oldest first.
pub(super) fn actions(db: &Connection, request: i64) -> rusqlite::Result<Vec<ActionRecord>> {
    db.prepare_cached(
        "SELECT dead_letter, action, who, why, at FROM actions WHERE request = ?1 ORDER BY seq",
    )?
    .query_map([request], |row| action(row, 0))?
    .collect()
}

/// How many were ever closed, by action.
pub(super) fn closings(db: &Connection) -> rusqlite::Result<Vec<(String, u64)>> {
    db.prepare_cached("SELECT action, number FROM closings")?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect()
}

pub(super) fn close(db: &Connection, id: &str, closing: &Closing) -> rusqlite::Result<Closed> {
    let Some(letter) = find(db, id)? else {
        return Ok(Closed::Unknown);
    };
    if !letter.allows(&closing.resolution) {
        return last_action(db, id).map(Closed::Changed);
    }
    if let Resolution::Replay(reopen) = &closing.resolution
        && let Some(hindrance) = begin_again(db, &letter, reopen, closing.at)?
    {
        return Ok(Closed::Hindered(hindrance));
    }
    write_down(db, id, letter.request, closing)?;
    Ok(Closed::Done)
}

fn find(db: &Connection, id: &str) -> rusqlite::Result<Option<Letter>> {
    db.prepare_cached(
        "SELECT request, outcome, reason, closed_at IS NOT NULL, closed_by FROM dead_letters WHERE id = ?1",
    )?
    .query_row([id], |row| {
        Ok(Letter {
            request: row.get(0)?,
            outcome: Outcome::named(&row.get::<_, String>(1)?, &row.get::<_, String>(2)?),
            closed: row.get(3)?,
            closed_by: row.get(4)?,
        })
    })
    .optional()
}

fn last_action(db: &Connection, id: &str) -> rusqlite::Result<Option<ActionRecord>> {
    db.prepare_cached(
        "SELECT dead_letter, action, who, why, at FROM actions WHERE dead_letter = ?1
         ORDER BY seq DESC LIMIT 1",
    )?
    .query_row([id], |row| action(row, 0))
    .optional()
}

/// Reopens the request, or lets it wait for its turn. Its earlier claims no longer count.
fn begin_again(
    db: &Connection,
    letter: &Letter,
    reopen: &Reopen,
    now: Timestamp,
) -> rusqlite::Result<Option<Hindrance>> {
    let (Some(request), Some(outcome)) = (letter.request, letter.outcome) else {
        return Ok(Some(Hindrance::Invalid));
    };
    let overtaken = newer(db, request)?.is_some();
    let dead = db
        .prepare_cached(&format!(
            "SELECT notified = 1 AND due_at IS NULL AS is_checked, {STORED} FROM requests WHERE seq = ?1"
        ))?
        .query_row([request], |row| {
            let (stored, progress) = stored(row)?;
            Ok(DeadRequest {
                stored,
                progress,
                is_checked: row.get("is_checked")?,
                overtaken,
            })
        })?;
    match dead.reopened(reopen, outcome) {
        Ok(again) => take_up(db, request, &again, now).map(|()| None),
        Err(hindrance) => Ok(Some(hindrance)),
    }
}

/// The last of the later requests on the same payment that may have moved money, or may still.
pub(super) fn newer(db: &Connection, request: i64) -> rusqlite::Result<Option<String>> {
    db.prepare_cached(&format!(
        "SELECT o.request_id FROM requests r JOIN requests o
           ON o.provider = r.provider AND o.payment_key = r.payment_key AND o.seq > r.seq
         WHERE r.seq = ?1 AND (o.outcome IS NULL OR o.outcome IN {OVERTAKING})
         ORDER BY o.seq DESC LIMIT 1",
    ))?
    .query_row([request], |row| row.get(0))
    .optional()
}

/// Takes the payment's turn, or waits for it while another request works on the payment.
fn take_up(
    db: &Connection,
    request: i64,
    progress: &Progress,
    now: Timestamp,
) -> rusqlite::Result<()> {
    // The payment's turn may belong to a request that has finished since.
    db.prepare_cached(
        "UPDATE requests SET turn = NULL WHERE turn = 0 AND state = 'finished' AND seq <> ?1
           AND (provider, payment_key) = (SELECT provider, payment_key FROM requests WHERE seq = ?1)",
    )?
    .execute([request])?;
    let parked: bool = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM requests r JOIN requests o
               ON o.provider = r.provider AND o.payment_key = r.payment_key
             WHERE r.seq = ?1 AND o.turn = 0 AND o.seq <> r.seq)",
        )?
        .query_row([request], |row| row.get(0))?;
    let due_at = (!parked).then(|| millis(progress.due_at.unwrap_or(now)));
    let turn = (!parked).then_some(0);
    let (state, progress) = (progress.state.as_str(), json(progress)?);
    db.prepare_cached(
        "UPDATE requests SET token = token + 1, state = ?2, due_at = ?3, progress = ?4, parked = ?5,
           turn = ?6, finished_at = NULL, notified = 0 WHERE seq = ?1",
    )?
    .execute(params![request, state, due_at, progress, parked, turn])
    .map(drop)
}

fn write_down(
    db: &Connection,
    id: &str,
    request: Option<i64>,
    closing: &Closing,
) -> rusqlite::Result<()> {
    let (action, at) = (closing.resolution.action().as_str(), millis(closing.at));
    let closed = closing.mark();
    let (closed_at, closed_by) = closed.unzip();
    db.prepare_cached("UPDATE dead_letters SET closed_at = ?2, closed_by = ?3 WHERE id = ?1")?
        .execute(params![id, closed_at, closed_by])?;
    db.prepare_cached(
        "INSERT INTO actions (dead_letter, request, action, who, why, at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![id, request, action, closing.who, closing.why, at])?;
    if closed.is_some() {
        db.prepare_cached(
            "INSERT INTO closings (action, number) VALUES (?1, 1)
             ON CONFLICT (action) DO UPDATE SET number = closings.number + 1",
        )?
        .execute([action])?;
    }
    Ok(())
}
