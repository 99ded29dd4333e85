//! Opening a ledger's file: its lock, its settings, its schema.

use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tracing::debug;

use super::checkpoint;
use crate::ledger::LedgerError;

/// Schema changes in order; the file's `user_version` counts those that were made.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/001.sql"),
    include_str!("schema/002.sql"),
    include_str!("schema/003.sql"),
    include_str!("schema/004.sql"),
    include_str!("schema/005.sql"),
    include_str!("schema/006.sql"),
    include_str!("schema/007.sql"),
    include_str!("schema/008.sql"),
    include_str!("schema/009.sql"),
];

/// The file beside a ledger whose lock says that a worker has it. A link to the ledger is the ledger.
pub(crate) fn lock_file(path: &Path) -> PathBuf {
    beside(path, ".lock")
}

/// A file that belongs to a ledger: its name is the ledger's with this ending.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = followed(path).into_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Where the links of a path lead, also if nothing is there yet: a worker's first start makes the file.
pub(super) fn followed(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        match std::fs::read_link(&path) {
            Ok(target) => path = path.parent().unwrap_or(Path::new("")).join(target),
            Err(_) => break,
        }
    }
    path.canonicalize().unwrap_or(path)
}

pub(super) fn lock(path: &Path) -> Result<File, LedgerError> {
    let name = lock_file(path);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&name)
        .map_err(|error| {
            LedgerError::Failed(format!(
                "cannot open {}: {error}; does the folder exist, and may this user write there?",
                name.display()
            ))
        })?;
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

/// What a lock file holds once a ledger was made beside it. An empty one is of a start that came to none, or of an
/// older version.
const MADE: &[u8] = b"a ledger was made beside this file\n";

/// That a ledger is there now, so that where it is gone later no new one is made in its place: what that one had carried
/// out would be carried out again. On a full disk a later start does it.
pub(super) fn remember(mut lock: &File) {
    if lock.metadata().is_ok_and(|about| about.len() > 0) {
        return;
    }
    if let Err(error) = lock.write_all(MADE).and_then(|()| lock.sync_all()) {
        debug!(%error, "not noted in the lock file that a ledger was made");
    }
}

/// Why there is no ledger, if there is none.
pub(super) fn missing(path: &Path) -> Result<Option<LedgerError>, LedgerError> {
    if is_there(path)? {
        return Ok(None);
    }
    let missing = || LedgerError::Missing {
        path: absolute(path),
    };
    Ok(Some(gone(path).unwrap_or_else(missing)))
}

/// Where no ledger is, or an empty file: that there was one, if the lock says so.
pub(crate) fn gone(path: &Path) -> Option<LedgerError> {
    let lock = lock_file(path);
    let had_one = std::fs::metadata(&lock).is_ok_and(|about| about.len() > 0);
    had_one.then(|| LedgerError::Gone {
        path: absolute(path),
        lock: absolute(&lock),
    })
}

/// For the worker: the file is made if there is none. One of another program is not even put into our mode.
pub(super) fn open_writer(path: &Path) -> Result<Connection, LedgerError> {
    let writer = open(path, OpenFlags::SQLITE_OPEN_CREATE)?;
    check_ours(&writer, path)?;
    durable(writer)
}

/// For an operator's command: the file exists, and is not migrated.
pub(super) fn open_operator(path: &Path) -> Result<Connection, LedgerError> {
    durable(open(path, OpenFlags::empty())?)
}

/// Every commit of this connection is on the disk before it answers.
fn durable(mut connection: Connection) -> Result<Connection, LedgerError> {
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    checkpoint::alone(&mut connection)?;
    Ok(connection)
}

pub(super) fn open_reader(path: &Path) -> Result<Connection, LedgerError> {
    // Not read-only at the file level: a reader of a WAL takes part in its shared memory.
    let reader = open(path, OpenFlags::empty())?;
    reader.pragma_update(None, "query_only", true)?;
    Ok(reader)
}

/// Each connection has one thread, so SQLite needs no locks of its own inside the process.
fn open(path: &Path, more: OpenFlags) -> Result<Connection, LedgerError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| {
        LedgerError::Failed(format!(
            "cannot open {}: {error}; may this user write the file and its folder?",
            path.display()
        ))
    })?;
    tune(&connection)?;
    Ok(connection)
}

fn tune(connection: &Connection) -> Result<(), LedgerError> {
    connection.busy_timeout(std::time::Duration::from_secs(5))?;
    connection.pragma_update(None, "cache_size", -6_144)?;
    // Plans depend on no bound value: without this, statements that touch a partial index are
    // prepared anew at each binding, a quarter of the writer's time.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(())
}

fn schema_version(connection: &Connection) -> Result<i64, LedgerError> {
    Ok(connection.pragma_query_value(None, "user_version", |row| row.get(0))?)
}

/// Changes nothing: a transaction without a write is committed on a full disk, too.
pub(super) fn write_a_page(connection: &Connection) -> rusqlite::Result<()> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    connection.pragma_update(None, "user_version", version)
}

fn known_schema() -> i64 {
    i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX)
}

/// Whether nothing was ever made in it: the file was not there, or it was empty.
pub(super) fn is_new(connection: &Connection) -> Result<bool, LedgerError> {
    Ok(schema_version(connection)? == 0 && !has_any(connection)?)
}

fn has_any(connection: &Connection) -> rusqlite::Result<bool> {
    let any = "SELECT EXISTS (SELECT 1 FROM sqlite_schema)";
    connection.query_row(any, [], |row| row.get(0))
}

/// Another program may count its versions at the same place, and have a table of the same name.
fn check_ours(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    let ours =
        "SELECT EXISTS (SELECT 1 FROM pragma_table_info('requests') WHERE name = 'payment_key')";
    let has_version = schema_version(connection)? != 0;
    let path = absolute(path);
    match connection.query_row(ours, [], |row| row.get(0))? {
        true if has_version => Ok(()),
        true => Err(LedgerError::Unversioned {
            path,
            known: known_schema(),
        }),
        false if !has_version && !has_any(connection)? => Ok(()),
        false => Err(LedgerError::Foreign {
            path,
            why: "it is a database of another program".into(),
        }),
    }
}

pub(super) fn check_schema(connection: &Connection, path: &Path) -> Result<(), LedgerError> {
    check_ours(connection, path)?;
    let (found, known) = (schema_version(connection)?, known_schema());
    let path = path.display().to_string();
    match found.cmp(&known) {
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Less => Err(LedgerError::TooOld { path, found, known }),
        std::cmp::Ordering::Greater => Err(LedgerError::TooNew { path, found, known }),
    }
}

pub(super) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), LedgerError> {
    match check_schema(connection, path) {
        Err(LedgerError::TooOld { .. }) => {}
        checked => return checked,
    }
    let done = usize::try_from(schema_version(connection)?).unwrap_or_default();
    for (number, migration) in MIGRATIONS.iter().enumerate().skip(done) {
        step(connection, number, migration).map_err(|error| match LedgerError::from(error) {
            LedgerError::Failed(why) => LedgerError::Failed(format!(
                "cannot bring {} from schema {number} to {}: {why}",
                absolute(path),
                number + 1
            )),
            error => error,
        })?;
    }
    Ok(())
}

fn step(connection: &mut Connection, number: usize, migration: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(migration)?;
    transaction.pragma_update(None, "user_version", number + 1)?;
    transaction.commit()
}

/// Whether the file exists. A file that this user may not see can well exist and be in use.
fn is_there(path: &Path) -> Result<bool, LedgerError> {
    path.try_exists().map_err(|error| {
        let path = absolute(path);
        LedgerError::Failed(format!(
            "{path} cannot be accessed: {error}; run this as the worker's user, or correct ledger.url"
        ))
    })
}

/// The absolute path, which means the same in every folder.
pub(super) fn absolute(path: &Path) -> String {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.display().to_string()
}
