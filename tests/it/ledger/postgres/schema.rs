//! Schemas: older ones are migrated, newer ones that can be lived with are.

use rescind::ledger::postgres::Postgres;
use std::time::Duration;

use rescind::ledger::{Ledger as _, LedgerError};

use super::{Database, holding, open, settings};
use crate::rig::project;

/// The text of a migration.
fn migration(number: i64) -> Option<String> {
    let file = format!("src/ledger/postgres/schema/{number:03}.sql");
    std::fs::read_to_string(project(&file)).ok()
}

/// The version of this binary.
fn known() -> i64 {
    (1..).find(|n| migration(*n).is_none()).unwrap() - 1
}

/// A database as a version before has left it.
fn of_version(version: i64) -> String {
    let url = Database::shared().create();
    let schema = "CREATE TABLE rescind_schema (version BIGINT PRIMARY KEY, minimum BIGINT NOT NULL,
        made_at TIMESTAMPTZ NOT NULL DEFAULT clock_timestamp())";
    Database::shared().sql_in(&url, schema);
    for number in 1..=version {
        Database::shared().sql_in(&url, &migration(number).unwrap());
        note(&url, number, number.min(3));
    }
    url
}

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
    let url = of_version(1);
    for old in [
        Postgres::open_to_read(&settings(&url)).await.err(),
        Postgres::open_to_operate(&settings(&url)).await.err(),
    ] {
        let Some(LedgerError::TooOld {
            found: 1, known, ..
        }) = old
        else {
            panic!("{old:?}");
        };
        assert_eq!(known, self::known());
    }
    drop(open(&url).await);
    assert!(Postgres::open_to_read(&settings(&url)).await.is_ok());
}

/// One day a request would hold a character that it cannot.
#[tokio::test]
async fn a_database_that_holds_some_characters_only_gets_no_ledger() {
    // The server may be one that somebody lent us, also to an earlier run.
    let name = format!("latin_{}", crate::rig::unique());
    let url = Database::shared().address(&name);
    let form = "TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'";
    Database::shared().sql(&format!("CREATE DATABASE {name} {form}"));
    let refused = Postgres::open(&settings(&url), |_, _| ()).await.err();
    let Some(LedgerError::Refused { why, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(
        why,
        "its encoding is LATIN1; create it with ENCODING 'UTF8'"
    );
}

/// A name of ours is a name that others choose, too.
#[tokio::test]
async fn a_database_of_another_program_is_left_alone() {
    let url = Database::shared().create();
    Database::shared().sql_in(&url, "CREATE TABLE messages (said TEXT)");
    let (worker, reader) = refusal(&url).await;
    for refused in [worker, reader] {
        let Some(error @ LedgerError::Foreign { .. }) = refused else {
            panic!("{refused:?}");
        };
        let says = error.to_string();
        assert!(
            says.contains("a table messages and no rescind_schema"),
            "{says}"
        );
    }
    let tables = "SELECT relname FROM pg_class WHERE relname IN ('rescind_schema', 'requests')";
    assert_eq!(Database::shared().sql_in(&url, tables), "");
}

/// The reader's own connections are read-only in any case.
#[tokio::test]
async fn a_database_that_takes_no_writes_is_told_from_one_that_does() {
    let url = Database::shared().create();
    let why = async || Postgres::unwritable(&settings(&url)).await.unwrap();
    assert_eq!(why().await, None);
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    Database::shared().sql(&read_only);
    let why = why().await.unwrap();
    assert!(why.contains("default_transaction_read_only is on"), "{why}");
}

#[tokio::test]
async fn workers_that_come_at_once_make_the_schema_once() {
    let url = Database::shared().create();
    let (url, opening) = (&url, 0..6);
    futures_util::future::join_all(opening.map(async |_| drop(open(url).await))).await;
    let made = Database::shared().sql_in(url, "SELECT version FROM rescind_schema ORDER BY 1");
    let all: Vec<String> = (1..=known()).map(|n| n.to_string()).collect();
    assert_eq!(made, all.join("\n"));
}

#[tokio::test]
async fn a_newer_schema_is_lived_with_where_it_says_that_it_can_be() {
    let url = Database::shared().create();
    drop(open(&url).await);
    note(&url, known() + 1, known());
    let (worker, reader) = refusal(&url).await;
    assert!(worker.is_none() && reader.is_none());
    let newer = known() + 2;
    note(&url, newer, newer);
    let (worker, reader) = refusal(&url).await;
    for refused in [worker, reader] {
        let Some(LedgerError::TooNew { found, known, .. }) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((found, known), (newer, self::known()));
    }
}

/// Every new connection looks at the schema: one that is up to date waits for nobody who migrates.
#[tokio::test]
async fn a_schema_that_is_up_to_date_is_not_locked() {
    let url = Database::shared().create();
    drop(open(&url).await);
    note(&url, known() + 1, known());
    let lock = "SELECT pg_advisory_xact_lock(x'72657363696e6400'::bit(64)::bigint)";
    let _held = holding(&url, lock).await;
    let opened = tokio::time::timeout(Duration::from_secs(20), open(&url));
    opened.await.unwrap().stats().await.unwrap();
}

/// An order that the system's library decides is another one after its upgrade, or on a standby, and
/// an index in the old one does not find what it holds.
#[tokio::test]
async fn no_index_is_in_an_order_that_an_upgrade_of_the_system_changes() {
    let url = Database::shared().create();
    drop(open(&url).await);
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    let others = "SELECT c.relname FROM pg_index x JOIN pg_class c ON c.oid = x.indexrelid
        WHERE c.relnamespace = 'public'::regnamespace AND EXISTS (
          SELECT 1 FROM unnest(x.indcollation::oid[]) WITH ORDINALITY i (of, n)
          WHERE n <= x.indnkeyatts AND of <> 0 AND of <> (SELECT oid FROM pg_collation WHERE collname = 'C'))";
    assert_eq!(sql(others), "");
    let keys = "SELECT count(*) FROM information_schema.columns WHERE collation_name = 'C'
        AND table_name || '.' || column_name IN ('requests.request_id', 'requests.provider',
          'requests.payment_key', 'messages.message_id', 'dead_letters.id', 'dead_letters.request_id')";
    assert_eq!(sql(keys), "6");
}

/// What it has prepared would give errors for as long as its connection lives.
#[tokio::test]
async fn a_worker_of_the_version_before_prepares_its_statements_anew() {
    let url = of_version(5);
    let connected = async |name: &str| {
        let url = format!("{url}?application_name={name}");
        let (db, line) = tokio_postgres::connect(&url, tokio_postgres::NoTls)
            .await
            .unwrap();
        tokio::spawn(line);
        let query = db.prepare("SELECT request_id FROM requests").await.unwrap();
        (db, query)
    };
    let (old, somebody) = (connected("rescind").await, connected("somebody").await);
    let made = "INSERT INTO requests (request_id, provider, payment_key, digest, body, envelope, received_at, state, progress)
        VALUES ('a', 'migo', 'p', '', '', '{}', 0, 'due', '{}')";
    old.0.batch_execute(made).await.unwrap();
    let worker = open(&url).await;
    assert!(
        old.0
            .query(&old.1, &[])
            .await
            .is_err_and(|error| error.code().is_none_or(|code| code.code() == "57P01"))
    );
    assert!(old.0.is_closed());
    let changed = somebody.0.query(&somebody.1, &[]).await.unwrap_err();
    assert_eq!(changed.code().unwrap().code(), "0A000", "{changed}");
    let anew = connected("rescind").await;
    assert_eq!(anew.0.query(&anew.1, &[]).await.unwrap().len(), 1);
    drop(worker);
}
