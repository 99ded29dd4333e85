//! What the outbox may read, and when.

use super::desk::{VOIDED, at, checked, checks, finish};
use super::{asks_at, on_each};
use rescind::wire::Kind;

/// Whoever applies what comes in its order would end with what was corrected.
#[tokio::test]
async fn a_correction_waits_until_what_it_corrects_is_published() {
    on_each(async |desk| {
        let claim = desk.begin("a", "p").await;
        desk.settle(finish(&claim, VOIDED, at(4))).await;
        desk.hear(&["p"], asks_at(50)).await;
        let check = desk.only_claim(at(50), checks()).await;
        desk.settle(checked(&check, at(51))).await;
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
