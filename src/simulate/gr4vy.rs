//! Gr4vy's dialect: two endpoints for two stages, and a result inside a 200.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use jiff::SignedDuration;
use serde_json::{Value, json};
use uuid::Uuid;

use super::behaviour::Fault;
use super::dialect::{Cancel, Dialect, Movement, Provider, Reply, Subject, Way};
use super::es512;
use super::exchange;
use super::logins::{Login, Logins};
use super::payment::{Payment, Stage, State};
use super::{Simulator, now};

pub(super) struct Gr4vy;

pub(super) fn routes() -> Router<Arc<Simulator>> {
    Router::new()
        .route("/transactions/{id}", get(show))
        .route("/transactions/{id}/void", post(void))
        .route("/transactions/{id}/cancel", post(withdraw))
}

async fn void(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let mut call = Cancel::plain(Subject::one(id));
    call.way = Way::Void {
        itself: text("prefer") == Some("resource=transaction-void"),
    };
    call.key = text("idempotency-key").map(str::to_owned);
    exchange::cancel(simulator, &Gr4vy, &headers, call).await
}

/// This endpoint knows no idempotency key.
async fn withdraw(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut call = Cancel::plain(Subject::one(id));
    call.way = Way::Withdraw;
    exchange::cancel(simulator, &Gr4vy, &headers, call).await
}

async fn show(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    exchange::lookup(simulator, &Gr4vy, &headers, Subject::one(id)).await
}

impl Dialect for Gr4vy {
    fn provider(&self) -> Provider {
        Provider::Gr4vy
    }

    fn currency(&self) -> &'static str {
        "USD"
    }

    fn login(&self, logins: &Logins, headers: &HeaderMap) -> Option<Login> {
        logins.signed(headers, es512::verify)
    }

    /// There is no cancelled state: a pending payment that was cancelled shows it by `canceled_at`.
    fn state(&self, payment: &Payment) -> String {
        let pending = payment.stage == Stage::Pending;
        let word = match payment.state {
            State::Open | State::Underway | State::Cancelled if pending => "buyer_approval_pending",
            State::Open | State::RefundFailed if payment.stage == Stage::Captured => {
                "capture_succeeded"
            }
            State::Open | State::RefundFailed => "authorization_succeeded",
            State::Underway => "authorization_void_pending",
            State::Cancelled => "authorization_voided",
            State::Settled | State::Refunded => "capture_succeeded",
            State::Expired => "authorization_failed",
            State::Denied => "authorization_declined",
            State::Missing => "",
        };
        word.to_owned()
    }

    fn movement(&self, payment: &Payment, call: &Cancel) -> Option<Movement> {
        let operation = match (payment.stage, call.way) {
            (Stage::Pending, Way::Withdraw) => "dismissal",
            (Stage::Authorised | Stage::PartlyPaid, Way::Void { .. }) => "void",
            _ => return None,
        };
        (payment.state == State::Open).then_some(Movement {
            operation,
            amount: payment.left,
            closes: true,
        })
    }

    fn done(&self, payment: &Payment, call: &Cancel) -> Reply {
        self.result(payment, call, "succeeded")
    }

    fn accepted(&self, payment: &Payment, call: &Cancel) -> Option<Reply> {
        Some(self.result(payment, call, "pending"))
    }

    fn refused(&self, payment: &Payment, call: &Cancel) -> Reply {
        match payment.state {
            State::Cancelled => error(
                409,
                "duplicate_record",
                "The transaction has already been cancelled",
            ),
            State::Underway => self.running(payment, call),
            _ => error(
                400,
                "bad_request",
                "The transaction is not in a state that allows this",
            ),
        }
    }

    fn lookup(&self, payment: &Payment) -> Reply {
        Reply::json(200, &self.transaction(payment))
    }

    fn notification(&self, payment: &Payment) -> Option<Value> {
        Some(json!({
            "type": "event",
            "id": Uuid::new_v4(),
            "name": format!("transaction.{}", self.state(payment)),
            "created_at": now().to_string(),
            "merchant_account_id": "default",
            "gr4vy_id": "demo",
            "environment": "sandbox",
            "target": self.transaction(payment),
        }))
    }

    fn fault(&self, fault: Fault, payment: &Payment, call: Option<&Cancel>) -> Reply {
        match (fault, call) {
            (Fault::Unauthorized, _) => {
                error(401, "unauthorized", "No valid API credentials found")
            }
            (Fault::Forbidden, _) => error(403, "forbidden", "Invalid credentials for this action"),
            (Fault::NotFound, _) => error(404, "not_found", "The resource could not be found"),
            (Fault::RateLimited, _) => {
                error(429, "too_many_requests", "Too many requests").retry_after(1)
            }
            (Fault::Retryable(_), _) => error(429, "too_many_requests", "Too many requests"),
            (Fault::Nonretryable, Some(call)) => {
                // A cancel cannot be declined, only fail.
                let result = match call.way {
                    Way::Withdraw => "failed",
                    Way::Plain | Way::Void { .. } => "declined",
                };
                self.result(payment, call, result)
            }
            (Fault::Nonretryable | Fault::Internal, _) => {
                error(500, "internal_server_error", "Something went wrong")
            }
        }
    }

    /// The first answer is kept for a day, even a failure.
    fn keeps(&self, _carried_out: bool) -> Option<SignedDuration> {
        Some(SignedDuration::from_hours(24))
    }

    fn running(&self, _payment: &Payment, _call: &Cancel) -> Reply {
        let message = "A request for this transaction is still running";
        error(409, "concurrent_request", message)
    }
}

impl Gr4vy {
    /// The result of the call, or just the transaction where a void was not asked for itself.
    fn result(&self, payment: &Payment, call: &Cancel, status: &str) -> Reply {
        let kind = match call.way {
            Way::Void { itself: false } => return self.lookup(payment),
            Way::Withdraw => "transaction-cancel",
            Way::Plain | Way::Void { itself: true } => "transaction-void",
        };
        let (code, raw) = match status {
            "declined" | "failed" => (json!("do_not_honor"), json!("05")),
            _ => (Value::Null, json!("00")),
        };
        let body = json!({
            "type": kind,
            "status": status,
            "code": code,
            "raw_response_code": raw,
            "raw_response_description": null,
            "transaction": self.transaction(payment),
        });
        Reply::json(200, &body)
    }

    fn transaction(&self, payment: &Payment) -> Value {
        let captured = payment.stage == Stage::Captured;
        let pending = payment.stage == Stage::Pending;
        let ended = match payment.state {
            State::Cancelled => payment.moved_at().or(Some(payment.created.to_string())),
            _ => None,
        };
        let refunded = payment.state == State::Refunded;
        json!({
            "type": "transaction",
            "id": payment.id,
            "merchant_account_id": "default",
            "status": self.state(payment),
            "intent": if captured { "capture" } else { "authorize" },
            "intent_outcome": if pending { "pending" } else { "succeeded" },
            "amount": payment.total,
            "captured_amount": if captured { payment.total } else { 0 },
            "refunded_amount": if refunded { payment.total } else { 0 },
            "currency": payment.currency,
            "voided_at": ended.as_ref().filter(|_| !pending),
            "canceled_at": ended.as_ref().filter(|_| pending),
            "created_at": payment.created.to_string(),
            "updated_at": payment.moved_at().unwrap_or_else(|| payment.created.to_string()),
        })
    }
}

fn error(status: u16, code: &str, message: &str) -> Reply {
    let body = json!({
        "type": "error",
        "code": code,
        "status": status,
        "message": message,
        "details": [],
    });
    Reply::json(status, &body)
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use serde_json::{Value, json};

    use crate::simulate::rig::{Rig, seen, value};

    async fn post(rig: &Rig, id: &str, action: &str, key: &str) -> (u16, Value) {
        let path = format!("/gr4vy/transactions/{id}/{action}");
        let call = rig.logged_in(Method::POST, &path).await;
        let call = call
            .header("idempotency-key", key)
            .header("prefer", "resource=transaction-void");
        let (http, body) = seen(call).await.unwrap();
        (http, value(&body))
    }

    async fn show(rig: &Rig, id: &str) -> Value {
        let path = format!("/gr4vy/transactions/{id}");
        value(
            &seen(rig.logged_in(Method::GET, &path).await)
                .await
                .unwrap()
                .1,
        )
    }

    #[tokio::test]
    async fn a_void_is_done_once_whatever_the_key() {
        let rig = Rig::start().await;
        let first = post(&rig, "t1", "void", "a").await;
        assert_eq!((first.0, &first.1["status"]), (200, &json!("succeeded")));
        assert_eq!(first.1["transaction"]["status"], "authorization_voided");
        assert_eq!(post(&rig, "t1", "void", "a").await, first);
        assert_eq!(post(&rig, "t1", "void", "b").await.0, 409);
        assert_eq!(rig.effects("gr4vy/t1").await, 1);
    }

    #[tokio::test]
    async fn each_stage_has_its_endpoint() {
        let rig = Rig::start().await;
        assert_eq!(post(&rig, "t2-pending", "void", "a").await.0, 400);
        assert_eq!(post(&rig, "t2", "cancel", "a").await.0, 400);
        assert_eq!(post(&rig, "t2-captured", "void", "a").await.0, 400);
        let (http, body) = post(&rig, "t2-pending", "cancel", "a").await;
        assert_eq!((http, &body["status"]), (200, &json!("succeeded")));
        let shown = show(&rig, "t2-pending").await;
        assert_eq!(shown["status"], "buyer_approval_pending");
        assert!(shown["canceled_at"].is_string());
        assert!(shown["voided_at"].is_null());
        let effect = &rig.money("gr4vy/t2-pending").await["effects"][0];
        assert_eq!(effect["operation"], "dismissal");
    }

    #[tokio::test]
    async fn a_200_may_say_no_or_not_yet() {
        let rig = Rig::start().await;
        let (http, body) = post(&rig, "nonretryable", "void", "a").await;
        assert_eq!((http, &body["status"]), (200, &json!("declined")));
        let (http, body) = post(&rig, "accepted-then-done", "void", "a").await;
        assert_eq!((http, &body["status"]), (200, &json!("pending")));
        assert_eq!(post(&rig, "accepted-then-done", "void", "a").await.0, 409);
        for expected in [
            "authorization_void_pending",
            "authorization_void_pending",
            "authorization_voided",
        ] {
            assert_eq!(show(&rig, "accepted-then-done").await["status"], expected);
        }
        assert_eq!(rig.effects("gr4vy/accepted-then-done").await, 1);
        assert_eq!(rig.effects("gr4vy/nonretryable").await, 0);
    }

    #[tokio::test]
    async fn an_unsigned_call_is_refused_and_a_wrong_token_replaced() {
        let rig = Rig::start().await;
        let call = rig.call(Method::POST, "/gr4vy/transactions/t3/void");
        assert_eq!(seen(call.bearer_auth("a.b.c")).await.unwrap().0, 401);
        assert_eq!(rig.effects("gr4vy/t3").await, 0);
        assert_eq!(post(&rig, "wrong-token", "void", "a").await.0, 401);
        assert_eq!(post(&rig, "wrong-token", "void", "a").await.0, 200);
        assert_eq!(post(&rig, "forbidden", "void", "a").await.0, 403);
    }

    #[tokio::test]
    async fn ended_payments_refuse() {
        let rig = Rig::start().await;
        for (word, http, state) in [
            ("settled", 400, "capture_succeeded"),
            ("refunded", 400, "capture_succeeded"),
            ("expired", 400, "authorization_failed"),
            ("denied", 400, "authorization_declined"),
            ("already-cancelled", 409, "authorization_voided"),
        ] {
            assert_eq!(post(&rig, word, "void", word).await.0, http);
            assert_eq!(show(&rig, word).await["status"], state);
            assert_eq!(rig.effects(&format!("gr4vy/{word}")).await, 0);
        }
        assert_eq!(post(&rig, "not-found", "void", "a").await.0, 404);
    }
}
