//! A repeated request asks for its result: what was published before that is no answer to it.

use rescind::ledger::{Accepted, Arrival};

use super::desk::{VOIDED, at, finish, invalid, request};
use super::on_each;

/// A database that lost its last commits gives the same row to another message.
#[tokio::test]
async fn a_confirmation_marks_the_message_that_it_confirms_and_no_other_one_in_its_row() {
    on_each(async |desk| {
        desk.end("a", "p", VOIDED, at(4)).await;
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
        desk.end("a", "p", VOIDED, at(4)).await;
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

/// Its account is gone from the configuration, or a rule has become stricter since.
#[tokio::test]
async fn what_was_taken_once_is_a_repeat_also_if_it_is_not_understood_any_more() {
    on_each(async |desk| {
        let claim = desk.begin("x", "p").await;
        let same = claim.stored.envelope.body.clone();
        let take_in = async |body: &[u8]| {
            let (dead, messages) = invalid(body, at(9));
            let arrival = Arrival::Invalid(Box::new(dead), messages);
            desk.accept(vec![arrival].into()).await.unwrap().remove(0)
        };
        assert_eq!(take_in(&same).await, Accepted::Repeated);
        assert!(desk.outbox().await.is_empty(), "there is no result yet");
        desk.settle(finish(&claim, VOIDED, at(4))).await;
        let first = desk.outbox().await;
        desk.publish_all(at(5)).await;
        assert_eq!(take_in(&same).await, Accepted::Repeated);
        let again = desk.outbox().await;
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].message, first[0].message);
        assert!(desk.letters().await.is_empty());
        assert_eq!(take_in(b"{other").await, Accepted::Recorded);
        assert_eq!(desk.letters().await.len(), 1);
    })
    .await;
}

/// A publisher that serialises again has not changed its mind, whatever has become of the account.
#[tokio::test]
async fn what_is_not_understood_any_more_is_a_repeat_by_its_content_and_not_by_its_bytes() {
    on_each(async |desk| {
        let body = br#"{"request_id":"x","provider":"gone","payment":{"a":"1","b":"2"}}"#;
        let mut known = request("x", "p");
        known.envelope.body = body.to_vec();
        known.digest = rescind::wire::content_digest(body);
        desk.take_in(known).await;
        let take_in = async |body: &str| {
            let (dead, messages) = invalid(body.as_bytes(), at(9));
            let arrival = Arrival::Invalid(Box::new(dead), messages);
            desk.accept(vec![arrival].into()).await.unwrap().remove(0)
        };
        let same = r#"{ "provider": "gone", "payment": {"b":"2", "a":"1"}, "request_id": "x" }"#;
        assert_eq!(take_in(same).await, Accepted::Repeated);
        assert!(desk.letters().await.is_empty());
        for other in [same.replace("gone", "other"), same.replace('2', "3")] {
            assert_eq!(take_in(&other).await, Accepted::Recorded, "{other}");
        }
    })
    .await;
}
