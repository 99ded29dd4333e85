//! Tingg's dialect: everything in the body, in two shapes, mostly under HTTP 200.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};

use super::Simulator;
use super::behaviour::{Behaviour, Fault};
use super::dialect::{Cancel, Dialect, Movement, Provider, Reply, Subject};
use super::exchange;
use super::logins::{Login, Logins};
use super::payment::{Payment, Stage, State};

pub(super) struct Tingg;

pub(super) fn routes() -> Router<Arc<Simulator>> {
    Router::new()
        .route("/requests/cancel", post(cancel))
        .route("/requests/query-status", post(query_status))
}

async fn cancel(
    Shared(simulator): Shared<Arc<Simulator>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match read(&body, 1017) {
        Ok(subject) => exchange::cancel(simulator, &Tingg, &headers, Cancel::plain(subject)).await,
        Err(refusal) => {
            exchange::malformed(simulator, &Tingg, &headers, refusal, unauthenticated()).await
        }
    }
}

async fn query_status(
    Shared(simulator): Shared<Arc<Simulator>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match read(&body, 1015) {
        Ok(subject) => exchange::lookup(simulator, &Tingg, &headers, subject).await,
        Err(refusal) => {
            exchange::malformed(simulator, &Tingg, &headers, refusal, unauthenticated()).await
        }
    }
}

/// Each of the two calls has its own code for a missing service.
fn read(body: &[u8], no_service: i64) -> Result<Subject, Reply> {
    let body: Value = serde_json::from_slice(body)
        .map_err(|_| status(1013, "The checkout request posted was not valid JSON", None))?;
    let field = |name: &str| match body.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text.clone()),
        _ => None,
    };
    let transaction = field("merchantTransactionID")
        .ok_or_else(|| status(1014, "Missing merchantTransactionID", None))?;
    let service =
        field("serviceCode").ok_or_else(|| status(no_service, "Missing serviceCode", None))?;
    Ok(Subject::two(service, transaction))
}

impl Dialect for Tingg {
    fn provider(&self) -> Provider {
        Provider::Tingg
    }

    fn currency(&self) -> &'static str {
        "KES"
    }

    fn login(&self, logins: &Logins, headers: &HeaderMap) -> Option<Login> {
        logins.issued(Provider::Tingg, headers)
    }

    fn state(&self, payment: &Payment) -> String {
        request_status(payment).to_string()
    }

    fn movement(&self, payment: &Payment, _call: &Cancel) -> Option<Movement> {
        let operation = match payment.stage {
            Stage::PartlyPaid => "reversal",
            _ => "dismissal",
        };
        (payment.state == State::Open).then_some(Movement {
            operation,
            amount: payment.left,
            closes: true,
        })
    }

    fn done(&self, payment: &Payment, _call: &Cancel) -> Reply {
        status(
            200,
            "Successfully processed request",
            Some(results(payment)),
        )
    }

    fn refused(&self, payment: &Payment, _call: &Cancel) -> Reply {
        match payment.state {
            State::Cancelled => {
                let text = "Request has already been cancelled";
                status(133, text, Some(results(payment)))
            }
            // Expired and fully paid have no code of their own.
            _ => status(500, "Generic failure occurred", None),
        }
    }

    fn lookup(&self, payment: &Payment) -> Reply {
        let mut results = named_in_full(payment);
        let paid = match payment.stage {
            Stage::PartlyPaid => payment.total / 2,
            Stage::Captured => payment.total,
            Stage::Authorised | Stage::Pending => 0,
        };
        results["amountPaid"] = json!(payment.decimal(paid));
        results["paymentCurrencyCode"] = json!(payment.currency);
        results["payments"] = json!([]);
        status(200, "Successfully processed request", Some(results))
    }

    fn notification(&self, payment: &Payment) -> Option<Value> {
        Some(json!({"status": {"statusCode": 200}, "results": named_in_full(payment)}))
    }

    fn fault(&self, fault: Fault, _payment: &Payment, _call: Option<&Cancel>) -> Reply {
        match fault {
            Fault::Unauthorized | Fault::Forbidden => unauthenticated(),
            Fault::NotFound => status(1001, "Checkout request not available", None),
            Fault::RateLimited => {
                let body = json!({"message": "Too Many Attempts.", "status_code": 429});
                Reply::json(429, &body).retry_after(1)
            }
            Fault::Retryable(_) => Reply::html(503, "Service Temporarily Unavailable"),
            Fault::Nonretryable => status(500, "Generic failure occurred", None),
            Fault::Internal => {
                let body = envelope(500, "Generic failure occurred", None);
                Reply::json(500, &body)
            }
        }
    }
}

fn request_status(payment: &Payment) -> u16 {
    let closed = matches!(
        payment.behaviour,
        Behaviour::Nonretryable | Behaviour::RefundFailed
    );
    match payment.state {
        // The merchant has accepted the payment: what was paid stays paid.
        State::Open if closed => 183,
        State::Open | State::Underway | State::RefundFailed => 130,
        State::Cancelled if payment.stage == Stage::PartlyPaid => 181,
        State::Cancelled => 131,
        State::Settled => 178,
        State::Expired | State::Denied => 129,
        State::Refunded => 187,
        State::Missing => 0,
    }
}

/// Without `checkoutRequestID`: no call names it, and a request that does would be about another payment.
fn results(payment: &Payment) -> Value {
    json!({
        "merchantTransactionID": payment.ids.last(),
        "requestStatusCode": request_status(payment),
    })
}

/// As a look-up shows it, and a notification in the same shape.
fn named_in_full(payment: &Payment) -> Value {
    let mut results = results(payment);
    results["serviceCode"] = json!(payment.ids.first());
    results
}

fn status(code: i64, description: &str, results: Option<Value>) -> Reply {
    Reply::json(200, &envelope(code, description, results))
}

fn envelope(code: i64, description: &str, results: Option<Value>) -> Value {
    json!({
        "status": {"statusCode": code, "statusDescription": description},
        "results": results,
    })
}

/// Another shape than all other answers; the number in it is no HTTP status.
pub(super) fn unauthenticated() -> Reply {
    Reply::json(
        500,
        &json!({"message": "Unauthenticated.", "status_code": 500}),
    )
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use serde_json::{Value, json};

    use crate::simulate::rig::{Rig, seen, value};

    async fn post(rig: &Rig, path: &str, id: &str) -> Value {
        let call = rig
            .logged_in(Method::POST, &format!("/tingg/requests/{path}"))
            .await;
        let body = json!({"merchantTransactionID": id, "serviceCode": "SHOP"});
        value(&seen(call.json(&body)).await.unwrap().1)
    }

    fn codes(answer: &Value) -> (i64, i64) {
        let outer = answer["status"]["statusCode"].as_i64().unwrap();
        (
            outer,
            answer["results"]["requestStatusCode"].as_i64().unwrap_or(0),
        )
    }

    #[tokio::test]
    async fn a_cancel_works_once_and_the_repeat_says_so() {
        let rig = Rig::start().await;
        assert_eq!(codes(&post(&rig, "query-status", "m1").await), (200, 130));
        assert_eq!(codes(&post(&rig, "cancel", "m1").await), (200, 131));
        assert_eq!(codes(&post(&rig, "cancel", "m1").await), (133, 131));
        assert_eq!(codes(&post(&rig, "query-status", "m1").await), (200, 131));
        let record = rig.money("tingg/SHOP/m1").await;
        assert_eq!(record["effects"].as_array().unwrap().len(), 1);
        assert_eq!(record["effects"][0]["operation"], "dismissal");
    }

    #[tokio::test]
    async fn a_partial_payment_goes_back() {
        let rig = Rig::start().await;
        assert_eq!(codes(&post(&rig, "cancel", "m2-partial").await), (200, 181));
        let record = rig.money("tingg/SHOP/m2-partial").await;
        assert_eq!(record["effects"][0]["operation"], "reversal");
    }

    #[tokio::test]
    async fn ended_requests_fail_without_a_code_of_their_own() {
        let rig = Rig::start().await;
        for (word, inner) in [
            ("settled", 178),
            ("expired", 129),
            ("denied", 129),
            ("refunded", 187),
            ("nonretryable", 183),
        ] {
            assert_eq!(codes(&post(&rig, "cancel", word).await), (500, 0));
            assert_eq!(codes(&post(&rig, "query-status", word).await), (200, inner));
            assert_eq!(rig.effects(&format!("tingg/SHOP/{word}")).await, 0);
        }
        assert_eq!(
            codes(&post(&rig, "cancel", "already-cancelled").await),
            (133, 131)
        );
        assert_eq!(codes(&post(&rig, "cancel", "not-found").await), (1001, 0));
    }

    #[tokio::test]
    async fn a_refused_token_has_another_shape() {
        let rig = Rig::start().await;
        let refusal = json!({"message": "Unauthenticated.", "status_code": 500});
        assert_eq!(post(&rig, "cancel", "forbidden").await, refusal);
        assert_eq!(post(&rig, "cancel", "wrong-token").await, refusal);
        assert_eq!(
            codes(&post(&rig, "cancel", "wrong-token").await),
            (200, 131)
        );
        let call = rig
            .call(Method::POST, "/tingg/requests/cancel")
            .bearer_auth("x");
        assert_eq!(value(&seen(call.body("{")).await.unwrap().1), refusal);
    }

    #[tokio::test]
    async fn malformed_requests_have_their_codes() {
        let rig = Rig::start().await;
        for (body, code) in [
            ("{", 1013),
            (r#"{"serviceCode": "S"}"#, 1014),
            (r#"{"merchantTransactionID": "m"}"#, 1017),
        ] {
            let call = rig.logged_in(Method::POST, "/tingg/requests/cancel").await;
            let answer = value(&seen(call.body(body)).await.unwrap().1);
            assert_eq!(codes(&answer).0, code);
        }
    }
}
