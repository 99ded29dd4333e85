//! Why a ledger operation failed, in words that say what a person can do about it.

/// Why a ledger operation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LedgerError {
    /// Another worker has the file.
    #[error(
        "the ledger {path} is in use by another worker; one file has one worker: end the other one, or give this one a file of its own"
    )]
    InUse {
        /// The file, or the database's address.
        path: String,
    },
    /// Written by an older Rescind, for a command that only reads.
    #[error(
        "the ledger {path} has schema {found}, this version needs {known}; start the worker once, it migrates the ledger"
    )]
    TooOld {
        /// The file, or the database's address.
        path: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// Written by a newer Rescind.
    #[error(
        "the ledger {path} has schema {found}, this version knows up to {known}; run the newer version"
    )]
    TooNew {
        /// The file, or the database's address.
        path: String,
        /// Its schema.
        found: i64,
        /// Ours.
        known: i64,
    },
    /// It belongs to another program.
    #[error(
        "{path} is no ledger: {why}, so it is left alone; correct ledger.url, or give the ledger a file or a database of its own"
    )]
    Foreign {
        /// The file, or the database's address.
        path: String,
        /// How that was seen.
        why: String,
    },
    /// It has our tables and no schema.
    #[error(
        "the ledger {path} has lost the number of its schema, as one has that went through `.dump`, so it is left alone; restore a copy made by `VACUUM INTO` or `.backup`, or, if this version of Rescind was the last to write it, say so in it: PRAGMA user_version = {known}"
    )]
    Unversioned {
        /// The file.
        path: String,
        /// Our schema.
        known: i64,
    },
    /// There is no such ledger, for a command that makes none.
    #[error(
        "there is no ledger at {path}; name the worker's configuration with --config, and run this as the worker's user: a file or folder that is closed to others looks the same"
    )]
    Missing {
        /// The file, or the database's address.
        path: String,
    },
    /// There was one.
    #[error(
        "the ledger {path} is gone: {lock} says that a ledger was there, and a new one would not know what was carried out; put the file back together with its -wal, or restore a backup, and start once with --reconcile. Only if a new ledger is really wanted, remove the lock file"
    )]
    Gone {
        /// The file.
        path: String,
        /// What says so.
        lock: String,
    },
    /// Another process holds the file's lock for too long.
    #[error(
        "the ledger is locked by another process for more than 5 s, and nothing was done; try again, and look for the process that has it open"
    )]
    Busy,
    /// Somebody has kept locked for too long what it needs, and nothing was done.
    #[error("ledger operation failed: {0}")]
    Blocked(String),
    /// The file is not a ledger, or was cut short.
    #[error(
        "the ledger's file is damaged, or is not a ledger ({0}); check ledger.url, or stop the worker, remove the file with its -wal and -shm, and restore a backup"
    )]
    Damaged(String),
    /// The database rejects the worker, or its address is not valid: a person has to act.
    #[error("the ledger {url} cannot be used: {why}; correct [ledger] or the database")]
    Refused {
        /// Its address, without a password.
        url: String,
        /// The database's words, or the reason.
        why: String,
    },
    /// The operation did not happen, or its outcome cannot be known: disk full, no connection, a
    /// lost answer to a commit, shut down.
    #[error("ledger operation failed: {0}")]
    Failed(String),
}

impl LedgerError {
    /// A write to a ledger that was opened to be read.
    pub(super) fn read_only() -> Self {
        Self::Failed("the ledger was opened read-only".into())
    }

    /// The thread or task that serves the ledger has ended.
    pub(super) fn shut_down() -> Self {
        Self::Failed("the ledger is shut down".into())
    }

    /// An operation ended without an error and without a result.
    pub(crate) fn without_result() -> Self {
        Self::Failed("the operation gave no result".into())
    }

    /// The system gave no thread to the ledger.
    pub(super) fn unstarted(error: std::io::Error) -> Self {
        Self::Failed(format!("cannot start a thread for the ledger: {error}"))
    }
}
