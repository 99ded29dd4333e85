//! A row that cannot be read stops no other one. If it is a request's, nothing is sent for it before its provider was asked.

use std::path::Path;
use std::sync::Arc;

use rescind::ledger::sqlite::Sqlite;
use rescind::ledger::{Committed, Heard, Ledger, Which};
use rescind::outcome::{Operation, State};
use rusqlite::Connection;

use super::desk::{ACCOUNT, Desk, VOIDED, at, calls, checks, finish, request, wait};
use super::{asks_at, postgres};
use crate::rig::{Database, folder};

/// Spoils what is remembered of every request.
const SPOILED: &str = "UPDATE requests SET progress = '{\"state\": \"from a later version\"}'";

/// Spoils messages, each in another way.
const SPOILED_MESSAGES: &str = "UPDATE messages SET kind = 'later' WHERE seq = 1;
    UPDATE messages SET properties = '{' WHERE seq = 2; UPDATE messages SET message_id = 'x' WHERE seq = 4";

#[tokio::test]
async fn on_a_file_what_cannot_be_read_is_asked_about_and_stops_nothing() {
    let folder = folder("ledger");
    let path = folder.path().join("rescind.db");
    let spoil = || Connection::open(&path).unwrap().execute_batch(SPOILED);
    is_asked_about(on_file(&path).await, || spoil().unwrap()).await;
}

async fn on_file(path: &Path) -> Desk {
    let path = path.to_owned();
    Desk::new(Box::new(move || {
        let ledger: Arc<dyn Ledger> = Arc::new(Sqlite::open(&path, |_, _| ()).unwrap());
        Box::pin(async { ledger })
    }))
    .await
}

#[tokio::test]
async fn on_a_file_a_message_that_cannot_be_read_keeps_no_other_one_back() {
    let folder = folder("ledger");
    let path = folder.path().join("rescind.db");
    let spoil = || {
        Connection::open(&path)
            .unwrap()
            .execute_batch(SPOILED_MESSAGES)
    };
    are_passed_by(on_file(&path).await, || spoil().unwrap()).await;
}

#[tokio::test]
async fn on_a_database_a_message_that_cannot_be_read_keeps_no_other_one_back() {
    let url = Database::shared().create();
    let spoil = || drop(Database::shared().sql_in(&url, SPOILED_MESSAGES));
    are_passed_by(postgres::desk(&url).await, spoil).await;
}

async fn are_passed_by(desk: Desk, spoil: impl Fn()) {
    for id in ["a", "b", "c", "d", "e"] {
        desk.end(id, id, VOIDED, at(0)).await;
    }
    spoil();
    let rows = async |after, most| {
        let pending = desk.pending(after, most).await.unwrap();
        pending.iter().map(|row| row.seq).collect::<Vec<_>>()
    };
    assert_eq!(rows(0, 9).await, [3, 5]);
    // As many as are asked for: fewer would be all.
    assert_eq!(rows(0, 2).await, [3, 5]);
    assert_eq!(rows(0, 1).await, [3]);
    assert!(rows(5, 9).await.is_empty());
}

#[tokio::test]
async fn on_a_database_what_cannot_be_read_is_asked_about_and_stops_nothing() {
    let url = Database::shared().create();
    let spoil = || drop(Database::shared().sql_in(&url, SPOILED));
    is_asked_about(postgres::desk(&url).await, spoil).await;
}

async fn is_asked_about(desk: Desk, spoil: impl Fn()) {
    desk.take_in(request("new", "p")).await;
    let sent = desk.begin("sent", "q").await;
    assert_eq!(desk.settle(wait(&sent, at(0))).await, Committed::Done);
    desk.end("done", "r", VOIDED, at(0)).await;
    spoil();

    for (id, attempts) in [("new", 0), ("sent", 1)] {
        let seen = desk.seen(id).await.progress;
        assert_eq!((seen.state, seen.attempts), (State::InDoubt, attempts));
        assert_eq!(seen.is_presumed(), attempts == 0, "{id}");
    }
    assert_eq!(desk.seen("done").await.progress.state, State::Finished);
    desk.take_in(request("later", "s")).await;
    let lookups = calls(Operation::Lookup);
    let claimed = desk.claim(ACCOUNT, Which::due(9), at(9), lookups).await;
    let claimed = claimed.unwrap().claims;
    assert_eq!(claimed.len(), 3, "and the legible one");
    // Under a call number of its own, whose end can be written.
    for claim in &claimed {
        assert_eq!(
            desk.settle(finish(claim, VOIDED, at(9))).await,
            Committed::Done
        );
    }
    let calls = desk.seen("sent").await.calls;
    assert_eq!(calls.len(), 2);
    assert!(calls.iter().all(|call| call.finished_at.is_some()));

    spoil();
    let heard = desk.hear(&["r"], asks_at(15)).await;
    assert_eq!(heard, [Heard::Checking]);
    let check = desk.only_claim(at(20), checks()).await;
    assert_eq!(check.outcome, Some(VOIDED));
}
