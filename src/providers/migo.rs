//! Migo, in its own words: a dismiss that cannot be asked about afterwards. Pure.
//!
//! Pages: <https://api-docs.migopayments.com/en/alternative-payments/dismiss-transaction>,
//! <https://api-docs.migopayments.com/en/concepts/error-handling>,
//! <https://api-docs.migopayments.com/en/introduction/authentication>.
//!
//! HTTP statuses are business codes here, so an error is believed as the pair of its status
//! and Migo's `ownCode`. 409/4020 covers "paid" as well as "dismissed before": it is never
//! a success.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Abilities, Account, Arrived, Ask, Asked, DoubtPolicy, Hint, Login, Notification, Provider,
    Reading, Request, Response, Setting, Via, by_http_status, is_visible, loose_text, segment,
};
use crate::job::{Job, Payment};
use crate::notification::same;
use crate::outcome::{Cancelled, Cause, Nothing, Operation, Refused, Verdict};
use crate::strict;

/// Migo.
pub(super) struct Migo;

impl Provider for Migo {
    fn kind(&self) -> &'static str {
        "migo"
    }

    fn title(&self) -> &'static str {
        "Migo"
    }

    /// `notification_token` is the static header value handed to Migo for its callback.
    fn settings(&self) -> &'static [Setting] {
        const {
            &[
                Setting::secret("token"),
                Setting::secret("notification_token").optional(),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        for key in ["token", "notification_token"] {
            if account.secret(key).is_some_and(|value| !is_visible(value)) {
                return Err(format!(
                    "{key} is empty or holds a space; it is given without the word Bearer"
                ));
            }
        }
        Ok(())
    }

    /// A second dismiss cannot undo a payment, but its 409 does not tell "dismissed" from
    /// "paid"
    /// (<https://api-docs.migopayments.com/en/alternative-payments/dismiss-transaction>),
    /// and no page shows a way to ask for the state.
    fn abilities(&self, _account: &Account, _job: &Job) -> Abilities {
        Abilities {
            lookup: false,
            finds_all: true,
            look_first: false,
            doubt: DoubtPolicy::AskOnceMore,
        }
    }

    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        asked.whole_only(self.title())?;
        let id = asked.text("transaction_id")?;
        Ok(Payment {
            key: format!("transaction_id:{id}"),
            ids: [("transaction_id", id)].into(),
        })
    }

    /// The body is optional and free; the reason goes into Migo's audit.
    fn cancel(&self, ask: &Ask<'_>) -> Request {
        let reason = ask.job.reason.as_ref();
        let body = reason.map(|reason| json!({ "reason": reason }).to_string());
        Request::post(format!("{}/dismiss", transaction_path(ask)), body)
    }

    /// Never called; a GET, so that even a mistake could change nothing.
    fn lookup(&self, ask: &Ask<'_>) -> Request {
        Request::get(transaction_path(ask))
    }

    fn read_cancel(&self, _ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let verdict = if response.is_success() {
            success_verdict(response, &body).unwrap_or(Verdict::Doubt)
        } else {
            error_verdict(response, own_code(&body).as_deref())
        };
        reading(verdict, response, &body)
    }

    fn read_lookup(&self, _ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        Reading::of(response.not_yet(), response)
    }

    /// A long-lived merchant token
    /// (<https://api-docs.migopayments.com/en/introduction/authentication>). The pages
    /// disagree on whether `Bearer` may be left out; nowhere may it not be there.
    fn login(&self, account: &Account, _now: Timestamp, _nonce: &str) -> Result<Login, String> {
        let token = account.secret("token").ok_or("token is missing")?;
        Ok(Login::Static(format!("Bearer {token}").into()))
    }

    /// The callback is not signed
    /// (<https://api-docs.migopayments.com/en/card-payments/merchant-generic-callback>). A
    /// static `Authorization` header keeps strangers from the endpoint and says nothing of
    /// the body; being a secret, it is not published with it.
    fn notification(&self, account: &Account, arrived: &Arrived<'_>) -> Notification {
        if let (Some(token), Via::Endpoint) = (account.secret("notification_token"), arrived.via) {
            let given = (arrived.header)("authorization").unwrap_or_default();
            let given = given.strip_prefix("Bearer ").unwrap_or(given);
            if !bool::from(same(given.as_bytes(), token.as_bytes())) {
                return Notification::Forged("the Authorization header is not notification_token");
            }
        }
        let Some(body) = strict::json(arrived.body) else {
            return Notification::Unreadable("no JSON, or a key stands twice");
        };
        let Some(id) = loose_text(&body["uid"]) else {
            return Notification::Unreadable("uid is missing");
        };
        Notification::Hint(Hint {
            payments: vec![format!("transaction_id:{id}")],
            reported: claimed(body["status"].as_str().unwrap_or_default()),
            ..Hint::default()
        })
    }
}

/// The final states of a callback; Migo's surfaces differ in the case they write them in.
fn claimed(status: &str) -> Option<Verdict> {
    Some(match status.to_ascii_uppercase().as_str() {
        "DISMISSED" | "CANCELLED" => Verdict::Cancelled {
            reason: Cancelled::Dismissed,
            already: true,
        },
        "APPROVED" => Verdict::Refused(Refused::Settled),
        "DENIED" => Verdict::NothingToCancel(Nothing::Denied),
        "EXPIRED" => Verdict::NothingToCancel(Nothing::Expired),
        _ => return None,
    })
}

fn transaction_path(ask: &Ask<'_>) -> String {
    let id = segment(ask.job.payment.id("transaction_id"));
    format!("/api/v1/integrations/transactions/{id}")
}

/// The two shapes of success, whatever the content type says
/// (<https://api-docs.migopayments.com/en/alternative-payments/dismiss-transaction>). The
/// `uid` is not compared with our id: no page says that they are the same.
fn success_verdict(response: &Response<'_>, body: &Value) -> Option<Verdict> {
    let status = body["transaction"]["status"].as_str().unwrap_or("");
    let reason = match status.to_ascii_uppercase().as_str() {
        "DISMISSED" => Cancelled::Dismissed,
        "CANCELLED" => Cancelled::Cancelled,
        "" if response.body.trim_ascii() == b"OK" => Cancelled::Dismissed,
        _ => return None,
    };
    Some(Verdict::Cancelled {
        reason,
        already: false,
    })
}

/// An error by its status and `ownCode`
/// (<https://api-docs.migopayments.com/en/alternative-payments/dismiss-transaction>,
/// <https://api-docs.migopayments.com/en/concepts/error-handling>).
///
/// 503 is maintenance, and not processed; a gateway's page may follow a call that was passed on. 502
/// says that something behind Migo could not be reached, which may have been after the processor was
/// called; 504 and 500 likewise: doubt.
fn error_verdict(response: &Response<'_>, own_code: Option<&str>) -> Verdict {
    match (response.status, own_code) {
        (404, Some("2000")) => Verdict::NotFound,
        (405, Some("4021")) => Verdict::Refused(Refused::Unsupported),
        (409, Some("4020")) => Verdict::Refused(Refused::NotEligible),
        (503, _) if response.is_object() => {
            Verdict::unprocessed(Operation::Cancel, response.retry_after, Cause::Retryable)
        }
        _ => by_http_status(Operation::Cancel, response),
    }
}

/// Where the code may be: the middleware's envelope is documented in words only.
fn envelopes(body: &Value) -> [&Value; 3] {
    [body, &body["error"], &body["errors"][0]]
}

fn own_code(body: &Value) -> Option<String> {
    envelopes(body)
        .iter()
        .find_map(|e| loose_text(&e["ownCode"]))
}

fn reading(verdict: Verdict, response: &Response<'_>, body: &Value) -> Reading {
    let message = envelopes(body)
        .iter()
        .find_map(|e| loose_text(&e["message"]));
    let is_dismissed = matches!(verdict, Verdict::Cancelled { .. });
    let plain = || is_dismissed.then(|| "OK".to_owned());
    let status = loose_text(&body["transaction"]["status"]).or_else(plain);
    Reading::of(verdict, response)
        .with(own_code(body), status, message)
        .reference("uid", loose_text(&body["transaction"]["uid"]))
}
