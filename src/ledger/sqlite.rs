//! The ledger on one SQLite file: embedded, durable, one worker.
//!
//! WAL with `synchronous=FULL`: an answer means that the commit is on the disk. One thread
//! writes, another one reads; a lock beside the file keeps a second worker away.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};

use super::lane::{Lane, Observer, failed};
use super::{
    About, Accepted, Answer, Arrival, Begin, CallRecord, Change, Claim, ClaimId, Claims, Committed,
    DeadLetter, Filter, History, Ledger, LedgerError, MessageRecord, NewRequest, Pending, Stats,
    Stored, Summary,
};
use crate::lifecycle::{Operation, Outcome, Plan, Progress, State};
use crate::wire::{Envelope, Kind, Outgoing};

/// Schema changes in order; the file's `user_version` says how many were made.
const MIGRATIONS: &[&str] = &[include_str!("schema/sqlite_001.sql")];

/// See the module.
pub struct Sqlite {
    /// `None` for a ledger that was opened to be read.
    write: Option<Lane>,
    read: Lane,
    /// Held for as long as the worker lives.
    _lock: Option<File>,
}

impl Sqlite {
    /// Opens the ledger for the one worker that writes it, creating or migrating it.
    /// `observer` is told seconds and operations of every commit.
    pub fn open(
        path: &Path,
        observer: Box<dyn Fn(f64, usize) + Send>,
    ) -> Result<Self, LedgerError> {
        let lock = lock(path)?;
        let mut writer = Connection::open(path).map_err(|error| unopened(path, &error))?;
        writer
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(failed)?;
        writer
            .pragma_update(None, "synchronous", "FULL")
            .map_err(failed)?;
        writer
            .pragma_update(None, "wal_autocheckpoint", 4000)
            .map_err(failed)?;
        tune(&writer)?;
        migrate(&mut writer, path)?;
        let observer: Observer = observer;
        let write = Lane::writer(writer, observer).map_err(unstarted)?;
        let read = Lane::reader(open_reader(path)?).map_err(unstarted)?;
        Ok(Self {
            write: Some(write),
            read,
            _lock: Some(lock),
        })
    }

    /// Opens an existing ledger to be read, beside a running worker or without one.
    pub fn open_to_read(path: &Path) -> Result<Self, LedgerError> {
        if !path.exists() {
            return Err(LedgerError::Missing {
                path: path.display().to_string(),
            });
        }
        let reader = open_reader(path)?;
        check_schema(&reader, path)?;
        Ok(Self {
            write: None,
            read: Lane::reader(reader).map_err(unstarted)?,
            _lock: None,
        })
    }

    fn write<T: Send + 'static>(
        &self,
        operation: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'_, T> {
        match &self.write {
            Some(lane) => lane.run(operation),
            None => {
                Box::pin(async { Err(LedgerError::Failed("it was opened to be read only".into())) })
            }
        }
    }
}

fn lock(path: &Path) -> Result<File, LedgerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let name = PathBuf::from(name);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| LedgerError::Failed(format!("cannot open {}: {error}", name.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LedgerError::InUse {
            path: path.display().to_string(),
        }),
        Err(TryLockError::Error(error)) => Err(LedgerError::Failed(format!(
            "cannot lock {}: {error}",
            name.display()
        ))),
    }
}

fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    // Not read-only at the file level: a reader of a WAL takes part in its shared memory.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let reader =
        Connection::open_with_flags(path, flags).map_err(|error| unopened(path, &error))?;
    tune(&reader)?;
    reader
        .pragma_update(None, "query_only", true)
        .map_err(failed)?;
    Ok(reader)
}

fn tune(connection: &Connection) -> Result<(), LedgerError> {
    connection
        .busy_timeout(std::time::Duration::from_secs(5))
        .map_err(failed)?;
    connection
        .pragma_update(None, "cache_size", -16_384)
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn schema_version(connection: &Connection) -> Result<i64, LedgerError> {
    connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(failed)
}

fn known_schema() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

fn check_schema(connection: &Connection, path: &Path) -> Result<i64, LedgerError> {
    let (found, known) = (schema_version(connection)?, known_schema());
    let path = path.display().to_string();
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(found),
        std::cmp::Ordering::Less => Err(LedgerError::TooOld { path, found, known }),
        std::cmp::Ordering::Greater => Err(LedgerError::TooNew { path, found, known }),
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    match check_schema(connection, path) {
        Err(LedgerError::TooOld { .. }) => {}
        checked => return checked.map(drop),
    }
    let done = usize::try_from(schema_version(connection)?).unwrap_or_default();
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(migration).map_err(failed)?;
        transaction
            .pragma_update(None, "user_version", number + 1)
            .map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

fn unopened(path: &Path, error: &rusqlite::Error) -> LedgerError {
    LedgerError::Failed(format!("cannot open {}: {error}", path.display()))
}

fn unstarted(error: std::io::Error) -> LedgerError {
    LedgerError::Failed(format!("cannot start its thread: {error}"))
}

impl Ledger for Sqlite {
    fn accept(&self, arrivals: Vec<Arrival>) -> Answer<'_, Vec<Accepted>> {
        self.write(move |db| arrivals.iter().map(|arrival| accept(db, arrival)).collect())
    }

    fn claim(
        &self,
        provider: &str,
        most: usize,
        now: Timestamp,
        begin: Begin,
    ) -> Answer<'_, Claims> {
        let provider = provider.to_owned();
        self.write(move |db| claim(db, &provider, most, now, &begin))
    }

    fn commit(&self, changes: Vec<Change>) -> Answer<'_, Vec<Committed>> {
        self.write(move |db| changes.iter().map(|change| commit(db, change)).collect())
    }

    fn pending(&self, after: i64, most: usize) -> Answer<'_, Vec<Pending>> {
        self.read.run(move |db| pending(db, after, most))
    }

    fn published(&self, messages: Vec<i64>, now: Timestamp) -> Answer<'_, ()> {
        self.write(move |db| {
            let mut mark = db.prepare_cached(
                "UPDATE messages SET published_at = ?2, publications = publications + 1 WHERE seq = ?1",
            )?;
            messages.iter().try_for_each(|seq| mark.execute(params![seq, millis(now)]).map(drop))
        })
    }

    fn recover(&self, now: Timestamp) -> Answer<'_, u64> {
        self.write(move |db| recover(db, now))
    }

    fn purge(&self, before: Timestamp, most: usize) -> Answer<'_, u64> {
        self.write(move |db| purge(db, before, most))
    }

    fn stats(&self) -> Answer<'_, Stats> {
        self.read.run(stats)
    }

    fn history(&self, request_id: &str) -> Answer<'_, Option<History>> {
        let request_id = request_id.to_owned();
        self.read.run(move |db| history(db, &request_id))
    }

    fn list(&self, filter: Filter) -> Answer<'_, Vec<Summary>> {
        self.read.run(move |db| list(db, &filter))
    }
}

fn accept(db: &Connection, arrival: &Arrival) -> rusqlite::Result<Accepted> {
    match arrival {
        Arrival::Request(request) => accept_request(db, request),
        Arrival::Invalid(dead_letter, messages) => {
            insert_dead_letter(db, None, dead_letter)?;
            insert_messages(db, None, messages, dead_letter.dead_at)?;
            Ok(Accepted::Recorded)
        }
    }
}

fn accept_request(db: &Connection, request: &NewRequest) -> rusqlite::Result<Accepted> {
    if insert_request(db, request, &request.progress, false)? {
        let seq = db.last_insert_rowid();
        let Some(operation) = request.progress.operation else {
            return Ok(Accepted::New(None));
        };
        insert_call(
            db,
            seq,
            &request.progress,
            operation,
            request.envelope.received_at,
        )?;
        return Ok(Accepted::New(Some(ClaimId { seq, token: 0 })));
    }
    let known = db
        .prepare_cached("SELECT seq, digest, state FROM requests WHERE request_id = ?1")?
        .query_row([&request.request_id], |row| {
            Ok((
                row.get::<_, i64>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                row.get::<_, String>(2)?,
            ))
        })
        .optional()?;
    match known {
        Some((_, digest, _)) if digest != request.digest => Ok(Accepted::Conflicting),
        Some((seq, _, state)) => {
            if state == State::Finished.as_str() {
                publish_result_again(db, seq)?;
            }
            Ok(Accepted::Repeated)
        }
        // Not the id was taken but the payment: it waits for its turn.
        None => {
            insert_request(
                db,
                request,
                &Progress::new(request.envelope.received_at),
                true,
            )?;
            Ok(Accepted::New(None))
        }
    }
}

fn insert_request(
    db: &Connection,
    request: &NewRequest,
    progress: &Progress,
    parked: bool,
) -> rusqlite::Result<bool> {
    let envelope = &request.envelope;
    let due_at = progress.due_at.filter(|_| !parked).map(millis);
    let inserted = db
        .prepare_cached(
            "INSERT OR IGNORE INTO requests (request_id, provider, payment_key, digest, body, correlation_id,
               reply_to, traceparent, tracestate, received_at, state, parked, due_at, attempts, lookups, progress)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        )?
        .execute(params![
            request.request_id,
            request.provider,
            request.payment_key,
            request.digest,
            envelope.body,
            envelope.correlation_id,
            envelope.reply_to,
            envelope.traceparent,
            envelope.tracestate,
            millis(envelope.received_at),
            progress.state.as_str(),
            parked,
            due_at,
            progress.attempts,
            progress.lookups,
            json(progress)?,
        ])?;
    Ok(inserted == 1)
}

fn publish_result_again(db: &Connection, request: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE messages SET published_at = NULL WHERE request = ?1 AND kind = 'result'",
    )?
    .execute([request])
    .map(drop)
}

fn insert_call(
    db: &Connection,
    request: i64,
    progress: &Progress,
    operation: Operation,
    now: Timestamp,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO calls (request, number, operation, started_at) VALUES (?1, ?2, ?3, ?4)",
    )?
    .execute(params![
        request,
        progress.calls,
        operation.as_str(),
        millis(now)
    ])
    .map(drop)
}

fn insert_messages(
    db: &Connection,
    request: Option<i64>,
    messages: &[Outgoing],
    now: Timestamp,
) -> rusqlite::Result<()> {
    // The same message again: its stored bytes are published again, not the new ones.
    let mut insert = db.prepare_cached(
        "INSERT INTO messages (message_id, request, kind, routing_key, properties, body, created_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
         ON CONFLICT (message_id) DO UPDATE SET published_at = NULL",
    )?;
    messages.iter().try_for_each(|message| {
        insert
            .execute(params![
                message.id.to_string(),
                request,
                message.kind.as_str(),
                message.routing_key,
                json(&message.properties)?,
                message.body,
                millis(now),
            ])
            .map(drop)
    })
}

fn insert_dead_letter(
    db: &Connection,
    request: Option<i64>,
    dead: &DeadLetter,
) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT OR IGNORE INTO dead_letters
           (id, request, request_id, provider, outcome, reason, detail, body, received_at, dead_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
    )?
    .execute(params![
        dead.id.to_string(),
        request,
        dead.request_id,
        dead.provider,
        dead.outcome.as_str(),
        dead.outcome.reason(),
        dead.detail,
        dead.body,
        millis(dead.received_at),
        millis(dead.dead_at),
    ])
    .map(drop)
}

const STORED: &str = "request_id, provider, body, correlation_id, reply_to, traceparent, tracestate, received_at, progress";

fn stored(row: &Row<'_>) -> rusqlite::Result<(Stored, Progress)> {
    let envelope = Envelope {
        body: row.get("body")?,
        correlation_id: row.get("correlation_id")?,
        reply_to: row.get("reply_to")?,
        traceparent: row.get("traceparent")?,
        tracestate: row.get("tracestate")?,
        received_at: time(row.get("received_at")?),
    };
    let stored = Stored {
        request_id: row.get("request_id")?,
        provider: row.get("provider")?,
        envelope,
    };
    Ok((stored, parse(&row.get::<_, String>("progress")?)?))
}

fn claim(
    db: &Connection,
    provider: &str,
    most: usize,
    now: Timestamp,
    begin: &Begin,
) -> rusqlite::Result<Claims> {
    let due: Vec<(i64, i64, Stored, Progress)> = db
        .prepare_cached(&format!(
            "SELECT seq, token, {STORED} FROM requests WHERE provider = ?1 AND due_at <= ?2
             ORDER BY due_at LIMIT ?3"
        ))?
        .query_map(params![provider, millis(now), most], |row| {
            let (stored, progress) = stored(row)?;
            Ok((row.get("seq")?, row.get("token")?, stored, progress))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let mut claims = Vec::with_capacity(due.len());
    for (seq, token, stored, mut progress) in due {
        let plan = begin(&stored, &mut progress);
        let id = ClaimId {
            seq,
            token: token + 1,
        };
        take(db, id, &progress)?;
        if let Plan::Call(operation) = plan {
            insert_call(db, seq, &progress, operation, now)?;
        }
        claims.push(Claim {
            id,
            stored,
            progress,
            plan,
        });
    }
    let next_due = if claims.len() < most {
        next_due(db, provider)?
    } else {
        None
    };
    Ok(Claims { claims, next_due })
}

fn take(db: &Connection, id: ClaimId, progress: &Progress) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE requests SET token = ?2, state = ?3, due_at = NULL, attempts = ?4, lookups = ?5, progress = ?6
         WHERE seq = ?1",
    )?
    .execute(params![
        id.seq,
        id.token,
        progress.state.as_str(),
        progress.attempts,
        progress.lookups,
        json(progress)?
    ])
    .map(drop)
}

fn next_due(db: &Connection, provider: &str) -> rusqlite::Result<Option<Timestamp>> {
    db.prepare_cached(
        "SELECT min(due_at) FROM requests WHERE provider = ?1 AND due_at IS NOT NULL",
    )?
    .query_row([provider], |row| row.get::<_, Option<i64>>(0))
    .map(|due| due.map(time))
}

fn commit(db: &Connection, change: &Change) -> rusqlite::Result<Committed> {
    let Some((provider, payment_key)) = write_progress(db, change)? else {
        return Ok(Committed::Lost);
    };
    if let Some(call) = &change.call {
        db.prepare_cached(
            "UPDATE calls SET finished_at = ?3, verdict = ?4, evidence = ?5 WHERE request = ?1 AND number = ?2",
        )?
        .execute(params![
            change.id.seq,
            change.progress.calls,
            millis(change.at),
            call.verdict,
            json(&call.evidence)?
        ])?;
    }
    insert_messages(db, Some(change.id.seq), &change.messages, change.at)?;
    if let Some(dead) = &change.dead_letter {
        insert_dead_letter(db, Some(change.id.seq), dead)?;
    }
    match change.outcome.is_some() && unpark(db, &provider, &payment_key, change.at)? {
        true => Ok(Committed::Freed),
        false => Ok(Committed::Done),
    }
}

fn write_progress(db: &Connection, change: &Change) -> rusqlite::Result<Option<(String, String)>> {
    let progress = &change.progress;
    db.prepare_cached(
        "UPDATE requests SET state = ?3, due_at = ?4, attempts = ?5, lookups = ?6, progress = ?7,
           outcome = ?8, reason = ?9, finished_at = ?10
         WHERE seq = ?1 AND token = ?2 AND due_at IS NULL AND parked = 0 AND state <> 'finished'
         RETURNING provider, payment_key",
    )?
    .query_row(
        params![
            change.id.seq,
            change.id.token,
            progress.state.as_str(),
            progress.due_at.map(millis),
            progress.attempts,
            progress.lookups,
            json(progress)?,
            change.outcome.map(Outcome::as_str),
            change.outcome.map(Outcome::reason),
            change.outcome.map(|_| millis(change.at)),
        ],
        |row| Ok((row.get(0)?, row.get(1)?)),
    )
    .optional()
}

/// The next request on the same payment has its turn.
fn unpark(
    db: &Connection,
    provider: &str,
    payment_key: &str,
    now: Timestamp,
) -> rusqlite::Result<bool> {
    let freed = db
        .prepare_cached(
            "UPDATE requests SET parked = 0, due_at = ?3 WHERE seq =
               (SELECT seq FROM requests WHERE parked = 1 AND provider = ?1 AND payment_key = ?2
                ORDER BY seq LIMIT 1)",
        )?
        .execute(params![provider, payment_key, millis(now)])?;
    Ok(freed > 0)
}

fn pending(db: &Connection, after: i64, most: usize) -> rusqlite::Result<Vec<Pending>> {
    db.prepare_cached(
        "SELECT m.seq, m.message_id, m.kind, m.routing_key, m.properties, m.body, m.publications,
                r.provider, r.outcome, r.received_at
         FROM messages m LEFT JOIN requests r ON r.seq = m.request
         WHERE m.published_at IS NULL AND m.seq > ?1 ORDER BY m.seq LIMIT ?2",
    )?
    .query_map(params![after, most], |row| {
        let message = Outgoing {
            id: row.get::<_, String>(1)?.parse().map_err(unreadable)?,
            kind: kind(&row.get::<_, String>(2)?)?,
            routing_key: row.get(3)?,
            properties: parse(&row.get::<_, String>(4)?)?,
            body: row.get(5)?,
        };
        let first = row.get::<_, i64>(6)? == 0 && message.kind == Kind::Result;
        let about = match (
            row.get::<_, Option<String>>(7)?,
            row.get::<_, Option<String>>(8)?,
        ) {
            (Some(provider), Some(outcome)) if first => Some(About {
                provider,
                outcome,
                received_at: time(row.get(9)?),
            }),
            _ => None,
        };
        Ok(Pending {
            seq: row.get(0)?,
            message,
            about,
        })
    })?
    .collect()
}

fn kind(name: &str) -> rusqlite::Result<Kind> {
    let known = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
    known.ok_or_else(|| {
        unreadable(std::io::Error::other(format!(
            "unknown kind of message {name:?}"
        )))
    })
}

fn recover(db: &Connection, now: Timestamp) -> rusqlite::Result<u64> {
    let claimed: Vec<(i64, i64, Progress)> = db
        .prepare(
            "SELECT seq, token, progress FROM requests
             WHERE state <> 'finished' AND parked = 0 AND due_at IS NULL",
        )?
        .query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, parse(&row.get::<_, String>(2)?)?))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let found = claimed.len();
    for (seq, token, mut progress) in claimed {
        match progress.state {
            State::Calling => progress.lost(now),
            _ => progress.due_at = Some(now),
        }
        take(
            db,
            ClaimId {
                seq,
                token: token + 1,
            },
            &progress,
        )?;
        db.prepare_cached("UPDATE requests SET due_at = ?2 WHERE seq = ?1")?
            .execute(params![seq, progress.due_at.map(millis)])?;
    }
    Ok(found as u64)
}

fn purge(db: &Connection, before: Timestamp, most: usize) -> rusqlite::Result<u64> {
    let old: Vec<i64> = db
        .prepare_cached(
            "SELECT seq FROM requests r WHERE finished_at < ?1
               AND NOT EXISTS (SELECT 1 FROM messages m WHERE m.request = r.seq AND m.published_at IS NULL)
               AND NOT EXISTS (SELECT 1 FROM dead_letters d WHERE d.request = r.seq AND d.closed_at IS NULL)
             LIMIT ?2",
        )?
        .query_map(params![millis(before), most], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    for seq in &old {
        db.prepare_cached("DELETE FROM calls WHERE request = ?1")?
            .execute([seq])?;
        db.prepare_cached("DELETE FROM messages WHERE request = ?1")?
            .execute([seq])?;
        db.prepare_cached("DELETE FROM dead_letters WHERE request = ?1")?
            .execute([seq])?;
        db.prepare_cached("DELETE FROM requests WHERE seq = ?1")?
            .execute([seq])?;
    }
    let invalid = db
        .prepare_cached(
            "DELETE FROM messages WHERE seq IN (SELECT seq FROM messages
               WHERE request IS NULL AND published_at < ?1 LIMIT ?2)",
        )?
        .execute(params![millis(before), most])?;
    Ok((old.len() + invalid) as u64)
}

fn stats(db: &Connection) -> rusqlite::Result<Stats> {
    let open = db
        .prepare_cached(
            "SELECT provider, state, count(*), min(received_at) FROM requests
             WHERE state <> 'finished' GROUP BY provider, state",
        )?
        .query_map([], |row| {
            Ok((
                row.get(0)?,
                state(&row.get::<_, String>(1)?)?,
                row.get(2)?,
                time(row.get(3)?),
            ))
        })?
        .collect::<rusqlite::Result<_>>()?;
    let dead = db
        .prepare_cached(
            "SELECT provider, reason, count(*) FROM dead_letters WHERE closed_at IS NULL GROUP BY 1, 2",
        )?
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let oldest_dead: Option<i64> = db
        .prepare_cached("SELECT min(dead_at) FROM dead_letters WHERE closed_at IS NULL")?
        .query_row([], |row| row.get(0))?;
    let outbox = db
        .prepare_cached("SELECT count(*) FROM messages WHERE published_at IS NULL")?
        .query_row([], |row| row.get(0))?;
    Ok(Stats {
        open,
        dead,
        oldest_dead: oldest_dead.map(time),
        outbox,
    })
}

fn state(name: &str) -> rusqlite::Result<State> {
    let known = State::ALL
        .iter()
        .copied()
        .find(|state| state.as_str() == name);
    known.ok_or_else(|| unreadable(std::io::Error::other(format!("unknown state {name:?}"))))
}

fn history(db: &Connection, request_id: &str) -> rusqlite::Result<Option<History>> {
    let found = db
        .prepare_cached(&format!(
            "SELECT seq, parked, due_at, outcome, reason, finished_at, {STORED} FROM requests WHERE request_id = ?1"
        ))?
        .query_row([request_id], |row| {
            let (stored, mut progress) = stored(row)?;
            progress.due_at = row.get::<_, Option<i64>>("due_at")?.map(time);
            let end = match (row.get("outcome")?, row.get("reason")?, row.get("finished_at")?) {
                (Some(outcome), Some(reason), Some(at)) => Some((outcome, reason, time(at))),
                _ => None,
            };
            let parked = row.get("parked")?;
            let history = History { stored, progress, parked, end, calls: Vec::new(), messages: Vec::new() };
            Ok((row.get::<_, i64>("seq")?, history))
        })
        .optional()?;
    let Some((seq, mut history)) = found else {
        return Ok(None);
    };
    history.calls = calls(db, seq)?;
    history.messages = messages(db, seq)?;
    Ok(Some(history))
}

fn calls(db: &Connection, request: i64) -> rusqlite::Result<Vec<CallRecord>> {
    db.prepare_cached(
        "SELECT operation, started_at, finished_at, verdict, evidence FROM calls WHERE request = ?1 ORDER BY number",
    )?
    .query_map([request], |row| {
        let evidence = row.get::<_, Option<String>>(4)?;
        Ok(CallRecord {
            operation: row.get(0)?,
            started_at: time(row.get(1)?),
            finished_at: row.get::<_, Option<i64>>(2)?.map(time),
            verdict: row.get(3)?,
            evidence: evidence.map(|text| parse(&text)).transpose()?.unwrap_or_default(),
        })
    })?
    .collect()
}

fn messages(db: &Connection, request: i64) -> rusqlite::Result<Vec<MessageRecord>> {
    db.prepare_cached(
        "SELECT message_id, kind, routing_key, body, published_at FROM messages WHERE request = ?1 ORDER BY seq",
    )?
    .query_map([request], |row| {
        Ok(MessageRecord {
            id: row.get(0)?,
            kind: row.get(1)?,
            routing_key: row.get(2)?,
            body: row.get(3)?,
            published_at: row.get::<_, Option<i64>>(4)?.map(time),
        })
    })?
    .collect()
}

fn list(db: &Connection, filter: &Filter) -> rusqlite::Result<Vec<Summary>> {
    db.prepare_cached(
        "SELECT request_id, provider, state, outcome, reason, attempts, lookups, received_at, due_at
         FROM requests
         WHERE (?1 IS NULL OR state = ?1 OR outcome = ?1) AND (?2 IS NULL OR provider = ?2)
           AND (?3 IS NULL OR received_at < ?3)
         ORDER BY seq LIMIT ?4",
    )?
    .query_map(
        params![filter.state, filter.provider, filter.received_before.map(millis), filter.most],
        |row| {
            Ok(Summary {
                request_id: row.get(0)?,
                provider: row.get(1)?,
                state: row.get(2)?,
                end: row.get::<_, Option<String>>(3)?.zip(row.get::<_, Option<String>>(4)?),
                attempts: row.get(5)?,
                lookups: row.get(6)?,
                received_at: time(row.get(7)?),
                due_at: row.get::<_, Option<i64>>(8)?.map(time),
            })
        },
    )?
    .collect()
}

fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str) -> rusqlite::Result<T> {
    serde_json::from_str(text).map_err(unreadable)
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error))
}
