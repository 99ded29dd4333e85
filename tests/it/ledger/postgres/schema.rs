//! Schemas: older ones are migrated, newer ones that can be lived with are.

use rescind::ledger::postgres::Postgres;
use std::time::Duration;

use rescind::ledger::{Ledger as _, LedgerError};

use super::{Database, holding, open, settings};
use crate::rig::project;

fn note(url: &str, version: i64, minimum: i64) {
    let note = format!("INSERT INTO rescind_schema VALUES ({version}, {minimum})");
    Database::shared().sql_in(url, &note);
}

async fn refusal(url: &str) -> (Option<LedgerError>, Option<LedgerError>) {
    (
        Postgres::open(&settings(url), |_, _| ()).await.err(),
        Postgres::open_to_read(&settings(url)).await.err(),
    )
}

#[tokio::test]
async fn a_database_of_an_older_version_is_migrated_by_a_worker_alone() {
    let url = Database::shared().create();
    let first = project("src/ledger/postgres/schema/001.sql");
    let first = std::fs::read_to_string(first).unwrap();
    let schema = "CREATE TABLE rescind_schema (version BIGINT PRIMARY KEY, minimum BIGINT NOT NULL,
        made_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())";
    Database::shared().sql_in(&url, &format!("{schema}; {first}"));
    note(&url, 1, 1);
    for old in [
        Postgres::open_to_read(&settings(&url)).await.err(),
        Postgres::open_to_operate(&settings(&url)).await.err(),
    ] {
        let expected = matches!(
            old,
            Some(LedgerError::TooOld {
                found: 1,
                known: 5,
                ..
            })
        );
        assert!(expected, "{old:?}");
    }
    drop(open(&url).await);
    assert!(Postgres::open_to_read(&settings(&url)).await.is_ok());
}

/// One day a request would hold a character that it cannot.
#[tokio::test]
async fn a_database_that_holds_some_characters_only_gets_no_ledger() {
    let url = Database::shared().address("latin");
    let latin =
        "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";
    Database::shared().sql(latin);
    let refused = Postgres::open(&settings(&url), |_, _| ()).await.err();
    let Some(LedgerError::Refused { why, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        why,
        "its encoding is LATIN1; create it with ENCODING 'UTF8'"
    );
}

#[tokio::test]
async fn workers_that_come_at_once_make_the_schema_once() {
    let url = Database::shared().create();
    let (url, opening) = (&url, 0..6);
    futures_util::future::join_all(opening.map(async |_| drop(open(url).await))).await;
    let made = Database::shared().sql_in(url, "SELECT version FROM rescind_schema ORDER BY 1");
    assert_eq!(made, "1\n2\n3\n4\n5");
}

#[tokio::test]
async fn a_newer_schema_is_lived_with_where_it_says_that_it_can_be() {
    let url = Database::shared().create();
    drop(open(&url).await);
    note(&url, 6, 5);
    let (worker, reader) = refusal(&url).await;
    assert!(worker.is_none() && reader.is_none());
    note(&url, 7, 7);
    let (worker, reader) = refusal(&url).await;
    for refused in [worker, reader] {
        let newer = matches!(
            refused,
            Some(LedgerError::TooNew {
                found: 7,
                known: 5,
                ..
            })
        );
        assert!(newer, "{refused:?}");
    }
}

/// Every new connection looks at the schema: one that is up to date waits for nobody who migrates.
#[tokio::test]
async fn a_schema_that_is_up_to_date_is_not_locked() {
    let url = Database::shared().create();
    drop(open(&url).await);
    note(&url, 6, 5);
    let lock = "SELECT pg_advisory_xact_lock(x'72657363696e6400'::bit(64)::bigint)";
    let _held = holding(&url, lock).await;
    let opened = tokio::time::timeout(Duration::from_secs(20), open(&url));
    opened.await.unwrap().stats().await.unwrap();
}
