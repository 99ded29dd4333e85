//! A worker's lease while nothing is asked of its ledger: it is renewed, replaced and given up; and
//! connections that have gone silent.

use std::time::{Duration, Instant};

use rescind::ledger::{Arrival, LedgerError};

use super::super::desk::{at, at_once, request};
use super::{Database, desk, expire};
use crate::rig::cutter::Cutter;
use crate::rig::until;

/// A beat is every 3 s.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until_said(url: &str, what: &str, question: &str) {
    let said = || Database::shared().sql_in(url, question) == "t";
    until(what, PATIENCE, said).await;
}

/// The one worker has taken a new lease.
pub(super) async fn until_renewed(url: &str) {
    let new = "SELECT count(*) = 2 AND bool_or(alive_until > clock_timestamp()) FROM workers";
    until_said(url, "it has a new lease", new).await;
}

#[tokio::test]
async fn a_worker_that_has_nothing_to_do_is_not_taken_for_gone() {
    let url = Database::shared().create();
    let worker = desk(&url).await;
    worker.claims(9, at(1)).await;
    // A renewal is seen by the end that it sets; an early one could pass meanwhile.
    let late = "UPDATE workers SET alive_until = clock_timestamp() + interval '1 h'
        WHERE alive_until > clock_timestamp()";
    Database::shared().sql_in(&url, late);
    let renewed =
        "SELECT bool_and(alive_until < clock_timestamp() + interval '30 min') FROM workers";
    until_said(&url, "it is renewed", renewed).await;
    let same = Database::shared().sql_in(&url, "SELECT count(*) FROM workers");
    assert_eq!(same, "1", "under the same lease");

    expire(&url);
    until_renewed(&url).await;

    // Others need not wait for the end of the lease.
    Database::shared().sql_in(&url, late);
    drop(worker);
    let over = "SELECT bool_and(alive_until <= clock_timestamp()) FROM workers";
    until_said(&url, "it is given up", over).await;
}

/// As behind a firewall that has forgotten them: nobody says that they are gone.
#[tokio::test(flavor = "multi_thread")]
async fn connections_on_which_nobody_answers_any_more_are_replaced() {
    let url = Database::shared().create();
    let cutter = Cutter::before(&url).await;
    let worker = desk(&cutter.url(&url)).await;
    worker.claims(9, at(1)).await;
    worker.stats().await.unwrap();
    let early = "UPDATE workers SET alive_until = clock_timestamp() + interval '1 h'";
    Database::shared().sql_in(&url, early);

    cutter.hush();
    let keeper = async {
        let renewed =
            "SELECT bool_and(alive_until < clock_timestamp() + interval '30 min') FROM workers";
        until_said(&url, "it is renewed", renewed).await;
    };
    let arrival = || [Arrival::Request(Box::new(request("r", "p")))].into();
    let (unread, unwritten, ()) = tokio::join!(worker.stats(), worker.accept(arrival()), keeper);
    for error in [unread.err(), unwritten.err()] {
        assert!(matches!(error, Some(LedgerError::Failed(_))), "{error:?}");
    }
    worker.stats().await.unwrap();
    worker.accept(arrival()).await.unwrap();
}

/// A worker that is alive renews its lease; one that is gone has as long as if the clock had stayed.
#[tokio::test]
async fn a_clock_that_goes_back_keeps_nobody_alive_who_is_gone() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    one.begin("a", "p").await;
    two.claims(9, at(1)).await;
    drop(one);
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    until_said(
        &url,
        "it is given up",
        "SELECT bool_or(alive_until <= clock_timestamp()) FROM workers",
    )
    .await;
    sql("UPDATE workers SET alive_until = clock_timestamp() + interval '1 h'");
    let recover = async || two.recover(at(7), at_once()).await.unwrap();
    assert_eq!(recover().await, 0, "it may be alive");
    let began = Instant::now();
    while recover().await == 0 {
        assert!(began.elapsed() < PATIENCE, "it is never gone");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(began.elapsed() > PATIENCE / 4, "a lease is 10 s");
    let left =
        "SELECT count(*), bool_and(id > 1) FROM workers WHERE alive_until > clock_timestamp()";
    assert_eq!(sql(left), "1|t");
    assert_eq!(two.claimed_ids(9, at(7)).await, ["a"]);
    assert_eq!(
        sql("SELECT count(*) FROM workers"),
        "1",
        "under its first lease"
    );
}
