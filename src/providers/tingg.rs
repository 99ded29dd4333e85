//! Tingg (Cellulant), Checkout 2.8, in its own words: two shapes of answer, codes in two places. Pure.
//!
//! Pages: <https://docs.tingg.africa/docs/checkout-v2-custom-checkout-api-cancel-request> and
//! the query-status and authentication pages beside it.
//!
//! HTTP statuses are not documented, so the body is judged first. `status.statusCode` says
//! what became of the call, `results.requestStatusCode` what state the request is in; 133 is
//! a code of both and means something else in each, so it is never searched for.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Abilities, Account, Arrived, Ask, Asked, DoubtPolicy, Hint, Login, Notification, Provider,
    Reading, Request, Response, Setting, Token, by_http_status, loose_text, segment,
};
use crate::job::{Job, Payment};
use crate::oauth;
use crate::outcome::{Cancelled, Nothing, Operation, Refused, Unresolved, Verdict, Why};
use crate::strict;

/// Tingg.
pub(super) struct Tingg;

/// Life of a token whose answer does not tell; the documented one.
const TOKEN_LIFE: Duration = Duration::from_secs(120);

impl Provider for Tingg {
    fn kind(&self) -> &'static str {
        "tingg"
    }

    fn title(&self) -> &'static str {
        "Tingg"
    }

    fn settings(&self) -> &'static [Setting] {
        const {
            &[
                Setting::plain("client_id"),
                Setting::secret("client_secret"),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        match (account.plain("client_id"), account.secret("client_secret")) {
            (Some(""), _) => Err("client_id is empty".to_owned()),
            (_, Some("")) => Err("client_secret is empty".to_owned()),
            _ => Ok(()),
        }
    }

    /// There is no key: a repeat is recognised by the payment's own ids and answered 133.
    fn abilities(&self, _account: &Account, _job: &Job) -> Abilities {
        Abilities {
            lookup: true,
            finds_all: true,
            look_first: false,
            doubt: DoubtPolicy::LookUp,
        }
    }

    /// The merchant's id and the service name a payment; Tingg's own id is an addition.
    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        asked.whole_only(self.title())?;
        let service = asked.text("service_code")?;
        let merchant = asked.text("merchant_transaction_id")?;
        let checkout = asked.optional_integer("checkout_request_id")?;
        let key = payment_key(&service, &merchant);
        let mut ids: std::collections::BTreeMap<_, _> = [
            ("service_code", service),
            ("merchant_transaction_id", merchant),
        ]
        .into();
        ids.extend(checkout.map(|id| ("checkout_request_id", id)));
        Ok(Payment { key, ids })
    }

    fn cancel(&self, ask: &Ask<'_>) -> Request {
        Request::post("/requests/cancel".to_owned(), Some(parameters(ask)))
    }

    fn lookup(&self, ask: &Ask<'_>) -> Request {
        Request::post("/requests/query-status".to_owned(), Some(parameters(ask)))
    }

    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let answer = Answer::of(response);
        let verdict = match answer.source(ask, response) {
            Source::Unauthenticated => Verdict::Unauthorized,
            Source::Unclear => Verdict::Doubt,
            Source::Http => by_http_status(Operation::Cancel, response),
            Source::Body => cancel_verdict(&answer, response.is_success())
                .unwrap_or_else(|| unknown_code(Operation::Cancel, response)),
        };
        answer.reading(verdict, response)
    }

    fn read_lookup(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let answer = Answer::of(response);
        let verdict = match answer.source(ask, response) {
            Source::Unauthenticated => Verdict::Unauthorized,
            Source::Unclear => response.not_yet(),
            Source::Http => by_http_status(Operation::Lookup, response),
            Source::Body => lookup_verdict(&answer, response.is_success())
                .unwrap_or_else(|| unknown_code(Operation::Lookup, response)),
        };
        answer.reading(verdict, response)
    }

    /// A token of 120 seconds by client credentials, from below the same base URL.
    fn login(&self, account: &Account, _now: Timestamp, _nonce: &str) -> Result<Login, String> {
        let body = json!({
            "grant_type": "client_credentials",
            "client_id": account.plain("client_id").ok_or("client_id is missing")?,
            "client_secret": account.secret("client_secret").ok_or("client_secret is missing")?,
        });
        let request = Request::post("/oauth/token".to_owned(), Some(body.to_string()));
        Ok(Login::Fetch(request))
    }

    fn read_login(&self, response: &Response<'_>) -> Result<Token, String> {
        oauth::read(response, TOKEN_LIFE)
    }

    /// Also in the shape in which a token is refused, under a 500.
    fn refuses_login(&self, response: &Response<'_>) -> bool {
        Answer::of(response).refuses_the_token() || oauth::is_refusal(response)
    }

    /// The payment webhook, of the shape of a query-status answer and not signed. What is
    /// answered to it accepts or rejects money, which is not for a worker that cancels: the
    /// shop's own endpoint answers Tingg and passes a copy on.
    fn notification(&self, _account: &Account, arrived: &Arrived<'_>) -> Notification {
        let Some(body) = strict::json(arrived.body) else {
            return Notification::Unreadable("no JSON, or a key stands twice");
        };
        let results = match &body["results"] {
            inner if inner.is_object() => inner,
            _ => &body,
        };
        let text = |name: &str| loose_text(&results[name]);
        let (Some(service), Some(merchant)) = (text("serviceCode"), text("merchantTransactionID"))
        else {
            return Notification::Unreadable("serviceCode or merchantTransactionID is missing");
        };
        Notification::Hint(Hint {
            payments: vec![payment_key(&service, &merchant)],
            reported: text("requestStatusCode").and_then(|state| state_verdict(&state)),
            ..Hint::default()
        })
    }
}

/// The encoding keeps a slash in an id apart from the one between them.
fn payment_key(service: &str, merchant: &str) -> String {
    format!("{}/{}", segment(service), segment(merchant))
}

/// The three parameters that cancel and query-status share.
fn parameters(ask: &Ask<'_>) -> String {
    let payment = &ask.job.payment;
    let mut body = json!({
        "merchantTransactionID": payment.id("merchant_transaction_id"),
        "serviceCode": payment.id("service_code"),
    });
    // An integer on the wire; `payment` has taken it from one.
    if let Ok(id) = payment.id("checkout_request_id").parse::<i64>() {
        body["checkoutRequestID"] = id.into();
    }
    body.to_string()
}

/// The parts of an answer that mean something. An absent field is the empty string.
struct Answer {
    body: Value,
    /// `status.statusCode`: what became of the call.
    code: String,
    /// `results.requestStatusCode`: the state of the request.
    state: String,
}

/// What an answer can be judged by.
enum Source {
    /// Tingg wrote the body, about this payment.
    Body,
    /// Tingg refuses the token.
    Unauthenticated,
    /// There is no body of Tingg's own.
    Http,
    /// A server error, a redirect, or another payment.
    Unclear,
}

impl Answer {
    fn of(response: &Response<'_>) -> Self {
        let body = response.json();
        Self {
            code: loose_text(&body["status"]["statusCode"]).unwrap_or_default(),
            state: loose_text(&body["results"]["requestStatusCode"]).unwrap_or_default(),
            body,
        }
    }

    /// The refusal of a token is another shape with another casing
    /// (`{"message":"Unauthenticated.","status_code":500}`), under whatever HTTP status.
    fn refuses_the_token(&self) -> bool {
        let message = self.body["message"].as_str().unwrap_or("");
        let is_refusal = message.to_ascii_lowercase().starts_with("unauthenticated");
        is_refusal && !self.body["status"].is_object()
    }

    fn source(&self, ask: &Ask<'_>, response: &Response<'_>) -> Source {
        let has_status = self.body["status"].is_object();
        match response.status {
            _ if self.refuses_the_token() => Source::Unauthenticated,
            200..=499 if !has_status => Source::Http,
            200..=299 | 400..=499 if self.is_about(ask) => Source::Body,
            _ => Source::Unclear,
        }
    }

    /// False where the answer shows another payment. The page's sample answers another id
    /// than its sample request asks for; ids are compared all the same, where they are
    /// given: the other payment's state must never be taken for this one's.
    fn is_about(&self, ask: &Ask<'_>) -> bool {
        let same = |theirs: &str, ours: &str| {
            let ours = ask.job.payment.id(ours);
            let theirs = loose_text(&self.body["results"][theirs]);
            ours.is_empty() || theirs.is_none_or(|theirs| theirs == ours)
        };
        same("merchantTransactionID", "merchant_transaction_id")
            && same("serviceCode", "service_code")
            && same("checkoutRequestID", "checkout_request_id")
    }

    fn reading(&self, verdict: Verdict, response: &Response<'_>) -> Reading {
        let text = loose_text;
        let (status, results) = (&self.body["status"], &self.body["results"]);
        // Outside of the refusal of a token, a code of this name need not be Tingg's.
        let of_refusal = Some(&self.body["status_code"]).filter(|_| self.refuses_the_token());
        let code = text(&status["statusCode"]).or_else(|| text(of_refusal?));
        let message = text(&status["statusDescription"]).or_else(|| text(&self.body["message"]));
        Reading::of(verdict, response)
            .with(code, text(&results["requestStatusCode"]), message)
            .reference(
                "merchant_transaction_id",
                text(&results["merchantTransactionID"]),
            )
            .reference("checkout_request_id", text(&results["checkoutRequestID"]))
    }
}

/// The answer to a cancel
/// (<https://docs.tingg.africa/docs/checkout-v2-custom-checkout-api-cancel-request>); `None`
/// where the code is not on that page. What is sent after expiry or full payment is not
/// documented, so an unknown code is doubt and the look-up says what it was.
fn cancel_verdict(answer: &Answer, is_success: bool) -> Option<Verdict> {
    Some(match (answer.code.as_str(), answer.state.as_str()) {
        ("133", "181" | "180") => cancelled(Cancelled::ReversalPending, true),
        ("133", "" | "131" | "133") => cancelled(Cancelled::Cancelled, true),
        // Cancelled before, in a state that is not cancelled.
        ("133", _) => Verdict::Doubt,
        // 133 in here is the page's own sample of a success.
        ("200", "131" | "133") if is_success => cancelled(Cancelled::Cancelled, false),
        ("200", "181") if is_success => cancelled(Cancelled::ReversalPending, false),
        // Also under a 4xx: what contradicts itself is not judged by HTTP either.
        ("200" | "500", _) => Verdict::Doubt,
        // A parameter is missing.
        ("1017", _) => Verdict::Misconfigured(Why::Rejected),
        _ => return error_verdict(&answer.code),
    })
}

/// The answer to a look-up, by the states listed in
/// <https://docs.tingg.africa/docs/checkout-v2-custom-checkout-api-cancel-request> and in the
/// query-status page; `None` where it means nothing known.
fn lookup_verdict(answer: &Answer, is_success: bool) -> Option<Verdict> {
    match answer.code.as_str() {
        "200" if is_success => state_verdict(&answer.state),
        "1015" => Some(Verdict::Misconfigured(Why::Rejected)),
        code => error_verdict(code),
    }
}

fn state_verdict(state: &str) -> Option<Verdict> {
    Some(match state {
        // New; a payment failed and the request is still open.
        "130" | "99" => Verdict::StillOpen,
        "131" | "133" => cancelled(Cancelled::Cancelled, true),
        // 180: paid in full and rejected by the merchant. It is the state that a cancel
        // puts payments into ("rejected", reversal follows), reached another way.
        "181" | "180" => cancelled(Cancelled::ReversalPending, true),
        // 179: expired with a partial payment, which is reversed.
        "129" | "179" => Verdict::NothingToCancel(Nothing::Expired),
        // Partly paid and closed.
        "176" => Verdict::Refused(Refused::NotEligible),
        // Paid; paid and accepted; paid, to be acknowledged later; a part of it will be refunded (184), or
        // is (186), which leaves the rest with the merchant.
        "178" | "183" | "184" | "186" | "188" => Verdict::Refused(Refused::Settled),
        // All of it will be refunded, and the refund may expire (191).
        "185" => Verdict::Accepted,
        "187" => Verdict::Refused(Refused::AlreadyRefunded),
        "191" => Verdict::Unresolved(Unresolved::RefundFailed),
        // 422, "invalid", tells nothing either.
        _ => return None,
    })
}

/// The codes that mean the same to both calls.
fn error_verdict(code: &str) -> Option<Verdict> {
    Some(match code {
        "1001" => Verdict::NotFound,
        // No JSON, or a parameter missing. Further codes mean something at one call only.
        "1013" | "1014" => Verdict::Misconfigured(Why::Rejected),
        _ => return None,
    })
}

fn cancelled(reason: Cancelled, already: bool) -> Verdict {
    Verdict::Cancelled { reason, already }
}

/// A code that no page lists. HTTP is asked only for what it says of every API alike.
fn unknown_code(operation: Operation, response: &Response<'_>) -> Verdict {
    match response.status {
        401 | 403 | 429 => by_http_status(operation, response),
        _ => response.unread(operation),
    }
}
