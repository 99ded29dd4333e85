//! Queries that change nothing.

use std::ops::Range;

use deadpool_postgres::Object;
use jiff::Timestamp;
use tokio_postgres::Row;

use super::dead;
use super::error::TxError;
use super::rows::{STORED, count, kind, number, parse, state, stored, text};
use crate::ledger::column::{limit, millis, time};
use crate::ledger::illegible;
use crate::ledger::pending::RESULT_KINDS;
use crate::ledger::read::corrected;
use crate::ledger::{
    About, CallRecord, Filter, History, LedgerError, MessageRecord, PENDING_BYTES_MAX, Pending,
    Stats, Summary,
};
use crate::outcome::State;
use crate::wire::Outgoing;

/// The rows from the first request to behind the last one.
pub(super) async fn seqs(db: Object) -> Result<Range<i64>, TxError> {
    let query = "SELECT coalesce(min(seq), 0), coalesce(max(seq), -1) + 1 FROM requests";
    let row = db.query_one(query, &[]).await?;
    Ok(row.try_get(0)?..row.try_get(1)?)
}

/// Includes the messages of workers that are gone. A correction waits until the broker has the
/// message that it corrects, from whichever worker.
pub(super) async fn pending(
    db: Object,
    worker: i64,
    after: i64,
    most: usize,
) -> Result<Vec<Pending>, TxError> {
    let query = db
        .prepare_cached(&format!(
            "SELECT * FROM (SELECT m.seq, m.message_id, m.kind, m.routing_key, m.properties, m.body, m.publications,
                    r.provider, r.outcome, r.received_at, m.repeats, m.created_at,
                    sum(octet_length(m.body)) OVER (ORDER BY m.seq ROWS UNBOUNDED PRECEDING)
                      - octet_length(m.body) AS bytes_before
             FROM messages m LEFT JOIN requests r ON r.seq = m.request
             WHERE m.published_at IS NULL AND m.seq > $1
               AND (m.owner = $3 OR m.owner IS NULL
                 OR NOT EXISTS (SELECT 1 FROM workers w WHERE w.id = m.owner AND w.alive_until > clock_timestamp()))
               AND (m.kind <> 'correction' OR NOT EXISTS (
                 SELECT 1 FROM messages e WHERE e.request = m.request AND e.seq < m.seq
                   AND e.published_at IS NULL AND e.kind IN {RESULT_KINDS}))
             ORDER BY m.seq LIMIT $2) p WHERE bytes_before < $4 ORDER BY seq",
        ))
        .await?;
    let (mut pending, mut after) = (Vec::new(), after);
    loop {
        let wanted = limit(most - pending.len());
        let rows = db
            .query(
                &query,
                &[&after, &wanted, &worker, &limit(PENDING_BYTES_MAX)],
            )
            .await?;
        let before = pending.len();
        for row in &rows {
            after = row.try_get(0)?;
            match waiting(row) {
                Ok(waits) => pending.push(waits),
                Err(why) => illegible::pass_by(after, &LedgerError::from(why)),
            }
        }
        // If some were passed by, there may be more behind them.
        if pending.len() - before == rows.len() {
            return Ok(pending);
        }
    }
}

fn waiting(row: &Row) -> Result<Pending, TxError> {
    let id: &str = row.try_get(1)?;
    let message = Outgoing {
        id: id.parse().map_err(TxError::unreadable)?,
        kind: kind(row.try_get(2)?)?,
        routing_key: row.try_get(3)?,
        properties: parse(row.try_get(4)?)?,
        body: row.try_get(5)?,
    };
    let request = match (row.try_get(7)?, row.try_get(8)?) {
        (Some(provider), Some(outcome)) => Some(About {
            provider,
            outcome,
            received_at: time(row.try_get(9)?),
        }),
        _ => None,
    };
    Ok(Pending {
        seq: row.try_get(0)?,
        repeats: row.try_get(10)?,
        about: About::of_first(&message, row.try_get(6)?, request, time(row.try_get(11)?)),
        message,
    })
}

/// Whether a payment of one of these names has a request.
pub(super) async fn any(db: Object, provider: String, keys: Vec<String>) -> Result<bool, TxError> {
    let query = db
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM requests WHERE provider = $1 AND payment_key = ANY ($2))",
        )
        .await?;
    let keys: Vec<_> = keys.iter().map(|key| text(key)).collect();
    Ok(db
        .query_one(&query, &[&provider, &keys])
        .await?
        .try_get(0)?)
}

pub(super) async fn unpublished(db: Object, most: u64) -> Result<u64, TxError> {
    let waiting = db
        .prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM messages WHERE published_at IS NULL LIMIT $1) waiting",
        )
        .await?;
    let row = db.query_one(&waiting, &[&limit(most)]).await?;
    Ok(count(row.try_get(0)?))
}

pub(super) async fn stats(db: Object) -> Result<Stats, TxError> {
    let open = db
        .query(
            "SELECT provider, state, count(*), min(received_at) FILTER (WHERE NOT parked) FROM requests
             WHERE state <> 'finished' AND outcome IS NULL GROUP BY provider, state",
            &[],
        )
        .await?;
    let open = open.iter().map(|row| {
        let number = count(row.try_get(2)?);
        Ok((
            row.try_get(0)?,
            state(row.try_get(1)?)?,
            number,
            row.try_get::<_, Option<i64>>(3)?.map(time),
        ))
    });
    let open = open.collect::<Result<_, TxError>>()?;
    let dead = db
        .query(
            "SELECT provider, reason, count(*) FROM dead_letters WHERE closed_at IS NULL GROUP BY 1, 2",
            &[],
        )
        .await?;
    let dead = dead
        .iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, count(row.try_get(2)?))));
    let last = db
        .query_one(
            &format!(
                "SELECT (SELECT min(dead_at) FROM dead_letters WHERE closed_at IS NULL),
                        (SELECT count(*) FROM messages WHERE published_at IS NULL),
                        (SELECT created_at FROM messages WHERE published_at IS NULL AND kind IN {RESULT_KINDS}
                         ORDER BY seq LIMIT 1)"
            ),
            &[],
        )
        .await?;
    Ok(Stats {
        open,
        replaying: replaying(&db).await?,
        dead: dead.collect::<Result<_, TxError>>()?,
        oldest_dead: last.try_get::<_, Option<i64>>(0)?.map(time),
        outbox: count(last.try_get(1)?),
        oldest_result: last.try_get::<_, Option<i64>>(2)?.map(time),
        closed: dead::closings(&db).await?,
    })
}

/// A replay began with the last decision to replay.
async fn replaying(db: &Object) -> Result<Vec<(String, u64, Option<Timestamp>)>, TxError> {
    let rows = db
        .query(
            "SELECT r.provider, count(*), min((
               SELECT a.at FROM actions a WHERE a.request = r.seq AND a.action = 'replayed' ORDER BY a.seq DESC LIMIT 1))
             FROM requests r WHERE r.state <> 'finished' AND r.outcome IS NOT NULL GROUP BY r.provider",
            &[],
        )
        .await?;
    let row = |row: &Row| {
        let since = row.try_get::<_, Option<i64>>(2)?.map(time);
        Ok((row.try_get(0)?, count(row.try_get(1)?), since))
    };
    rows.iter().map(row).collect()
}

pub(super) async fn history(db: Object, request_id: String) -> Result<Option<History>, TxError> {
    let query = format!(
        "SELECT seq, parked, due_at, outcome, reason, finished_at, {STORED} FROM requests WHERE request_id = $1"
    );
    let query = db.prepare_cached(&query).await?;
    let Some(row) = db.query_opt(&query, &[&text(&request_id)]).await? else {
        return Ok(None);
    };
    let seq: i64 = row.try_get("seq")?;
    let (stored, mut progress) = stored(&row)?;
    progress.due_at = row.try_get::<_, Option<i64>>("due_at")?.map(time);
    let outcome: Option<String> = row.try_get("outcome")?;
    Ok(Some(History {
        stored,
        progress,
        parked: row.try_get("parked")?,
        outcome: outcome.zip(row.try_get("reason")?),
        finished_at: row.try_get::<_, Option<i64>>("finished_at")?.map(time),
        calls: calls(&db, seq).await?,
        messages: messages(&db, seq).await?,
        letters: dead::of_request(&db, &request_id).await?,
        actions: dead::actions(&db, seq).await?,
        newer: dead::newer(&db, seq).await?,
    }))
}

async fn calls(db: &Object, request: i64) -> Result<Vec<CallRecord>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT operation, started_at, finished_at, verdict, evidence FROM calls WHERE request = $1 ORDER BY number",
        )
        .await?;
    let rows = db.query(&query, &[&request]).await?;
    let record = |row: &Row| {
        let evidence: Option<&str> = row.try_get(4)?;
        Ok(CallRecord {
            operation: row.try_get(0)?,
            started_at: time(row.try_get(1)?),
            finished_at: row.try_get::<_, Option<i64>>(2)?.map(time),
            verdict: row.try_get(3)?,
            evidence: evidence.map(parse).transpose()?.unwrap_or_default(),
        })
    };
    rows.iter().map(record).collect()
}

async fn messages(db: &Object, request: i64) -> Result<Vec<MessageRecord>, TxError> {
    let query = db
        .prepare_cached(
            "SELECT message_id, kind, routing_key, body, published_at FROM messages WHERE request = $1 ORDER BY seq",
        )
        .await?;
    let rows = db.query(&query, &[&request]).await?;
    let record = |row: &Row| {
        Ok(MessageRecord {
            id: row.try_get(0)?,
            kind: row.try_get(1)?,
            routing_key: row.try_get(2)?,
            body: row.try_get(3)?,
            published_at: row.try_get::<_, Option<i64>>(4)?.map(time),
        })
    };
    rows.iter().map(record).collect()
}

pub(super) async fn list(db: Object, filter: Filter) -> Result<Vec<Summary>, TxError> {
    let wanted = wanted(filter.state.as_deref());
    let query = db
        .prepare_cached(&format!(
            "SELECT request_id, provider, state, outcome, reason, attempts, lookups, received_at, due_at, progress
             FROM requests
             WHERE {wanted} AND ($2::text IS NULL OR provider = $2) AND ($3::bigint IS NULL OR received_at < $3)
               AND ($6::bigint IS NULL OR received_at > $6)
               AND ($4::bytea IS NULL OR position($4 IN body) > 0)
             ORDER BY seq LIMIT $5",
        ))
        .await?;
    let [before, after] = [filter.received_before, filter.received_after].map(|at| at.map(millis));
    let rows = db
        .query(
            &query,
            &[
                &filter.state,
                &filter.provider,
                &before,
                &filter.containing.as_deref().map(str::as_bytes),
                &limit(filter.most),
                &after,
            ],
        )
        .await?;
    let summary = |row: &Row| {
        let outcome: (Option<String>, Option<String>) = (row.try_get(3)?, row.try_get(4)?);
        Ok(Summary {
            request_id: row.try_get(0)?,
            provider: row.try_get(1)?,
            state: row.try_get(2)?,
            outcome: outcome.0.zip(outcome.1),
            attempts: number(row.try_get(5)?),
            lookups: number(row.try_get(6)?),
            received_at: time(row.try_get(7)?),
            due_at: row.try_get::<_, Option<i64>>(8)?.map(time),
            corrected: corrected(row.try_get(9)?),
        })
    };
    rows.iter().map(summary).collect()
}

/// A condition that an index serves in `seq` order. `finished` and `cancelled` have none: most rows
/// match, so a scan finds them quickly.
fn wanted(named: Option<&str>) -> &'static str {
    match named {
        None => "$1::text IS NULL",
        Some("open") => "$1 = 'open' AND state <> 'finished'",
        Some("finished") => "state = $1",
        Some("cancelled") => "outcome = $1",
        Some(name) if State::named(name).is_some() => "state = $1 AND state <> 'finished'",
        Some(_) => "outcome = $1 AND outcome <> 'cancelled'",
    }
}

/// Settings of the server under which a confirmed commit can be lost. `local` waits for the disk here
/// and for no standby, also where some are named.
pub(super) async fn risks(db: Object) -> Result<Vec<String>, TxError> {
    let query = "SELECT name || ' is ' || setting FROM pg_settings
                 WHERE (name IN ('fsync', 'synchronous_commit', 'full_page_writes') AND setting = 'off')
                   OR (name = 'synchronous_commit' AND setting = 'local'
                     AND current_setting('synchronous_standby_names') <> '') ORDER BY name";
    let rows = db.query(query, &[]).await?;
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}

/// What keeps every worker from writing. A reader has made its own transactions read-only: what others get is the
/// setting's value after a reset.
pub(super) async fn unwritable(db: Object) -> Result<Option<String>, TxError> {
    let query = "SELECT CASE
           WHEN pg_is_in_recovery() THEN 'it is a standby, which takes no writes; name the server that does, or all of them'
           WHEN reset_val = 'on' THEN 'default_transaction_read_only is on there, for this role, this database or the whole server; set it to off'
         END FROM pg_settings WHERE name = 'default_transaction_read_only'";
    let row = db.query_one(query, &[]).await?;
    Ok(row.try_get(0)?)
}
