//! The statement that inserts a batch of requests, column by column.

use std::collections::HashMap;

use deadpool_postgres::ClientWrapper;

use super::error::TxError;
use super::rows::{column, delivery, json, text, written};
use crate::ledger::NewRequest;
use crate::ledger::column::millis;
use crate::lifecycle::Progress;

const INSERT: &str = "WITH arriving AS (
       SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::text[],
         $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bigint[],
         $18::bigint[])
       AS a (request_id, provider, payment_key, digest, body, envelope, received_at, state, due_at,
         attempts, lookups, progress, operation, number, deadline_at)),
     inserted AS (
       INSERT INTO requests (request_id, provider, payment_key, digest, body, envelope, received_at,
         state, parked, due_at, attempts, lookups, progress, token, deadline_at, owner)
       SELECT request_id, provider, payment_key, digest, body, envelope, received_at,
         state, $15, due_at, attempts, lookups, progress, $17, deadline_at,
         CASE WHEN operation IS NOT NULL THEN $16::bigint END
       FROM arriving ON CONFLICT DO NOTHING RETURNING seq, request_id),
     begun AS (
       INSERT INTO calls (request, number, operation, started_at)
       SELECT i.seq, a.number, a.operation, a.received_at
       FROM arriving a JOIN inserted i USING (request_id) WHERE a.operation IS NOT NULL)
     SELECT request_id, seq FROM inserted";

/// Inserts the rows that conflict with none, with the intents of calls that begin at once. Returns
/// the inserted ones: request id and row.
pub(super) async fn insert(
    db: &ClientWrapper,
    worker: i64,
    rows: Vec<(&NewRequest, Progress)>,
    parked: bool,
    token: i64,
) -> Result<HashMap<String, i64>, TxError> {
    if rows.is_empty() {
        return Ok(HashMap::new());
    }
    let statement = db.prepare_cached(INSERT).await?;
    let due = |progress: &Progress| progress.due_at.filter(|_| !parked).map(millis);
    let new = db
        .query(
            &statement,
            &[
                &column(&rows, |(request, _)| text(&request.request_id)),
                &column(&rows, |(request, _)| request.provider.as_str()),
                &column(&rows, |(request, _)| text(&request.payment_key)),
                &column(&rows, |(request, _)| request.digest.as_slice()),
                &column(&rows, |(request, _)| request.envelope.body.as_slice()),
                &written(&rows, |(request, _)| delivery(&request.envelope))?,
                &column(&rows, |(request, _)| millis(request.envelope.received_at)),
                &column(&rows, |(_, progress)| progress.state.as_str()),
                &column(&rows, |(_, progress)| due(progress)),
                &column(&rows, |(_, progress)| i64::from(progress.attempts)),
                &column(&rows, |(_, progress)| i64::from(progress.lookups)),
                &written(&rows, |(_, progress)| json(progress))?,
                &column(&rows, |(_, progress)| {
                    progress.operation.map(|o| o.as_str())
                }),
                &column(&rows, |(_, progress)| i64::from(progress.calls)),
                &parked,
                &worker,
                &token,
                &column(&rows, |(request, _)| request.deadline.map(millis)),
            ],
        )
        .await?;
    new.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}
