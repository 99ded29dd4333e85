//! A worker's lease while nothing is asked of its ledger: it is renewed, replaced and given up.

use std::time::Duration;

use super::super::desk::at;
use super::{Database, desk, expire};
use crate::rig::until;

/// A beat is every 3 s.
const PATIENCE: Duration = Duration::from_secs(20);

async fn until_said(url: &str, what: &str, question: &str) {
    let said = || Database::shared().sql_in(url, question) == "t";
    until(what, PATIENCE, said).await;
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
    let new = "SELECT count(*) = 2 AND bool_or(alive_until > clock_timestamp()) FROM workers";
    until_said(&url, "it has a new lease", new).await;

    // Others need not wait for the end of the lease.
    Database::shared().sql_in(&url, late);
    drop(worker);
    let over = "SELECT bool_and(alive_until <= clock_timestamp()) FROM workers";
    until_said(&url, "it is given up", over).await;
}
