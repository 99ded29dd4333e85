//! What the outbox may read, and when.

use rescind::ledger::Accepted;
use rescind::wire::Kind;

use super::desk::{Desk, VOIDED, admitted, at, checked, checks};
use super::{asks_at, on_each};

/// A result and what corrects it, neither of them published.
async fn corrected(desk: &Desk) {
    desk.end("a", "p", VOIDED, at(4)).await;
    desk.hear(&["p"], asks_at(50)).await;
    let check = desk.only_claim(at(50), checks()).await;
    desk.settle(checked(&check, at(51))).await;
}

/// Whoever applies what comes in its order would end with what was corrected.
#[tokio::test]
async fn a_correction_waits_until_what_it_corrects_is_published() {
    on_each(async |desk| {
        corrected(&desk).await;
        let result = desk.outbox().await;
        assert_eq!(result.len(), 1, "the result alone");
        assert_eq!(result[0].message.kind, Kind::Result);

        desk.published(vec![result[0].delivered()], at(52))
            .await
            .unwrap();
        let correction = desk.outbox().await;
        assert_eq!(correction.len(), 1);
        assert_eq!(correction[0].message.kind, Kind::Correction);
        desk.publish_all(at(53)).await;
        assert!(desk.outbox().await.is_empty());
    })
    .await;
}

/// Whoever has lost both would be told what does not hold, and nothing else.
#[tokio::test]
async fn a_repeat_brings_the_result_and_then_its_correction() {
    on_each(async |desk| {
        corrected(&desk).await;
        desk.publish_all(at(52)).await;
        desk.publish_all(at(53)).await;

        assert_eq!(desk.take_in(admitted("a", "p")).await, Accepted::Repeated);
        for kind in [Kind::Result, Kind::Correction] {
            let next = desk.outbox().await;
            let kinds: Vec<Kind> = next.iter().map(|row| row.message.kind).collect();
            assert_eq!(kinds, [kind]);
            desk.publish_all(at(60)).await;
        }
        assert!(desk.outbox().await.is_empty());
    })
    .await;
}
