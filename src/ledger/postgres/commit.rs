//! Committing the changes that calls led to: a batch is locked and checked, then written at once.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::ClientWrapper;
use tokio_postgres::Row;

use super::error::TxError;
use super::outbox::{self, Message, Rows};
use super::rows::{column, json, written};
use crate::ledger::column::millis;
use crate::ledger::{Change, CommitAnswer, Committed};
use crate::lifecycle::Progress;
use crate::outcome::{Outcome, State};
use crate::wire::Outgoing;

pub(super) async fn commit(
    db: &ClientWrapper,
    worker: i64,
    changes: &[&Change],
) -> Result<Vec<CommitAnswer>, TxError> {
    let mut answers = vec![CommitAnswer::LOST; changes.len()];
    let mut open: Vec<usize> = (0..changes.len()).collect();
    while !open.is_empty() {
        // Two changes of one request are made one after the other.
        let mut seen = HashSet::new();
        let (now, later): (Vec<_>, Vec<_>) = open
            .into_iter()
            .partition(|&n| seen.insert(changes[n].id.seq));
        let wave: Vec<&Change> = now.iter().map(|&n| changes[n]).collect();
        for (n, answer) in now.into_iter().zip(commit_wave(db, worker, &wave).await?) {
            answers[n] = answer;
        }
        open = later;
    }
    Ok(answers)
}

/// A change whose claim still holds.
struct Owned<'a> {
    change: &'a Change,
    progress: &'a Progress,
    hinted: bool,
}

async fn commit_wave(
    db: &ClientWrapper,
    worker: i64,
    changes: &[&Change],
) -> Result<Vec<CommitAnswer>, TxError> {
    let rows = lock(db, changes).await?;
    let mut owned = Vec::with_capacity(changes.len());
    for change in changes {
        if let Some(row) = rows.get(&change.id.seq) {
            owned.extend(check(change, row)?);
        }
    }
    let messages: Vec<Message<'_>> = owned.iter().flat_map(|o| messages(o.change)).collect();
    let dead = owned.iter().filter_map(|o| {
        let letter = o.change.dead_letter.as_ref()?;
        Some((Some(o.change.id.seq), letter))
    });
    let dead: Vec<_> = dead.collect();
    let (written, ended, inserted, lettered) = tokio::join!(
        write(db, &owned),
        end_calls(db, &owned),
        outbox::insert(db, worker, &messages),
        outbox::dead_letters(db, &dead),
    );
    let (rows, inserted) = match inserted {
        Ok(rows) => (rows, Ok(())),
        Err(error) => (Rows::new(), Err(error)),
    };
    first_cause([written, ended, inserted, lettered.map(drop)])?;
    // Afterwards, as a payment has one active request at a time.
    let freed = unpark(db, &owned).await?;
    Ok(answers(changes, &owned, &freed, &rows))
}

/// What each change came to, in their order.
fn answers(
    changes: &[&Change],
    owned: &[Owned<'_>],
    freed: &HashSet<i64>,
    rows: &Rows,
) -> Vec<CommitAnswer> {
    let hinted: HashMap<i64, bool> = owned.iter().map(|o| (o.change.id.seq, o.hinted)).collect();
    let answer = |change: &&Change| {
        let committed = match hinted.get(&change.id.seq) {
            None => return CommitAnswer::LOST,
            Some(_) if freed.contains(&change.id.seq) => Committed::Freed,
            Some(true) => Committed::Hinted,
            Some(false) => Committed::Done,
        };
        let row = |message: &Outgoing| rows.get(&(Some(change.id.seq), message.id)).copied();
        let rows = change.messages.iter().filter_map(row).collect();
        CommitAnswer { committed, rows }
    };
    changes.iter().map(answer).collect()
}

/// Of statements that were sent at once, one fails and takes the others with it. Its error counts,
/// and not the errors of those that it took along.
fn first_cause(done: [Result<(), TxError>; 4]) -> Result<(), TxError> {
    let errors = done.into_iter().filter_map(Result::err);
    let cause = errors.min_by_key(|error| matches!(error, TxError::Again(_)));
    cause.map_or(Ok(()), Err)
}

fn messages(change: &Change) -> impl Iterator<Item = Message<'_>> {
    change.messages.iter().map(|message| Message {
        request: Some(change.id.seq),
        at: change.at,
        message,
    })
}

/// Locks the requests in the order of their rows, as every worker does.
async fn lock(db: &ClientWrapper, changes: &[&Change]) -> Result<HashMap<i64, Row>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT seq, token, state, parked, due_at, notified FROM requests
             WHERE seq = ANY ($1) ORDER BY seq FOR UPDATE",
        )
        .await?;
    let rows: Vec<i64> = changes.iter().map(|change| change.id.seq).collect();
    let rows = db.query(&query, &[&rows]).await?;
    rows.into_iter()
        .map(|row| Ok((row.try_get(0)?, row)))
        .collect()
}

/// The change if its claim still holds, with the one of its two progresses that is written.
fn check<'a>(change: &'a Change, row: &Row) -> Result<Option<Owned<'a>>, TxError> {
    let finished = row.try_get::<_, &str>("state")? == State::Finished.as_str();
    let notified: bool = row.try_get("notified")?;
    let ours = row.try_get::<_, i64>("token")? == change.id.token
        && row.try_get::<_, Option<i64>>("due_at")?.is_none();
    // The check of a finished request leaves its end as it is. A replayed request ends once more,
    // and keeps the outcome of its result.
    let fits = if change.is_check() {
        finished && notified
    } else {
        !finished && !row.try_get::<_, bool>("parked")?
    };
    let (progress, hinted) = change.written(notified);
    let owned = Owned {
        change,
        progress,
        hinted,
    };
    Ok((ours && fits).then_some(owned))
}

async fn write(db: &ClientWrapper, owned: &[Owned<'_>]) -> Result<(), TxError> {
    if owned.is_empty() {
        return Ok(());
    }
    let statement = db
        .prepare_cached(
            "UPDATE requests r SET state = c.state, due_at = c.due_at, attempts = c.attempts, lookups = c.lookups,
               progress = c.progress, owner = NULL, notified = (c.checked OR c.state = 'finished') AND c.due_at IS NOT NULL,
               outcome = coalesce(r.outcome, c.outcome),
               reason = coalesce(r.reason, c.reason),
               finished_at = CASE WHEN c.checked THEN r.finished_at ELSE c.finished_at END
             FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[], $6::text[],
               $7::text[], $8::text[], $9::bigint[], $10::bool[])
               c (seq, state, due_at, attempts, lookups, progress, outcome, reason, finished_at, checked)
             WHERE r.seq = c.seq",
        )
        .await?;
    db.execute(
        &statement,
        &[
            &column(owned, |o| o.change.id.seq),
            &column(owned, |o| o.progress.state.as_str()),
            &column(owned, |o| o.progress.due_at.map(millis)),
            &column(owned, |o| i64::from(o.progress.attempts)),
            &column(owned, |o| i64::from(o.progress.lookups)),
            &written(owned, |o| json(o.progress))?,
            &column(owned, |o| o.change.outcome.map(Outcome::as_str)),
            &column(owned, |o| o.change.outcome.map(Outcome::reason)),
            &column(owned, |o| o.change.outcome.map(|_| millis(o.change.at))),
            &column(owned, |o| o.change.is_check()),
        ],
    )
    .await?;
    Ok(())
}

async fn end_calls(db: &ClientWrapper, owned: &[Owned<'_>]) -> Result<(), TxError> {
    let ends = owned
        .iter()
        .filter_map(|o| Some((o.change, o.change.call.as_ref()?)));
    let ends: Vec<_> = ends.collect();
    if ends.is_empty() {
        return Ok(());
    }
    let statement = db
        .prepare_cached(
            "UPDATE calls SET finished_at = e.at, verdict = e.verdict, evidence = e.evidence
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[], $5::text[])
               e (request, number, at, verdict, evidence)
             WHERE calls.request = e.request AND calls.number = e.number",
        )
        .await?;
    db.execute(
        &statement,
        &[
            &column(&ends, |(change, _)| change.id.seq),
            &column(&ends, |(change, _)| i64::from(change.progress.calls)),
            &column(&ends, |(change, _)| millis(change.at)),
            &column(&ends, |(_, end)| end.verdict),
            &written(&ends, |(_, end)| json(&end.evidence))?,
        ],
    )
    .await?;
    Ok(())
}

/// Gives the turn to the next request on the same payment. Returns the ended requests that made way.
/// No other worker can do the same: the rows of the ended requests are locked.
async fn unpark(db: &ClientWrapper, owned: &[Owned<'_>]) -> Result<HashSet<i64>, TxError> {
    let ends = owned.iter().filter(|o| o.change.outcome.is_some());
    let (seqs, times): (Vec<i64>, Vec<i64>) =
        ends.map(|o| (o.change.id.seq, millis(o.change.at))).unzip();
    if seqs.is_empty() {
        return Ok(HashSet::new());
    }
    let statement = db
        .prepare_cached(
            "UPDATE requests r SET parked = false, due_at = n.at
             FROM (SELECT done.seq AS done, e.at, next.seq
                   FROM unnest($1::bigint[], $2::bigint[]) e (seq, at) JOIN requests done ON done.seq = e.seq
                   CROSS JOIN LATERAL (SELECT p.seq FROM requests p WHERE p.provider = done.provider
                     AND p.payment_key = done.payment_key AND p.parked ORDER BY p.seq LIMIT 1) next) n
             WHERE r.seq = n.seq RETURNING n.done",
        )
        .await?;
    let rows = db.query(&statement, &[&seqs, &times]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::LedgerError;

    #[test]
    fn what_failed_counts_and_not_what_it_took_with_it() {
        let aborted = || Err(TxError::Again("the transaction is aborted".into()));
        let refused = Err(TxError::Refused(LedgerError::Busy));
        let done = first_cause([Ok(()), aborted(), refused, aborted()]);
        assert!(matches!(done, Err(TxError::Refused(_))));
        let locked = Err(TxError::Locked("lock timeout".into()));
        let done = first_cause([aborted(), Ok(()), locked, aborted()]);
        assert!(matches!(done, Err(TxError::Locked(_))));
        let again = first_cause([Ok(()), Ok(()), aborted(), Ok(())]);
        assert!(matches!(again, Err(TxError::Again(_))));
        assert!(first_cause([Ok(()), Ok(()), Ok(()), Ok(())]).is_ok());
    }
}
