//! Claiming due requests, inside a transaction that also writes the intents of their calls.

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::rows::{OUTCOME, STORED, json, outcome, stored};
use crate::ledger::column::{millis, time};
use crate::ledger::{Claim, ClaimId, Claims, Planner, Which};
use crate::lifecycle::Progress;
use crate::outcome::Operation;

/// Which rows of the account ?1 at the time ?2, and in which order.
const DUE: &str = "WHERE provider = ?1 AND due_at <= ?2 ORDER BY due_at";
const QUESTIONS: &str = "INDEXED BY due_questions WHERE provider = ?1 AND due_at <= ?2
   AND state IN ('waiting_provider', 'in_doubt') ORDER BY due_at";
const OVERDUE: &str =
    "INDEXED BY deadlines WHERE provider = ?1 AND deadline_at < ?2 AND due_at IS NOT NULL
   AND state IN ('due', 'waiting_retry') ORDER BY deadline_at";

pub(super) fn claim(
    db: &Connection,
    provider: &str,
    which: Which,
    now: Timestamp,
    planner: &Planner,
) -> rusqlite::Result<Claims> {
    let take = |from, most| take(db, provider, from, most, now, planner);
    let (most, questions) = match which {
        Which::Due { most, questions } => (most, questions.min(most)),
        Which::Overdue(most) => {
            let claims = take(OVERDUE, most)?;
            return Ok(Claims {
                claims,
                next_due: None,
            });
        }
    };
    let mut claims = take(QUESTIONS, questions)?;
    claims.extend(take(DUE, most - claims.len())?);
    let next_due = if claims.len() < most {
        next_due(db, provider)?
    } else {
        None
    };
    Ok(Claims { claims, next_due })
}

/// Claims the first ones of those.
fn take(
    db: &Connection,
    provider: &str,
    from: &str,
    most: usize,
    now: Timestamp,
    planner: &Planner,
) -> rusqlite::Result<Vec<Claim>> {
    if most == 0 {
        return Ok(Vec::new());
    }
    let claims: Vec<Claim> = db
        .prepare_cached(&format!(
            "SELECT seq, token, {OUTCOME}, {STORED} FROM requests {from} LIMIT ?3"
        ))?
        .query_map(params![provider, millis(now), most], |row| {
            planned(row, planner)
        })?
        .collect::<rusqlite::Result<_>>()?;
    for claim in &claims {
        write_claim(db, claim.id, &claim.progress, None)?;
        if let Some(operation) = claim.operation() {
            insert_call(db, claim.id.seq, &claim.progress, operation, now)?;
        }
    }
    Ok(claims)
}

fn planned(row: &Row<'_>, planner: &Planner) -> rusqlite::Result<Claim> {
    let (stored, mut progress) = stored(row)?;
    let plan = planner(&stored, &mut progress);
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

/// Writes the intent of a call.
pub(super) fn insert_call(
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
