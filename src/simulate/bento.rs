//! Bento's dialect: a 202 that is only a submission, and outcomes inside the body.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, put};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Simulator;
use super::behaviour::{Fault, has_word};
use super::dialect::{Amount, Cancel, Dialect, Movement, Provider, Reply, Subject};
use super::exchange;
use super::logins::{BENTO_TOKEN, Login, Logins, bearer};
use super::payment::{Payment, Stage, State};

pub(super) struct Bento;

const TRANSACTION: &str = "/payments/v1/orders/{order}/transactions/{transaction}";

pub(super) fn routes() -> Router<Arc<Simulator>> {
    Router::new()
        .route(TRANSACTION, get(show))
        .route(&format!("{TRANSACTION}/_cancel"), put(cancel))
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Refund {
    refund_amount: Option<i64>,
}

async fn cancel(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path((order, transaction)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let mut call = Cancel::plain(Subject::two(order, transaction));
    call.amount = match body.as_ref() {
        [] => None,
        // Nothing that is not a whole number can be less than what was captured.
        json => serde_json::from_slice::<Refund>(json)
            .unwrap_or(Refund {
                refund_amount: Some(0),
            })
            .refund_amount
            .map(Amount::Minor),
    };
    exchange::cancel(simulator, &Bento, &headers, call).await
}

async fn show(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path((order, transaction)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let subject = Subject::two(order, transaction);
    exchange::lookup(simulator, &Bento, &headers, subject).await
}

impl Dialect for Bento {
    fn provider(&self) -> Provider {
        Provider::Bento
    }

    fn currency(&self) -> &'static str {
        "USD"
    }

    fn login(&self, logins: &Logins, headers: &HeaderMap) -> Option<Login> {
        let token = bearer(headers)?;
        match token {
            BENTO_TOKEN => Some(Login::fixed(token)),
            _ => logins.issued(Provider::Bento, headers),
        }
    }

    fn state(&self, payment: &Payment) -> String {
        let captured = payment.stage == Stage::Captured;
        let word = match payment.state {
            State::Open if captured => "CaptureSucceeded",
            State::Underway if captured => "Refunding",
            State::Cancelled if captured => "Refunded",
            State::Open | State::Underway => "AuthSucceeded",
            State::Cancelled => "AuthVoided",
            State::Settled => "CaptureSucceeded",
            State::Expired => "AuthExpired",
            State::Denied => "AuthFailed",
            State::Refunded => "Refunded",
            State::RefundFailed => "RefundFailed",
            State::Missing => "",
        };
        word.to_owned()
    }

    fn movement(&self, payment: &Payment, call: &Cancel) -> Option<Movement> {
        if payment.state != State::Open {
            return None;
        }
        let (operation, amount) = match payment.stage {
            Stage::Captured => ("refund", refundable(payment, call)?),
            // An amount means nothing before the capture.
            _ => ("void", payment.left),
        };
        // A refund can be sent once, say the pages. Nobody has tried a second part.
        let closes = amount == payment.left || !payment.ids.iter().any(|id| has_word(id, "parts"));
        Some(Movement {
            operation,
            amount,
            closes,
        })
    }

    fn done(&self, payment: &Payment, _call: &Cancel) -> Reply {
        Reply::json(202, &json!({"data": self.transaction(payment)}))
    }

    /// Shows the payment as it was: in Bento's own example, state and outcome of a 202 are those of
    /// the action before this one.
    fn accepted(&self, payment: &Payment, call: &Cancel) -> Option<Reply> {
        let mut before = payment.clone();
        before.state = State::Open;
        Some(self.done(&before, call))
    }

    fn refused(&self, _payment: &Payment, _call: &Cancel) -> Reply {
        error(422, "Action Cannot Be Performed")
    }

    fn lookup(&self, payment: &Payment) -> Reply {
        Reply::json(200, &json!({"data": self.transaction(payment)}))
    }

    fn fault(&self, fault: Fault, payment: &Payment, _call: Option<&Cancel>) -> Reply {
        match fault {
            Fault::Unauthorized => error(401, "Invalid Authentication Credentials"),
            Fault::Forbidden => error(403, "Invalid Authorization Credentials"),
            Fault::NotFound => error(404, "Resource Not Found"),
            Fault::RateLimited => error(429, "Too Many Requests").retry_after(1),
            // A decline came in a 2xx body in 2024 and comes in a 4xx body by the later text.
            Fault::Retryable(turn) if turn % 2 == 0 => {
                let mut data = self.transaction(payment);
                data["status"] = status("PG2001", "Processor not available", "failedRetryable");
                Reply::json(202, &json!({"data": data}))
            }
            Fault::Retryable(_) => declined("PG2001", "Processor not available", "failedRetryable"),
            Fault::Nonretryable => {
                declined("PG0057", "Transaction not permitted", "failedNonRetryable")
            }
            Fault::Internal => error(500, "Internal Server Error"),
        }
    }
}

fn refundable(payment: &Payment, call: &Cancel) -> Option<i64> {
    match call.amount {
        None => Some(payment.left),
        Some(amount) => payment.minor(amount).filter(|minor| *minor <= payment.left),
    }
}

impl Bento {
    fn transaction(&self, payment: &Payment) -> Value {
        let captured = payment.stage == Stage::Captured;
        let refunded = if captured {
            payment.total - payment.left
        } else {
            0
        };
        let history = history(payment);
        let status = history.last().map(|action| action["status"].clone());
        json!({
            "orderId": payment.ids.first(),
            "transactionId": payment.ids.last(),
            "customerId": "cu_01H84B0452F9X02H3YSZ03RFRG",
            "paymentMethodId": "pm_01H84B0452F9X02H3YSZ03RFRG",
            "totalAmount": payment.total - refunded,
            "authorizedAmount": payment.total,
            "capturedAmount": if captured { payment.total } else { 0 },
            "refundedAmount": refunded,
            "currency": payment.currency,
            "description": "A simulated transaction.",
            "state": self.state(payment),
            "status": status,
            "history": history,
            "created": payment.created.to_string(),
            "updated": payment.moved_at().unwrap_or_else(|| payment.created.to_string()),
        })
    }
}

fn history(payment: &Payment) -> Vec<Value> {
    let created = payment.created.to_string();
    let mut history = vec![action("Authorize", payment, &created)];
    if payment.stage == Stage::Captured {
        history.push(action("Capture", payment, &created));
    }
    for effect in &payment.effects {
        let name = match effect.operation {
            "refund" => "Refund",
            _ => "Void",
        };
        history.push(action(name, payment, &effect.at.to_string()));
    }
    if payment.state == State::RefundFailed {
        let mut failed = action("Refund", payment, &created);
        failed["result"] = json!("Failure");
        failed["status"] = status("PG0057", "Transaction not permitted", "failedNonRetryable");
        history.push(failed);
    }
    history
}

fn action(name: &str, payment: &Payment, created: &str) -> Value {
    json!({
        "amount": payment.total,
        "result": "Success",
        "action": name,
        "status": status("PG0000", "Approved or completed successfully", "succeeded"),
        "created": created,
    })
}

fn status(code: &str, description: &str, outcome: &str) -> Value {
    json!({"code": code, "description": description, "outcome": outcome})
}

fn declined(code: &str, description: &str, outcome: &str) -> Reply {
    let body = json!({
        "message": description,
        "causes": [],
        "status": status(code, description, outcome),
    });
    Reply::json(422, &body)
}

fn error(code: u16, message: &str) -> Reply {
    let causes = json!([{"message": message, "metadata": {}}]);
    Reply::json(code, &json!({"message": message, "causes": causes}))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::Method;
    use serde_json::{Value, json};

    use crate::simulate::rig::{Rig, seen, value};

    async fn cancel(rig: &Rig, id: &str, body: Value) -> (u16, Value) {
        let path = format!("/bento/payments/v1/orders/or_1/transactions/{id}/_cancel");
        let call = rig.logged_in(Method::PUT, &path).await;
        let (http, body) = seen(call.json(&body)).await.unwrap();
        (http, value(&body))
    }

    async fn state(rig: &Rig, id: &str) -> String {
        let path = format!("/bento/payments/v1/orders/or_1/transactions/{id}");
        let (_, body) = seen(rig.logged_in(Method::GET, &path).await).await.unwrap();
        value(&body)["data"]["state"].as_str().unwrap().to_owned()
    }

    #[tokio::test]
    async fn an_authorisation_is_voided_once() {
        let rig = Rig::start().await;
        let (http, body) = cancel(&rig, "tx_1", json!({})).await;
        assert_eq!((http, &body["data"]["state"]), (202, &json!("AuthVoided")));
        assert_eq!(cancel(&rig, "tx_1", json!({})).await.0, 422);
        let record = rig.money("bento/or_1/tx_1").await;
        assert_eq!(record["payment"], "or_1/tx_1");
        assert_eq!(record["effects"].as_array().unwrap().len(), 1);
        assert_eq!(record["effects"][0]["operation"], "void");
    }

    #[tokio::test]
    async fn a_captured_payment_is_refunded_up_to_its_amount() {
        let rig = Rig::start().await;
        let id = "tx_captured_jpy";
        assert_eq!(cancel(&rig, id, json!({"refundAmount": 101})).await.0, 422);
        let (http, body) = cancel(&rig, id, json!({"refundAmount": 40})).await;
        assert_eq!((http, &body["data"]["refundedAmount"]), (202, &json!(40)));
        assert_eq!(cancel(&rig, id, json!({"refundAmount": 40})).await.0, 422);
        let effect = &rig.money("bento/or_1/tx_captured_jpy").await["effects"][0];
        assert_eq!(
            (&effect["operation"], &effect["amount"]),
            (&json!("refund"), &json!("40"))
        );
    }

    #[tokio::test]
    async fn a_part_can_leave_the_rest_to_be_refunded() {
        let rig = Rig::start().await;
        let id = "captured-parts";
        let seen = |(_, body): (u16, Value)| {
            let data = &body["data"];
            (data["state"].clone(), data["refundedAmount"].clone())
        };
        for refunded in [4000, 8000] {
            let after = seen(cancel(&rig, id, json!({"refundAmount": 4000})).await);
            assert_eq!(after, (json!("CaptureSucceeded"), json!(refunded)));
        }
        let (http, body) = cancel(&rig, id, json!({"refundAmount": 4000})).await;
        assert_eq!(http, 422, "{body}");
        assert_eq!(rig.effects("bento/or_1/captured-parts").await, 2);
        let rest = cancel(&rig, id, json!({})).await;
        assert_eq!(rest.1["data"]["history"].as_array().unwrap().len(), 5);
        assert_eq!(seen(rest), (json!("Refunded"), json!(10_000)));
    }

    #[tokio::test]
    async fn an_accepted_refund_is_done_or_fails_later() {
        let rig = Rig::start().await;
        let (http, body) = cancel(&rig, "captured-accepted-then-done", json!({})).await;
        assert_eq!(
            (http, &body["data"]["state"]),
            (202, &json!("CaptureSucceeded"))
        );
        assert_eq!(cancel(&rig, "refund-failed", json!({})).await.0, 202);
        assert_eq!(
            state(&rig, "captured-accepted-then-done").await,
            "Refunding"
        );
        assert_eq!(
            cancel(&rig, "captured-accepted-then-done", json!({}))
                .await
                .0,
            422
        );
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(state(&rig, "captured-accepted-then-done").await, "Refunded");
        assert_eq!(state(&rig, "refund-failed").await, "RefundFailed");
        assert_eq!(
            rig.effects("bento/or_1/captured-accepted-then-done").await,
            1
        );
        assert_eq!(rig.effects("bento/or_1/refund-failed").await, 0);
    }

    #[tokio::test]
    async fn a_decline_comes_in_a_2xx_and_in_a_4xx() {
        let rig = Rig::start().await;
        let (http, body) = cancel(&rig, "retryable-twice", json!({})).await;
        let outcome = &body["data"]["status"]["outcome"];
        assert_eq!((http, outcome), (202, &json!("failedRetryable")));
        let (http, body) = cancel(&rig, "retryable-twice", json!({})).await;
        assert_eq!(
            (http, &body["status"]["outcome"]),
            (422, &json!("failedRetryable"))
        );
        assert_eq!(rig.effects("bento/or_1/retryable-twice").await, 0);
        assert_eq!(cancel(&rig, "retryable-twice", json!({})).await.0, 202);
        assert_eq!(rig.effects("bento/or_1/retryable-twice").await, 1);
        let (http, body) = cancel(&rig, "nonretryable", json!({})).await;
        assert_eq!(
            (http, &body["status"]["outcome"]),
            (422, &json!("failedNonRetryable"))
        );
    }

    #[tokio::test]
    async fn a_fetched_token_can_be_the_wrong_one() {
        let rig = Rig::start().await;
        let path = "/bento/payments/v1/orders/or_1/transactions/wrong-token/_cancel";
        let tokens = [
            rig.token("bento", "oauth/token").await,
            rig.token("bento", "oauth/token").await,
        ];
        for (token, expected) in [(0, 401), (0, 401), (1, 202)] {
            let call = rig.call(Method::PUT, path).bearer_auth(&tokens[token]);
            assert_eq!(seen(call).await.unwrap().0, expected);
        }
        assert_eq!(
            rig.money("bento/or_1/wrong-token").await["refused_logins"],
            2
        );
    }

    #[tokio::test]
    async fn ended_payments_refuse() {
        let rig = Rig::start().await;
        for (word, expected) in [
            ("settled", "CaptureSucceeded"),
            ("expired", "AuthExpired"),
            ("denied", "AuthFailed"),
            ("refunded", "Refunded"),
            ("already-cancelled", "AuthVoided"),
        ] {
            assert_eq!(cancel(&rig, word, json!({})).await.0, 422);
            assert_eq!(state(&rig, word).await, expected);
            assert_eq!(rig.effects(&format!("bento/or_1/{word}")).await, 0);
        }
        assert_eq!(cancel(&rig, "not-found", json!({})).await.0, 404);
    }
}
