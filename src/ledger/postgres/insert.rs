//! The statement that inserts a batch of requests, column by column.

use std::borrow::Cow;
use std::collections::HashMap;

use deadpool_postgres::ClientWrapper;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::error::TxError;
use super::rows::{delivery, json, text};
use crate::ledger::NewRequest;
use crate::ledger::time::millis;
use crate::lifecycle::Progress;

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
    let statement = db
        .prepare_cached(
            "WITH arriving AS (
               SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::bytea[], $6::text[],
                 $7::bigint[], $8::text[], $9::bigint[], $10::bigint[], $11::bigint[], $12::text[], $13::text[], $14::bigint[])
               AS a (request_id, provider, payment_key, digest, body, envelope, received_at, state, due_at,
                 attempts, lookups, progress, operation, number)),
             inserted AS (
               INSERT INTO requests (request_id, provider, payment_key, digest, body, envelope, received_at,
                 state, parked, due_at, attempts, lookups, progress, token, owner)
               SELECT request_id, provider, payment_key, digest, body, envelope, received_at,
                 state, $15, due_at, attempts, lookups, progress, $17,
                 CASE WHEN operation IS NOT NULL THEN $16::bigint END
               FROM arriving ON CONFLICT DO NOTHING RETURNING seq, request_id),
             begun AS (
               INSERT INTO calls (request, number, operation, started_at)
               SELECT i.seq, a.number, a.operation, a.received_at
               FROM arriving a JOIN inserted i USING (request_id) WHERE a.operation IS NOT NULL)
             SELECT request_id, seq FROM inserted",
        )
        .await?;
    let mut columns = Columns::default();
    for (request, progress) in &rows {
        columns.push(request, progress, parked)?;
    }
    let new = columns.run(db, &statement, parked, worker, token).await?;
    new.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// The rows of an insertion, column by column.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Cow<'a, str>>,
    providers: Vec<&'a str>,
    keys: Vec<Cow<'a, str>>,
    digests: Vec<&'a [u8]>,
    bodies: Vec<&'a [u8]>,
    envelopes: Vec<String>,
    received: Vec<i64>,
    states: Vec<&'static str>,
    due: Vec<Option<i64>>,
    attempts: Vec<i64>,
    lookups: Vec<i64>,
    progress: Vec<String>,
    operations: Vec<Option<&'static str>>,
    numbers: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn push(
        &mut self,
        request: &'a NewRequest,
        progress: &Progress,
        parked: bool,
    ) -> Result<(), TxError> {
        let envelope = &request.envelope;
        self.ids.push(text(&request.request_id));
        self.providers.push(&request.provider);
        self.keys.push(text(&request.payment_key));
        self.digests.push(&request.digest);
        self.bodies.push(&envelope.body);
        self.envelopes.push(delivery(envelope)?);
        self.received.push(millis(envelope.received_at));
        self.states.push(progress.state.as_str());
        self.due
            .push(progress.due_at.filter(|_| !parked).map(millis));
        self.attempts.push(progress.attempts.into());
        self.lookups.push(progress.lookups.into());
        self.progress.push(json(progress)?);
        self.operations
            .push(progress.operation.map(|operation| operation.as_str()));
        self.numbers.push(progress.calls.into());
        Ok(())
    }

    async fn run(
        &self,
        db: &ClientWrapper,
        statement: &Statement,
        parked: bool,
        worker: i64,
        token: i64,
    ) -> Result<Vec<Row>, TxError> {
        let columns: [&(dyn ToSql + Sync); 17] = [
            &self.ids,
            &self.providers,
            &self.keys,
            &self.digests,
            &self.bodies,
            &self.envelopes,
            &self.received,
            &self.states,
            &self.due,
            &self.attempts,
            &self.lookups,
            &self.progress,
            &self.operations,
            &self.numbers,
            &parked,
            &worker,
            &token,
        ];
        Ok(db.query(statement, &columns).await?)
    }
}
