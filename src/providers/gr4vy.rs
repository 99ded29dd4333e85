//! Gr4vy, in its own words: two ways to cancel, chosen by the state, and tokens made here. Pure.
//!
//! Pages: <https://docs.gr4vy.com/reference/transactions/void-transaction>,
//! <https://docs.gr4vy.com/guides/api/idempotent-requests>,
//! <https://docs.gr4vy.com/guides/timeouts>, and the specification
//! <https://github.com/gr4vy/gr4vy-openapi/blob/main/openapi.json>.
//!
//! An authorised payment is voided, a pending one is cancelled, by different endpoints: so the
//! transaction is looked up first and teaches the route. A 200 is no success by itself, its
//! inner `status` is. Which error a call in the wrong state gets is not specified: after a 4xx
//! the look-up tells whether the state was the reason.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Abilities, Account, Arrived, Ask, Asked, DoubtPolicy, Login, Notification, Provider, Reading,
    Request, Response, Setting, Token, by_http_status, in_one_case, is_client_error, is_visible,
    loose_text, segment,
};
use crate::es512::SigningKey;
use crate::job::{Job, Payment};
use crate::outcome::{Cancelled, Cause, Operation, Verdict, Why};

mod key;
mod state;
mod webhook;

use state::{by_state, is_cancelled, is_in_force, is_set, is_under_way, status};

/// Gr4vy.
pub(super) struct Gr4vy;

/// Life of a token made here; the SDKs use 30 s and 3600 s.
const TOKEN_LIFE: Duration = Duration::from_secs(300);

/// A token is dated back, since a verifier whose clock is behind refuses one of the future.
const CLOCK_SKEW: i64 = 30;

/// Learned: `void` or `cancel`, by the state that was seen last.
const ROUTE: &str = "route";
/// Learned: the route that was refused and what that means if the state is not the reason.
const REFUSED_WITH: &str = "refused_with";

impl Provider for Gr4vy {
    fn kind(&self) -> &'static str {
        "gr4vy"
    }

    fn title(&self) -> &'static str {
        "Gr4vy"
    }

    fn settings(&self) -> &'static [Setting] {
        const {
            &[
                Setting::secret("private_key"),
                Setting::plain("merchant_account_id").optional(),
                Setting::secret("webhook_secrets").several(),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        signing_key(account)?;
        match account.plain("merchant_account_id") {
            Some(id) if !is_visible(id) => {
                Err("merchant_account_id is empty or no plain text".to_owned())
            }
            _ => Ok(()),
        }
    }

    /// Gr4vy's pages contradict each other on whether a void's idempotency key is honoured:
    /// it is sent and never relied upon.
    fn abilities(&self, _account: &Account, _job: &Job) -> Abilities {
        Abilities {
            lookup: true,
            finds_all: true,
            look_first: true,
            doubt: DoubtPolicy::LookUp,
        }
    }

    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        asked.whole_only(self.title())?;
        let id = asked.text("transaction_id")?;
        Ok(Payment {
            key: in_one_case(&id),
            ids: [("transaction_id", id)].into(),
        })
    }

    /// `prefer` makes a void answer with its own result instead of the transaction.
    fn cancel(&self, ask: &Ask<'_>) -> Request {
        let route = Route::learned(ask);
        let path = format!("{}/{}", transaction_path(ask), route.as_str());
        let request = for_merchant(Request::post(path, None), ask);
        match route {
            Route::Void => request
                .header("prefer", "resource=transaction-void")
                .header("idempotency-key", key::of_void(ask)),
            Route::Cancel => request,
        }
    }

    fn lookup(&self, ask: &Ask<'_>) -> Request {
        for_merchant(Request::get(transaction_path(ask)), ask)
    }

    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let (verdict, refused_with) = match response.status {
            200..=299 => (result(ask, &body), None),
            _ => not_done(ask, &body, response),
        };
        let route = Route::learned(ask).as_str();
        let refused_with = refused_with.map(|why| format!("{route}:{}", why.as_str()));
        let generation = key::next_generation(ask, &verdict, response);
        reading(verdict, response, &body)
            .learn(REFUSED_WITH, refused_with.or_else(|| forgotten(ask)))
            .learn(key::GENERATION, generation)
    }

    fn read_lookup(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let not_yet = response.not_yet();
        if !response.is_success() {
            let verdict = of_http(Operation::Lookup, response, &body);
            return reading(verdict, response, &body);
        }
        if !is_about(ask, &body) {
            return reading(not_yet, response, &body);
        }
        match Route::of_state(&body) {
            Some(route) => reading(still_open(ask, route), response, &body)
                .learn(ROUTE, Some(route.as_str().to_owned())),
            None if is_under_way(&body) => reading(Verdict::Accepted, response, &body),
            None => reading(by_state(&body).unwrap_or(not_yet), response, &body),
        }
        .learn(REFUSED_WITH, forgotten(ask))
    }

    /// Claims and scopes as Gr4vy's SDKs make them
    /// (<https://github.com/gr4vy/gr4vy-typescript>); there is no token endpoint.
    fn login(&self, account: &Account, now: Timestamp, nonce: &str) -> Result<Login, String> {
        let now = now.as_second();
        let life = i64::try_from(TOKEN_LIFE.as_secs()).unwrap_or(0);
        let token = signing_key(account)?.token(&json!({
            "iss": "rescind",
            "iat": now - CLOCK_SKEW,
            "nbf": now - CLOCK_SKEW,
            "exp": now + life,
            "jti": nonce,
            "scopes": ["transactions.read", "transactions.write"],
        }));
        Ok(Login::Minted(Token {
            authorization: format!("Bearer {}", token.map_err(named)?).into(),
            life: TOKEN_LIFE,
        }))
    }

    fn notification(&self, account: &Account, arrived: &Arrived<'_>) -> Notification {
        webhook::read(account, arrived)
    }

    fn notification_headers(&self) -> &'static [&'static str] {
        &webhook::HEADERS
    }
}

fn signing_key(account: &Account) -> Result<SigningKey, String> {
    SigningKey::from_pem(account.secret("private_key").unwrap_or_default()).map_err(named)
}

fn named(problem: String) -> String {
    format!("private_key {problem}")
}

/// The two endpoints that cancel.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Route {
    Void,
    Cancel,
}

impl Route {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Void => "void",
            Self::Cancel => "cancel",
        }
    }

    /// The route of the last look-up. The state is always asked first.
    fn learned(ask: &Ask<'_>) -> Self {
        match ask.learned(ROUTE) {
            Some("cancel") => Self::Cancel,
            _ => Self::Void,
        }
    }

    /// The route that an open transaction takes.
    fn of_state(body: &Value) -> Option<Self> {
        if is_set(&body["voided_at"]) || is_set(&body["canceled_at"]) {
            return None;
        }
        match status(body).as_str() {
            "authorization_succeeded" => Some(Self::Void),
            "processing" | "buyer_approval_pending" => Some(Self::Cancel),
            _ => None,
        }
    }
}

/// What a call was refused with speaks of the next state that is seen, and of no later call.
fn forgotten(ask: &Ask<'_>) -> Option<String> {
    ask.learned(REFUSED_WITH).map(|_| String::new())
}

fn transaction_path(ask: &Ask<'_>) -> String {
    format!(
        "/transactions/{}",
        segment(ask.job.payment.id("transaction_id"))
    )
}

fn for_merchant(request: Request, ask: &Ask<'_>) -> Request {
    match ask.account.plain("merchant_account_id") {
        Some(id) => request.header("x-gr4vy-merchant-account-id", id),
        None => request,
    }
}

/// False for an answer that is about another transaction than the one asked for.
fn is_about(ask: &Ask<'_>, transaction: &Value) -> bool {
    let ours = ask.job.payment.id("transaction_id");
    match loose_text(&transaction["id"]) {
        Some(id) => id.eq_ignore_ascii_case(ours),
        None => true,
    }
}

/// A 2xx to the void or cancel.
fn result(ask: &Ask<'_>, body: &Value) -> Verdict {
    let transaction = match &body["transaction"] {
        inner if inner.is_object() => inner,
        _ => body,
    };
    if !is_about(ask, transaction) {
        return Verdict::Doubt;
    }
    let route = Route::learned(ask);
    match status(body).as_str() {
        "succeeded" if is_in_force(transaction) => Verdict::Doubt,
        "succeeded" => cancelled(route, false),
        "pending" => Verdict::Accepted,
        // No success; whether the state is the reason, only the look-up says.
        "declined" | "failed" => Verdict::NotYet { after: None },
        // `prefer` was not honoured: the transaction itself.
        "authorization_voided" => cancelled(Route::Void, false),
        "authorization_void_pending" => Verdict::Accepted,
        _ if route == Route::Cancel && is_cancelled(body) => cancelled(route, false),
        _ => Verdict::Doubt,
    }
}

fn cancelled(route: Route, already: bool) -> Verdict {
    Verdict::Cancelled {
        reason: match route {
            Route::Void => Cancelled::Voided,
            Route::Cancel => Cancelled::Cancelled,
        },
        already,
    }
}

/// Any other answer to the void or cancel, and what it means if the state is not the reason.
fn not_done(ask: &Ask<'_>, body: &Value, response: &Response<'_>) -> (Verdict, Option<Why>) {
    let again = Verdict::Again {
        after: response.retry_after,
        cause: Cause::Retryable,
    };
    let not_yet = response.not_yet();
    match (response.status, body["code"].as_str().unwrap_or_default()) {
        (403, _) => (not_yet, Some(Why::Credentials)),
        // The one that still runs is perhaps an earlier attempt of ours.
        (409, "concurrent_request") if ask.exposed => (Verdict::Doubt, None),
        (409, "concurrent_request") | (425, _) => (again, None),
        (409, "duplicate_record") => (not_yet, None),
        (401 | 404 | 408 | 409 | 429, _) => (of_http(Operation::Cancel, response, body), None),
        // Any other one is a gateway's, which may have passed the call on.
        (status, _) if is_client_error(status) => (not_yet, Some(Why::Rejected)),
        _ => (of_http(Operation::Cancel, response, body), None),
    }
}

/// HTTP alone. A transaction that is not there is told in Gr4vy's own shape; any other 404 is a wrong
/// base URL, and no word on the payment.
fn of_http(operation: Operation, response: &Response<'_>, body: &Value) -> Verdict {
    match response.status {
        404 if body["code"] == "not_found" || body["type"] == "error" => Verdict::NotFound,
        _ => by_http_status(operation, response),
    }
}

/// Open. Where the last call was refused in a state that allowed it, the state was not the
/// reason; where the state has moved on since, it was.
fn still_open(ask: &Ask<'_>, route: Route) -> Verdict {
    let refused_with = ask.learned(REFUSED_WITH).and_then(|r| r.split_once(':'));
    match refused_with {
        Some((refused, why)) if refused == route.as_str() => {
            Why::named(why).map_or(Verdict::StillOpen, Verdict::Barred)
        }
        _ => Verdict::StillOpen,
    }
}

/// The three shapes: an operation's result, a transaction or error, and a failed validation. Code and status of
/// an error in another form are a gateway's, and no sign that Gr4vy has answered.
fn reading(verdict: Verdict, response: &Response<'_>, body: &Value) -> Reading {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let is_its_own = response.is_success() || body["type"] == "error";
    let code = ["code", "error_code", "raw_response_code"];
    let code = code.iter().find_map(|field| loose_text(&body[*field]));
    let (code, status) = if is_its_own {
        (code, text(&body["status"]))
    } else {
        (None, None)
    };
    let message = text(&body["message"])
        .or_else(|| text(&body["raw_response_description"]))
        .or_else(|| text(&body["detail"][0]["msg"]))
        .or_else(|| text(&body["detail"]));
    Reading::of(verdict, response).with(code, status, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use secrecy::ExposeSecret as _;

    fn account() -> Account {
        let key = crate::es512::tests::PKCS8.to_owned().into();
        Account {
            secrets: [("private_key".to_owned(), vec![key])].into(),
            ..Account::default()
        }
    }

    #[test]
    fn a_token_says_who_until_when_and_for_what() {
        let now = Timestamp::from_second(1_700_000_000).expect("a time");
        let Ok(Login::Minted(token)) = Gr4vy.login(&account(), now, "nonce-1") else {
            panic!("no token was made");
        };
        assert_eq!(token.life, TOKEN_LIFE);
        let jwt = token
            .authorization
            .expose_secret()
            .strip_prefix("Bearer ")
            .expect("a scheme");
        let parts: Vec<Value> = jwt
            .split('.')
            .take(2)
            .map(|part| URL_SAFE_NO_PAD.decode(part).expect("base64url"))
            .map(|json| serde_json::from_slice(&json).expect("JSON"))
            .collect();
        assert_eq!(parts[0]["alg"], "ES512");
        assert_eq!(parts[0]["typ"], "JWT");
        assert_eq!(
            parts[0]["kid"],
            "yqCt3pl_5Cde5H-6JQkVs7LOUwJWK1dWiBE0UzHE8eA"
        );
        let expected = json!({
            "iss": "rescind", "iat": 1_699_999_970, "nbf": 1_699_999_970, "exp": 1_700_000_300,
            "jti": "nonce-1", "scopes": ["transactions.read", "transactions.write"],
        });
        assert_eq!(parts[1], expected);
    }

    #[test]
    fn a_wrong_key_is_named_and_not_shown() {
        let wrong = vec!["hunter2".to_owned().into()];
        let account = Account {
            secrets: [("private_key".to_owned(), wrong)].into(),
            ..Account::default()
        };
        let error = Gr4vy.check(&account).expect_err("no key");
        assert!(
            error.starts_with("private_key ") && !error.contains("hunter2"),
            "{error}"
        );
        assert!(Gr4vy.check(&self::account()).is_ok());
    }
}
