//! The operations of one transaction: those that were queued while the last one ran.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use jiff::Timestamp;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::accept::accept;
use super::claim::{Wanted, claim};
use super::commit::commit;
use super::dead::close;
use super::error::TxError;
use super::notify::{Notification, notified};
use super::outbox::published;
use super::purge::purge;
use super::recover::{hasten, reconcile, take_over};
use crate::ledger::column::millis;
use crate::ledger::{
    Accepted, Answer, Arrival, Change, Claims, Closed, Closing, CommitAnswer, Delivered, Heard,
    LedgerError, Quiet,
};

/// An operation's input, its output once there is one, and the channel to its caller.
pub(super) struct Queued<I, O> {
    input: I,
    output: Option<O>,
    reply: oneshot::Sender<Result<O, LedgerError>>,
}

impl<I, O: Send + 'static> Queued<I, O> {
    pub(super) fn new(input: I) -> (Self, Answer<'static, O>) {
        let (reply, answer) = oneshot::channel();
        let output = None;
        let queued = Self {
            input,
            output,
            reply,
        };
        let answer = Box::pin(async { answer.await.map_err(|_| LedgerError::shut_down())? });
        (queued, answer)
    }

    fn answer(self, done: &Result<(), LedgerError>) {
        let answer = match done {
            Ok(()) => self.output.ok_or_else(LedgerError::without_result),
            Err(error) => Err(error.clone()),
        };
        // The caller may have gone away; its operation stays done.
        drop(self.reply.send(answer));
    }
}

/// Messages that the broker has confirmed, and when.
pub(super) type Confirmed = (Vec<Delivered>, Timestamp);

/// Work that keeps the ledger in order.
pub(super) enum Maintenance {
    /// With the time it was queued: the lane may have been reconnecting, and the quiet time starts
    /// when the takeover runs.
    TakeOver(Timestamp, Instant, Quiet),
    Reconcile(Timestamp, Range<i64>, Quiet),
    Hasten(String, Timestamp, Timestamp),
    Purge(Timestamp, usize),
}

/// An operation for the lane.
pub(super) enum Item {
    Accept(Queued<Arc<[Arrival]>, Vec<Accepted>>),
    Commit(Queued<Arc<[Change]>, Vec<CommitAnswer>>),
    Published(Queued<Confirmed, Vec<i64>>),
    Notified(Queued<Notification, Vec<Heard>>),
    Claim(Queued<Wanted, Claims>),
    Close(Queued<(String, Closing), Closed>),
    Maintenance(Queued<Maintenance, u64>),
}

impl Item {
    /// About how many rows the operation touches.
    pub(super) fn rows(&self) -> usize {
        match self {
            Self::Accept(queued) => queued.input.len(),
            Self::Commit(queued) => queued.input.len(),
            Self::Published(queued) => queued.input.0.len(),
            Self::Claim(queued) => queued.input.which.most(),
            Self::Notified(_) | Self::Close(_) | Self::Maintenance(_) => 1,
        }
    }

    fn answer(self, done: &Result<(), LedgerError>) {
        match self {
            Self::Accept(queued) => queued.answer(done),
            Self::Commit(queued) => queued.answer(done),
            Self::Published(queued) => queued.answer(done),
            Self::Notified(queued) => queued.answer(done),
            Self::Claim(queued) => queued.answer(done),
            Self::Close(queued) => queued.answer(done),
            Self::Maintenance(queued) => queued.answer(done),
        }
    }
}

/// Operations that share a transaction, in the order of their arrival.
pub(super) struct Group(pub(super) Vec<Item>);

impl Group {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Each operation as a group of its own.
    pub(super) fn apart(self) -> impl Iterator<Item = Self> {
        self.0.into_iter().map(|item| Self(vec![item]))
    }

    pub(super) fn answer(self, done: &Result<(), LedgerError>) {
        self.0.into_iter().for_each(|item| item.answer(done));
    }

    /// Runs every operation inside the open transaction, kind by kind, in the same order at every
    /// worker. May be run again if the transaction is not committed.
    pub(super) async fn run(&mut self, db: &ClientWrapper, worker: i64) -> Result<(), TxError> {
        self.accept(db, worker).await?;
        self.commit(db, worker).await?;
        self.mark_published(db).await?;
        for item in &mut self.0 {
            if let Item::Notified(queued) = item {
                queued.output = Some(notified(db, &queued.input).await?);
            }
        }
        for item in &mut self.0 {
            if let Item::Claim(queued) = item {
                queued.output = Some(claim(db, worker, &queued.input).await?);
            }
        }
        for item in &mut self.0 {
            if let Item::Close(queued) = item {
                let (letter, closing) = &queued.input;
                queued.output = Some(close(db, letter, closing).await?);
            }
        }
        for item in &mut self.0 {
            if let Item::Maintenance(queued) = item {
                queued.output = Some(queued.input.run(db, worker).await?);
            }
        }
        Ok(())
    }

    /// All arrivals together.
    async fn accept(&mut self, db: &ClientWrapper, worker: i64) -> Result<(), TxError> {
        let mut accepts: Vec<_> = self
            .0
            .iter_mut()
            .filter_map(|item| match item {
                Item::Accept(queued) => Some(queued),
                _ => None,
            })
            .collect();
        let arrivals: Vec<&Arrival> = accepts.iter().flat_map(|a| a.input.iter()).collect();
        let answers = accept(db, worker, &arrivals).await?;
        spread(&mut accepts, answers);
        Ok(())
    }

    /// All changes together.
    async fn commit(&mut self, db: &ClientWrapper, worker: i64) -> Result<(), TxError> {
        let mut commits: Vec<_> = self
            .0
            .iter_mut()
            .filter_map(|item| match item {
                Item::Commit(queued) => Some(queued),
                _ => None,
            })
            .collect();
        let changes: Vec<&Change> = commits.iter().flat_map(|c| c.input.iter()).collect();
        let answers = commit(db, worker, &changes).await?;
        spread(&mut commits, answers);
        Ok(())
    }

    /// All confirmed messages together.
    async fn mark_published(&mut self, db: &ClientWrapper) -> Result<(), TxError> {
        let mut confirmed = Vec::new();
        for item in &mut self.0 {
            if let Item::Published(queued) = item {
                let (messages, now) = &queued.input;
                confirmed.extend(messages.iter().map(|message| (*message, millis(*now))));
            }
        }
        let locked = published(db, &confirmed).await?;
        for item in &mut self.0 {
            if let Item::Published(queued) = item {
                let rows = queued.input.0.iter().map(|message| message.seq);
                queued.output = Some(rows.filter(|row| locked.contains(row)).collect());
            }
        }
        Ok(())
    }
}

impl Maintenance {
    async fn run(&self, db: &ClientWrapper, worker: i64) -> Result<u64, TxError> {
        match self {
            Self::TakeOver(now, queued, quiet) => {
                // In whole seconds: one that does not wait is at the caller's time exactly, and no
                // test has to allow for the lane. What is cut off, less than a second, could be
                // missed only by a call that was claimed in the last second of its lease.
                let waited = Duration::from_secs(queued.elapsed().as_secs());
                let now = now.checked_add(waited).unwrap_or(*now);
                take_over(db, worker, now, quiet).await
            }
            Self::Reconcile(now, seqs, quiet) => reconcile(db, *now, seqs, quiet).await,
            Self::Hasten(provider, latest, now) => hasten(db, provider, *latest, *now).await,
            Self::Purge(before, most) => purge(db, *before, *most).await,
        }
    }
}

/// Gives each operation its part of the answers; one with an empty input gets an empty answer.
fn spread<I, O>(queued: &mut [&mut Queued<Arc<[I]>, Vec<O>>], answers: Vec<O>) {
    let mut answers = answers.into_iter();
    for queued in queued {
        queued.output = Some(answers.by_ref().take(queued.input.len()).collect());
    }
}
