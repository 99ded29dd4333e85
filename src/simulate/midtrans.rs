//! Midtrans's dialect: the body's `status_code` says what the HTTP status does not.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State as Shared};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::{get, post};
use jiff::{SignedDuration, Timestamp, tz};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Simulator;
use super::behaviour::{Fault, has_word};
use super::dialect::{Cancel, Dialect, Movement, Provider, Reply, Subject};
use super::exchange;
use super::logins::{Login, Logins, MIDTRANS_SERVER_KEY, basic};
use super::payment::{Payment, Stage, State};

pub(super) struct Midtrans;

/// A longer key is ignored without a word.
const KEY_LENGTH_MAX: usize = 46;

pub(super) fn routes() -> Router<Arc<Simulator>> {
    Router::new()
        .route("/v2/{id}/cancel", post(cancel))
        .route("/v2/{id}/status", get(status))
}

async fn cancel(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let mut call = Cancel::plain(Subject::one(id));
    call.key = headers
        .get("idempotency-key")
        .and_then(|key| key.to_str().ok())
        .filter(|key| !key.is_empty() && key.len() <= KEY_LENGTH_MAX)
        .map(str::to_owned);
    exchange::cancel(simulator, &Midtrans, &headers, call).await
}

async fn status(
    Shared(simulator): Shared<Arc<Simulator>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    exchange::lookup(simulator, &Midtrans, &headers, Subject::one(id)).await
}

impl Dialect for Midtrans {
    fn provider(&self) -> Provider {
        Provider::Midtrans
    }

    fn currency(&self) -> &'static str {
        "IDR"
    }

    fn login(&self, _logins: &Logins, headers: &HeaderMap) -> Option<Login> {
        let (user, password) = basic(headers)?;
        let known = user == MIDTRANS_SERVER_KEY && password.is_empty();
        known.then(|| Login::fixed(&user))
    }

    /// Either of its two ids names a payment.
    fn aliases(&self, id: &str) -> Vec<String> {
        vec![transaction_id(id), order_id(id)]
    }

    fn state(&self, payment: &Payment) -> String {
        let word = match payment.state {
            State::Open | State::Underway | State::RefundFailed => match payment.stage {
                Stage::Captured => "capture",
                Stage::Pending => "pending",
                Stage::Authorised | Stage::PartlyPaid => "authorize",
            },
            State::Cancelled => "cancel",
            State::Settled => "settlement",
            State::Expired => "expire",
            State::Denied => "deny",
            State::Refunded => "refund",
            State::Missing => "",
        };
        word.to_owned()
    }

    fn movement(&self, payment: &Payment, _call: &Cancel) -> Option<Movement> {
        (payment.state == State::Open).then_some(Movement {
            operation: "void",
            amount: payment.left,
            closes: true,
        })
    }

    fn done(&self, payment: &Payment, _call: &Cancel) -> Reply {
        self.transaction(payment, "200", "Success, transaction is canceled")
    }

    fn accepted(&self, _payment: &Payment, _call: &Cancel) -> Option<Reply> {
        Some(in_process())
    }

    /// A 412 comes under HTTP 200, as the provider's reference shows it.
    fn refused(&self, payment: &Payment, _call: &Cancel) -> Reply {
        match payment.state {
            State::Underway => in_process(),
            _ => error(
                200,
                "412",
                "Merchant cannot modify the status of the transaction",
            ),
        }
    }

    fn lookup(&self, payment: &Payment) -> Reply {
        let state = self.state(payment);
        let code = match state.as_str() {
            "pending" => "201",
            "deny" => "202",
            "expire" => "407",
            _ => "200",
        };
        self.transaction(payment, code, "Success, transaction is found")
    }

    /// A cancel is 202 in the sample of the notification page, whatever the look-up's code.
    fn notification(&self, payment: &Payment) -> Option<Value> {
        let code = match payment.state {
            State::Cancelled => "202",
            _ => "200",
        };
        Some(self.shown(payment, code, "Midtrans payment notification"))
    }

    fn fault(&self, fault: Fault, payment: &Payment, call: Option<&Cancel>) -> Reply {
        match (fault, call) {
            (Fault::Unauthorized | Fault::Forbidden, _) => error(
                401,
                "401",
                "Transaction cannot be authorized with the current client/server key.",
            ),
            (Fault::NotFound, _) => error(404, "404", "Transaction doesn't exist."),
            (Fault::RateLimited, _) => error(429, "429", "Too many requests.").retry_after(1),
            (Fault::Retryable(_), _) => error(503, "503", "Bank connection problem."),
            // The bank's own rules: the state stays what it was.
            (Fault::Nonretryable, Some(call)) => self.refused(payment, call),
            (Fault::Nonretryable | Fault::Internal, _) => {
                error(500, "500", "Sorry, our system is recovering.")
            }
        }
    }

    /// Only successes are kept, and for five minutes.
    fn keeps(&self, carried_out: bool) -> Option<SignedDuration> {
        carried_out.then(|| SignedDuration::from_mins(5))
    }

    fn running(&self, _payment: &Payment, _call: &Cancel) -> Reply {
        in_process()
    }
}

impl Midtrans {
    /// Without an order id of its own making: a request that names the order would be about another one.
    fn transaction(&self, payment: &Payment, code: &str, message: &str) -> Reply {
        let mut shown = self.shown(payment, code, message);
        if shown["order_id"] != payment.id.as_str() {
            shown["order_id"] = Value::Null;
        }
        Reply::json(200, &shown)
    }

    fn shown(&self, payment: &Payment, code: &str, message: &str) -> Value {
        json!({
            "status_code": code,
            "status_message": message,
            "transaction_id": transaction_id(&payment.id),
            "order_id": order_id(&payment.id),
            "masked_card": "48111111-1114",
            "payment_type": "credit_card",
            "transaction_time": local_time(payment.created),
            "transaction_status": self.state(payment),
            "fraud_status": if payment.state == State::Denied { "deny" } else { "accept" },
            "bank": "bni",
            "gross_amount": payment.decimal(payment.total),
            "currency": payment.currency,
        })
    }
}

/// Transport status 202 and no transaction: the first call with this key still runs.
fn in_process() -> Reply {
    error(202, "202", "The request is still in process.")
}

fn error(http: u16, code: &str, message: &str) -> Reply {
    Reply::json(
        http,
        &json!({"status_code": code, "status_message": message}),
    )
}

fn transaction_id(id: &str) -> String {
    if is_its_own(id) {
        id.to_owned()
    } else {
        Uuid::new_v5(&Uuid::NAMESPACE_URL, id.as_bytes()).to_string()
    }
}

fn order_id(id: &str) -> String {
    if is_its_own(id) {
        format!("order-of-{id}")
    } else {
        id.to_owned()
    }
}

/// An id that is a UUID, or says so, is taken for the provider's own; any other one is the merchant's.
fn is_its_own(id: &str) -> bool {
    Uuid::try_parse(id).is_ok() || has_word(id, "transaction")
}

/// Midtrans writes Jakarta's time and leaves the zone out.
fn local_time(at: Timestamp) -> String {
    let local = tz::offset(7).to_datetime(at);
    local.strftime("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use reqwest::Method;

    use crate::simulate::rig::{Rig, Seen, seen, value};

    async fn cancel(rig: &Rig, id: &str, key: &str) -> Seen {
        let path = format!("/midtrans/v2/{id}/cancel");
        let call = rig.logged_in(Method::POST, &path).await;
        // Keys are global: one for two payments would get the first one's answer.
        seen(call.header("Idempotency-Key", format!("{key}-{id}"))).await
    }

    async fn status(rig: &Rig, id: &str) -> String {
        let path = format!("/midtrans/v2/{id}/status");
        let (_, body) = seen(rig.logged_in(Method::GET, &path).await).await.unwrap();
        value(&body)["transaction_status"]
            .as_str()
            .unwrap()
            .to_owned()
    }

    fn code(seen: &Seen) -> (u16, String) {
        let (http, body) = seen.as_ref().unwrap();
        (
            *http,
            value(body)["status_code"].as_str().unwrap().to_owned(),
        )
    }

    #[tokio::test]
    async fn a_cancel_moves_money_once() {
        let rig = Rig::start().await;
        let first = cancel(&rig, "order%2F1", "a").await;
        assert_eq!(code(&first), (200, "200".to_owned()));
        // The same key gets the stored answer, another one meets the state.
        assert_eq!(cancel(&rig, "order%2F1", "a").await, first);
        let second = cancel(&rig, "order%2F1", "b").await;
        assert_eq!(code(&second), (200, "412".to_owned()));
        assert_eq!(status(&rig, "order%2F1").await, "cancel");
        let record = rig.money("midtrans/order%2F1").await;
        assert_eq!(record["effects"].as_array().unwrap().len(), 1);
        assert_eq!(record["effects"][0]["operation"], "void");
        assert_eq!(record["effects"][0]["amount"], "100.00");
        assert_eq!(record["effects"][0]["key"], "a-order%2F1");
        assert_eq!(record["cancel_calls"], 3);
        assert_eq!(record["lookup_calls"], 1);
    }

    #[tokio::test]
    async fn the_transaction_id_names_the_same_payment() {
        let rig = Rig::start().await;
        let (_, body) = cancel(&rig, "order-2", "a").await.unwrap();
        let id = value(&body)["transaction_id"].as_str().unwrap().to_owned();
        assert_eq!(code(&cancel(&rig, &id, "b").await).1, "412");
        assert_eq!(rig.effects("midtrans/order-2").await, 1);
    }

    #[tokio::test]
    async fn a_transaction_id_with_a_word_is_answered_as_it_is() {
        let rig = Rig::start().await;
        let id = "transaction-settled-7";
        assert_eq!(code(&cancel(&rig, id, "a").await).1, "412");
        let path = format!("/midtrans/v2/{id}/status");
        let (_, body) = seen(rig.logged_in(Method::GET, &path).await).await.unwrap();
        let shown = value(&body);
        assert_eq!(shown["transaction_id"], id);
        assert_eq!(shown["transaction_status"], "settlement");
    }

    #[tokio::test]
    async fn ended_payments_refuse_with_412_and_tell_why_in_the_look_up() {
        let rig = Rig::start().await;
        let states = [
            ("settled", "settlement"),
            ("expired", "expire"),
            ("denied", "deny"),
            ("refunded", "refund"),
            ("already-cancelled", "cancel"),
            ("nonretryable", "authorize"),
        ];
        for (word, state) in states {
            assert_eq!(
                code(&cancel(&rig, word, "a").await),
                (200, "412".to_owned())
            );
            assert_eq!(status(&rig, word).await, state);
            assert_eq!(rig.effects(&format!("midtrans/{word}")).await, 0);
        }
        assert_eq!(code(&cancel(&rig, "not-found", "a").await).0, 404);
    }

    #[tokio::test]
    async fn answers_get_lost_with_and_without_effect() {
        let rig = Rig::start().await;
        for (word, effects) in [
            ("timeout-after-effect", 1),
            ("timeout-before-effect", 0),
            ("reset-after-effect", 1),
            ("stale-lookup", 1),
            ("hang", 0),
        ] {
            assert_eq!(cancel(&rig, word, "a").await, None, "{word}");
            assert_eq!(
                rig.effects(&format!("midtrans/{word}")).await,
                effects,
                "{word}"
            );
        }
        // The client library must not have sent it again by itself.
        assert_eq!(
            rig.money("midtrans/reset-after-effect").await["cancel_calls"],
            1
        );
        assert_eq!(status(&rig, "stale-lookup").await, "authorize");
        assert_eq!(status(&rig, "stale-lookup").await, "cancel");
        for (word, http, effects) in [
            ("error-after-effect", 500, 1),
            ("error-before-effect", 500, 0),
            ("garbage", 200, 1),
            ("rate-limited", 429, 0),
            ("retryable-twice", 503, 0),
        ] {
            assert_eq!(cancel(&rig, word, "a").await.unwrap().0, http, "{word}");
            assert_eq!(
                rig.effects(&format!("midtrans/{word}")).await,
                effects,
                "{word}"
            );
        }
    }

    #[tokio::test]
    async fn first_time_faults_heal() {
        let rig = Rig::start().await;
        for (word, faults) in [
            ("error-before-effect", 1),
            ("rate-limited", 1),
            ("wrong-token", 1),
            ("retryable-twice", 2),
        ] {
            for _ in 0..faults {
                assert_ne!(cancel(&rig, word, "a").await.unwrap().0, 200, "{word}");
            }
            assert_eq!(code(&cancel(&rig, word, "a").await).1, "200", "{word}");
            assert_eq!(rig.effects(&format!("midtrans/{word}")).await, 1, "{word}");
        }
        assert_eq!(code(&cancel(&rig, "forbidden", "a").await).0, 401);
        assert_eq!(code(&cancel(&rig, "forbidden", "a").await).0, 401);
    }

    #[tokio::test]
    async fn a_late_effect_comes_without_its_caller() {
        let rig = Rig::start().await;
        assert_eq!(cancel(&rig, "late-effect", "a").await, None);
        // The first call with this key still runs.
        assert_eq!(code(&cancel(&rig, "late-effect", "a").await).0, 202);
        assert_eq!(status(&rig, "late-effect").await, "authorize");
        tokio::time::sleep(Duration::from_millis(1100)).await;
        assert_eq!(status(&rig, "late-effect").await, "cancel");
        assert_eq!(code(&cancel(&rig, "late-effect", "a").await).1, "200");
        assert_eq!(rig.effects("midtrans/late-effect").await, 1);
    }

    #[tokio::test]
    async fn an_accepted_cancel_is_done_after_two_look_ups() {
        let rig = Rig::start().await;
        for word in ["accepted-then-done", "accepted-forever"] {
            assert_eq!(code(&cancel(&rig, word, "a").await).0, 202);
            for _ in 0..2 {
                assert_eq!(status(&rig, word).await, "authorize");
            }
        }
        assert_eq!(status(&rig, "accepted-then-done").await, "cancel");
        assert_eq!(status(&rig, "accepted-forever").await, "authorize");
        assert_eq!(
            code(&cancel(&rig, "accepted-then-done", "a").await).1,
            "200"
        );
    }

    #[tokio::test]
    async fn a_wrong_server_key_is_refused() {
        let rig = Rig::start().await;
        let call = rig.call(Method::POST, "/midtrans/v2/order-3/cancel");
        let (http, _) = seen(call.basic_auth("demo", Some(""))).await.unwrap();
        assert_eq!(http, 401);
        assert_eq!(rig.effects("midtrans/order-3").await, 0);
    }
}
