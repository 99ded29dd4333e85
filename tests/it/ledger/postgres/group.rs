//! What is asked at once is one transaction, and each asker has an answer of its own.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rescind::ledger::postgres::Postgres;
use rescind::ledger::{
    Accepted, Arrival, Closed, Committed, Heard, Ledger, LedgerError, Resolution, Which,
};

use super::super::asks_at;
use super::super::desk::{
    ACCOUNT, Desk, GIVEN_UP, VOIDED, at, at_once, by, finish, outcomes, request, sends, wait,
};
use super::{Database, holding, settings, until_it_waits};

/// How many operations each commit had.
type Sizes = Arc<Mutex<Vec<usize>>>;

async fn observed(url: &str) -> (Desk, Sizes) {
    let (sizes, url) = (Sizes::default(), url.to_owned());
    let told = Arc::clone(&sizes);
    let desk = Desk::new(Box::new(move || {
        let (told, url) = (Arc::clone(&told), url.clone());
        let tell = move |_: f64, size| told.lock().unwrap().push(size);
        Box::pin(async move {
            let opened: Arc<dyn Ledger> =
                Arc::new(Postgres::open(&settings(&url), tell).await.unwrap());
            opened
        })
    }));
    (desk.await, sizes)
}

#[tokio::test]
async fn of_every_commit_it_is_told_how_much_was_in_it() {
    let (desk, sizes) = observed(&Database::shared().create()).await;
    desk.end("a", "p", GIVEN_UP, at(1)).await;
    desk.publish_all(at(1)).await;
    assert_eq!(desk.hear(&["p"], asks_at(5)).await, [Heard::Checking]);
    desk.claims(9, at(1)).await;
    let letter = desk.letter_of("a").await.unwrap().id;
    let closing = by("ana", Resolution::Discard, at(1));
    assert_eq!(desk.close(&letter, closing).await.unwrap(), Closed::Done);
    desk.recover(at(2), at_once()).await.unwrap();
    assert_eq!(*sizes.lock().unwrap(), [1; 7]);
}

/// A request whose next commit waits until the transaction of the test's own ends.
async fn blocked(desk: &Desk, url: &str) -> (tokio_postgres::Client, rescind::ledger::Claim) {
    let claim = desk.begin("blocked", "blocked").await;
    let row = "SELECT 1 FROM requests WHERE request_id = 'blocked' FOR UPDATE";
    (holding(url, row).await, claim)
}

const TRAP: &str =
    "CREATE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'a trap'; END $$;
     CREATE TRIGGER trap BEFORE INSERT ON dead_letters FOR EACH ROW EXECUTE FUNCTION trap()";

#[tokio::test]
async fn what_cannot_be_done_takes_nothing_with_it_that_was_asked_at_once() {
    let url = Database::shared().create();
    let (desk, sizes) = observed(&url).await;
    desk.done("dead", GIVEN_UP, at(1)).await;
    let letter = desk.letter_of("dead").await.unwrap().id;
    let (ends, fails) = (
        desk.begin("ends", "e").await,
        desk.begin("fails", "f").await,
    );
    desk.take_in(request("due", "due")).await;
    Database::shared().sql_in(&url, TRAP);
    let (holder, held) = blocked(&desk, &url).await;
    sizes.lock().unwrap().clear();

    let first = desk.commit(vec![wait(&held, at(900))].into());
    until_it_waits(&url).await;
    let arrival = Arrival::Request(Box::new(request("new", "new")));
    let taken_in = desk.accept(vec![arrival].into());
    let failing = desk.commit(vec![finish(&fails, GIVEN_UP, at(2))].into());
    let ended = desk.commit(vec![finish(&ends, VOIDED, at(2))].into());
    let claimed = desk.claim(ACCOUNT, Which::due(9), at(0), sends());
    let closed = desk.close(&letter, by("ana", Resolution::Discard, at(3)));
    let removed = desk.purge(at(0), 9);
    holder.batch_execute("ROLLBACK").await.unwrap();

    assert_eq!(outcomes(&first.await.unwrap()), [Committed::Done]);
    assert!(matches!(failing.await, Err(LedgerError::Failed(_))));
    assert_eq!(taken_in.await.unwrap(), [Accepted::New(None)]);
    assert_eq!(outcomes(&ended.await.unwrap()), [Committed::Done]);
    assert_eq!(claimed.await.unwrap().claims.len(), 2);
    assert_eq!(closed.await.unwrap(), Closed::Done);
    assert_eq!(removed.await.unwrap(), 0);
    assert_eq!(*sizes.lock().unwrap(), [1, 6], "they were one transaction");
    let seen = desk.seen("fails").await;
    assert!(seen.outcome.is_none() && seen.messages.is_empty());
}

/// Somebody's lock, say, or a statement that takes its time.
#[tokio::test]
async fn what_holds_up_one_operation_does_not_fail_those_that_were_asked_at_once() {
    let url = Database::shared().create();
    let (desk, sizes) = observed(&url).await;
    let (ends, late) = (desk.begin("ends", "e").await, desk.begin("late", "l").await);
    let lock = TRAP.replace("'a trap'", "'a lock' USING ERRCODE = '55P03'");
    Database::shared().sql_in(&url, &lock);
    let (holder, held) = blocked(&desk, &url).await;
    sizes.lock().unwrap().clear();

    let first = desk.commit(vec![wait(&held, at(900))].into());
    until_it_waits(&url).await;
    let failing = desk.commit(vec![finish(&late, GIVEN_UP, at(2))].into());
    let ended = desk.commit(vec![finish(&ends, VOIDED, at(2))].into());
    holder.batch_execute("ROLLBACK").await.unwrap();

    assert_eq!(outcomes(&first.await.unwrap()), [Committed::Done]);
    assert!(matches!(failing.await, Err(LedgerError::Blocked(_))));
    assert_eq!(outcomes(&ended.await.unwrap()), [Committed::Done]);
    assert_eq!(*sizes.lock().unwrap(), [1, 2], "they were one transaction");
}

/// Somebody's transaction that was left open, on the rows of all that is under way: each outcome is tried again
/// and again. Whoever waits for a claim must not wait for each of them: a cancel begins soon after it, or not at all.
#[tokio::test]
async fn rows_that_stay_locked_keep_nothing_else_waiting() {
    let url = Database::shared().create();
    let (desk, _) = observed(&url).await;
    let mut held = Vec::new();
    for id in (0..64).map(|n| n.to_string()) {
        held.push(desk.begin(&id, &id).await);
    }
    desk.take_in(request("early", "early")).await;
    desk.take_in(request("late", "late")).await;
    let rows = "SELECT 1 FROM requests WHERE state = 'calling' FOR UPDATE";
    let holder = holding(&url, rows).await;
    for due in ["early", "late"] {
        let commit = |claim| desk.commit(vec![wait(claim, at(900))].into());
        let commits: Vec<_> = held.iter().map(commit).collect();
        let claimed = desk.claim(ACCOUNT, Which::due(1), at(0), sends());
        let claimed = tokio::time::timeout(Duration::from_secs(5), claimed).await;
        let claimed = claimed.expect("an answer in time").unwrap().claims;
        assert_eq!(claimed[0].stored.request_id, due);
        for commit in commits {
            assert!(matches!(commit.await, Err(LedgerError::Blocked(_))));
        }
    }
    holder.batch_execute("ROLLBACK").await.unwrap();
    for claim in &held {
        assert_eq!(desk.settle(wait(claim, at(900))).await, Committed::Done);
    }
}

#[tokio::test]
async fn a_transaction_has_no_more_than_a_thousand_rows_or_so() {
    let url = Database::shared().create();
    let (desk, sizes) = observed(&url).await;
    let (holder, held) = blocked(&desk, &url).await;
    sizes.lock().unwrap().clear();
    let first = desk.commit(vec![wait(&held, at(900))].into());
    until_it_waits(&url).await;
    let claims =
        [1, 400, 400, 400, 1].map(|most| desk.claim(ACCOUNT, Which::due(most), at(0), sends()));
    holder.batch_execute("ROLLBACK").await.unwrap();
    first.await.unwrap();
    for claim in claims {
        claim.await.unwrap();
    }
    assert_eq!(*sizes.lock().unwrap(), [1, 4, 1]);
}
