//! A row whose progress cannot be read stops no other one, and nothing is sent for it before its provider was asked.

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

#[tokio::test]
async fn on_a_file_what_cannot_be_read_is_asked_about_and_stops_nothing() {
    let folder = folder("ledger");
    let path = folder.path().join("rescind.db");
    let at = path.clone();
    let desk = Desk::new(Box::new(move || {
        let ledger: Arc<dyn Ledger> = Arc::new(Sqlite::open(&at, |_, _| ()).unwrap());
        Box::pin(async { ledger })
    }));
    let spoil = || Connection::open(&path).unwrap().execute_batch(SPOILED);
    is_asked_about(desk.await, || spoil().unwrap()).await;
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
