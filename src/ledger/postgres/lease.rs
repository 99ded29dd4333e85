//! A worker's lease: who does not renew it is gone, and others take over what it had.
//!
//! Only the database's clock counts. Every transaction of a worker holds the row of its lease,
//! so that nobody takes over while it writes, and nothing is written once somebody did.

use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Pool};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::error::TxError;
use super::lane::{LANE, forget};
use crate::ledger::LedgerError;

/// A worker that has not been heard of for so long is gone.
pub(super) const LEASE: &str = "10 seconds";
/// How often it is heard of.
const BEAT: Duration = Duration::from_secs(3);
/// Wait before a failed renewal is tried again.
const PAUSE: Duration = Duration::from_millis(500);

/// Longest wait for the database in that; less than the lease.
const ANSWER: Duration = Duration::from_secs(5);

/// The one lease of this worker, shared by all that writes.
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

    /// Who we are; 0 before the database was reached for the first time.
    pub(super) async fn worker(&self) -> i64 {
        *self.worker.lock().await
    }

    /// Who we are from now on, if we still were `old`.
    pub(super) async fn renew(&self, db: &ClientWrapper, old: i64) -> Result<i64, TxError> {
        let mut worker = self.worker.lock().await;
        if *worker != old {
            return Ok(*worker);
        }
        let row = db
            .query_one(
                "WITH new AS (INSERT INTO workers (name, alive_until)
                   VALUES ($1, clock_timestamp() + $2::text::interval) RETURNING id),
                 own AS (INSERT INTO lanes (worker, lane, number)
                   SELECT id, $3::smallint, 0 FROM new)
                 SELECT id FROM new",
                &[&self.name, &LEASE, &LANE],
            )
            .await?;
        *worker = row.try_get(0)?;
        if old != 0 {
            warn!(
                old,
                new = *worker,
                "the lease was lost; what was under way is in doubt"
            );
        }
        Ok(*worker)
    }

    /// Nobody renews it any more: what was under way by it is taken over.
    pub(super) async fn abandon(&self, old: i64) {
        let mut worker = self.worker.lock().await;
        if *worker == old {
            *worker = 0;
        }
    }

    /// Keeps the lease until the end, and gives it up then.
    pub(super) async fn keep(self: Arc<Self>, pool: Pool, stop: CancellationToken) {
        loop {
            let beat = timeout(ANSWER, self.beat(&pool)).await;
            let wait = match beat.unwrap_or_else(|_| Err(forget(&pool))) {
                Ok(()) => BEAT,
                Err(error) => {
                    if matches!(error, TxError::Broken(_)) {
                        pool.retain(|_, _| false);
                    }
                    error!(error = ?LedgerError::from(error), "cannot renew the lease; trying again");
                    PAUSE
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        // Others need not wait for its end. If this fails, they do.
        drop(timeout(ANSWER, self.give_up(&pool)).await);
    }

    /// Waits for no standby, or a lease would run out for as long as one is away, and each try leave a
    /// connection behind. A standby that takes over without a beat takes the worker for gone too early.
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
            0 => self.renew(&db, worker).await.map(drop),
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
