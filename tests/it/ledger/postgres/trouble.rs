//! What the server says in the middle of a transaction: what may go better is tried again.

use rescind::ledger::{Closed, Committed, LedgerError, Resolution};

use super::super::desk::{GIVEN_UP, at, by, finish, reopens};
use super::{Database, desk};

/// A dead letter is refused with a code, so many times.
fn trap(url: &str, code: &str, times: u32) {
    trap_at("INSERT ON dead_letters", url, code, times);
}

/// A statement is. A sequence counts also what is rolled back.
fn trap_at(statement: &str, url: &str, code: &str, times: u32) {
    let (_, table) = statement.split_once(" ON ").unwrap();
    let trap = format!(
        "DROP TRIGGER IF EXISTS trap ON {table}; DROP SEQUENCE IF EXISTS tries; CREATE SEQUENCE tries;
         CREATE OR REPLACE FUNCTION trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           IF nextval('tries') <= {times} THEN RAISE EXCEPTION 'a trap' USING ERRCODE = '{code}'; END IF;
           RETURN NEW; END $$;
         CREATE TRIGGER trap BEFORE {statement} FOR EACH ROW EXECUTE FUNCTION trap()"
    );
    Database::shared().sql_in(url, &trap);
}

fn tries(url: &str) -> u32 {
    let tries = Database::shared().sql_in(url, "SELECT last_value FROM tries");
    tries.parse().unwrap()
}

#[tokio::test]
async fn what_may_go_better_is_tried_again() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    let deadlocks = ["40001", "40P01", "55P03", "57014"];
    let ends_of_the_line = [
        "57P01", "57P02", "57P03", "25P03", "53300", "25006", "08006",
    ];
    for code in [&deadlocks[..], &ends_of_the_line].concat() {
        trap(&url, code, 2);
        let claim = desk.begin(code, code).await;
        let done = desk.settle(finish(&claim, GIVEN_UP, at(1))).await;
        assert_eq!((done, tries(&url)), (Committed::Done, 3), "{code}");
    }
}

/// Not that of the statements that were sent with the one that failed: they cannot say why.
#[tokio::test]
async fn what_cannot_go_better_is_told_at_once() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    for code in ["23514", "53100", "XX000", "P0001"] {
        trap(&url, code, 99);
        let claim = desk.begin(code, code).await;
        let change = vec![finish(&claim, GIVEN_UP, at(1))];
        let refused = desk.commit(change.into()).await.unwrap_err();
        let LedgerError::Failed(why) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!((why, tries(&url)), (format!("a trap ({code})"), 1));
        assert!(desk.letter_of(code).await.is_none());
    }
}

#[tokio::test]
async fn what_is_in_the_way_for_ever_is_told_in_the_end() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    for code in ["40001", "40P01", "57014", "55P03"] {
        let claim = desk.begin(code, code).await;
        trap(&url, code, 99);
        let change = || finish(&claim, GIVEN_UP, at(1));
        let told = desk.commit(vec![change()].into()).await.unwrap_err();
        // Only a lock that somebody keeps is a reason to let others go first.
        let blocked = matches!(told, LedgerError::Blocked(_));
        assert_eq!(blocked, code == "55P03", "{told:?}");
        assert!(told.to_string().contains(code), "{told}");
        trap(&url, code, 0);
        assert_eq!(desk.settle(change()).await, Committed::Done);
    }
}

/// A replay that finds the payment taken by a moment waits for its turn; any other trouble is told.
#[tokio::test]
async fn only_a_payment_that_was_just_taken_is_a_reason_to_replay_once_more() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.done("a", GIVEN_UP, at(1)).await;
    let letter = desk.letter_of("a").await.unwrap().id;
    let replay = || by("ana", Resolution::Replay(reopens(at(2))), at(2));
    trap_at("UPDATE ON requests", &url, "23514", 99);
    let told = desk.close(&letter, replay()).await;
    assert!(matches!(told, Err(LedgerError::Failed(_))), "{told:?}");
    assert_eq!(tries(&url), 1);
    trap_at("UPDATE ON requests", &url, "23505", 2);
    assert_eq!(desk.close(&letter, replay()).await.unwrap(), Closed::Done);
    assert_eq!(tries(&url), 3);
}
