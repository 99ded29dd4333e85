//! Messages and dead letters, written in the transaction whose change they report.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::ClientWrapper;
use jiff::Timestamp;
use tokio_postgres::Row;
use uuid::Uuid;

use super::error::TxError;
use super::rows::{column, json, text, written};
use crate::ledger::column::millis;
use crate::ledger::pending::RESULT_KINDS;
use crate::ledger::{DeadLetter, Delivered};
use crate::wire::Outgoing;

/// A message that enters the outbox.
pub(super) struct Message<'a> {
    pub(super) request: Option<i64>,
    pub(super) at: Timestamp,
    pub(super) message: &'a Outgoing,
}

/// Rows of messages, by their requests and ids.
pub(super) type Rows = HashMap<(Option<i64>, Uuid), i64>;

/// A message that exists is published again with its stored bytes, not with the new ones.
pub(super) async fn insert(
    db: &ClientWrapper,
    worker: i64,
    messages: &[Message<'_>],
) -> Result<Rows, TxError> {
    if messages.is_empty() {
        return Ok(Rows::new());
    }
    let statement = db
        .prepare_cached(
            "INSERT INTO messages (message_id, request, kind, routing_key, properties, body, created_at, owner)
             SELECT m.*, $8::bigint FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[],
               $6::bytea[], $7::bigint[]) m
             ON CONFLICT (message_id) WHERE request IS NULL
               DO UPDATE SET published_at = NULL, owner = excluded.owner, repeats = messages.repeats + 1
             RETURNING seq, request, message_id",
        )
        .await?;
    db.query(
        &statement,
        &[
            &column(messages, |m| m.message.id.to_string()),
            &column(messages, |m| m.request),
            &column(messages, |m| m.message.kind.as_str()),
            &column(messages, |m| text(&m.message.routing_key)),
            &written(messages, |m| json(&m.message.properties))?,
            &column(messages, |m| &*m.message.body),
            &column(messages, |m| millis(m.at)),
            &worker,
        ],
    )
    .await?
    .iter()
    .map(row)
    .collect()
}

fn row(row: &Row) -> Result<((Option<i64>, Uuid), i64), TxError> {
    let id = row.try_get::<_, &str>(2)?.parse();
    let id = id.map_err(TxError::unreadable)?;
    Ok(((row.try_get(1)?, id), row.try_get(0)?))
}

/// Returns those that are new.
pub(super) async fn dead_letters(
    db: &ClientWrapper,
    dead: &[(Option<i64>, &DeadLetter)],
) -> Result<HashSet<Uuid>, TxError> {
    if dead.is_empty() {
        return Ok(HashSet::new());
    }
    let statement = db
        .prepare_cached(
            "INSERT INTO dead_letters
               (id, request, request_id, provider, outcome, reason, detail, body, received_at, dead_at)
             SELECT * FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[], $5::text[], $6::text[],
               $7::text[], $8::bytea[], $9::bigint[], $10::bigint[])
             ON CONFLICT DO NOTHING
             RETURNING id",
        )
        .await?;
    db.query(
        &statement,
        &[
            &column(dead, |(_, l)| l.id.to_string()),
            &column(dead, |(request, _)| *request),
            &column(dead, |(_, l)| l.request_id.as_deref().map(text)),
            &column(dead, |(_, l)| text(&l.provider)),
            &column(dead, |(_, l)| l.outcome.as_str()),
            &column(dead, |(_, l)| l.outcome.reason()),
            &column(dead, |(_, l)| text(&l.detail)),
            &column(dead, |(_, l)| &*l.body),
            &column(dead, |(_, l)| millis(l.received_at)),
            &column(dead, |(_, l)| millis(l.dead_at)),
        ],
    )
    .await?
    .iter()
    .map(|row| {
        let id = row.try_get::<_, &str>(0)?.parse();
        id.map_err(TxError::unreadable)
    })
    .collect()
}

/// The same invalid message came again: closing its dead letter has not stopped the publisher.
pub(super) async fn open_again(
    db: &ClientWrapper,
    dead: &[(Option<i64>, &DeadLetter)],
) -> Result<(), TxError> {
    if dead.is_empty() {
        return Ok(());
    }
    let statement = db
        .prepare_cached(
            "UPDATE dead_letters d SET closed_at = NULL, closed_by = NULL, dead_at = l.dead_at
             FROM unnest($1::text[], $2::bigint[]) l (id, dead_at)
             WHERE d.id = l.id AND d.closed_at IS NOT NULL",
        )
        .await?;
    let ids = column(dead, |(_, letter)| letter.id.to_string());
    let died = column(dead, |(_, letter)| millis(letter.dead_at));
    db.execute(&statement, &[&ids, &died]).await?;
    Ok(())
}

/// Lets the worker that received the repeat publish the stored results once more.
pub(super) async fn publish_again(
    db: &ClientWrapper,
    worker: i64,
    requests: &[i64],
) -> Result<(), TxError> {
    if requests.is_empty() {
        return Ok(());
    }
    let statement = db
        .prepare_cached(&format!(
            "UPDATE messages SET published_at = NULL, owner = $2, repeats = repeats + 1 WHERE seq IN (
               SELECT seq FROM messages WHERE request = ANY ($1) AND kind IN {RESULT_KINDS} ORDER BY seq FOR UPDATE)",
        ))
        .await?;
    db.execute(&statement, &[&requests, &worker]).await?;
    Ok(())
}

/// Marks messages as confirmed by the broker, but for those that somebody else has locked: it returns their rows.
pub(super) async fn published(
    db: &ClientWrapper,
    messages: &[(Delivered, i64)],
) -> Result<HashSet<i64>, TxError> {
    if messages.is_empty() {
        return Ok(HashSet::new());
    }
    let locked = locked(db, &column(messages, |(message, _)| message.seq)).await?;
    let free = |(message, _): &&(Delivered, i64)| !locked.contains(&message.seq);
    let messages: Vec<_> = messages.iter().filter(free).copied().collect();
    let statement = db
        .prepare_cached(
            "UPDATE messages m SET published_at = p.at, publications = publications + 1
             FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::text[]) p (seq, repeats, at, message_id)
             WHERE m.seq = p.seq AND m.repeats = p.repeats AND m.message_id = p.message_id",
        )
        .await?;
    db.execute(
        &statement,
        &[
            &column(&messages, |(message, _)| message.seq),
            &column(&messages, |(message, _)| message.repeats),
            &column(&messages, |(_, at)| *at),
            &column(&messages, |(message, _)| message.id.to_string()),
        ],
    )
    .await?;
    Ok(locked)
}

/// Locks these rows, and returns those that somebody else has locked. Rows that are gone are not among them.
async fn locked(db: &ClientWrapper, seqs: &[i64]) -> Result<HashSet<i64>, TxError> {
    let free = db
        .prepare_cached(
            "SELECT seq FROM messages WHERE seq = ANY ($1) ORDER BY seq FOR NO KEY UPDATE SKIP LOCKED",
        )
        .await?;
    let free = seqs_of(&db.query(&free, &[&seqs]).await?)?;
    let others = seqs.iter().filter(|seq| !free.contains(seq)).copied();
    let others: Vec<i64> = others.collect();
    if others.is_empty() {
        return Ok(HashSet::new());
    }
    let there = "SELECT seq FROM messages WHERE seq = ANY ($1)";
    let there = db.prepare_cached(there).await?;
    seqs_of(&db.query(&there, &[&others]).await?)
}

fn seqs_of(rows: &[Row]) -> Result<HashSet<i64>, TxError> {
    rows.iter().map(|row| Ok(row.try_get(0)?)).collect()
}
