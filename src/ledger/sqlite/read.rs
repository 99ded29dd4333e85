//! Queries that change nothing.

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::dead;
use super::rows::{STORED, kind, parse, state, stored, unreadable};
use crate::ledger::column::{limit, millis, time};
use crate::ledger::illegible;
use crate::ledger::pending::RESULT_KINDS;
use crate::ledger::read::corrected;
use crate::ledger::{
    About, CallRecord, Filter, History, MessageRecord, PENDING_BYTES_MAX, Pending, Stats, Summary,
};
use crate::wire::Outgoing;

/// A correction waits until the broker has the message that it corrects.
pub(super) fn pending(db: &Connection, after: i64, most: usize) -> rusqlite::Result<Vec<Pending>> {
    let mut query = db.prepare_cached(&format!(
        "SELECT m.seq, m.message_id, m.kind, m.routing_key, m.properties, m.body, m.publications,
                r.provider, r.outcome, r.received_at, m.repeats, m.created_at
         FROM messages m LEFT JOIN requests r ON r.seq = m.request
         WHERE m.published_at IS NULL AND m.seq > ?1
           AND (m.kind <> 'correction' OR NOT EXISTS (
             SELECT 1 FROM messages e WHERE e.request = m.request AND e.seq < m.seq
               AND e.published_at IS NULL AND e.kind IN {RESULT_KINDS}))
         ORDER BY m.seq",
    ))?;
    let mut rows = query.query([after])?;
    let (mut pending, mut bytes) = (Vec::new(), 0);
    while pending.len() < most
        && bytes < PENDING_BYTES_MAX
        && let Some(row) = rows.next()?
    {
        match waiting(row) {
            Ok(waits) => {
                bytes += waits.message.body.len();
                pending.push(waits);
            }
            Err(why) => illegible::pass_by(row.get(0)?, &why),
        }
    }
    Ok(pending)
}

fn waiting(row: &Row<'_>) -> rusqlite::Result<Pending> {
    let message = Outgoing {
        id: row.get::<_, String>(1)?.parse().map_err(unreadable)?,
        kind: kind(&row.get::<_, String>(2)?)?,
        routing_key: row.get(3)?,
        properties: parse(&row.get::<_, String>(4)?)?,
        body: row.get(5)?,
    };
    let request = match (
        row.get::<_, Option<String>>(7)?,
        row.get::<_, Option<String>>(8)?,
    ) {
        (Some(provider), Some(outcome)) => Some(About {
            provider,
            outcome,
            received_at: time(row.get(9)?),
        }),
        _ => None,
    };
    Ok(Pending {
        seq: row.get(0)?,
        repeats: row.get(10)?,
        about: About::of_first(&message, row.get(6)?, request, time(row.get(11)?)),
        message,
    })
}

/// Whether a payment of one of these names has a request.
pub(super) fn any(
    db: &Connection,
    provider: &str,
    payment_keys: &[String],
) -> rusqlite::Result<bool> {
    let mut query = db.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM requests WHERE provider = ?1 AND payment_key = ?2)",
    )?;
    for key in payment_keys {
        if query.query_row([provider, key], |row| row.get(0))? {
            return Ok(true);
        }
    }
    Ok(false)
}

pub(super) fn unpublished(db: &Connection, most: u64) -> rusqlite::Result<u64> {
    db.prepare_cached(
        "SELECT count(*) FROM (SELECT 1 FROM messages WHERE published_at IS NULL LIMIT ?1)",
    )?
    .query_row([most], |row| row.get(0))
}

const OPEN: &str = "SELECT provider, state, count(*), min(received_at) FILTER (WHERE parked = 0)
     FROM requests WHERE state <> 'finished' AND outcome IS NULL GROUP BY provider, state";

/// A replay began with the last decision to replay.
const REPLAYING: &str = "SELECT r.provider, count(*), min((
       SELECT a.at FROM actions a WHERE a.request = r.seq AND a.action = 'replayed' ORDER BY a.seq DESC LIMIT 1))
     FROM requests r WHERE r.state <> 'finished' AND r.outcome IS NOT NULL GROUP BY r.provider";

pub(super) fn stats(db: &Connection) -> rusqlite::Result<Stats> {
    let open = db
        .prepare_cached(OPEN)?
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                state(&row.get::<_, String>(1)?)?,
                row.get(2)?,
                row.get::<_, Option<i64>>(3)?.map(time),
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let dead = db
        .prepare_cached(
            "SELECT provider, reason, count(*) FROM dead_letters WHERE closed_at IS NULL GROUP BY 1, 2",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let oldest_dead: Option<i64> = db
        .prepare_cached("SELECT min(dead_at) FROM dead_letters WHERE closed_at IS NULL")?
        .query_row([], |row| row.get(0))?;
    let outbox = db
        .prepare_cached("SELECT count(*) FROM messages WHERE published_at IS NULL")?
        .query_row([], |row| row.get(0))?;
    let oldest_result: Option<i64> = db
        .prepare_cached(&format!(
            "SELECT created_at FROM messages WHERE published_at IS NULL AND kind IN {RESULT_KINDS}
             ORDER BY seq LIMIT 1"
        ))?
        .query_row([], |row| row.get(0))
        .optional()?;
    Ok(Stats {
        open,
        replaying: replaying(db)?,
        dead,
        oldest_dead: oldest_dead.map(time),
        outbox,
        oldest_result: oldest_result.map(time),
        closed: dead::closings(db)?,
    })
}

fn replaying(db: &Connection) -> rusqlite::Result<Vec<(String, u64, Option<Timestamp>)>> {
    db.prepare_cached(REPLAYING)?
        .query_map([], |row| {
            let since = row.get::<_, Option<i64>>(2)?.map(time);
            Ok((row.get(0)?, row.get(1)?, since))
        })?
        .collect()
}

pub(super) fn history(db: &Connection, request_id: &str) -> rusqlite::Result<Option<History>> {
    db.prepare_cached(&format!(
        "SELECT seq, parked, due_at, outcome, reason, finished_at, {STORED} FROM requests WHERE request_id = ?1"
    ))?
    .query_row([request_id], |row| {
        let seq = row.get("seq")?;
        let (stored, mut progress) = stored(row)?;
        progress.due_at = row.get::<_, Option<i64>>("due_at")?.map(time);
        let outcome: Option<String> = row.get("outcome")?;
        Ok(History {
            stored,
            progress,
            parked: row.get("parked")?,
            outcome: outcome.zip(row.get("reason")?),
            finished_at: row.get::<_, Option<i64>>("finished_at")?.map(time),
            calls: calls(db, seq)?,
            messages: messages(db, seq)?,
            letters: dead::of_request(db, request_id)?,
            actions: dead::actions(db, seq)?,
            newer: dead::newer(db, seq)?,
        })
    })
    .optional()
}

fn calls(db: &Connection, request: i64) -> rusqlite::Result<Vec<CallRecord>> {
    db.prepare_cached(
        "SELECT operation, started_at, finished_at, verdict, evidence FROM calls WHERE request = ?1 ORDER BY number",
    )?
    .query_map([request], |row| {
        let evidence = row.get::<_, Option<String>>(4)?;
        Ok(CallRecord {
            operation: row.get(0)?,
            started_at: time(row.get(1)?),
            finished_at: row.get::<_, Option<i64>>(2)?.map(time),
            verdict: row.get(3)?,
            evidence: evidence.map(|text| parse(&text)).transpose()?.unwrap_or_default(),
        })
    })?
    .collect()
}

fn messages(db: &Connection, request: i64) -> rusqlite::Result<Vec<MessageRecord>> {
    db.prepare_cached(
        "SELECT message_id, kind, routing_key, body, published_at FROM messages WHERE request = ?1 ORDER BY seq",
    )?
    .query_map([request], |row| {
        Ok(MessageRecord {
            id: row.get(0)?,
            kind: row.get(1)?,
            routing_key: row.get(2)?,
            body: row.get(3)?,
            published_at: row.get::<_, Option<i64>>(4)?.map(time),
        })
    })?
    .collect()
}

pub(super) fn list(db: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Summary>> {
    db.prepare_cached(
        "SELECT request_id, provider, state, outcome, reason, attempts, lookups, received_at, due_at, progress
         FROM requests
         WHERE (?1 IS NULL OR state = ?1 OR outcome = ?1 OR (?1 = 'open' AND state <> 'finished')) AND (?2 IS NULL OR provider = ?2)
           AND (?3 IS NULL OR received_at < ?3) AND (?6 IS NULL OR received_at > ?6)
           AND (?4 IS NULL OR instr(body, CAST(?4 AS BLOB)) > 0)
         ORDER BY seq LIMIT ?5",
    )?
    .query_map(
        params![
            filter.state,
            filter.provider,
            filter.received_before.map(millis),
            filter.containing,
            limit(filter.most),
            filter.received_after.map(millis),
        ],
        |row| {
            Ok(Summary {
                request_id: row.get(0)?,
                provider: row.get(1)?,
                state: row.get(2)?,
                outcome: row.get::<_, Option<String>>(3)?.zip(row.get::<_, Option<String>>(4)?),
                attempts: row.get(5)?,
                lookups: row.get(6)?,
                received_at: time(row.get(7)?),
                due_at: row.get::<_, Option<i64>>(8)?.map(time),
                corrected: corrected(&row.get::<_, String>(9)?),
            })
        },
    )?
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::open::migrate;
    use super::*;

    fn plan(query: &str) -> String {
        let mut db = Connection::open_in_memory().unwrap();
        migrate(&mut db, std::path::Path::new("memory")).unwrap();
        let mut plan = db.prepare(&format!("EXPLAIN QUERY PLAN {query}")).unwrap();
        let steps = plan.query_map([], |row| row.get::<_, String>(3)).unwrap();
        steps.map(Result::unwrap).collect::<Vec<_>>().join("\n")
    }

    /// At each scrape and probe, with a million waiting rows as with ten.
    #[test]
    fn what_is_open_is_counted_without_reading_its_rows() {
        let plan = plan(OPEN);
        assert!(plan.contains("COVERING INDEX open_requests"), "{plan}");
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }

    /// Of the same million, none is read for them.
    #[test]
    fn what_is_replayed_is_counted_without_looking_at_anything_else() {
        let plan = plan(REPLAYING);
        assert!(plan.contains("COVERING INDEX replayed_requests"), "{plan}");
        assert!(
            plan.contains("INDEX actions_of_request (request=?)"),
            "{plan}"
        );
        assert!(!plan.contains("TEMP B-TREE"), "{plan}");
    }
}
