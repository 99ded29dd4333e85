//! A repeated request asks for its result: what was published before that is no answer to it.

use rescind::ledger::Accepted;

use super::desk::{VOIDED, at, finish, request};
use super::on_each;

/// A database that lost its last commits gives the same row to another message.
#[tokio::test]
async fn a_confirmation_marks_the_message_that_it_confirms_and_no_other_one_in_its_row() {
    on_each(async |desk| {
        let claim = desk.begin("a", "p").await;
        desk.settle(finish(&claim, VOIDED, at(4))).await;
        let mut other = desk.outbox().await[0].delivered();
        other.id = uuid::Uuid::from_u128(7);
        desk.published(vec![other], at(5)).await.unwrap();
        assert_eq!(desk.outbox().await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_confirmation_is_no_answer_to_a_repeat_that_came_since() {
    on_each(async |desk| {
        let claim = desk.begin("a", "p").await;
        desk.settle(finish(&claim, VOIDED, at(4))).await;
        let before = desk.outbox().await[0].delivered();
        assert_eq!(desk.take_in(request("a", "p")).await, Accepted::Repeated);
        desk.published(vec![before], at(5)).await.unwrap();
        let again = desk.outbox().await;
        assert_eq!(again.len(), 1, "it is published for the repeat");
        desk.published(vec![again[0].delivered()], at(6))
            .await
            .unwrap();
        assert!(desk.outbox().await.is_empty());
    })
    .await;
}
