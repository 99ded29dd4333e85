//! A task that owns one connection and commits the queued operations as a group.
//!
//! Operations that arrive during a commit go into the next one. There is no timer: a lone operation
//! commits at once, a crowd shares its flush and its round trips. When a connection is lost at
//! COMMIT, the lane asks the database whether the transaction was committed.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Object, Pool};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::connect::Database;
use super::error::TxError;
use super::group::{Group, Item};
use super::lease::Lease;
use super::schema;
use crate::ledger::LedgerError;

/// Rows of one transaction; keeps the longest one in the tens of milliseconds.
const ROWS_MAX: usize = 1000;
/// How often a transaction is run that conflicts with other ones.
const TRIES_MAX: u32 = 6;
/// The same for several operations together: one that conflicts must not delay all of them.
const TRIES_TOGETHER: u32 = 2;
/// How long a transaction waits for a lock, as the server is told for the connection. After so long it is not
/// run again: others wait behind it, and its caller asks once more.
const LOCKED: Duration = Duration::from_secs(2);
/// The same while the lane is wary: what was locked for so long may stay so, and each of those who want it asks
/// again and again.
const LOCKED_BRIEFLY: Duration = Duration::from_millis(200);
/// The same for all operations of a group that are run one by one.
const LOCKED_APART: Duration = Duration::from_secs(1);
/// How long the lane is wary after it has waited in vain.
const WARY: Duration = Duration::from_secs(10);
/// How long the lane tries to connect again before its callers get an error.
const SEEK: Duration = Duration::from_secs(5);
/// How long the lane asks whether a transaction was committed.
const ASK: Duration = Duration::from_secs(20);
/// Longest wait for a transaction's statements, and for its commit.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// Without a time limit at the server: a commit that waits for its standby would, when the limit
/// ends it, report success.
const COMMIT: &str = "SET LOCAL statement_timeout = 0; COMMIT";

/// Called after every commit with the seconds it took and the operations in it.
pub(super) type Observer = Box<dyn Fn(f64, usize) + Send + Sync>;

/// The number of a worker's only lane; the schema could hold several.
pub(super) const LANE: i16 = 1;

pub(super) struct Lane {
    database: Database,
    pool: Pool,
    lease: Arc<Lease>,
    observer: Observer,
    /// Counts transactions; each writes its number.
    number: i64,
    client: Option<Object>,
    /// Until then, what is locked is not waited for long.
    wary_until: Option<Instant>,
}

impl Lane {
    pub(super) fn new(
        database: &Database,
        lease: Arc<Lease>,
        observer: Observer,
    ) -> Result<Self, LedgerError> {
        Ok(Self {
            database: database.clone(),
            pool: database.writers(1)?,
            lease,
            observer,
            number: 0,
            client: None,
            wary_until: None,
        })
    }

    /// Serves until the last handle to the queue is dropped.
    pub(super) async fn run(mut self, mut queue: UnboundedReceiver<Item>) {
        while let Some(first) = queue.recv().await {
            let mut rows = first.rows();
            let mut items = vec![first];
            while rows < ROWS_MAX
                && let Ok(item) = queue.try_recv()
            {
                rows += item.rows();
                items.push(item);
            }
            self.serve(Group(items)).await;
        }
    }

    /// Commits all operations in one transaction; if that cannot be done, each in its own, so that
    /// one operation that cannot be done takes no other with it.
    async fn serve(&mut self, mut group: Group) {
        let started = Instant::now();
        let wary = self.wary_until.is_some_and(|until| started < until);
        let locked = if wary { LOCKED_BRIEFLY } else { LOCKED };
        let together = self.commit_group(&mut group, locked).await;
        (self.observer)(started.elapsed().as_secs_f64(), group.len());
        let apart = matches!(
            together,
            Err(TxError::Refused(_) | TxError::Again(_) | TxError::Locked(_))
        );
        if group.len() > 1 && apart {
            return self.serve_apart(group).await;
        }
        group.answer(&together.map_err(LedgerError::from));
    }

    /// Each operation gets its share of the time to wait for locks, and what others have left of theirs: somebody
    /// may have locked what hundreds of them want, and the rest must not wait for each of those.
    async fn serve_apart(&mut self, group: Group) {
        let (mut to_come, mut left) = (group.len(), LOCKED_APART);
        for mut alone in group.apart() {
            let share = left / u32::try_from(to_come).unwrap_or(u32::MAX);
            let started = Instant::now();
            let done = self.commit_group(&mut alone, share).await;
            if matches!(done, Err(TxError::Again(_) | TxError::Locked(_))) {
                left = left.saturating_sub(started.elapsed());
            }
            to_come -= 1;
            alone.answer(&done.map_err(LedgerError::from));
        }
    }

    /// Retries until the group is committed, or certainly not, or its fate cannot be known. Waits `locked` at most
    /// for what others have locked.
    async fn commit_group(&mut self, group: &mut Group, locked: Duration) -> Result<(), TxError> {
        let started = Instant::now();
        let (mut tries, mut pause) = (1, Duration::from_millis(5));
        let tries_max = match group.len() {
            0 | 1 => TRIES_MAX,
            _ => TRIES_TOGETHER,
        };
        loop {
            let error = match self.attempt(group, locked).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let took = started.elapsed();
            match &error {
                TxError::Again(_) | TxError::Locked(_) if took >= locked => {
                    self.wary_until = Some(Instant::now() + WARY);
                    return Err(error);
                }
                TxError::Again(_) | TxError::Locked(_) if tries < tries_max => {}
                TxError::Broken(_) if took < SEEK => {}
                // Nothing was written under the lost lease: the next try is under a new one.
                TxError::Expired if tries < TRIES_MAX => {}
                _ => return Err(error),
            }
            tries += 1;
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    async fn attempt(&mut self, group: &mut Group, locked: Duration) -> Result<(), TxError> {
        let db = self.connected().await?;
        let worker = match self.lease.worker().await {
            0 => match timeout(PATIENCE, self.lease.take_new(&db, 0)).await {
                Ok(worker) => worker?,
                Err(_) => return Err(unheard(db)),
            },
            worker => worker,
        };
        self.number += 1;
        let number = self.number;
        let written = timeout(PATIENCE, async {
            begin_transaction(&db, worker, number, locked).await?;
            group.run(&db, worker).await
        });
        if let Err(error) = written.await.unwrap_or_else(|_| Err(silent())) {
            return self.give_up(db, worker, error).await;
        }
        let committed = timeout(PATIENCE, db.batch_execute(COMMIT)).await;
        let why = match committed {
            Ok(Ok(())) => {
                self.client = Some(db);
                return Ok(());
            }
            Ok(Err(error)) => super::error::words(&error),
            Err(_) => "no answer".into(),
        };
        drop(Object::take(db));
        self.find_out(worker, number, why).await
    }

    /// The lane's own connection, on a schema that this version knows.
    async fn connected(&mut self) -> Result<Object, TxError> {
        match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => Ok(client),
            None => connect(&self.pool, &self.database).await,
        }
    }

    async fn give_up(&mut self, db: Object, worker: i64, error: TxError) -> Result<(), TxError> {
        let rolled_back = match &error {
            TxError::Broken(_) => false,
            _ => matches!(
                timeout(PATIENCE, db.batch_execute("ROLLBACK")).await,
                Ok(Ok(()))
            ),
        };
        if !rolled_back {
            drop(Object::take(db));
            return Err(error);
        }
        if matches!(error, TxError::Expired) {
            match timeout(PATIENCE, self.lease.take_new(&db, worker)).await {
                Ok(taken) => drop(taken?),
                Err(_) => return Err(unheard(db)),
            }
        }
        self.client = Some(db);
        Err(error)
    }

    /// Finds out whether a transaction was committed whose answer is lost. It wrote its number;
    /// reading that number waits until the transaction has ended.
    async fn find_out(&mut self, worker: i64, number: i64, why: String) -> Result<(), TxError> {
        warn!(
            why,
            "answer to a commit lost; asking the database whether it was committed"
        );
        let mut end = Instant::now() + ASK;
        let mut pause = Duration::from_millis(20);
        loop {
            match timeout(PATIENCE, self.last_number(worker)).await {
                Ok(Ok(Some(last))) if last == number => {
                    info!("the commit whose answer was lost is done");
                    return Ok(());
                }
                Ok(Ok(Some(_))) => return Err(TxError::Broken(why)),
                // Another worker has taken over and removed the number.
                Ok(Ok(None)) => break,
                // The commit is still under way, as when it waits for a standby that is away. No worker
                // takes over meanwhile, and another transaction would only wait as well.
                Ok(Err(TxError::Again(_) | TxError::Locked(_))) => end = Instant::now() + ASK,
                Ok(Err(_)) | Err(_) if Instant::now() >= end => break,
                Ok(Err(_)) | Err(_) => {}
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        // This worker does not know which requests it may have claimed: they end with the lease.
        self.lease.abandon(worker).await;
        Err(TxError::Unknown(why))
    }

    async fn last_number(&mut self, worker: i64) -> Result<Option<i64>, TxError> {
        let db = self.connected().await?;
        let query = "SELECT number FROM lanes WHERE worker = $1 AND lane = $2 FOR UPDATE";
        let row = db.query_opt(query, &[&worker, &LANE]).await?;
        self.client = Some(db);
        Ok(row.map(|row| row.try_get(0)).transpose()?)
    }
}

/// Opens a transaction that waits `locked` at most for what others have locked, locks the lease and writes its
/// own number.
async fn begin_transaction(
    db: &Object,
    worker: i64,
    number: i64,
    locked: Duration,
) -> Result<(), TxError> {
    let begin = match locked {
        LOCKED => "BEGIN".to_owned(),
        // 0 would be: for ever.
        _ => format!(
            "BEGIN; SET LOCAL lock_timeout = {}",
            locked.as_millis().max(1)
        ),
    };
    let mark = db
        .prepare_cached(
            "WITH alive AS (SELECT id FROM workers
               WHERE id = $1 AND alive_until > clock_timestamp() FOR KEY SHARE)
             UPDATE lanes SET number = $3 FROM alive WHERE lanes.worker = alive.id AND lanes.lane = $2",
        )
        .await?;
    let row: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&worker, &LANE, &number];
    let (_, held) = tokio::try_join!(db.batch_execute(&begin), db.execute(&mark, &row))?;
    match held {
        0 => Err(TxError::Expired),
        _ => Ok(()),
    }
}

/// A connection on a schema that this version knows.
pub(super) async fn connect(pool: &Pool, database: &Database) -> Result<Object, TxError> {
    let connected = pool
        .get()
        .await
        .map_err(|error| match database.kept_out(&error) {
            LedgerError::Failed(why) => TxError::Broken(why),
            refused => TxError::Refused(refused),
        });
    let client = connected?;
    // A proxy may accept the connection while the server is silent. Only a migration has no time limit.
    let current = match timeout(PATIENCE, schema::is_current(&client, &database.shown)).await {
        Ok(current) => current?,
        Err(_) => return Err(unheard(client)),
    };
    if !current {
        schema::migrate(&client, &database.shown).await?;
    }
    Ok(client)
}

/// A silent connection went back to the pool: drops all of the pool's connections.
pub(super) fn forget(pool: &Pool) -> TxError {
    pool.retain(|_, _| false);
    silent()
}

/// Drops a connection that did not answer.
fn unheard(db: Object) -> TxError {
    drop(Object::take(db));
    silent()
}

pub(super) fn silent() -> TxError {
    TxError::Broken("the database does not answer".into())
}
