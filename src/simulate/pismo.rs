//! Pismo's dialect: reversals in slices, each under its own tracking id.

use std::str::FromStr as _;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State as Shared;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use jiff::SignedDuration;
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::Simulator;
use super::behaviour::Fault;
use super::dialect::{Amount, Cancel, Dialect, Movement, Provider, Reply, Subject};
use super::exchange;
use super::logins::{Login, Logins};
use super::payment::{Payment, State};

pub(super) struct Pismo;

pub(super) fn routes() -> Router<Arc<Simulator>> {
    Router::new().route("/payments/v2/cancel", post(cancel))
}

#[derive(Deserialize)]
struct Body {
    authorization_id: Option<i64>,
    original_tracking_id: Option<String>,
    /// Kept as it was written: a float would change it.
    amount: Option<Box<RawValue>>,
    tracking_id: Option<String>,
}

async fn cancel(
    Shared(simulator): Shared<Arc<Simulator>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    match read(&body) {
        Ok(call) => exchange::cancel(simulator, &Pismo, &headers, call).await,
        Err(why) => {
            let refusal = error(400, "invalid_request", why);
            exchange::malformed(simulator, &Pismo, &headers, refusal, unauthorized()).await
        }
    }
}

fn read(body: &[u8]) -> Result<Cancel, &'static str> {
    let body: Body = serde_json::from_slice(body).map_err(|_| "the body is not as documented")?;
    let id = match (body.authorization_id, body.original_tracking_id) {
        (Some(id), None) if id >= 1 => id.to_string(),
        (None, Some(id)) if !id.is_empty() => id,
        _ => return Err("exactly one of authorization_id and original_tracking_id is needed"),
    };
    let amount = body
        .amount
        .and_then(|raw| Decimal::from_str(raw.get()).ok())
        .filter(|amount| amount.is_sign_positive() && !amount.is_zero())
        .ok_or("amount is missing or not a positive number")?;
    let length = body.tracking_id.as_ref().map_or(36, String::len);
    if !(36..=65).contains(&length) {
        return Err("tracking_id has 36 to 65 characters");
    }
    Ok(Cancel {
        key: body.tracking_id,
        amount: Some(Amount::Decimal(amount)),
        ..Cancel::plain(Subject::one(id))
    })
}

impl Dialect for Pismo {
    fn provider(&self) -> Provider {
        Provider::Pismo
    }

    fn currency(&self) -> &'static str {
        "BRL"
    }

    fn login(&self, logins: &Logins, headers: &HeaderMap) -> Option<Login> {
        logins.issued(Provider::Pismo, headers)
    }

    fn state(&self, payment: &Payment) -> String {
        let word = match payment.state {
            State::Open if payment.left < payment.total => "partially cancelled",
            State::Open | State::Underway | State::RefundFailed => "authorised",
            State::Cancelled => "cancelled",
            State::Settled => "settled",
            State::Expired => "expired",
            State::Denied => "denied",
            State::Refunded => "refunded",
            State::Missing => "",
        };
        word.to_owned()
    }

    fn movement(&self, payment: &Payment, call: &Cancel) -> Option<Movement> {
        let amount = payment.minor(call.amount?)?;
        let possible = payment.state == State::Open && amount <= payment.left;
        possible.then_some(Movement {
            operation: "reversal",
            amount,
            closes: amount == payment.left,
        })
    }

    fn done(&self, payment: &Payment, call: &Cancel) -> Reply {
        let random = || Uuid::new_v4().to_string();
        let tracking_id = call.key.clone().unwrap_or_else(random);
        // The side that does not apply is 0 in one of Pismo's samples and null in another.
        let credit = match payment.id.parse::<i64>() {
            Ok(_) => json!(null),
            Err(_) => json!(0),
        };
        let debit = 16_647_083 + payment.effects.len();
        let ids = json!({"credit": credit, "debit": debit});
        Reply::json(
            200,
            &json!({"tracking_id": tracking_id, "authorization_ids": ids}),
        )
    }

    fn refused(&self, _payment: &Payment, _call: &Cancel) -> Reply {
        let message = "the cancellation exceeds what is left of the original transaction";
        error(422, "denied", message)
    }

    /// Never asked: there is no look-up by tracking id.
    fn lookup(&self, payment: &Payment) -> Reply {
        Reply::json(200, &json!({"status": self.state(payment)}))
    }

    fn fault(&self, fault: Fault, _payment: &Payment, _call: Option<&Cancel>) -> Reply {
        match fault {
            Fault::Unauthorized => unauthorized(),
            Fault::Forbidden => error(403, "forbidden", "no permission for this operation"),
            Fault::NotFound => error(404, "not_found", "original authorization not found"),
            Fault::RateLimited => error(429, "too_many_requests", "slow down").retry_after(1),
            Fault::Retryable(_) => error(429, "too_many_requests", "slow down"),
            Fault::Nonretryable => error(422, "denied", "the cancellation was denied"),
            Fault::Internal => error(500, "internal", "internal server error"),
        }
    }

    /// The same tracking id is the same request, at any time.
    fn keeps(&self, carried_out: bool) -> Option<SignedDuration> {
        carried_out.then(|| SignedDuration::from_hours(24 * 365))
    }

    fn running(&self, _payment: &Payment, _call: &Cancel) -> Reply {
        error(409, "in_progress", "this tracking_id is being processed")
    }
}

fn unauthorized() -> Reply {
    error(401, "unauthorized", "the token is missing or expired")
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    Reply::json(status, &json!({"code": code, "message": message}))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::Method;
    use serde_json::{Value, json};
    use tokio::time::timeout;

    use crate::simulate::rig::{Rig, seen, value};

    const KEYS: [&str; 3] = [
        "08bcbccc-4dae-4c0b-8a67-1b0cf245ab41",
        "08bcbccc-4dae-4c0b-8a67-1b0cf245ab42",
        "08bcbccc-4dae-4c0b-8a67-1b0cf245ab43",
    ];

    async fn send(rig: &Rig, body: &str) -> Option<(u16, Value)> {
        let call = rig
            .logged_in(Method::POST, "/pismo/payments/v2/cancel")
            .await;
        let call = call.header("content-type", "application/json");
        let (http, body) = seen(call.body(body.to_owned())).await?;
        Some((http, value(&body)))
    }

    async fn cancel(rig: &Rig, id: &str, amount: &str, key: usize) -> Option<(u16, Value)> {
        let key = KEYS[key];
        let body = format!(
            r#"{{"original_tracking_id": "{id}", "amount": {amount}, "tracking_id": "{key}"}}"#
        );
        send(rig, &body).await
    }

    /// Without a tracking id each call is a new cancellation.
    async fn fresh(rig: &Rig, id: &str) -> Option<(u16, Value)> {
        send(
            rig,
            &format!(r#"{{"original_tracking_id": "{id}", "amount": 100.0}}"#),
        )
        .await
    }

    #[tokio::test]
    async fn the_same_tracking_id_moves_money_once_and_a_new_one_again() {
        let rig = Rig::start().await;
        let first = cancel(&rig, "transfer-1", "50.0", 0).await.unwrap();
        assert_eq!((first.0, &first.1["tracking_id"]), (200, &json!(KEYS[0])));
        assert_eq!(cancel(&rig, "transfer-1", "50.0", 0).await.unwrap(), first);
        assert_eq!(rig.effects("pismo/transfer-1").await, 1);
        assert_eq!(cancel(&rig, "transfer-1", "50.00", 1).await.unwrap().0, 200);
        assert_eq!(cancel(&rig, "transfer-1", "0.01", 2).await.unwrap().0, 422);
        let record = rig.money("pismo/transfer-1").await;
        assert_eq!(record["effects"].as_array().unwrap().len(), 2);
        assert_eq!(record["effects"][1]["operation"], "reversal");
        assert_eq!(record["effects"][1]["amount"], "50.00");
        assert_eq!(record["state"], "cancelled");
    }

    #[tokio::test]
    async fn amounts_keep_to_their_currency() {
        let rig = Rig::start().await;
        assert_eq!(cancel(&rig, "jpy-1", "1.5", 0).await.unwrap().0, 422);
        assert_eq!(cancel(&rig, "jpy-1", "100", 0).await.unwrap().0, 200);
        assert_eq!(cancel(&rig, "kwd-1", "1.005", 1).await.unwrap().0, 200);
        assert_eq!(
            rig.money("pismo/kwd-1").await["effects"][0]["amount"],
            "1.005"
        );
        assert_eq!(cancel(&rig, "brl", "100.01", 2).await.unwrap().0, 422);
    }

    #[tokio::test]
    async fn malformed_calls_are_refused() {
        let rig = Rig::start().await;
        for body in [
            "",
            r#"{"authorization_id": 1, "original_tracking_id": "x", "amount": 1}"#,
            r#"{"amount": 1}"#,
            r#"{"authorization_id": 1}"#,
            r#"{"authorization_id": 1, "amount": -1}"#,
            r#"{"authorization_id": 1, "amount": 1, "tracking_id": "short"}"#,
        ] {
            assert_eq!(send(&rig, body).await.unwrap().0, 400, "{body}");
        }
        let call = rig.call(Method::POST, "/pismo/payments/v2/cancel");
        assert_eq!(seen(call).await.unwrap().0, 401);
    }

    #[tokio::test]
    async fn a_lost_answer_is_found_by_the_same_tracking_id() {
        let rules =
            "[[rule]]\nprovider = 'pismo'\npayment = '153*'\nbehaviour = 'timeout-after-effect'\n";
        let rig = Rig::with(rules, None).await;
        let key = KEYS[0];
        let body =
            format!(r#"{{"authorization_id": 15301234, "amount": 100.0, "tracking_id": "{key}"}}"#);
        let patience = Duration::from_millis(300);
        assert!(timeout(patience, send(&rig, &body)).await.is_err());
        assert_eq!(send(&rig, &body).await.unwrap().0, 200);
        assert_eq!(rig.effects("pismo/15301234").await, 1);
    }

    #[tokio::test]
    async fn faults_have_their_statuses() {
        let rig = Rig::start().await;
        for (word, expected) in [
            ("not-found", 404),
            ("forbidden", 403),
            ("wrong-token", 401),
            ("wrong-token", 200),
            ("settled", 422),
            ("already-cancelled", 422),
            ("nonretryable", 422),
            ("error-before-effect", 500),
        ] {
            let seen = fresh(&rig, word).await.unwrap();
            assert_eq!(seen.0, expected, "{word}");
        }
        for expected in [429, 429, 200] {
            let seen = fresh(&rig, "retryable-twice").await.unwrap();
            assert_eq!(seen.0, expected);
        }
    }
}
