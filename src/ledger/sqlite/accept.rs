//! Accepting the messages that intake has read, inside a transaction.

use rusqlite::{Connection, OptionalExtension, params};

use super::claim::insert_call;
use super::outbox;
use super::rows::json;
use crate::ledger::column::millis;
use crate::ledger::{Accepted, Arrival, ClaimId, DeadLetter, NewRequest};
use crate::lifecycle::Progress;
use crate::wire;

pub(super) fn accept(db: &Connection, arrival: &Arrival) -> rusqlite::Result<Accepted> {
    match arrival {
        Arrival::Request(request) => accept_request(db, request),
        Arrival::Invalid(dead_letter, _) if repeats(db, dead_letter)? => Ok(Accepted::Repeated),
        Arrival::Invalid(dead_letter, messages) => {
            outbox::open_again(db, dead_letter)?;
            let is_new = outbox::dead_letter(db, None, dead_letter)?;
            outbox::insert(db, None, messages, dead_letter.dead_at)?;
            Ok(if is_new {
                Accepted::Recorded
            } else {
                Accepted::Repeated
            })
        }
    }
}

fn accept_request(db: &Connection, request: &NewRequest) -> rusqlite::Result<Accepted> {
    if insert_request(db, request, &request.progress, false)? {
        return begin_call(db, request);
    }
    let known: Option<(i64, Vec<u8>, bool)> = db
        .prepare_cached(
            "SELECT seq, digest, outcome IS NOT NULL FROM requests WHERE request_id = ?1",
        )?
        .query_row([&request.request_id], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
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
        // The id is free, but another request has the payment's turn: a finished one gives it up, and
        // behind an open one this request waits.
        None if free_turn(db, &request.provider, &request.payment_key)? => {
            expect_inserted(insert_request(db, request, &request.progress, false)?)?;
            begin_call(db, request)
        }
        None => {
            let waits = Progress::new(request.envelope.received_at);
            expect_inserted(insert_request(db, request, &waits, true)?)?;
            Ok(Accepted::New(None))
        }
    }
}

/// Whether the message has the content of a stored request, which was accepted while its account was still
/// configured, or its bytes, which an older version accepted. Then it is a repeat all the same.
fn repeats(db: &Connection, dead: &DeadLetter) -> rusqlite::Result<bool> {
    let Some(request_id) = &dead.request_id else {
        return Ok(false);
    };
    let known = db
        .prepare_cached(
            "SELECT seq, outcome IS NOT NULL FROM requests WHERE request_id = ?1 AND (digest = ?2 OR body = ?3)",
        )?
        .query_row(
            params![request_id, wire::content_digest(&dead.body), dead.body],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    if let Some((seq, true)) = known {
        outbox::publish_again(db, seq)?;
    }
    Ok(known.is_some())
}

/// A request that is neither stored nor known must not be acknowledged, whatever kept it out.
fn expect_inserted(inserted: bool) -> rusqlite::Result<()> {
    if inserted {
        Ok(())
    } else {
        Err(rusqlite::Error::StatementChangedRows(0))
    }
}

/// Writes the intent of a request that begins at once.
fn begin_call(db: &Connection, request: &NewRequest) -> rusqlite::Result<Accepted> {
    let seq = db.last_insert_rowid();
    let (progress, at) = (&request.progress, request.envelope.received_at);
    let Some(operation) = progress.operation else {
        return Ok(Accepted::New(None));
    };
    insert_call(db, seq, progress, operation, at)?;
    Ok(Accepted::New(Some(ClaimId { seq, token: 0 })))
}

/// Takes the payment's turn from a request that has finished, if one has it.
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
    parked: bool,
) -> rusqlite::Result<bool> {
    let envelope = &request.envelope;
    let turn = (!parked).then_some(0);
    let due_at = progress.due_at.filter(|_| !parked).map(millis);
    let inserted = db
        .prepare_cached(
            "INSERT OR IGNORE INTO requests (request_id, provider, payment_key, digest, body, correlation_id,
               reply_to, traceparent, tracestate, received_at, state, parked, due_at, attempts, lookups, progress,
               turn, deadline_at)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)",
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
            request.deadline.map(millis),
        ])?;
    Ok(inserted == 1)
}
