//! An order that is charged again while the request to cancel its first payment waits: the second payment is
//! nobody's wish to cancel.

use super::PATIENCE;
use crate::rig::checker::{Ending, endings, id};
use crate::rig::stage::{Stage, request};
use crate::rig::until;

/// How a request ends that has waited so long for its first call, with a payment that was made during it.
async fn after_waiting(name: &str, seconds: i64) -> Ending {
    let mut stage = Stage::new(name);
    let mut results = stage.results().await;
    stage.set("providers.midtrans.max_in_flight", 0);
    let worker = stage.worker();
    let request = request("midtrans", "charged-again");
    stage.client().await.publish(&stage.names, &request).await;
    until("it is stored", PATIENCE, || {
        worker.metric("rescind_open", &[("provider", "midtrans")]) == 1.0
    })
    .await;
    drop(worker);
    let ledger = rusqlite::Connection::open(stage.ledger()).unwrap();
    let earlier = "UPDATE requests SET received_at = received_at - 1000 * ?1 WHERE request_id = ?2";
    let moved = ledger.execute(earlier, rusqlite::params![seconds, id(&request)]);
    assert_eq!(moved.unwrap(), 1);
    drop(ledger);

    stage.set("providers.midtrans.max_in_flight", 1);
    let _worker = stage.worker();
    let mut ended = endings(&stage, &mut results, &[request], PATIENCE).await;
    ended.remove(0)
}

/// The call is out before anything can be known; that the wrong payment was hit is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_was_made_while_its_request_waited_is_not_the_one() {
    let ending = after_waiting("charged-again", 30).await;
    let outcome = ending.outcome();
    assert_eq!(outcome, "unresolved/contradictory_evidence", "{ending:#?}");
    assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waited_long_is_looked_at_before_its_order_is_cancelled() {
    let ending = after_waiting("charged-again-late", 120).await;
    let outcome = ending.outcome();
    assert_eq!(outcome, "unresolved/contradictory_evidence", "{ending:#?}");
    assert_eq!(ending.money.lookup_calls, 1, "{ending:#?}");
    assert_eq!(
        ending.money.cancel_calls, 0,
        "nothing is touched: {ending:#?}"
    );
}
