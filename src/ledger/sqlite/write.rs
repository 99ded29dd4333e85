//! What changes the ledger, each function inside a transaction.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::outbox;
use super::rows::{OUTCOME, STORED, json, millis, outcome, stored, time};
use crate::ledger::{
    Accepted, Arrival, Begin, Change, Claim, ClaimId, Claims, Committed, DeadLetter, NewRequest,
    Settled,
};
use crate::lifecycle::Progress;
use crate::outcome::{Operation, Outcome};

pub(super) fn accept(db: &Connection, arrival: &Arrival) -> rusqlite::Result<Accepted> {
    match arrival {
        Arrival::Request(request) => accept_request(db, request),
        Arrival::Invalid(dead_letter, _) if repeats(db, dead_letter)? => Ok(Accepted::Repeated),
        Arrival::Invalid(dead_letter, messages) => {
            outbox::open_again(db, dead_letter)?;
            outbox::dead_letter(db, None, dead_letter)?;
            outbox::insert(db, None, messages, dead_letter.dead_at)?;
            Ok(Accepted::Recorded)
        }
    }
}

fn accept_request(db: &Connection, request: &NewRequest) -> rusqlite::Result<Accepted> {
    if insert_request(db, request, &request.progress, Some(TURN))? {
        return begun(db, request);
    }
    let known = db
        .prepare_cached(
            "SELECT seq, digest, outcome IS NOT NULL FROM requests WHERE request_id = ?1",
        )?
        .query_row([&request.request_id], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, bool>(2)?,
            ))
        })
        .optional()?;
    match known {
        Some((_, digest, _)) if digest != request.digest => Ok(Accepted::Conflicting),
        Some((seq, _, has_result)) => {
            if has_result {
                outbox::publish_again(db, seq)?;
            }
            Ok(Accepted::Repeated)
        }
        // Not the id was taken but the payment's turn: by one that has finished, or it waits.
        None if free_turn(db, &request.provider, &request.payment_key)? => {
            kept(insert_request(db, request, &request.progress, Some(TURN))?)?;
            begun(db, request)
        }
        None => {
            let waits = Progress::new(request.envelope.received_at);
            kept(insert_request(db, request, &waits, None)?)?;
            Ok(Accepted::New(None))
        }
    }
}

/// The same bytes as a request that was taken, when its account was still configured, or by an older
/// version: a repeat all the same.
fn repeats(db: &Connection, dead: &DeadLetter) -> rusqlite::Result<bool> {
    let known = db
        .prepare_cached(
            "SELECT seq, outcome IS NOT NULL FROM requests WHERE request_id = ?1 AND body = ?2",
        )?
        .query_row(params![dead.request_id, dead.body], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    if let Some((seq, true)) = known {
        outbox::publish_again(db, seq)?;
    }
    Ok(known.is_some())
}

/// What is neither stored nor known must not be acknowledged, whatever kept it out.
fn kept(inserted: bool) -> rusqlite::Result<()> {
    match inserted {
        true => Ok(()),
        false => Err(rusqlite::Error::StatementChangedRows(0)),
    }
}

/// The intent of a request that begins at once.
fn begun(db: &Connection, request: &NewRequest) -> rusqlite::Result<Accepted> {
    let seq = db.last_insert_rowid();
    let (progress, at) = (&request.progress, request.envelope.received_at);
    let Some(operation) = progress.operation else {
        return Ok(Accepted::New(None));
    };
    insert_call(db, seq, progress, operation, at)?;
    Ok(Accepted::New(Some(ClaimId { seq, token: 0 })))
}

/// The request that works on its payment, or was the last to.
const TURN: i64 = 0;

/// One that has finished gives the payment's turn up, if it has it.
fn free_turn(db: &Connection, provider: &str, payment_key: &str) -> rusqlite::Result<bool> {
    let freed = db
        .prepare_cached(
            "UPDATE requests SET turn = NULL
             WHERE provider = ?1 AND payment_key = ?2 AND turn = 0 AND state = 'finished'",
        )?
        .execute([provider, payment_key])?;
    Ok(freed > 0)
}

fn insert_request(
    db: &Connection,
    request: &NewRequest,
    progress: &Progress,
    turn: Option<i64>,
) -> rusqlite::Result<bool> {
    let (envelope, parked) = (&request.envelope, turn.is_none());
    let due_at = progress.due_at.filter(|_| !parked).map(millis);
    let inserted = db
        .prepare_cached(
            "INSERT OR IGNORE INTO requests (request_id, provider, payment_key, digest, body, correlation_id,
               reply_to, traceparent, tracestate, received_at, state, parked, due_at, attempts, lookups, progress,
               turn)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        )?
        .execute(params![
            request.request_id,
            request.provider,
            request.payment_key,
            request.digest,
            envelope.body,
            envelope.correlation_id,
            envelope.reply_to,
            envelope.traceparent,
            envelope.tracestate,
            millis(envelope.received_at),
            progress.state.as_str(),
            parked,
            due_at,
            progress.attempts,
            progress.lookups,
            json(progress)?,
            turn,
        ])?;
    Ok(inserted == 1)
}

fn insert_call(
    db: &Connection,
    request: i64,
    progress: &Progress,
    operation: Operation,
    now: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO calls (request, number, operation, started_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        request,
        progress.calls,
        operation.as_str(),
        millis(now)
    ])
    .map(drop)
}

pub(super) fn claim(
    db: &Connection,
    provider: &str,
    most: usize,
    now: Timestamp,
    begin: &Begin,
) -> rusqlite::Result<Claims> {
    let claims: Vec<Claim> = db
        .prepare_cached(&format!(
            "SELECT seq, token, {OUTCOME}, {STORED} FROM requests WHERE provider = ?1 AND due_at <= ?2
             ORDER BY due_at LIMIT ?3"
        ))?
        .query_map(params![provider, millis(now), most], |row| planned(row, begin))?
        .collect::<rusqlite::Result<_>>()?;
    for claim in &claims {
        write_claim(db, claim.id, &claim.progress, None)?;
        if let Some(operation) = claim.operation() {
            insert_call(db, claim.id.seq, &claim.progress, operation, now)?;
        }
    }
    let next_due = if claims.len() < most {
        next_due(db, provider)?
    } else {
        None
    };
    Ok(Claims { claims, next_due })
}

fn planned(row: &Row<'_>, begin: &Begin) -> rusqlite::Result<Claim> {
    let (stored, mut progress) = stored(row)?;
    let plan = begin(&stored, &mut progress);
    Ok(Claim {
        id: ClaimId {
            seq: row.get("seq")?,
            token: row.get::<_, i64>("token")? + 1,
        },
        outcome: outcome(row)?,
        stored,
        progress,
        plan,
    })
}

/// Writes a request under a new token. While it is claimed it has no due time.
pub(super) fn write_claim(
    db: &Connection,
    id: ClaimId,
    progress: &Progress,
    due_at: Option<Timestamp>,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE requests SET token = ?2, state = ?3, due_at = ?7, attempts = ?4, lookups = ?5, progress = ?6,
           notified = (state = 'finished')
         WHERE seq = ?1",
    )?
    .execute(params![
        id.seq,
        id.token,
        progress.state.as_str(),
        progress.attempts,
        progress.lookups,
        json(progress)?,
        due_at.map(millis),
    ])
    .map(drop)
}

fn next_due(db: &Connection, provider: &str) -> rusqlite::Result<Option<Timestamp>> {
    db.prepare_cached(
        "SELECT min(due_at) FROM requests WHERE provider = ?1 AND due_at IS NOT NULL",
    )?
    .query_row([provider], |row| row.get::<_, Option<i64>>(0))
    .map(|due| due.map(time))
}

pub(super) fn commit(db: &Connection, change: &Change) -> rusqlite::Result<Settled> {
    let hinted = is_hinted(db, change)?;
    let progress = match &change.hinted {
        Some(hinted_progress) if hinted => hinted_progress,
        _ => &change.progress,
    };
    if !write_progress(db, change, progress)? {
        return Ok(Settled {
            committed: Committed::Lost,
            rows: Vec::new(),
        });
    }
    if let Some(call) = &change.call {
        db.prepare_cached(
            "UPDATE calls SET finished_at = ?3, verdict = ?4, evidence = ?5 WHERE request = ?1 AND number = ?2",
        )?
        .execute(params![
            change.id.seq,
            change.progress.calls,
            millis(change.at),
            call.verdict,
            json(&call.evidence)?
        ])?;
    }
    let rows = outbox::insert(db, Some(change.id.seq), &change.messages, change.at)?;
    if let Some(dead) = &change.dead_letter {
        outbox::dead_letter(db, Some(change.id.seq), dead)?;
    }
    let committed = match change.outcome.is_some() && unpark(db, change.id.seq, change.at)? {
        true => Committed::Freed,
        false if hinted => Committed::Hinted,
        false => Committed::Done,
    };
    Ok(Settled { committed, rows })
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

/// No RETURNING: it would make SQLite keep a journal of each statement, a sixth of a commit.
fn write_progress(db: &Connection, change: &Change, progress: &Progress) -> rusqlite::Result<bool> {
    // What was finished may only have been checked: then its end stays as it is. What was
    // replayed ends once more, and its outcome stays what its result said.
    let statement = match change.is_check() {
        true => {
            "UPDATE requests SET state = ?3, due_at = ?4, attempts = ?5, lookups = ?6, progress = ?7,
               notified = (?4 IS NOT NULL)
             WHERE seq = ?1 AND token = ?2 AND due_at IS NULL AND state = 'finished' AND notified = 1
               AND ?8 IS NULL AND ?9 IS NULL AND ?10 IS NULL"
        }
        false => {
            "UPDATE requests SET state = ?3, due_at = ?4, attempts = ?5, lookups = ?6, progress = ?7,
               outcome = coalesce(outcome, ?8), reason = coalesce(reason, ?9), finished_at = ?10, notified = 0
             WHERE seq = ?1 AND token = ?2 AND due_at IS NULL AND parked = 0 AND state <> 'finished'"
        }
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

/// The next request on the same payment has its turn.
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
