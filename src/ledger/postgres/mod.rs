//! The ledger on PostgreSQL: several workers on one database.
//!
//! Each worker holds a lease and writes through one lane, which commits in groups; each claim has
//! a token. Work of a worker whose lease has run out is taken over by the others.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use self::claim::Wanted;
use self::connect::Database;
pub use self::connect::Settings;
use self::error::TxError;
use self::group::{Item, Maintenance, Queued};
use self::lane::{Lane, PATIENCE, forget};
use self::lease::Lease;
use self::notify::Notification;
use self::recover::HASTENED_MOST;
use super::{
    Accepted, Answer, Arrival, Change, Claims, Closed, Closing, CommitAnswer, DeadFilter,
    DeadRecord, Delivered, Filter, Hear, Heard, History, Ledger, LedgerError, Pending, Planner,
    Quiet, Stats, Summary, Which,
};

mod accept;
mod claim;
mod commit;
mod connect;
mod dead;
mod error;
mod group;
mod insert;
mod lane;
mod lease;
mod notify;
mod outbox;
mod purge;
mod read;
mod recover;
mod rows;
mod schema;

/// The most rows that a reconcile reads in one transaction, during which other workers wait.
const RECONCILED_MOST: usize = 5_000;
/// Longest wait for the database at the end; the lease runs out anyway.
const LEAVE: Duration = Duration::from_secs(2);
/// Connections for queries that change nothing.
const READERS: usize = 3;

/// See the module.
pub struct Postgres {
    /// `None` for a ledger that was opened to be read.
    write: Option<UnboundedSender<Item>>,
    readers: Pool,
    /// The runtime of the readers, on a thread of its own.
    reads: Handle,
    lease: Arc<Lease>,
    /// The last counts, and when they were begun.
    counted: Arc<Mutex<Option<(Instant, Stats)>>>,
    database: Database,
    /// Asks for the lease to be given up, and tells when that is done.
    leaving: CancellationToken,
    left: CancellationToken,
    /// Ends the readers' thread of a ledger without a lane; else the lane ends it.
    _end: Option<DropGuard>,
}

impl Postgres {
    /// Opens the ledger for a worker, creating or migrating it. Waits for a server that cannot be
    /// reached; operations fail meanwhile. `observer` gets seconds and operations of every commit.
    pub async fn open(
        settings: &Settings,
        observer: impl Fn(f64, usize) + Send + Sync + 'static,
    ) -> Result<Self, LedgerError> {
        let database = Database::new(settings)?;
        let stop = CancellationToken::new();
        let lease = Arc::new(Lease::new(name()));
        let keeper = database.writers(2)?;
        let (leaving, left) = (stop.clone(), CancellationToken::new());
        let reads = background("ledger-read", {
            let kept = Arc::clone(&lease).keep(keeper.clone(), stop.clone());
            let left = left.clone();
            async move {
                kept.await;
                left.cancel();
            }
        })?;
        let guard = stop.drop_guard();
        prepare(&reads, keeper, database.clone()).await?;
        let (write, queue) = unbounded_channel();
        let lane = Lane::new(&database, Arc::clone(&lease), Box::new(observer))?;
        background("ledger-write", async move {
            lane.run(queue).await;
            drop(guard);
        })?;
        Ok(Self {
            write: Some(write),
            readers: database.readers(READERS)?,
            reads,
            lease,
            counted: Arc::default(),
            database,
            leaving,
            left,
            _end: None,
        })
    }

    /// Opens an existing ledger to be read, beside running workers or without one.
    pub async fn open_to_read(settings: &Settings) -> Result<Self, LedgerError> {
        let ledger = Self::reader(settings)?;
        let shown = ledger.database.shown.clone();
        ledger
            .read(async move |db: Object| schema::check(&db, &shown).await)
            .await?;
        Ok(ledger)
    }

    /// Why a worker could not write to it, also before it has its tables: the server is a standby, for example.
    pub async fn unwritable(settings: &Settings) -> Result<Option<String>, LedgerError> {
        Self::reader(settings)?.read(read::unwritable).await
    }

    fn reader(settings: &Settings) -> Result<Self, LedgerError> {
        let database = Database::new(settings)?;
        let stop = CancellationToken::new();
        let reads = background("ledger-read", stop.clone().cancelled_owned())?;
        Ok(Self {
            write: None,
            readers: database.readers(READERS)?,
            reads,
            lease: Arc::new(Lease::new(String::new())),
            counted: Arc::default(),
            database,
            leaving: stop.clone(),
            left: stop.clone(),
            _end: Some(stop.drop_guard()),
        })
    }

    /// Opens an existing ledger to be worked on by a person, beside running workers or without
    /// one: with a lease of its own, under which nothing is ever claimed.
    pub async fn open_to_operate(settings: &Settings) -> Result<Self, LedgerError> {
        Self::open_to_read(settings).await?;
        Self::open(settings, |_, _| ()).await
    }

    /// The server's settings under which it can lose a commit that it has confirmed.
    pub async fn risks(&self) -> Result<Vec<String>, LedgerError> {
        self.read(read::risks).await
    }

    fn write<I: 'static, O: Send + 'static>(
        &self,
        item: fn(Queued<I, O>) -> Item,
        input: I,
    ) -> Answer<'static, O> {
        let (queued, answer) = Queued::new(input);
        let Some(lane) = &self.write else {
            return Box::pin(async { Err(LedgerError::read_only()) });
        };
        match lane.send(item(queued)) {
            Ok(()) => answer,
            Err(_) => Box::pin(async { Err(LedgerError::shut_down()) }),
        }
    }

    fn read<T, F>(&self, query: impl FnOnce(Object) -> F + Send + 'static) -> Answer<'static, T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, TxError>> + Send,
    {
        let (pool, database) = (self.readers.clone(), self.database.clone());
        let answer = self.reads.spawn(async move {
            let db = pool
                .get()
                .await
                .map_err(|error| database.kept_out(&error))?;
            let answered = timeout(PATIENCE, query(db)).await;
            answered
                .unwrap_or_else(|_| Err(forget(&pool)))
                .map_err(LedgerError::from)
        });
        Box::pin(async { answer.await.map_err(|_| LedgerError::shut_down())? })
    }
}

/// A runtime on a thread of its own, which ends with `until`.
fn background(
    name: &str,
    until: impl Future<Output = ()> + Send + 'static,
) -> Result<Handle, LedgerError> {
    let runtime: Runtime = Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(LedgerError::unstarted)?;
    let handle = runtime.handle().clone();
    thread::Builder::new()
        .name(name.into())
        .spawn(move || runtime.block_on(until))
        .map_err(LedgerError::unstarted)?;
    Ok(handle)
}

/// What a person finds this worker by: host, or pod, and process.
fn name() -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    format!("rescind {host} {}", std::process::id())
}

/// Opens the first connection: a mistake that a person has to correct ends the start at once.
async fn prepare(reads: &Handle, pool: Pool, database: Database) -> Result<(), LedgerError> {
    let first = reads.spawn(async move { lane::connect(&pool, &database).await.map(drop) });
    match first.await.map_err(|_| LedgerError::shut_down())? {
        Err(TxError::Broken(why) | TxError::Again(why) | TxError::Locked(why)) => {
            warn!(why, "the ledger cannot be used yet; retrying until it can");
            Ok(())
        }
        done => done.map_err(LedgerError::from),
    }
}

impl Ledger for Postgres {
    fn accept(&self, arrivals: Arc<[Arrival]>) -> Answer<'_, Vec<Accepted>> {
        self.write(Item::Accept, arrivals)
    }

    fn claim(
        &self,
        provider: &str,
        which: Which,
        now: Timestamp,
        planner: Planner,
    ) -> Answer<'_, Claims> {
        let provider = provider.to_owned();
        let wanted = Wanted {
            provider,
            which,
            now,
            planner,
        };
        self.write(Item::Claim, wanted)
    }

    fn hasten(&self, provider: &str, latest: Timestamp, now: Timestamp) -> Answer<'_, u64> {
        let provider = provider.to_owned();
        Box::pin(async move {
            let mut hastened = 0;
            loop {
                let maintenance = Maintenance::Hasten(provider.clone(), latest, now);
                let some = self.write(Item::Maintenance, maintenance).await?;
                hastened += some;
                if some < HASTENED_MOST.unsigned_abs() {
                    return Ok(hastened);
                }
            }
        })
    }

    fn commit(&self, changes: Arc<[Change]>) -> Answer<'_, Vec<CommitAnswer>> {
        self.write(Item::Commit, changes)
    }

    /// A reader answers for payments without a request, so that a flood of notifications about them
    /// does not keep the lane from its work.
    fn notified(
        &self,
        provider: &str,
        payment_keys: Vec<String>,
        hear: Hear,
    ) -> Answer<'_, Vec<Heard>> {
        let provider = provider.to_owned();
        let (account, keys) = (provider.clone(), payment_keys.clone());
        let known = self.read(move |db| read::any(db, account, keys));
        Box::pin(async move {
            if !known.await? {
                return Ok(Vec::new());
            }
            let notification = Notification {
                provider,
                payment_keys,
                hear,
            };
            self.write(Item::Notified, notification).await
        })
    }

    fn pending(&self, after: i64, most: usize) -> Answer<'_, Vec<Pending>> {
        Box::pin(async move {
            let worker = self.lease.worker().await;
            self.read(move |db| read::pending(db, worker, after, most))
                .await
        })
    }

    fn unpublished(&self, most: u64) -> Answer<'_, u64> {
        self.read(move |db| read::unpublished(db, most))
    }

    fn published(&self, messages: Vec<Delivered>, now: Timestamp) -> Answer<'_, Vec<i64>> {
        self.write(Item::Published, (messages, now))
    }

    fn recover(&self, now: Timestamp, quiet: Quiet) -> Answer<'_, u64> {
        self.write(
            Item::Maintenance,
            Maintenance::TakeOver(now, Instant::now(), quiet),
        )
    }

    fn reconcile(&self, now: Timestamp, quiet: Quiet) -> Answer<'_, u64> {
        Box::pin(async move {
            let all = self.read(read::seqs).await?;
            let mut in_doubt = 0;
            for start in all.clone().step_by(RECONCILED_MOST) {
                let seqs = start..all.end.min(start.saturating_add(RECONCILED_MOST as i64));
                in_doubt += self
                    .write(
                        Item::Maintenance,
                        Maintenance::Reconcile(now, seqs, Arc::clone(&quiet)),
                    )
                    .await?;
            }
            Ok(in_doubt)
        })
    }

    fn purge(&self, before: Timestamp, most: usize) -> Answer<'_, u64> {
        self.write(Item::Maintenance, Maintenance::Purge(before, most))
    }

    /// One count at a time, or slow counts would occupy every reader: a caller that asked before a
    /// count began shares its answer. A count goes on when its callers have gone away.
    fn stats(&self) -> Answer<'_, Stats> {
        let asked = Instant::now();
        Box::pin(async move {
            let mut counted = Arc::clone(&self.counted).lock_owned().await;
            if let Some((_, stats)) = counted.as_ref().filter(|(begun, _)| *begun >= asked) {
                return Ok(stats.clone());
            }
            let begun = Instant::now();
            let count = self.read(async move |db: Object| {
                let stats = read::stats(db).await?;
                *counted = Some((begun, stats.clone()));
                Ok(stats)
            });
            count.await
        })
    }

    fn history(&self, request_id: &str) -> Answer<'_, Option<History>> {
        let request_id = request_id.to_owned();
        self.read(move |db| read::history(db, request_id))
    }

    fn list(&self, filter: Filter) -> Answer<'_, Vec<Summary>> {
        self.read(move |db| read::list(db, filter))
    }

    fn dead(&self, filter: DeadFilter) -> Answer<'_, Vec<DeadRecord>> {
        self.read(async move |db: Object| dead::list(&db, &filter).await)
    }

    fn close(&self, letter: &str, closing: Closing) -> Answer<'_, Closed> {
        self.write(Item::Close, (letter.to_owned(), closing))
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        self.leaving.cancel();
        Box::pin(async { drop(timeout(LEAVE, self.left.cancelled()).await) })
    }
}
