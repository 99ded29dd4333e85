//! Whose turn a payment is, on a file: the database says so, also of what an older version wrote.

use std::path::Path;

use rescind::ledger::sqlite::Sqlite;
use rescind::ledger::{Arrival, Ledger};
use rusqlite::{Connection, ErrorCode};
use tempfile::TempDir;

use super::desk::{admitted, request};

fn open(path: &Path) -> Sqlite {
    Sqlite::open(path, |_, _| ()).unwrap()
}

/// A row as an older version wrote it.
fn row(file: &Connection, id: &str, payment: &str, state: &str, parked: bool) {
    file.execute(
        "INSERT INTO requests (request_id, provider, payment_key, digest, body, received_at, state, parked, progress)
         VALUES (?1, 'midtrans', ?2, x'00', x'00', 0, ?3, ?4, '{}')",
        (id, payment, state, parked),
    )
    .unwrap();
}

/// The requests that have their payment's turn.
fn turns(file: &Connection) -> Vec<String> {
    let query = "SELECT request_id FROM requests WHERE turn = 0 ORDER BY request_id";
    let mut statement = file.prepare(query).unwrap();
    let rows = statement.query_map([], |row| row.get(0)).unwrap();
    rows.map(Result::unwrap).collect()
}

fn is_refused(file: &Connection, change: &str) -> bool {
    let done = file.execute_batch(change);
    let error = done.err().and_then(|error| error.sqlite_error_code());
    error == Some(ErrorCode::ConstraintViolation)
}

/// Version 3, with three payments, after its migration. The folder goes with it.
fn migrated() -> (TempDir, Connection) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rescind.db");
    let file = Connection::open(&path).unwrap();
    for migration in [
        include_str!("../../../src/ledger/sqlite/schema/001.sql"),
        include_str!("../../../src/ledger/sqlite/schema/002.sql"),
        include_str!("../../../src/ledger/sqlite/schema/003.sql"),
    ] {
        file.execute_batch(migration).unwrap();
    }
    file.pragma_update(None, "user_version", 3).unwrap();
    row(&file, "a1", "ended twice", "finished", false);
    row(&file, "a2", "ended twice", "finished", false);
    row(&file, "b1", "worked on", "finished", false);
    row(&file, "b2", "worked on", "calling", false);
    row(&file, "b3", "worked on", "due", true);
    // A replay: what came after it has ended.
    row(&file, "c1", "replayed", "in_doubt", false);
    row(&file, "c2", "replayed", "finished", false);
    drop(open(&path));
    (folder, file)
}

#[test]
fn an_older_ledger_gives_each_payment_s_turn_to_who_works_on_it_or_ended_last() {
    let (_folder, file) = migrated();
    assert_eq!(turns(&file), ["a2", "b2", "c1"]);
}

#[test]
fn the_database_lets_no_second_request_work_on_a_payment() {
    let (_folder, file) = migrated();
    let second = "UPDATE requests SET parked = 0, turn = 0 WHERE request_id = 'b3'";
    assert!(is_refused(&file, second));
    let without_its_turn = "UPDATE requests SET parked = 0 WHERE request_id = 'b3'";
    assert!(is_refused(&file, without_its_turn));
    let given_up_at_work = "UPDATE requests SET turn = NULL WHERE request_id = 'b2'";
    assert!(is_refused(&file, given_up_at_work));
    assert_eq!(turns(&file), ["a2", "b2", "c1"]);
}

#[tokio::test]
async fn what_the_database_keeps_out_is_not_taken_for_stored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rescind.db");
    let ledger = open(&path);
    let file = Connection::open(&path).unwrap();
    file.execute_batch(
        "CREATE TRIGGER keeps_out BEFORE INSERT ON requests BEGIN SELECT RAISE(IGNORE); END",
    )
    .unwrap();
    for new in [request("a", "p"), admitted("b", "q")] {
        let arrival = Arrival::Request(Box::new(new));
        assert!(ledger.accept(vec![arrival].into()).await.is_err());
    }
}
