//! A ledger with very many finished and waiting requests.
//!
//! A worker writes a few hundred; then they are copied with SQL, so that the rows are of the
//! form that a worker writes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::{Connection, params};

use crate::drain::settle;
use crate::load::{Load, await_results};
use crate::process::{Process, Worker};
use crate::provider::{self, Answer};

/// Requests of each kind that a worker writes.
const TEMPLATES: usize = 300;

/// A wait that reaches as far as the copies do: what would be due later than any wait can
/// reach is looked at at once.
const LONGEST_WAIT: (&str, &str) = ("RESCIND_DEFAULTS__RETRY__MAX", "24h");

/// It is there until it is removed.
pub(crate) struct Large {
    path: PathBuf,
    /// Of each kind.
    rows: usize,
}

impl Large {
    /// With what a worker wrote.
    pub(crate) async fn new(amqp: &str) -> Self {
        Self::remove();
        std::fs::create_dir_all(folder()).unwrap();
        let large = Self {
            path: folder().join("rescind.db"),
            rows: TEMPLATES,
        };
        large.write(amqp, Answer::Cancelled).await;
        large.write(amqp, Answer::Later).await;
        large
    }

    /// Removes the files.
    pub(crate) fn remove() {
        drop(std::fs::remove_dir_all(folder()));
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A worker on it, that leaves alone what waits.
    pub(crate) fn worker<'a>(&self, load: &'a Load, provider: &provider::Provider) -> Worker<'a> {
        let url = format!("sqlite:{}", self.path.display());
        let (name, value) = LONGEST_WAIT;
        Worker::new(load, provider).on(url).with(name, value)
    }

    async fn write(&self, amqp: &str, answer: Answer) {
        let waits = matches!(answer, Answer::Later);
        let provider = provider::start(answer).await;
        let load = Load::new(amqp, "large").await;
        load.publish(load.ids(TEMPLATES)).await;
        let worker = self.worker(&load, &provider);
        let process = worker.with("RESCIND_DEFAULTS__RETRY__FIRST", "1h").start();
        if waits {
            self.await_waiting(&process).await;
        } else {
            await_results(&mut load.results().await, TEMPLATES).await;
        }
        process.stop();
        load.close().await;
    }

    async fn await_waiting(&self, process: &Process) {
        let started = Instant::now();
        while count(&self.path, "state = 'waiting_retry'") < TEMPLATES {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let late = started.elapsed() > Duration::from_secs(30);
            assert!(!late, "nothing waits: {}", process.log());
        }
    }

    /// Makes it so many rows of each kind.
    pub(crate) fn grow(&mut self, rows: usize) {
        let more = rows.saturating_sub(self.rows);
        if more == 0 {
            return;
        }
        let started = Instant::now();
        copy(&self.path, more).unwrap();
        settle();
        self.rows = rows;
        let gigabytes = std::fs::metadata(&self.path).unwrap().len() as f64 / 1e9;
        println!(
            "a ledger with {rows} finished and {rows} waiting requests, {gigabytes:.2} GB, made in {:.0} s",
            started.elapsed().as_secs_f64()
        );
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench-large")
}

/// Fast and not durable: a run that is broken off begins anew.
fn copy(path: &Path, rows: usize) -> rusqlite::Result<()> {
    let db = Connection::open(path)?;
    db.execute_batch(
        "PRAGMA journal_mode = DELETE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;
         PRAGMA temp_store = MEMORY; PRAGMA cache_size = -1000000; BEGIN",
    )?;
    let (written, rows, now) = (
        TEMPLATES as i64,
        rows as i64,
        jiff::Timestamp::now().as_millisecond(),
    );
    let mut statements = rusqlite::Batch::new(&db, include_str!("large.sql"));
    while let Some(mut statement) = statements.next()? {
        match statement.parameter_count() {
            0 => statement.execute([])?,
            1 => statement.execute([written])?,
            _ => statement.execute(params![written, rows, now])?,
        };
    }
    db.execute_batch("COMMIT; PRAGMA journal_mode = WAL")
}

/// Requests of which this holds, seen from outside.
pub(crate) fn count(path: &Path, condition: &str) -> usize {
    let query = format!("SELECT count(*) FROM requests WHERE {condition}");
    let counted = Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE)
        .and_then(|db| db.query_row(&query, [], |row| row.get(0)));
    counted.unwrap_or(0)
}
