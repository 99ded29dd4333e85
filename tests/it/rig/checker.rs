//! Joins the histories: what was asked, what was said on the wire, what money moved.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::stage::payment_id;
use super::{Message, Messages, Money, Stage};

/// How one request ended, after everything about it was found to agree.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) request: Value,
    /// The one result.
    pub(crate) result: Value,
    /// The messages that carried it, equal in everything that is published.
    pub(crate) messages: Vec<Message>,
    /// The payment at the simulator.
    pub(crate) money: Money,
}

impl Ending {
    /// `cancelled/voided`
    pub(crate) fn outcome(&self) -> String {
        let text = |key: &str| self.result[key].as_str().unwrap_or("?").to_owned();
        format!("{}/{}", text("outcome"), text("reason"))
    }

    fn check_messages(&self) {
        let id = &self.request["request_id"];
        let first = &self.messages[0];
        for copy in &self.messages {
            assert_eq!(copy.body, first.body, "{id}: one result, one body");
            assert_eq!(copy.properties, first.properties, "{id}: one result");
            assert_eq!(copy.routing_key, first.routing_key, "{id}: one result");
        }
    }

    /// At most one movement of money, and "cancelled" on nothing less than one.
    fn check_money(&self) {
        let effects = self.money.effects.len();
        let already = self.result["already"].as_bool();
        let fits = match (self.result["outcome"].as_str(), already) {
            (Some("cancelled"), Some(false)) => effects == 1,
            (Some("cancelled"), Some(true)) => effects == 0,
            (Some("unresolved"), None) => effects <= 1,
            (Some("refused" | "nothing_to_cancel" | "failed" | "invalid"), None) => effects == 0,
            _ => false,
        };
        assert!(fits, "the result and the money disagree: {self:#?}");
    }
}

/// Waits for the results of these requests, each on a payment of its own, and checks for each:
/// one result, however many messages carry it, and at most one movement of money, which the
/// result tells of. The answers are in the order of the requests.
pub(crate) async fn endings(
    stage: &Stage,
    results: &mut Messages,
    requests: &[Value],
    wait: Duration,
) -> Vec<Ending> {
    let found = results.about(requests.iter().map(id), wait).await;
    let money = all_money(stage);
    let ending = |request: &Value| {
        let messages = found[&id(request)].clone();
        let payment = (provider(request), payment_id(request));
        let ending = Ending {
            request: request.clone(),
            result: messages[0].json(),
            messages,
            money: money.get(&payment).cloned().unwrap_or_else(Money::none),
        };
        ending.check_messages();
        ending.check_money();
        ending
    };
    requests.iter().map(ending).collect()
}

/// What the simulator knows, by provider and payment.
pub(crate) fn all_money(stage: &Stage) -> BTreeMap<(String, String), Money> {
    let all = stage.simulator.all_money();
    let payments = all["payments"].as_array().expect("payments").iter();
    payments
        .map(|payment| {
            let money: Money = serde_json::from_value(payment.clone()).expect("a payment");
            ((provider(payment), money.payment.clone()), money)
        })
        .collect()
}

/// The id of a request.
pub(crate) fn id(request: &Value) -> String {
    request["request_id"]
        .as_str()
        .expect("a request_id")
        .to_owned()
}

fn provider(value: &Value) -> String {
    value["provider"].as_str().expect("a provider").to_owned()
}
