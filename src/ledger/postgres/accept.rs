//! Accepting the messages that intake has read: one statement for a batch, more on a conflict.
//!
//! Two workers may accept the same request, or two on one payment, at the same moment. The second
//! one waits for the first one's commit and then sees its rows.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::ClientWrapper;
use uuid::Uuid;

use super::error::TxError;
use super::insert::insert;
use super::outbox;
use super::rows::text;
use crate::ledger::{Accepted, Arrival, ClaimId, DeadLetter, NewRequest};
use crate::lifecycle::Progress;
use crate::wire;

/// Rounds in which another worker may interfere.
const ROUNDS_MAX: usize = 8;

pub(super) async fn accept(
    db: &ClientWrapper,
    worker: i64,
    arrivals: &[&Arrival],
) -> Result<Vec<Accepted>, TxError> {
    let mut batch = Batch::of(arrivals);
    batch.take_in(db, worker).await?;
    let repeated = repeated(db, arrivals, &mut batch.again).await?;
    let mut answers = Vec::with_capacity(arrivals.len());
    let (mut dead, mut messages) = (Vec::new(), Vec::new());
    for arrival in arrivals {
        answers.push(match arrival {
            Arrival::Request(request) => batch.answer(request)?,
            Arrival::Invalid(letter, _) if repeated.contains(&letter.id) => Accepted::Repeated,
            Arrival::Invalid(letter, about_it) => {
                dead.push((None, &**letter));
                messages.extend(about_it.iter().map(|message| outbox::Message {
                    request: None,
                    at: letter.dead_at,
                    message,
                }));
                Accepted::Recorded
            }
        });
    }
    let mut new = record(db, worker, &dead, messages).await?;
    for (answer, arrival) in answers.iter_mut().zip(arrivals) {
        // The second one of a batch is a repeat, too.
        if let (Accepted::Recorded, Arrival::Invalid(letter, _)) = (&answer, arrival)
            && !new.remove(&letter.id)
        {
            *answer = Accepted::Repeated;
        }
    }
    let again: Vec<i64> = batch.again.into_iter().collect();
    outbox::publish_again(db, worker, &again).await?;
    Ok(answers)
}

/// Messages with the content of a stored request, which was accepted while its account was still
/// configured, or with its bytes, which an older version accepted: repeats all the same. Notes in
/// `again` the requests whose results are published again.
async fn repeated(
    db: &ClientWrapper,
    arrivals: &[&Arrival],
    again: &mut HashSet<i64>,
) -> Result<HashSet<Uuid>, TxError> {
    let letters: Vec<(&str, &DeadLetter)> = arrivals
        .iter()
        .filter_map(|arrival| match arrival {
            Arrival::Invalid(letter, _) => Some((letter.request_id.as_deref()?, &**letter)),
            Arrival::Request(_) => None,
        })
        .collect();
    if letters.is_empty() {
        return Ok(HashSet::new());
    }
    let query = db
        .prepare_cached(
            "SELECT l.number, r.seq, r.outcome IS NOT NULL
             FROM unnest($1::text[], $2::bytea[], $3::bytea[]) WITH ORDINALITY l (request_id, digest, body, number)
             JOIN requests r ON r.request_id = l.request_id AND (r.digest = l.digest OR r.body = l.body)
             ORDER BY r.seq FOR KEY SHARE OF r",
        )
        .await?;
    let ids: Vec<_> = letters.iter().map(|(id, _)| text(id)).collect();
    let bodies: Vec<&[u8]> = letters.iter().map(|(_, letter)| &*letter.body).collect();
    let digests: Vec<_> = bodies
        .iter()
        .map(|body| wire::content_digest(body))
        .collect();
    let digests: Vec<&[u8]> = digests.iter().map(<[u8; 32]>::as_slice).collect();
    let mut repeated = HashSet::new();
    for row in db.query(&query, &[&ids, &digests, &bodies]).await? {
        let number = usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or_default();
        if let Some((_, letter)) = letters.get(number.wrapping_sub(1)) {
            repeated.insert(letter.id);
        }
        if row.try_get(2)? {
            again.insert(row.try_get(1)?);
        }
    }
    Ok(repeated)
}

/// Stores the messages that could not be understood, as dead letters with their results. Returns the letters
/// that are new.
async fn record(
    db: &ClientWrapper,
    worker: i64,
    dead: &[(Option<i64>, &DeadLetter)],
    mut messages: Vec<outbox::Message<'_>>,
) -> Result<HashSet<Uuid>, TxError> {
    // A statement may not touch a row twice.
    let mut seen = HashSet::new();
    messages.retain(|m| seen.insert(m.message.id));
    outbox::open_again(db, dead).await?;
    let new = outbox::dead_letters(db, dead).await?;
    outbox::insert(db, worker, &messages).await?;
    Ok(new)
}

struct Batch<'a> {
    /// The first arrival of each id, in the order in which they are inserted.
    first: Vec<&'a NewRequest>,
    /// The answer to that one, and the digest of the request of its id.
    answers: HashMap<&'a str, (Accepted, [u8; 32])>,
    /// Requests that came again and have a result.
    again: HashSet<i64>,
}

impl<'a> Batch<'a> {
    fn of(arrivals: &[&'a Arrival]) -> Self {
        let mut seen = HashSet::new();
        let mut first: Vec<&NewRequest> = arrivals
            .iter()
            .filter_map(|arrival| match arrival {
                Arrival::Request(request) => Some(&**request),
                Arrival::Invalid(..) => None,
            })
            .filter(|request| seen.insert(request.request_id.as_str()))
            .collect();
        // In the same order at every worker, so that two of them never wait for each other. Stable:
        // the request that arrived first on a payment has its turn first.
        first.sort_by_key(|request| (&request.provider, &request.payment_key));
        Self {
            first,
            answers: HashMap::new(),
            again: HashSet::new(),
        }
    }

    async fn take_in(&mut self, db: &ClientWrapper, worker: i64) -> Result<(), TxError> {
        let mut open = self.first.clone();
        for _ in 0..ROUNDS_MAX {
            self.insert(db, worker, &mut open).await?;
            self.find_known(db, &mut open).await?;
            self.park(db, worker, &mut open).await?;
            if open.is_empty() {
                return Ok(());
            }
        }
        Err(TxError::Again("other workers were in the way".into()))
    }

    /// Inserts the requests whose id and whose payment are free.
    async fn insert(
        &mut self,
        db: &ClientWrapper,
        worker: i64,
        open: &mut Vec<&'a NewRequest>,
    ) -> Result<(), TxError> {
        let rows = open
            .iter()
            .map(|request| (*request, request.progress.clone()));
        let token = rand::random();
        let new = insert(db, worker, rows.collect(), false, token).await?;
        open.retain(|request| {
            let Some(&seq) = new.get(&*text(&request.request_id)) else {
                return true;
            };
            let begun = request.progress.operation.is_some();
            let claim = begun.then_some(ClaimId { seq, token });
            self.note(request, Accepted::New(claim), request.digest);
            false
        });
        Ok(())
    }

    fn note(&mut self, request: &'a NewRequest, answer: Accepted, digest: [u8; 32]) {
        self.answers.insert(&request.request_id, (answer, digest));
    }

    async fn find_known(
        &mut self,
        db: &ClientWrapper,
        open: &mut Vec<&'a NewRequest>,
    ) -> Result<(), TxError> {
        if open.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = open
            .iter()
            .map(|request| text(&request.request_id))
            .collect();
        let query = db
            .prepare_cached(
                // Locked against retention, which could remove a request before its result is repeated.
                "SELECT request_id, seq, digest, outcome IS NOT NULL FROM requests WHERE request_id = ANY ($1) FOR KEY SHARE",
            )
            .await?;
        let mut known = HashMap::new();
        for row in db.query(&query, &[&ids]).await? {
            let id: String = row.try_get(0)?;
            let digest: &[u8] = row.try_get(2)?;
            let digest: [u8; 32] = digest.try_into().map_err(TxError::unreadable)?;
            let has_result: bool = row.try_get(3)?;
            known.insert(id, (row.try_get::<_, i64>(1)?, digest, has_result));
        }
        open.retain(|request| {
            let Some(&(seq, digest, has_result)) = known.get(&*text(&request.request_id)) else {
                return true;
            };
            self.note(request, Accepted::Repeated, digest);
            if has_result && digest == request.digest {
                self.again.insert(seq);
            }
            false
        });
        Ok(())
    }

    /// Their ids are free, but their payments have an open request: they wait for their turn. The
    /// open request is locked until that is written, or its end would not see those that wait.
    async fn park(
        &mut self,
        db: &ClientWrapper,
        worker: i64,
        open: &mut Vec<&'a NewRequest>,
    ) -> Result<(), TxError> {
        if open.is_empty() {
            return Ok(());
        }
        let busy = lock_payments(db, open).await?;
        let waits = |request: &NewRequest| {
            busy.contains(&(
                request.provider.clone(),
                text(&request.payment_key).into_owned(),
            ))
        };
        let rows = open
            .iter()
            .filter(|request| waits(request))
            .map(|request| (*request, Progress::new(request.envelope.received_at)));
        let new = insert(db, worker, rows.collect(), true, 0).await?;
        open.retain(|request| {
            let parked = new.contains_key(&*text(&request.request_id));
            if parked {
                self.note(request, Accepted::New(None), request.digest);
            }
            !parked
        });
        Ok(())
    }

    /// In the order of the arrivals: a new request is known once its first one is answered.
    fn answer(&mut self, request: &NewRequest) -> Result<Accepted, TxError> {
        let known = self.answers.get_mut(request.request_id.as_str());
        let (answer, digest) =
            known.ok_or_else(|| TxError::Again("an arrival was not answered".into()))?;
        Ok(match std::mem::replace(answer, Accepted::Repeated) {
            Accepted::Repeated if *digest != request.digest => Accepted::Conflicting,
            answer => answer,
        })
    }
}

/// The payments that have an open request, locked until the end of the transaction.
async fn lock_payments(
    db: &ClientWrapper,
    open: &[&NewRequest],
) -> Result<HashSet<(String, String)>, TxError> {
    let providers: Vec<&str> = open
        .iter()
        .map(|request| request.provider.as_str())
        .collect();
    let keys: Vec<_> = open
        .iter()
        .map(|request| text(&request.payment_key))
        .collect();
    let query = db
        .prepare_cached(
            "SELECT provider, payment_key FROM requests
             WHERE (provider, payment_key) IN (SELECT * FROM unnest($1::text[], $2::text[]))
               AND state <> 'finished' AND NOT parked
             ORDER BY seq FOR SHARE",
        )
        .await?;
    let rows = db.query(&query, &[&providers, &keys]).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}
