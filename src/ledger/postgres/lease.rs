//! A worker's lease: a worker that does not renew it is gone, and others take over its requests.
//!
//! Only the database's clock counts. Every transaction of a worker locks the row of its lease, so
//! that no other worker takes over while it writes, and it writes nothing once another one has.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::error::TxError;
use super::lane::{LANE, silent};
use crate::ledger::LedgerError;

/// A worker that has not renewed its lease for so long is gone.
pub(super) const LEASE: &str = "10 seconds";
/// How often a worker renews its lease.
const BEAT: Duration = Duration::from_secs(3);
/// Wait before a failed renewal is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest wait for the database during a renewal; less than the lease.
const ANSWER: Duration = Duration::from_secs(5);

/// The one lease of this worker, shared by its lane and its keeper.
pub(super) struct Lease {
    name: String,
    /// 0: none yet.
    worker: Mutex<i64>,
}

impl Lease {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            worker: Mutex::new(0),
        }
    }

    /// This worker's id in the database; 0 before the first connection.
    pub(super) async fn worker(&self) -> i64 {
        *self.worker.lock().await
    }

    /// Takes a new lease and with it a new id, unless the id is no longer `old`. Does not wait for a standby,
    /// as a renewal does not. A standby that has what was claimed under a lease has the lease too: it was
    /// written before. One that takes over without it shows the worker that it has to take another one. The id is
    /// drawn: a standby would count again, and give another worker this one's.
    pub(super) async fn take_new(&self, db: &ClientWrapper, old: i64) -> Result<i64, TxError> {
        let mut worker = self.worker.lock().await;
        if *worker != old {
            return Ok(*worker);
        }
        let row = db
            .query_one(
                "WITH new AS (INSERT INTO workers (id, name, alive_until) OVERRIDING SYSTEM VALUE
                   SELECT $4::bigint, $1::text, clock_timestamp() + $2::text::interval
                   WHERE set_config('synchronous_commit', 'local', true) IS NOT NULL RETURNING id),
                 own AS (INSERT INTO lanes (worker, lane, number)
                   SELECT id, $3::smallint, 0 FROM new)
                 SELECT id FROM new",
                &[&self.name, &LEASE, &LANE, &rand::random_range(1..i64::MAX)],
            )
            .await?;
        *worker = row.try_get(0)?;
        if old != 0 {
            warn!(
                old,
                new = *worker,
                "lease lost; the requests under way are in doubt"
            );
        }
        Ok(*worker)
    }

    /// Stops renewing the lease of that id: other workers will take over its requests.
    pub(super) async fn abandon(&self, old: i64) {
        let mut worker = self.worker.lock().await;
        if *worker == old {
            *worker = 0;
        }
    }

    /// Renews the lease until the worker stops, and then gives it up.
    pub(super) async fn keep(self: Arc<Self>, pool: Pool, stop: CancellationToken) {
        let mut failures = 0;
        loop {
            let beat = timeout(ANSWER, self.beat(&pool)).await;
            let wait = match beat.unwrap_or_else(|_| Err(silent())) {
                Ok(()) => {
                    if failures > 0 {
                        info!(failures, "the lease can be renewed again");
                    }
                    failures = 0;
                    BEAT
                }
                Err(error) => {
                    if matches!(error, TxError::Broken(_)) {
                        pool.retain(|_, _| false);
                    }
                    failures += 1;
                    tell(failures, error);
                    PAUSE
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        // So that other workers need not wait until it runs out. If this fails, they do.
        drop(timeout(ANSWER, self.give_up(&pool)).await);
    }

    /// Does not wait for a standby: while one is away, the lease would run out, and each try would
    /// leave a connection behind. The price: a standby that takes over without the last beat regards
    /// the worker as gone too early.
    async fn beat(&self, pool: &Pool) -> Result<(), TxError> {
        let worker = self.worker().await;
        if worker == 0 {
            return Ok(());
        }
        let db = pool.get().await?;
        let renew = db
            .prepare_cached(
                "UPDATE workers SET alive_until = clock_timestamp() + $2::text::interval
                 WHERE id = $1 AND alive_until > clock_timestamp()
                   AND set_config('synchronous_commit', 'local', true) IS NOT NULL",
            )
            .await?;
        match db.execute(&renew, &[&worker, &LEASE]).await? {
            0 => self.take_new(&db, worker).await.map(drop),
            _ => Ok(()),
        }
    }

    async fn give_up(&self, pool: &Pool) -> Result<(), TxError> {
        let db = pool.get().await?;
        let end = "UPDATE workers SET alive_until = clock_timestamp() WHERE id = $1
                   AND set_config('synchronous_commit', 'local', true) IS NOT NULL";
        db.execute(end, &[&self.worker().await]).await?;
        Ok(())
    }
}

/// More and more seldom, while the database is away.
fn tell(failures: u32, error: TxError) {
    if failures.is_power_of_two() {
        error!(error = %LedgerError::from(error), "cannot renew the lease; trying again");
    }
}
