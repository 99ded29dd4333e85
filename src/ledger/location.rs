//! Where a ledger is kept: a file, or a database.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::postgres::{Postgres, Settings};
use super::sqlite::Sqlite;
use super::{Ledger, LedgerError};

/// A ledger that can be opened.
#[derive(Debug, Clone)]
pub enum Location {
    /// One worker, embedded.
    File(PathBuf),
    /// Several workers.
    Database(Settings),
}

impl fmt::Display for Location {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "sqlite:{}", path.display()),
            Self::Database(settings) => f.write_str(&settings.address()),
        }
    }
}

impl Location {
    /// Opens it for a worker, creating or migrating it. `observer` is told seconds and
    /// operations of every commit.
    pub async fn open(
        &self,
        observer: impl Fn(f64, usize) + Send + Sync + 'static,
    ) -> Result<Arc<dyn Ledger>, LedgerError> {
        Ok(match self {
            Self::File(path) => Arc::new(Sqlite::open(path, observer)?),
            Self::Database(settings) => Arc::new(Postgres::open(settings, observer).await?),
        })
    }

    /// Opens an existing one to be read, beside the workers that write it.
    pub async fn open_to_read(&self) -> Result<Arc<dyn Ledger>, LedgerError> {
        Ok(match self {
            Self::File(path) => Arc::new(Sqlite::open_to_read(path)?),
            Self::Database(settings) => Arc::new(Postgres::open_to_read(settings).await?),
        })
    }

    /// Opens an existing one to be worked on by a person, beside the workers.
    pub async fn open_to_operate(&self) -> Result<Arc<dyn Ledger>, LedgerError> {
        Ok(match self {
            Self::File(path) => Arc::new(Sqlite::open_to_operate(path)?),
            Self::Database(settings) => Arc::new(Postgres::open_to_operate(settings).await?),
        })
    }
}
