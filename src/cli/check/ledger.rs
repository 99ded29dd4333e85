//! Whether a worker could use the ledger, without changing anything in it.

use std::path::Path;

use rustix::fs::{Access, access, statvfs};
use rustix::io::Errno;

use super::super::text;
use super::{Check, Exit, lock};
use crate::config::Config;
use crate::ledger::postgres::{Postgres, Settings};
use crate::ledger::sqlite::{Sqlite, gone, lock_file};
use crate::ledger::{LedgerError, Location};
use crate::run;

/// With less than this on its disk no ledger is even made.
const ROOM: u64 = 1024 * 1024;

/// The checks of the configured ledger.
pub(super) async fn all(config: &Config) -> Vec<Check> {
    let mut checks = match run::location(config) {
        Location::File(path) => vec![file(&path)],
        Location::Database(settings) => database(&settings).await,
    };
    checks.extend(forgetful(config));
    checks
}

/// No mistake for certain: a system for trials may forget soon.
fn forgetful(config: &Config) -> Option<Check> {
    let advised = text::span(config.retention_advised()?);
    let says = format!(
        "but ledger.retention is {}, shorter than the longest give_up_after and a day ({advised}): what ended is forgotten so soon that a repeat of it may be carried out again; is that meant?",
        text::span(config.ledger.retention)
    );
    Some(Check::good("ledger", says))
}

async fn database(settings: &Settings) -> Vec<Check> {
    match Postgres::unwritable(settings).await {
        Ok(None) => {}
        Ok(Some(why)) => {
            let says = format!("no worker can write to {}: {why}", settings.address());
            return vec![Check::bad("ledger", Exit::Found, says)];
        }
        Err(error) => return vec![unopened(error)],
    }
    let risks = match risks(settings).await {
        Ok(risks) => risks,
        Err(LedgerError::Missing { path }) => {
            let says = format!("{path} will get its tables from the worker");
            return vec![Check::good("ledger", says)];
        }
        Err(error) => return vec![unopened(error)],
    };
    let risk = |setting: String| {
        let says = format!(
            "{setting} at the server, so a crash there can lose confirmed commits; set it to on"
        );
        Check::bad("ledger", Exit::Found, says)
    };
    let good = Check::good("ledger", "the database has the schema of this version");
    std::iter::once(good)
        .chain(risks.into_iter().map(risk))
        .collect()
}

async fn risks(settings: &Settings) -> Result<Vec<String>, LedgerError> {
    Postgres::open_to_read(settings).await?.risks().await
}

/// What can be read, or is to be made, cannot always be written.
fn file(path: &Path) -> Check {
    let check = opened(path);
    match unwritable(path) {
        Some(why) if check.ok => Check::bad("ledger", Exit::Found, why),
        _ => check,
    }
}

/// Looks only: what a write to a full disk would tell may be known to the worker first.
fn unwritable(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let lock = lock_file(&path);
    // Where a link leads.
    let folder = lock.parent().unwrap_or(&path);
    for place in [folder, &path, &lock] {
        match access(place, Access::WRITE_OK) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => {
                return Some(format!(
                    "{} cannot be written: {error}. Run this as the worker's user; the worker writes the file and makes others beside it",
                    place.display()
                ));
            }
        }
    }
    let disk = statvfs(folder).ok()?;
    let left = disk.f_bavail.saturating_mul(disk.f_frsize);
    (disk.f_blocks > 0 && left < ROOM).then(|| {
        format!(
            "the disk of {} is full: {left} bytes are left for this user, so the worker stores nothing; make room",
            folder.display()
        )
    })
}

fn opened(path: &Path) -> Check {
    match Sqlite::open_to_read(path) {
        Ok(_) => {
            let user = if lock::in_use(path) {
                "; a worker is using it"
            } else {
                ""
            };
            let says = format!("{} has the schema of this version{user}", path.display());
            Check::good("ledger", says)
        }
        Err(LedgerError::Missing { path: gone } | LedgerError::Gone { path: gone, .. })
            if lock::in_use(path) =>
        {
            let says = format!(
                "{gone} is gone, and a worker still has it: what is stored now will be lost. Stop that worker; put the file back together with its -wal, or restore a backup, and start once with --reconcile"
            );
            Check::bad("ledger", Exit::Found, says)
        }
        Err(LedgerError::Missing { .. }) => new_ledger(path),
        Err(error) => unopened(error),
    }
}

fn unopened(error: LedgerError) -> Check {
    match error {
        // A file that is there, as made by `touch`.
        LedgerError::TooOld { path, found: 0, .. } => {
            if let Some(gone) = gone(Path::new(&path)) {
                return Check::bad("ledger", Exit::Found, gone.to_string());
            }
            let says = format!(
                "{path} is empty; the worker makes a new ledger in it, which knows no earlier request"
            );
            Check::good("ledger", says)
        }
        // Older than this binary, as between an upgrade and the first start.
        LedgerError::TooOld { path, found, known } => {
            let says = format!(
                "{path} has schema {found}; the worker brings it to {known} when it starts, so have a backup"
            );
            Check::good("ledger", says)
        }
        // It answers, and a person has to act.
        error @ (LedgerError::Foreign { .. }
        | LedgerError::Unversioned { .. }
        | LedgerError::TooNew { .. }
        | LedgerError::Damaged(_)
        | LedgerError::Gone { .. }) => Check::bad("ledger", Exit::Found, error.to_string()),
        error => Check::bad("ledger", Exit::Unreachable, error.to_string()),
    }
}

/// Shows the absolute path: the worker may have been started in another folder.
fn new_ledger(path: &Path) -> Check {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(&path);
    if folder.is_dir() {
        let says = format!("{} will be created by the worker", path.display());
        return Check::good("ledger", says);
    }
    let says = format!("the folder {} does not exist; create it", folder.display());
    Check::bad("ledger", Exit::Unreachable, says)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_is_not_there_is_created_if_its_folder_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(new_ledger(&dir.path().join("rescind.db")).ok);
        assert!(!new_ledger(&dir.path().join("no/rescind.db")).ok);
        let here = std::path::absolute("new.db").unwrap();
        let check = file(Path::new("new.db"));
        let says = format!("{} will be created by the worker", here.display());
        assert_eq!((check.ok, check.says), (true, says));
    }

    /// `rescind check` stands between a new binary and its first start.
    #[test]
    fn a_ledger_of_an_older_version_is_well_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        drop(Sqlite::open(&path, |_, _| ()).unwrap());
        let older = rusqlite::Connection::open(&path).unwrap();
        older.pragma_update(None, "user_version", 2).unwrap();
        let check = file(&path);
        assert!(check.ok, "{check:?}");
        let says = "has schema 2; the worker brings it to ";
        assert!(check.says.contains(says), "{check:?}");
    }

    /// Nothing is brought anywhere: what it knew is not there.
    #[test]
    fn an_empty_file_becomes_a_new_ledger_and_another_programs_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        std::fs::write(&path, "").unwrap();
        let check = file(&path);
        assert!(check.ok, "{check:?}");
        assert!(check.says.contains("is empty"), "{check:?}");
        let other = rusqlite::Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE users (name)").unwrap();
        let check = file(&path);
        assert_eq!((check.ok, check.exit), (false, Exit::Found));
        assert!(check.says.contains("another program"), "{check:?}");
    }

    #[test]
    fn a_file_that_was_removed_under_a_worker_is_not_called_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        let lock = std::fs::File::create(dir.path().join("rescind.db.lock")).unwrap();
        lock.try_lock().unwrap();
        let check = file(&path);
        assert_eq!((check.ok, check.exit), (false, Exit::Found));
        assert!(check.says.contains("is gone"), "{check:?}");
    }

    /// As after a worker that ended with it. The next start makes none.
    #[test]
    fn a_ledger_that_is_gone_is_not_called_new() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        drop(Sqlite::open(&path, |_, _| ()).unwrap());
        std::fs::remove_file(&path).unwrap();
        let check = file(&path);
        assert_eq!((check.ok, check.exit), (false, Exit::Found));
        assert!(check.says.contains("a ledger was there"), "{check:?}");
    }

    /// As where its folder is closed to this user, which it never is to root.
    #[test]
    fn a_ledger_that_cannot_be_looked_at_is_not_called_new() {
        let dir = tempfile::tempdir().unwrap();
        let no_folder = dir.path().join("file");
        std::fs::write(&no_folder, "").unwrap();
        let check = file(&no_folder.join("rescind.db"));
        assert_eq!((check.ok, check.exit), (false, Exit::Unreachable));
        for says in ["file/rescind.db cannot be accessed", "the worker's user"] {
            assert!(check.says.contains(says), "{check:?}");
        }
    }
}
