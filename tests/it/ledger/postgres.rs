//! What only the ledger on PostgreSQL promises: several workers on one database, leases,
//! commits of unknown outcome, and schemas side by side.

use std::sync::Arc;

use rescind::ledger::Ledger;
use rescind::ledger::postgres::{Postgres, Settings};

use super::desk::Opener;
use crate::rig::Database;

pub(super) fn settings(url: &str) -> Settings {
    Settings {
        url: url.to_owned(),
        ca_file: None,
        cert_file: None,
        key_file: None,
    }
}

async fn open(url: &str) -> Postgres {
    Postgres::open(&settings(url), |_, _| ()).await.unwrap()
}

/// The leases of all workers run out.
fn expire(url: &str) {
    Database::shared().sql_in(url, "UPDATE workers SET alive_until = clock_timestamp()");
}

/// A new database, for the suite of every backend. Opened again, the worker before is gone
/// and its lease has run out.
pub(super) fn fresh() -> Opener {
    let url = Database::shared().create();
    Box::new(move || {
        let url = url.clone();
        Box::pin(async move {
            let opened: Arc<dyn Ledger> = Arc::new(open(&url).await);
            expire(&url);
            opened
        })
    })
}
