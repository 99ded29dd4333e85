//! A connection that is lost at COMMIT: nothing lost, nothing doubled, nothing assumed.

use rescind::ledger::{Accepted, Arrival, Committed, LedgerError, Which};

use super::super::desk::{
    ACCOUNT, VOIDED, admitted, at, at_once, finish, held, outcomes, request, sends,
};
use super::{Database, desk, expire};
use crate::rig::cutter::{Cut, Cutter};
use crate::rig::until;

const CUTS: [Cut; 2] = [Cut::Before, Cut::After];
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_to_a_commit_is_found_out() {
    for cut in CUTS {
        let url = Database::shared().create();
        let way = Cutter::before(&url).await;
        let desk = desk(&way.url(&url)).await;
        desk.take_in(request("first", "first")).await;

        way.cut(cut);
        let request = admitted("a", "p");
        let Accepted::New(Some(id)) = desk.take_in(request.clone()).await else {
            panic!("{cut:?}: not new");
        };
        assert_eq!(way.cuts(), 1);
        let calls = desk.seen("a").await.calls.len();
        assert_eq!(calls, 1, "{cut:?}");

        way.cut(cut);
        let claims = desk.claims(9, at(1)).await.claims;
        assert_eq!((way.cuts(), claims.len()), (2, 1), "{cut:?}");
        assert_eq!(desk.seen("first").await.calls.len(), 1, "{cut:?}");

        way.cut(cut);
        let done = desk
            .settle(finish(&held(&request, id), VOIDED, at(2)))
            .await;
        assert_eq!((way.cuts(), done), (3, Committed::Done), "{cut:?}");
        let first = desk.settle(finish(&claims[0], VOIDED, at(3))).await;
        assert_eq!(first, Committed::Done);
        assert_eq!(desk.outbox().await.len(), 2, "{cut:?}");

        way.cut(cut);
        desk.publish_all(at(4)).await;
        assert_eq!((way.cuts(), desk.outbox().await.len()), (4, 0), "{cut:?}");
        let published = "SELECT string_agg(publications::text, ',') FROM messages";
        assert_eq!(Database::shared().sql_in(&url, published), "1,1", "{cut:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_found_out_also_once_the_database_is_there_again() {
    let url = Database::shared().create();
    let way = Cutter::before(&url).await;
    let desk = desk(&way.url(&url)).await;
    let claim = desk.begin("a", "p").await;
    way.cut_and_shut(Cut::After);
    let done = desk.commit(vec![finish(&claim, VOIDED, at(2))].into());
    until("it asks in vain", PATIENCE, || way.turned_away() > 1).await;
    way.open();
    assert_eq!(outcomes(&done.await.unwrap()), [Committed::Done]);
    assert_eq!(desk.outbox().await.len(), 1);
}

/// A proxy keeps the connection, and the server behind it has frozen. The lease is renewed meanwhile, so no other
/// worker would take over.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_before_its_first_transaction_is_given_up() {
    let url = Database::shared().create();
    let way = Cutter::before(&url).await;
    let desk = desk(&way.url(&url)).await;
    desk.take_in(request("first", "first")).await;
    way.hush_a_look();
    way.cut(Cut::Before);
    let arrival = || vec![Arrival::Request(Box::new(request("a", "p")))].into();
    let answer = tokio::time::timeout(PATIENCE * 2, desk.accept(arrival())).await;
    let answer = answer.expect("an answer");
    assert!(matches!(answer, Err(LedgerError::Failed(_))), "{answer:?}");
    let again = desk.accept(arrival()).await.unwrap();
    assert_eq!(again, [Accepted::New(None)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_nobody_can_tell_of_is_not_taken_for_anything() {
    let url = Database::shared().create();
    let way = Cutter::before(&url).await;
    let (one, two) = (desk(&way.url(&url)).await, desk(&url).await);
    one.take_in(request("first", "first")).await;
    way.cut_and_shut(Cut::After);
    let ledger = one.shared();
    let arrival = || vec![Arrival::Request(Box::new(admitted("a", "p")))].into();
    let asked = tokio::spawn({
        let arrivals = arrival();
        async move { ledger.accept(arrivals).await }
    });
    until("it is cut", PATIENCE, || way.cuts() == 1).await;
    // It is out of reach for longer than its lease: what it had is taken over.
    expire(&url);
    assert_eq!(two.recover(at(5), at_once()).await.unwrap(), 1);
    way.open();
    let answer = asked.await.unwrap();
    assert!(matches!(answer, Err(LedgerError::Failed(_))), "{answer:?}");
    // Asked again it says what is so; and the request is worked on by one of the two.
    let again = one.accept(arrival()).await.unwrap();
    assert_eq!(again, [Accepted::Repeated]);
    let claims = two
        .claim("migo", Which::due(9), at(5), sends())
        .await
        .unwrap()
        .claims;
    assert_eq!(claims.len(), 2);
    assert!(one.claimed_ids(9, at(5)).await.is_empty());
}

/// What it may have claimed is nobody's work at this worker: it has to end with a lease that
/// this worker renews no more. It asks for 20 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_cannot_be_asked_about_for_long_ends_with_its_lease() {
    let url = Database::shared().create();
    let way = Cutter::before(&url).await;
    let desk = desk(&way.url(&url)).await;
    desk.take_in(request("a", "p")).await;
    let lease = || {
        Database::shared().sql_in(
            &url,
            "SELECT id FROM workers ORDER BY started_at DESC LIMIT 1",
        )
    };
    let before = lease();
    way.cut_and_shut(Cut::After);
    let unknown = desk
        .claim(ACCOUNT, Which::due(9), at(1), sends())
        .await
        .err();
    assert!(
        matches!(unknown, Some(LedgerError::Failed(_))),
        "{unknown:?}"
    );
    way.open();
    assert!(desk.claimed_ids(9, at(1)).await.is_empty());
    assert_ne!(lease(), before);
}
