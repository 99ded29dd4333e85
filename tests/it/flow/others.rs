//! A payment that somebody else is cancelling: another system, with another ledger.

use serde_json::{Value, json};

use super::PATIENCE;
use crate::rig::checker::id;
use crate::rig::stage::{Stage, payment_id, request};
use crate::rig::{Broker, Money, Names, until};

/// With it an account asks first.
const BENTO_LOOKUP: &str = "/payments/v1/orders/{order_id}/transactions/{transaction_id}";

/// Of accounts that ask before their first call, behaviour of the payment and what is said of it.
const CASES: [(&str, &str, &str); 4] = [
    ("gr4vy", "accepted-then-done", "cancelled/voided"),
    ("gr4vy", "accepted-forever", "unresolved/lookups_exhausted"),
    ("bento", "captured-accepted-then-done", "cancelled/refunded"),
    (
        "bento",
        "captured-accepted-forever",
        "unresolved/lookups_exhausted",
    ),
];

/// Nothing is sent beside it. "Cancelled" is said once it is done; while nobody knows whether it
/// will be, it is not said either that the payment is certainly not cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_of_somebody_elses_is_waited_for_and_not_made_twice() {
    let mut stage = Stage::new("others");
    stage.set("defaults.poll.give_up_after", "3s");
    stage.set("providers.bento.lookup_path", BENTO_LOOKUP);
    let _other = stage.worker();
    let other = (stage.client().await, stage.names.clone());

    stage.names = Names::unique();
    let ledger = stage.dir().join("ours.db");
    stage.set("amqp", stage.names.table(Broker::shared().url()));
    stage.set("ledger.url", format!("sqlite:{}", ledger.display()));
    let _ours = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;

    for (provider, behaviour, expected) in CASES {
        let theirs = request(provider, behaviour);
        other.0.publish(&other.1, &theirs).await;
        until("it is under way", PATIENCE, || {
            money(&stage, &theirs).cancel_calls == 1
        })
        .await;
        let mut ours = request(provider, behaviour);
        ours["payment"] = theirs["payment"].clone();
        client.publish(&stage.names, &ours).await;

        let result = results.one(&id(&ours), PATIENCE).await.json();
        let said = [&result["outcome"], &result["reason"]].map(|word| word.as_str().unwrap());
        assert_eq!(said.join("/"), expected, "{result:#}");
        let cancelled = expected.starts_with("cancelled");
        assert_eq!(
            result["already"],
            json!(cancelled.then_some(true)),
            "{result:#}"
        );
        // Also where it is given up: what was said last, or nobody knows what was seen.
        let evidence = &result["evidence"];
        assert_eq!(evidence["source"], "lookup", "{result:#}");
        assert!(evidence["status"].is_string(), "{result:#}");
        let money = money(&stage, &theirs);
        assert_eq!(money.cancel_calls, 1, "{result:#} {money:#?}");
        assert_eq!(money.effects.len(), usize::from(cancelled), "{money:#?}");
    }
}

fn money(stage: &Stage, request: &Value) -> Money {
    let provider = request["provider"].as_str().unwrap();
    stage.simulator.money(provider, &payment_id(request))
}
