//! Pismo, in its own words: one call whose repeat under the same key is the only question. Pure.
//!
//! Pages: <https://developers.pismo.io/pismo-docs/docs/cancel-a-transfer>,
//! <https://developers.pismo.io/pismo-docs/reference/post-payments-v2-cancel>,
//! <https://developers.pismo.io/pismo-docs/docs/authentication-with-oauth2>.
//!
//! "Same `tracking_id`" means "same request", and without one each POST is a new cancellation,
//! so it is always sent. No page lists error codes: refusals are read by HTTP class, and their
//! kind by the words of the message ([`refusal`]).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Abilities, Account, Ask, Asked, DoubtPolicy, Login, Provider, Reading, Request, Response,
    Setting, Token, by_http_status, loose_text,
};
use crate::job::{Job, Payment};
use crate::oauth;
use crate::outcome::{Cancelled, Operation, Refused, Verdict, Why};

/// Pismo.
pub(super) struct Pismo;

const CANCEL: &str = "/payments/v2/cancel";
const TOKEN: &str = "/passport/v2/oauth/token";

/// No page says how long a `tracking_id` is remembered. A day is the custom of the trade; a
/// repeat after it could cancel a second slice, so nothing is repeated then. An hour less, for a clock
/// that was set back meanwhile and the time from the decision to the provider.
const KEY_LIFE: Duration = Duration::from_secs(23 * 3600);

/// Where an answer does not tell; the page only says that tokens expire.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);

impl Provider for Pismo {
    fn kind(&self) -> &'static str {
        "pismo"
    }

    fn title(&self) -> &'static str {
        "Pismo"
    }

    /// `scope` and `uid` (for a token of one account) are parameters of the token endpoint.
    fn settings(&self) -> &'static [Setting] {
        const {
            &[
                Setting::plain("client_id"),
                Setting::secret("client_secret"),
                Setting::plain("scope").optional(),
                Setting::plain("uid").optional(),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        let given = |value: Option<&str>| value.is_some_and(|text| !text.is_empty());
        match (
            given(account.plain("client_id")),
            given(account.secret("client_secret")),
        ) {
            (false, _) => Err("client_id is empty".to_owned()),
            (_, false) => Err("client_secret is empty".to_owned()),
            _ => Ok(()),
        }
    }

    fn abilities(&self, _account: &Account, _job: &Job) -> Abilities {
        Abilities {
            lookup: false,
            finds_all: true,
            look_first: false,
            doubt: DoubtPolicy::SameKey { key_life: KEY_LIFE },
        }
    }

    /// The page: "the `original_tracking_id` or the `authorization_id`", and the amount, also
    /// for a total cancellation.
    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        let authorization = asked.optional_integer("authorization_id")?;
        let tracking = asked.optional_text("original_tracking_id")?;
        let amount = asked
            .amount
            .ok_or("amount is missing: Pismo needs it for a total cancellation too")?;
        if amount.is_zero() {
            return Err("amount is zero".to_owned());
        }
        if let Some(currency) = asked.currency {
            amount.minor_units(currency).map_err(|e| e.to_string())?;
        }
        let (name, id) = match (authorization, tracking) {
            (Some(id), None) => ("authorization_id", id),
            (None, Some(id)) => ("original_tracking_id", id),
            _ => {
                return Err(
                    "give exactly one of payment.authorization_id and payment.original_tracking_id"
                        .to_owned(),
                );
            }
        };
        Ok(Payment {
            key: format!("{name}:{id}"),
            ids: [(name, id)].into(),
        })
    }

    fn cancel(&self, ask: &Ask<'_>) -> Request {
        Request::post(CANCEL.to_owned(), Some(body(ask)))
    }

    /// Never asked: no page has a question by `tracking_id`.
    fn lookup(&self, _ask: &Ask<'_>) -> Request {
        Request::get(CANCEL.to_owned())
    }

    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let verdict = match response.status {
            200..=299 => done(ask, &body),
            400 | 422 if body.is_object() => refusal(&body),
            // A gateway's has no code of Pismo's.
            404 if loose_text(&body["code"]).is_some() => Verdict::NotFound,
            // No page says that a 503 was not processed, and the same call again is safe.
            _ => by_http_status(Operation::Cancel, response),
        };
        reading(verdict, response, &body)
    }

    fn read_lookup(&self, _ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        reading(response.not_yet(), response, &response.json())
    }

    /// The page says "follows the RFC 6749 specification": a form, with Pismo's own name for
    /// the secret.
    fn login(&self, account: &Account, _now: Timestamp, _nonce: &str) -> Result<Login, String> {
        let secret = account.secret("client_secret");
        let fields = [
            ("grant_type", Some("client_credentials")),
            ("client_id", account.plain("client_id")),
            ("client_secret_string", secret),
            ("scope", account.plain("scope")),
            ("uid", account.plain("uid")),
        ];
        let given: Vec<_> = fields
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        Ok(Login::Fetch(oauth::ask(TOKEN, &given)))
    }

    fn read_login(&self, response: &Response<'_>) -> Result<Token, String> {
        oauth::read(response, TOKEN_LIFE)
    }
}

/// Written out by hand: the amount has to be the published decimal, and a JSON library would
/// carry it through a float. An amount is digits and a point, an `authorization_id` digits,
/// both checked when the request was taken.
fn body(ask: &Ask<'_>) -> String {
    let ids = &ask.job.payment.ids;
    let original = match ids.get("authorization_id") {
        Some(digits) => format!(r#""authorization_id":{digits}"#),
        None => {
            let text = Value::from(ask.job.payment.id("original_tracking_id"));
            format!(r#""original_tracking_id":{text}"#)
        }
    };
    let amount = ask
        .job
        .amount
        .map_or_else(String::new, |amount| format!(r#""amount":{amount},"#));
    format!(
        r#"{{{original},{amount}"tracking_id":{}}}"#,
        Value::from(ask.key)
    )
}

/// A 2xx. The page gives no success code: it is one when it names the authorisations that are "generated
/// at the end of the cancellation process". Our own `tracking_id` is only what we sent.
fn done(ask: &Ask<'_>, body: &Value) -> Verdict {
    let is_about = match loose_text(&body["tracking_id"]) {
        Some(id) => id.eq_ignore_ascii_case(ask.key),
        None => true,
    };
    let side = |name: &str| authorization(&body["authorization_ids"][name]).is_some();
    if !is_about || !(side("credit") || side("debit")) {
        return Verdict::Doubt;
    }
    Verdict::Cancelled {
        reason: Cancelled::Reversed,
        already: false,
    }
}

/// A number. The side that does not apply is `0` in one sample of the page and `null` in another.
fn authorization(value: &Value) -> Option<String> {
    loose_text(value).filter(|id| id.parse::<u64>().is_ok_and(|id| id > 0))
}

/// A 400 or 422 of Pismo's own: a definite no, whose kind only its words tell. Pismo denies partial
/// cancellations that together exceed the original, so an excess is about the amount, where its words are;
/// a field called missing or malformed is a fault of ours; anything else is a denial.
///
/// What says that there was no time, or too much at once, is no denial: the same call is the question.
fn refusal(body: &Value) -> Verdict {
    let words = ["code", "message", "error"].map(|name| loose_text(&body[name]));
    let words = words
        .map(Option::unwrap_or_default)
        .join(" ")
        .to_lowercase()
        .replace('_', " ")
        // The name of a field, and not the original.
        .replace("original tracking id", "id");
    let any = |list: &[&str]| list.iter().any(|word| words.contains(word));
    if any(&BUSY) {
        Verdict::Doubt
    } else if any(&EXCESS) && any(&AMOUNT) && !any(&OTHER_MEASURES) {
        Verdict::Refused(Refused::AmountNotAllowed)
    } else if any(&MALFORMED) {
        Verdict::Misconfigured(Why::Rejected)
    } else {
        Verdict::Refused(Refused::NotEligible)
    }
}

const BUSY: [&str; 8] = [
    "deadline",
    "timeout",
    "time out",
    "timed out",
    "rate limit",
    "rate exceeded",
    "too many requests",
    "throttl",
];

const EXCESS: [&str; 8] = [
    "exceed",
    "greater than",
    "higher than",
    "more than",
    "less than",
    "lower than",
    "at most",
    "insufficient",
];

const AMOUNT: [&str; 3] = ["amount", "value", "original"];

/// Of an age, or of a text's length.
const OTHER_MEASURES: [&str; 3] = ["days", "hours", "characters"];

const MALFORMED: [&str; 9] = [
    "required",
    "missing",
    "malformed",
    "invalid request",
    "invalid json",
    "unmarshal",
    "must be",
    "bad request",
    "validation",
];

fn reading(verdict: Verdict, response: &Response<'_>, body: &Value) -> Reading {
    let message = body["message"].as_str().or(body["error"].as_str());
    let side = |name: &str| authorization(&body["authorization_ids"][name]);
    Reading::of(verdict, response)
        .with(loose_text(&body["code"]), None, message.map(str::to_owned))
        .reference(
            "tracking_id",
            body["tracking_id"].as_str().map(str::to_owned),
        )
        .reference("authorization_ids.credit", side("credit"))
        .reference("authorization_ids.debit", side("debit"))
}
