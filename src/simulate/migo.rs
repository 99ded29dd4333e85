//! Migo's dialect: dismissals that answer with plain text, and no look-up at all.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use serde_json::{Value, json};

use super::Simulator;
use super::behaviour::Fault;
use super::dialect::{Cancel, Dialect, Movement, Provider, Reply, Subject};
use super::exchange;
use super::logins::{Login, Logins, MIGO_TOKEN, bearer};
use super::payment::{Payment, Stage, State};

pub(super) struct Migo;

pub(super) fn routes() -> Router<Arc<Simulator>> {
    Router::new().route(
        "/api/v1/integrations/transactions/{id}/dismiss",
        post(dismiss),
    )
}

async fn dismiss(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let call = Cancel::plain(Subject::one(id));
    exchange::cancel(simulator, &Migo, &headers, call).await
}

impl Dialect for Migo {
    fn provider(&self) -> Provider {
        Provider::Migo
    }

    fn currency(&self) -> &'static str {
        "GTQ"
    }

    fn login(&self, _logins: &Logins, headers: &HeaderMap) -> Option<Login> {
        let token = bearer(headers)?;
        (token == MIGO_TOKEN).then(|| Login::fixed(token))
    }

    fn state(&self, payment: &Payment) -> String {
        let in_progress = payment.stage == Stage::Pending;
        let word = match payment.state {
            State::Open | State::Underway | State::RefundFailed if in_progress => "IN_PROGRESS",
            State::Open | State::Underway | State::RefundFailed => "CREATED",
            // A dedicated cancel hook ends in another state than a mere dismissal.
            State::Cancelled if in_progress => "CANCELLED",
            State::Cancelled => "DISMISSED",
            State::Settled | State::Refunded => "APPROVED",
            State::Expired => "EXPIRED",
            State::Denied => "DENIED",
            State::Missing => "",
        };
        word.to_owned()
    }

    fn movement(&self, payment: &Payment, _call: &Cancel) -> Option<Movement> {
        (payment.state == State::Open).then_some(Movement {
            operation: "dismissal",
            amount: payment.left,
            closes: true,
        })
    }

    fn done(&self, payment: &Payment, _call: &Cancel) -> Reply {
        match payment.stage {
            Stage::Pending => Reply::json(
                200,
                &json!({
                    "message": "Transaction cancelled",
                    "transaction": {"uid": payment.id, "status": self.state(payment)},
                }),
            ),
            _ => Reply::text(200, "OK"),
        }
    }

    fn refused(&self, _payment: &Payment, _call: &Cancel) -> Reply {
        let message = "Transaction status not eligible for dismiss";
        own_code(409, json!(4020), message)
    }

    /// Never asked: there is no such path.
    fn lookup(&self, payment: &Payment) -> Reply {
        Reply::json(
            200,
            &json!({"uid": payment.id, "status": self.state(payment)}),
        )
    }

    fn notification(&self, payment: &Payment) -> Option<Value> {
        Some(json!({"uid": payment.id, "reference": payment.id, "status": self.state(payment)}))
    }

    fn fault(&self, fault: Fault, _payment: &Payment, _call: Option<&Cancel>) -> Reply {
        match fault {
            Fault::Unauthorized => own_code(401, Value::Null, "Unauthorized"),
            Fault::Forbidden => own_code(403, Value::Null, "Forbidden"),
            Fault::NotFound => own_code(404, json!(2000), "Transaction not found"),
            Fault::RateLimited => own_code(429, Value::Null, "Too many requests").retry_after(1),
            Fault::Retryable(_) => own_code(503, Value::Null, "Service unavailable"),
            Fault::Nonretryable => own_code(405, json!(4021), "Processor does not allow dismiss"),
            Fault::Internal => own_code(500, Value::Null, "Upstream cancel call failed"),
        }
    }
}

fn own_code(status: u16, code: Value, message: &str) -> Reply {
    match code {
        Value::Null => Reply::json(status, &json!({"message": message})),
        code => Reply::json(status, &json!({"ownCode": code, "message": message})),
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use serde_json::json;

    use crate::simulate::rig::{Rig, Seen, seen, value};

    async fn dismiss(rig: &Rig, id: &str) -> Seen {
        let path = format!("/migo/api/v1/integrations/transactions/{id}/dismiss");
        seen(rig.logged_in(Method::POST, &path).await).await
    }

    #[tokio::test]
    async fn a_dismissal_works_once_and_the_repeat_is_ambiguous() {
        let rig = Rig::start().await;
        assert_eq!(dismiss(&rig, "trx_1").await, Some((200, "OK".to_owned())));
        for id in ["trx_1", "trx_settled"] {
            let (http, body) = dismiss(&rig, id).await.unwrap();
            assert_eq!((http, &value(&body)["ownCode"]), (409, &json!(4020)));
        }
        assert_eq!(rig.effects("migo/trx_1").await, 1);
        assert_eq!(rig.effects("migo/trx_settled").await, 0);
        assert_eq!(rig.money("migo/trx_1").await["state"], "DISMISSED");
    }

    #[tokio::test]
    async fn a_payment_in_progress_ends_as_cancelled() {
        let rig = Rig::start().await;
        let (http, body) = dismiss(&rig, "trx_pending").await.unwrap();
        let status = &value(&body)["transaction"]["status"];
        assert_eq!((http, status), (200, &json!("CANCELLED")));
    }

    #[tokio::test]
    async fn faults_have_their_own_codes() {
        let rig = Rig::start().await;
        for (word, expected) in [
            ("nonretryable", 405),
            ("not-found", 404),
            ("forbidden", 403),
            ("wrong-token", 401),
            ("wrong-token", 200),
            ("retryable-twice", 503),
            ("rate-limited", 429),
            ("rate-limited", 200),
            ("error-after-effect", 500),
            ("error-after-effect", 409),
            ("accepted-then-done", 200),
        ] {
            assert_eq!(dismiss(&rig, word).await.unwrap().0, expected, "{word}");
        }
        assert_eq!(rig.effects("migo/error-after-effect").await, 1);
        let call = rig.call(
            Method::POST,
            "/migo/api/v1/integrations/transactions/x/dismiss",
        );
        assert_eq!(seen(call.bearer_auth("demo")).await.unwrap().0, 401);
    }
}
