//! The ledger on one SQLite file: embedded, durable, one worker.
//!
//! WAL with `synchronous=FULL`: an answer means that the commit is on the disk. One thread
//! writes, another one reads, a third copies the log and looks after the files; a lock beside the file keeps a second worker
//! away. A person's commands write beside the worker, in short transactions that wait for each other.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use rusqlite::Connection;
use tracing::warn;

use self::lane::Lane;
use self::open::{
    absolute, check_schema, followed, is_new, lock, migrate, missing, open_operator, open_reader,
    open_writer, remember,
};
use self::place::Place;
use super::{
    Accepted, Answer, Arrival, Change, Claims, Closed, Closing, CommitAnswer, DeadFilter,
    DeadRecord, Delivered, Filter, Hear, Heard, History, Ledger, LedgerError, Pending, Planner,
    Quiet, Stats, Summary, Which,
};

mod accept;
mod checkpoint;
mod claim;
mod commit;
mod dead;
mod lane;
mod notify;
mod open;
mod outbox;
mod place;
mod purge;
mod read;
mod recover;
mod rows;

pub(crate) use self::open::{gone, lock_file};

/// See the module.
pub struct Sqlite {
    /// `None` for a ledger that was opened to be read.
    write: Option<Lane>,
    read: Lane,
    recovered: AtomicBool,
    /// Locked for as long as the worker lives.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens the ledger for the one worker that writes it, creating or migrating it.
    /// `observer` is told seconds and operations of every commit.
    pub fn open(
        path: &Path,
        observer: impl Fn(f64, usize) + Send + 'static,
    ) -> Result<Self, LedgerError> {
        // Once: a link may be turned while a migration runs.
        let path = &followed(path);
        let lock = lock(path)?;
        if let Some(error @ LedgerError::Gone { .. }) = missing(path)? {
            return Err(error);
        }
        let mut writer = open_writer(path)?;
        let is_new = is_new(&writer)?;
        // Somebody's command has made an empty file, or a copy failed.
        if is_new && let Some(error) = gone(path) {
            return Err(error);
        }
        migrate(&mut writer, path)?;
        remember(&lock);
        if is_new {
            warn!(
                path = absolute(path),
                "no ledger found, so a new one was made, which knows no earlier request. If there should have been one, stop the worker and check ledger.url and the file system mounted there"
            );
        }
        checkpoint::beside(&mut writer, open_operator(path)?, Place::of(path, &lock))?;
        let write = Lane::writer(writer, Box::new(observer))?;
        let read = Lane::reader(open_reader(path)?)?;
        Ok(Self {
            write: Some(write),
            read,
            recovered: AtomicBool::new(false),
            _lock: Some(lock),
        })
    }

    /// Opens an existing ledger to be read, beside a running worker or without one.
    pub fn open_to_read(path: &Path) -> Result<Self, LedgerError> {
        Ok(Self {
            write: None,
            read: Lane::reader(existing(path)?)?,
            recovered: AtomicBool::new(true),
            _lock: None,
        })
    }

    /// Opens an existing ledger to be worked on by a person, beside a running worker or
    /// without one: the worker's lock keeps only other workers away.
    pub fn open_to_operate(path: &Path) -> Result<Self, LedgerError> {
        let reader = existing(path)?;
        let writer = open_operator(path)?;
        Ok(Self {
            write: Some(Lane::writer(writer, Box::new(|_, _| ()))?),
            read: Lane::reader(reader)?,
            recovered: AtomicBool::new(true),
            _lock: None,
        })
    }

    fn write<T: Send + 'static>(
        &self,
        operation: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'_, T> {
        match &self.write {
            Some(lane) => lane.run(operation),
            None => Box::pin(async { Err(LedgerError::read_only()) }),
        }
    }
}

/// A reader of an existing ledger whose schema this version knows.
fn existing(path: &Path) -> Result<Connection, LedgerError> {
    if let Some(error) = missing(path)? {
        return Err(error);
    }
    let reader = open_reader(path)?;
    check_schema(&reader, path)?;
    Ok(reader)
}

impl Ledger for Sqlite {
    fn accept(&self, arrivals: Arc<[Arrival]>) -> Answer<'_, Vec<Accepted>> {
        self.write(move |db| {
            if arrivals.is_empty() {
                open::write_a_page(db)?;
            }
            arrivals
                .iter()
                .map(|arrival| accept::accept(db, arrival))
                .collect()
        })
    }

    fn claim(
        &self,
        provider: &str,
        which: Which,
        now: Timestamp,
        planner: Planner,
    ) -> Answer<'_, Claims> {
        let provider = provider.to_owned();
        self.write(move |db| claim::claim(db, &provider, which, now, &planner))
    }

    fn hasten(&self, provider: &str, latest: Timestamp, now: Timestamp) -> Answer<'_, u64> {
        let provider = provider.to_owned();
        self.write(move |db| recover::hasten(db, &provider, latest, now))
    }

    fn commit(&self, changes: Arc<[Change]>) -> Answer<'_, Vec<CommitAnswer>> {
        self.write(move |db| {
            changes
                .iter()
                .map(|change| commit::commit(db, change))
                .collect()
        })
    }

    /// The reader answers for payments without a request, so that a flood of notifications about
    /// them does not keep the writer from its work.
    fn notified(
        &self,
        provider: &str,
        payment_keys: Vec<String>,
        hear: Hear,
    ) -> Answer<'_, Vec<Heard>> {
        let account = provider.to_owned();
        let keys = payment_keys.clone();
        let known = self.read.run(move |db| read::any(db, &account, &keys));
        let provider = provider.to_owned();
        Box::pin(async move {
            if !known.await? {
                return Ok(Vec::new());
            }
            self.write(move |db| notify::notified(db, &provider, &payment_keys, &hear))
                .await
        })
    }

    fn pending(&self, after: i64, most: usize) -> Answer<'_, Vec<Pending>> {
        self.read.run(move |db| read::pending(db, after, most))
    }

    fn unpublished(&self, most: u64) -> Answer<'_, u64> {
        self.read.run(move |db| read::unpublished(db, most))
    }

    /// Nobody locks a row.
    fn published(&self, messages: Vec<Delivered>, now: Timestamp) -> Answer<'_, Vec<i64>> {
        self.write(move |db| outbox::published(db, &messages, now).map(|()| Vec::new()))
    }

    /// The lock proves that the last worker is gone and that there is no other one: only claims from
    /// before this start are lost. Their calls may still be on the way.
    fn recover(&self, now: Timestamp, quiet: Quiet) -> Answer<'_, u64> {
        Box::pin(async move {
            if self.recovered.load(Ordering::Acquire) {
                return Ok(0);
            }
            let found = self
                .write(move |db| recover::recover(db, now, &quiet))
                .await?;
            self.recovered.store(true, Ordering::Release);
            Ok(found)
        })
    }

    fn reconcile(&self, now: Timestamp, quiet: Quiet) -> Answer<'_, u64> {
        Box::pin(async move {
            let (mut in_doubt, mut after) = (0, 0);
            loop {
                let quiet = Arc::clone(&quiet);
                let some = self.write(move |db| recover::reconcile(db, now, after, &quiet));
                let (found, last) = some.await?;
                in_doubt += found;
                match last {
                    Some(last) => after = last,
                    None => return Ok(in_doubt),
                }
            }
        })
    }

    fn purge(&self, before: Timestamp, most: usize) -> Answer<'_, u64> {
        self.write(move |db| purge::purge(db, before, most))
    }

    fn stats(&self) -> Answer<'_, Stats> {
        self.read.run(read::stats)
    }

    fn history(&self, request_id: &str) -> Answer<'_, Option<History>> {
        let request_id = request_id.to_owned();
        self.read.run(move |db| read::history(db, &request_id))
    }

    fn list(&self, filter: Filter) -> Answer<'_, Vec<Summary>> {
        self.read.run(move |db| read::list(db, &filter))
    }

    fn dead(&self, filter: DeadFilter) -> Answer<'_, Vec<DeadRecord>> {
        self.read.run(move |db| dead::list(db, &filter))
    }

    fn close(&self, letter: &str, closing: Closing) -> Answer<'_, Closed> {
        let letter = letter.to_owned();
        self.write(move |db| dead::close(db, &letter, &closing))
    }
}
