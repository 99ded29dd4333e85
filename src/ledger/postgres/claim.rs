//! Claiming due requests: the plan for each is made inside the transaction.

use deadpool_postgres::ClientWrapper;
use jiff::{SignedDuration, Timestamp};
use tokio_postgres::Row;

use super::error::TxError;
use super::rows::{STORED, column, json, outcome, stored, written};
use crate::ledger::column::{limit, millis, time};
use crate::ledger::{Claim, ClaimId, Claims, Planner, Which};
use crate::lifecycle::Progress;

/// After this the dispatcher looks again for requests that another worker had locked.
const PASSED_BY: SignedDuration = SignedDuration::from_millis(25);

/// Which rows of an account at the time $2, and in which order.
const DUE: &str = "due_at <= $2 ORDER BY due_at";
const QUESTIONS: &str =
    "due_at <= $2 AND state IN ('waiting_provider', 'in_doubt') ORDER BY due_at";
const OVERDUE: &str =
    "deadline_at < $2 AND due_at IS NOT NULL AND state IN ('due', 'waiting_retry')
   ORDER BY deadline_at";

/// A dispatcher's wish for requests.
pub(super) struct Wanted {
    pub(super) provider: String,
    pub(super) which: Which,
    pub(super) now: Timestamp,
    pub(super) planner: Planner,
}

/// Passes by the rows that another worker has locked.
pub(super) async fn claim(
    db: &ClientWrapper,
    worker: i64,
    wanted: &Wanted,
) -> Result<Claims, TxError> {
    let take = async |from, most| take(db, worker, wanted, from, most).await;
    let (most, questions) = match wanted.which {
        Which::Due { most, questions } => (most, questions.min(most)),
        Which::Overdue(most) => {
            let claims = take(OVERDUE, most).await?;
            return Ok(Claims {
                claims,
                next_due: None,
            });
        }
    };
    let mut claims = take(QUESTIONS, questions).await?;
    claims.extend(take(DUE, most - claims.len()).await?);
    let next_due = if claims.len() < most {
        next_due(db, wanted).await?
    } else {
        None
    };
    Ok(Claims { claims, next_due })
}

/// Claims the first ones of those.
async fn take(
    db: &ClientWrapper,
    worker: i64,
    wanted: &Wanted,
    from: &str,
    number: usize,
) -> Result<Vec<Claim>, TxError> {
    if number == 0 {
        return Ok(Vec::new());
    }
    let query = format!(
        "SELECT seq, outcome, reason, {STORED} FROM requests
         WHERE provider = $1 AND {from}, seq LIMIT $3 FOR UPDATE SKIP LOCKED"
    );
    let query = db.prepare_cached(&query).await?;
    let rows = db
        .query(
            &query,
            &[&wanted.provider, &millis(wanted.now), &limit(number)],
        )
        .await?;
    let claims = rows.iter().map(|row| planned(row, &wanted.planner));
    let claims: Vec<Claim> = claims.collect::<Result<_, _>>()?;
    let taken: Vec<_> = claims.iter().map(|c| (c.id, &c.progress)).collect();
    write_claims(db, Some(worker), &taken).await?;
    begin_calls(db, &claims, wanted.now).await?;
    Ok(claims)
}

fn planned(row: &Row, planner: &Planner) -> Result<Claim, TxError> {
    let (stored, mut progress) = stored(row)?;
    let plan = planner(&stored, &mut progress);
    Ok(Claim {
        id: next_id(row)?,
        stored,
        progress,
        plan,
        outcome: outcome(row)?,
    })
}

/// From the column `seq`. The token is drawn, not counted: a standby that takes over without the last
/// commits gives their row numbers and counts again, to other requests and other claims.
pub(super) fn next_id(row: &Row) -> Result<ClaimId, TxError> {
    Ok(ClaimId {
        seq: row.try_get("seq")?,
        token: rand::random(),
    })
}

/// Writes requests under a new token. Without an owner they are due as their progress says.
pub(super) async fn write_claims(
    db: &ClientWrapper,
    owner: Option<i64>,
    taken: &[(ClaimId, &Progress)],
) -> Result<(), TxError> {
    if taken.is_empty() {
        return Ok(());
    }
    let statement = db
        .prepare_cached(
            "UPDATE requests r SET token = t.token, state = t.state, due_at = t.due_at, attempts = t.attempts,
               lookups = t.lookups, progress = t.progress, notified = (t.state = 'finished'), owner = $8
             FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::bigint[], $7::text[])
               t (seq, token, state, due_at, attempts, lookups, progress)
             WHERE r.seq = t.seq",
        )
        .await?;
    let due = |progress: &Progress| progress.due_at.filter(|_| owner.is_none()).map(millis);
    db.execute(
        &statement,
        &[
            &column(taken, |(id, _)| id.seq),
            &column(taken, |(id, _)| id.token),
            &column(taken, |(_, progress)| progress.state.as_str()),
            &column(taken, |(_, progress)| due(progress)),
            &column(taken, |(_, progress)| i64::from(progress.attempts)),
            &column(taken, |(_, progress)| i64::from(progress.lookups)),
            &written(taken, |(_, progress)| json(progress))?,
            &owner,
        ],
    )
    .await?;
    Ok(())
}

/// Writes the intents of calls.
async fn begin_calls(db: &ClientWrapper, claims: &[Claim], now: Timestamp) -> Result<(), TxError> {
    let calls = claims.iter().filter_map(|c| Some((c, c.operation()?)));
    let calls: Vec<_> = calls.collect();
    if calls.is_empty() {
        return Ok(());
    }
    let statement = db
        .prepare_cached(
            "INSERT INTO calls (request, number, operation, started_at)
             SELECT c.*, $4::bigint FROM unnest($1::bigint[], $2::bigint[], $3::text[]) c",
        )
        .await?;
    db.execute(
        &statement,
        &[
            &column(&calls, |(claim, _)| claim.id.seq),
            &column(&calls, |(claim, _)| i64::from(claim.progress.calls)),
            &column(&calls, |(_, operation)| operation.as_str()),
            &millis(now),
        ],
    )
    .await?;
    Ok(())
}

async fn next_due(db: &ClientWrapper, wanted: &Wanted) -> Result<Option<Timestamp>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT min(due_at) FROM requests WHERE provider = $1 AND due_at IS NOT NULL",
        )
        .await?;
    let row = db.query_one(&query, &[&wanted.provider]).await?;
    let due: Option<Timestamp> = row.try_get::<_, Option<i64>>(0)?.map(time);
    let soonest = wanted.now.saturating_add(PASSED_BY).unwrap_or(wanted.now);
    Ok(due.map(|due| if due <= wanted.now { soonest } else { due }))
}
