//! What is done in one transaction: everything that was asked while the last one ran.

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
use super::notify::{Notification, notified};
use super::outbox::published;
use super::purge::purge;
use super::recover::{hasten, reconcile, take_over};
use super::rows::millis;
use super::trouble::Trouble;
use crate::ledger::{
    Accepted, Answer, Arrival, Change, Claims, Closed, Closing, Delivered, Heard, LedgerError,
    Quiet, Settled,
};

/// A question, its answer as far as it is known, and who waits for it.
pub(super) struct Asked<I, O> {
    input: I,
    output: Option<O>,
    reply: oneshot::Sender<Result<O, LedgerError>>,
}

impl<I, O: Send + 'static> Asked<I, O> {
    pub(super) fn new(input: I) -> (Self, Answer<'static, O>) {
        let (reply, answer) = oneshot::channel();
        let output = None;
        let asked = Self {
            input,
            output,
            reply,
        };
        (
            asked,
            Box::pin(async { answer.await.map_err(|_| shut_down())? }),
        )
    }

    fn answer(self, done: &Result<(), LedgerError>) {
        let lost = || LedgerError::Failed("the operation gave no result".into());
        let answer = match done {
            Ok(()) => self.output.ok_or_else(lost),
            Err(error) => Err(error.clone()),
        };
        // The asker may have gone away; what it asked for stays done.
        drop(self.reply.send(answer));
    }
}

pub(super) fn shut_down() -> LedgerError {
    LedgerError::Failed("it is shut down".into())
}

/// Confirmed messages, and when.
pub(super) type Confirmed = (Vec<Delivered>, Timestamp);

/// What a worker does beside its work.
pub(super) enum Chore {
    /// With the time of asking: it may wait behind a lane that seeks its server, and calls that were on
    /// the wire then are given their time from when they are taken over.
    TakeOver(Timestamp, Instant, Quiet),
    Reconcile(Timestamp, Range<i64>),
    Hasten(String, Timestamp, Timestamp),
    Purge(Timestamp, usize),
}

/// One question to the lane.
pub(super) enum Item {
    Accept(Asked<Arc<[Arrival]>, Vec<Accepted>>),
    Commit(Asked<Arc<[Change]>, Vec<Settled>>),
    Published(Asked<Confirmed, ()>),
    Notified(Asked<Notification, Vec<Heard>>),
    Claim(Asked<Wanted, Claims>),
    Close(Asked<(String, Closing), Closed>),
    Chore(Asked<Chore, u64>),
}

/// Several of them, by kind.
#[derive(Default)]
pub(super) struct Group {
    accepts: Vec<Asked<Arc<[Arrival]>, Vec<Accepted>>>,
    commits: Vec<Asked<Arc<[Change]>, Vec<Settled>>>,
    published: Vec<Asked<Confirmed, ()>>,
    notified: Vec<Asked<Notification, Vec<Heard>>>,
    claims: Vec<Asked<Wanted, Claims>>,
    closings: Vec<Asked<(String, Closing), Closed>>,
    chores: Vec<Asked<Chore, u64>>,
}

impl Group {
    /// Says how many rows it adds.
    pub(super) fn push(&mut self, item: Item) -> usize {
        let rows = match &item {
            Item::Accept(asked) => asked.input.len(),
            Item::Commit(asked) => asked.input.len(),
            Item::Published(asked) => asked.input.0.len(),
            Item::Claim(asked) => asked.input.most,
            Item::Notified(_) | Item::Close(_) | Item::Chore(_) => 1,
        };
        match item {
            Item::Accept(asked) => self.accepts.push(asked),
            Item::Commit(asked) => self.commits.push(asked),
            Item::Published(asked) => self.published.push(asked),
            Item::Notified(asked) => self.notified.push(asked),
            Item::Claim(asked) => self.claims.push(asked),
            Item::Close(asked) => self.closings.push(asked),
            Item::Chore(asked) => self.chores.push(asked),
        }
        rows
    }

    pub(super) fn len(&self) -> usize {
        self.accepts.len()
            + self.commits.len()
            + self.published.len()
            + self.notified.len()
            + self.claims.len()
            + self.closings.len()
            + self.chores.len()
    }

    /// Each for itself.
    pub(super) fn apart(self) -> impl Iterator<Item = Self> {
        let alone = |item| {
            let mut group = Self::default();
            group.push(item);
            group
        };
        let accepts = self.accepts.into_iter().map(Item::Accept);
        accepts
            .chain(self.commits.into_iter().map(Item::Commit))
            .chain(self.published.into_iter().map(Item::Published))
            .chain(self.notified.into_iter().map(Item::Notified))
            .chain(self.claims.into_iter().map(Item::Claim))
            .chain(self.closings.into_iter().map(Item::Close))
            .chain(self.chores.into_iter().map(Item::Chore))
            .map(alone)
    }

    pub(super) fn answer(self, done: &Result<(), LedgerError>) {
        self.accepts
            .into_iter()
            .for_each(|asked| asked.answer(done));
        self.commits
            .into_iter()
            .for_each(|asked| asked.answer(done));
        self.published
            .into_iter()
            .for_each(|asked| asked.answer(done));
        self.notified
            .into_iter()
            .for_each(|asked| asked.answer(done));
        self.claims.into_iter().for_each(|asked| asked.answer(done));
        self.closings
            .into_iter()
            .for_each(|asked| asked.answer(done));
        self.chores.into_iter().for_each(|asked| asked.answer(done));
    }

    /// Does it all, inside a transaction. May be run again if that is not committed.
    pub(super) async fn run(&mut self, db: &ClientWrapper, worker: i64) -> Result<(), Trouble> {
        let arrivals: Vec<&Arrival> = self.accepts.iter().flat_map(|a| a.input.iter()).collect();
        let answers = accept(db, worker, &arrivals).await?;
        spread(&mut self.accepts, answers);
        let changes: Vec<&Change> = self.commits.iter().flat_map(|c| c.input.iter()).collect();
        let answers = commit(db, worker, &changes).await?;
        spread(&mut self.commits, answers);
        let confirmed = self.published.iter().flat_map(|asked| {
            let (messages, now) = &asked.input;
            messages.iter().map(|message| (*message, millis(*now)))
        });
        published(db, &confirmed.collect::<Vec<_>>()).await?;
        for asked in &mut self.published {
            asked.output = Some(());
        }
        for asked in &mut self.notified {
            asked.output = Some(notified(db, &asked.input).await?);
        }
        for asked in &mut self.claims {
            asked.output = Some(claim(db, worker, &asked.input).await?);
        }
        for asked in &mut self.closings {
            let (letter, closing) = &asked.input;
            asked.output = Some(close(db, letter, closing).await?);
        }
        for asked in &mut self.chores {
            asked.output = Some(match &asked.input {
                Chore::TakeOver(now, asked, quiet) => {
                    let waited = Duration::from_secs(asked.elapsed().as_secs());
                    let now = now.checked_add(waited).unwrap_or(*now);
                    take_over(db, worker, now, quiet).await?
                }
                Chore::Reconcile(now, seqs) => reconcile(db, *now, seqs).await?,
                Chore::Hasten(provider, latest, now) => hasten(db, provider, *latest, *now).await?,
                Chore::Purge(before, most) => purge(db, *before, *most).await?,
            });
        }
        Ok(())
    }
}

/// Gives each question its part of the answers; an empty question has an empty one.
fn spread<I, O>(asked: &mut [Asked<Arc<[I]>, Vec<O>>], answers: Vec<O>) {
    let mut answers = answers.into_iter();
    for asked in asked {
        asked.output = Some(answers.by_ref().take(asked.input.len()).collect());
    }
}
