//! Midtrans, in its own words: one cancel for whole payments, judged by the body first. Pure.
//!
//! Pages: <https://docs.midtrans.com/reference/cancel-transaction>,
//! <https://docs.midtrans.com/reference/cancel-transaction-card>,
//! <https://docs.midtrans.com/reference/get-transaction-status>,
//! <https://docs.midtrans.com/reference/code-4xx>,
//! <https://docs.midtrans.com/reference/api-headers>.
//!
//! The transport status and the body's `status_code` differ: the documentation shows the
//! 412 body under HTTP 200. So the body is believed first, and HTTP only where there is none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::Offset;
use serde_json::Value;

use super::{
    Abilities, Account, Arrived, Ask, Asked, DoubtPolicy, Hint, Learned, Login, Notification,
    Provider, Reading, Request, Response, Setting, by_http_status, in_one_case, is_visible,
    loose_text, segment,
};
use crate::job::{Job, Payment};
use crate::notification::is_sha512_of;
use crate::outcome::{Cancelled, Cause, Nothing, Operation, Refused, Unresolved, Verdict, Why};
use crate::strict;

/// Midtrans.
pub(super) struct Midtrans;

impl Provider for Midtrans {
    fn kind(&self) -> &'static str {
        "midtrans"
    }

    fn title(&self) -> &'static str {
        "Midtrans"
    }

    /// Calls use `server_key`; notifications signed with one of `further_server_keys` are
    /// taken as well, while a key is replaced.
    fn settings(&self) -> &'static [Setting] {
        const {
            &[
                Setting::secret("server_key"),
                Setting::secret("further_server_keys").several(),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        if !account.secret("server_key").is_some_and(is_visible) {
            return Err("server_key is empty or holds a space".to_owned());
        }
        if account.secrets("further_server_keys").all(is_visible) {
            Ok(())
        } else {
            Err("one of further_server_keys is empty or holds a space".to_owned())
        }
    }

    /// A key lives for five minutes only and some payment methods ignore it
    /// (<https://docs.midtrans.com/reference/api-headers>), so doubt is cleared up by asking.
    /// DANA's and BI-SNAP's payments are found by transaction id only.
    fn abilities(&self, _account: &Account, job: &Job) -> Abilities {
        Abilities {
            lookup: true,
            finds_all: !job.payment.id("transaction_id").is_empty(),
            look_first: false,
            doubt: DoubtPolicy::LookUp,
        }
    }

    /// An order id, as long as no transaction id is known.
    fn may_be_another(&self, job: &Job, learned: &Learned) -> bool {
        job.payment.id("transaction_id").is_empty() && !learned.contains_key("transaction_id")
    }

    /// The key says which of the two ids it is: an order id may look like a transaction id.
    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        asked.whole_only(self.title())?;
        let order = asked.optional_text("order_id")?;
        let transaction = asked.optional_text("transaction_id")?;
        let key = match (&transaction, &order) {
            (Some(id), _) => format!("transaction_id:{}", in_one_case(id)),
            (None, Some(id)) => format!("order_id:{id}"),
            (None, None) => {
                return Err("payment.order_id or payment.transaction_id is missing".to_owned());
            }
        };
        let ids = [("order_id", order), ("transaction_id", transaction)];
        let ids = ids.into_iter().filter_map(|(name, id)| Some((name, id?)));
        Ok(Payment {
            key,
            ids: ids.collect(),
        })
    }

    fn cancel(&self, ask: &Ask<'_>) -> Request {
        Request::post(format!("/v2/{}/cancel", id_in_path(ask)), None)
            .header("Content-Type", "application/json")
            .header("Idempotency-Key", ask.key)
    }

    fn lookup(&self, ask: &Ask<'_>) -> Request {
        Request::get(format!("/v2/{}/status", id_in_path(ask)))
    }

    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let verdict = match Source::of(ask, response, &body) {
            Source::Unclear => Verdict::Doubt,
            Source::Http => of_http(Operation::Cancel, response),
            Source::Body { code, status } => match cancel_verdict(&code, &status, response) {
                Verdict::Cancelled { .. } | Verdict::NothingToCancel(_) | Verdict::Refused(_)
                    if is_a_later_one(ask, &body) =>
                {
                    Verdict::Unresolved(Unresolved::ContradictoryEvidence)
                }
                verdict => verdict,
            },
        };
        reading(verdict, ask, response, &body)
    }

    fn read_lookup(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let verdict = match Source::of(ask, response, &body) {
            Source::Unclear => response.not_yet(),
            Source::Http => of_http(Operation::Lookup, response),
            Source::Body { .. } if is_a_later_one(ask, &body) => {
                Verdict::Unresolved(Unresolved::ContradictoryEvidence)
            }
            Source::Body { code, status } => {
                lookup_verdict(&code, &status).unwrap_or_else(|| response.not_yet())
            }
        };
        reading(verdict, ask, response, &body)
    }

    /// Basic, the server key as the user and no password
    /// (<https://docs.midtrans.com/docs/api-authorization-headers>).
    fn login(&self, account: &Account, _now: Timestamp, _nonce: &str) -> Result<Login, String> {
        let key = account
            .secret("server_key")
            .ok_or("server_key is missing")?;
        let basic = format!("Basic {}", STANDARD.encode(format!("{key}:")));
        Ok(Login::Static(basic.into()))
    }

    /// `signature_key` is the SHA-512 of order id, code, amount and server key with nothing
    /// between them (<https://docs.midtrans.com/docs/https-notification-webhooks>). It covers
    /// neither the status nor a time, and `A` `200` `20010000.00` signs `A200` `200`
    /// `10000.00` too: so it says that something happened, and the look-up says what.
    fn notification(&self, account: &Account, arrived: &Arrived<'_>) -> Notification {
        let Some(body) = strict::json(arrived.body) else {
            return Notification::Forged("no JSON, or a key stands twice");
        };
        let text = |name: &str| body[name].as_str().unwrap_or_default();
        let (order, code) = (text("order_id"), text("status_code"));
        // As received: another text of the same amount has another signature.
        let amount = text("gross_amount");
        if order.is_empty() || !is_code(code) || !is_gross_amount(amount) {
            return Notification::Forged("order_id, status_code or gross_amount is malformed");
        }
        let keys = account
            .secrets("server_key")
            .chain(account.secrets("further_server_keys"));
        if !is_sha512_of(text("signature_key"), &[order, code, amount], keys) {
            return Notification::Forged("signature_key is missing or wrong");
        }
        let transaction = Some(text("transaction_id")).filter(|id| is_id(id));
        let by_transaction = transaction.map(|id| format!("transaction_id:{}", in_one_case(id)));
        Notification::Hint(Hint {
            authenticated: true,
            payments: by_transaction
                .into_iter()
                .chain([format!("order_id:{order}")])
                .collect(),
            reported: lookup_verdict(code, &text("transaction_status").to_ascii_lowercase()),
            event: None,
        })
    }
}

fn is_code(code: &str) -> bool {
    code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit())
}

fn is_gross_amount(amount: &str) -> bool {
    let (whole, cents) = amount.split_once('.').unwrap_or((amount, "00"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && digits(cents)
}

/// The most precise id known. An order id may be charged again after a cancel, and a late
/// call by order id would then hit the new payment; a transaction id names one for ever.
fn id_in_path(ask: &Ask<'_>) -> String {
    segment(match known_transaction(ask) {
        Some(id) => id,
        None => ask.job.payment.id("order_id"),
    })
}

/// Given by the publisher, or else learned from an answer.
fn known_transaction<'a>(ask: &'a Ask<'_>) -> Option<&'a str> {
    let given = Some(ask.job.payment.id("transaction_id")).filter(|id| !id.is_empty());
    given.or_else(|| ask.learned("transaction_id"))
}

/// What an answer can be judged by.
enum Source {
    /// Midtrans wrote the body, about this payment. An absent field is the empty string.
    Body { code: String, status: String },
    /// There is no body of Midtrans' own.
    Http,
    /// A server error, a redirect, another payment, or a body that HTTP contradicts.
    Unclear,
}

impl Source {
    fn of(ask: &Ask<'_>, response: &Response<'_>, body: &Value) -> Self {
        let code = loose_text(&body["status_code"]).unwrap_or_default();
        let status = loose_text(&body["transaction_status"]).unwrap_or_default();
        let status = status.to_ascii_lowercase();
        let is_about = is_about(ask, body);
        match response.status {
            200..=499 if code.is_empty() && status.is_empty() => Self::Http,
            200..=299 if is_about => Self::Body { code, status },
            // Both SDKs call any transport status from 400 on an error, so a success inside
            // one proves nothing.
            400..=499 if is_about && !is_success(&code) => Self::Body { code, status },
            _ => Self::Unclear,
        }
    }
}

/// False where an answer shows another payment than the one that was asked about.
fn is_about(ask: &Ask<'_>, body: &Value) -> bool {
    let same = |name: &str, ours: &str, same: fn(&str, &str) -> bool| {
        let theirs = loose_text(&body[name]);
        ours.is_empty() || theirs.is_none_or(|theirs| same(&theirs, ours))
    };
    let transaction = known_transaction(ask).unwrap_or("");
    same("order_id", ask.job.payment.id("order_id"), str::eq)
        && same("transaction_id", transaction, str::eq_ignore_ascii_case)
}

/// A payment that was made after the request by order id was received: an order can be charged again once
/// its payment is cancelled or has expired. What becomes of the second one is no answer about the first,
/// and it is nobody's wish to cancel it. A clock that is behind sees too many of them, which costs a
/// person's look.
fn is_a_later_one(ask: &Ask<'_>, body: &Value) -> bool {
    if known_transaction(ask).is_some() {
        return false;
    }
    let made_at = body["transaction_time"].as_str().and_then(time);
    made_at.is_some_and(|made_at| made_at > ask.received_at)
}

/// For a person: why an answer says nothing about the payment that was asked about.
fn remark(ask: &Ask<'_>, body: &Value) -> Option<&'static str> {
    if !is_about(ask, body) {
        Some("the answer names another payment than the one asked about")
    } else if is_a_later_one(ask, body) {
        Some("the order holds a payment that was made after the request was received")
    } else {
        None
    }
}

/// `2015-02-26 14:39:33`, in GMT+7
/// (<https://docs.midtrans.com/reference/get-transaction-status>).
fn time(text: &str) -> Option<Timestamp> {
    let local: DateTime = text.parse().ok()?;
    Offset::constant(7).to_timestamp(local).ok()
}

/// Codes under which `transaction_status` speaks. Without a code it speaks too.
fn is_success(code: &str) -> bool {
    matches!(code, "" | "200" | "201" | "202")
}

/// The answer to a cancel
/// (<https://docs.midtrans.com/reference/cancel-transaction>, <https://docs.midtrans.com/reference/code-4xx>).
///
/// 201, and any success whose `transaction_status` is not `cancel`, is [`Verdict::Doubt`]
/// and not [`Verdict::Accepted`]: those codes are about the transaction and promise nothing
/// of this call, and a repeat of a cancel of the whole payment does no harm, so a look-up
/// that finds it open may lead to another try.
fn cancel_verdict(code: &str, status: &str, response: &Response<'_>) -> Verdict {
    match (code, status) {
        ("" | "200" | "202", "cancel") => Verdict::Cancelled {
            reason: Cancelled::Voided,
            already: false,
        },
        ("202", "deny") => Verdict::NothingToCancel(Nothing::Denied),
        ("407", "" | "expire") => Verdict::NothingToCancel(Nothing::Expired),
        // Covers "already cancelled", "settled" and "expired". Nothing was changed, and only a
        // look-up can say why.
        ("412", _) => response.not_yet(),
        // A call or a key in the way, perhaps of an earlier attempt: no word on the state.
        ("409", _) => Verdict::Doubt,
        ("414", _) => Verdict::Refused(Refused::NotEligible),
        ("501", _) => Verdict::Refused(Refused::Unsupported),
        ("429", _) => Verdict::Again {
            after: response.retry_after,
            cause: Cause::RateLimited,
        },
        _ => error_verdict(code).unwrap_or(Verdict::Doubt),
    }
}

/// The answer to a look-up
/// (<https://docs.midtrans.com/reference/get-transaction-status>); `None` where it failed.
fn lookup_verdict(code: &str, status: &str) -> Option<Verdict> {
    if code == "407" && matches!(status, "" | "expire") {
        return Some(Verdict::NothingToCancel(Nothing::Expired));
    }
    if !is_success(code) {
        return error_verdict(code);
    }
    Some(match status {
        "cancel" => Verdict::Cancelled {
            reason: Cancelled::Voided,
            already: true,
        },
        "expire" => Verdict::NothingToCancel(Nothing::Expired),
        "deny" => Verdict::NothingToCancel(Nothing::Denied),
        "failure" => Verdict::NothingToCancel(Nothing::PaymentFailed),
        // A part leaves the rest with the merchant.
        "settlement" | "partial_refund" => Verdict::Refused(Refused::Settled),
        "refund" => Verdict::Refused(Refused::AlreadyRefunded),
        "chargeback" | "partial_chargeback" => Verdict::Refused(Refused::Disputed),
        "pending" | "authorize" | "capture" => Verdict::StillOpen,
        _ => return None,
    })
}

/// The codes that mean the same to both calls
/// (<https://docs.midtrans.com/reference/code-4xx>).
fn error_verdict(code: &str) -> Option<Verdict> {
    Some(match code {
        "401" => Verdict::Unauthorized,
        // 410: the merchant's account is closed.
        "402" | "403" | "410" => Verdict::Misconfigured(Why::Credentials),
        "400" | "405" | "408" | "411" | "413" => Verdict::Misconfigured(Why::Rejected),
        // Also a Snap transaction whose method was not chosen yet (Midtrans/midtrans-php#61).
        "404" => Verdict::NotFound,
        _ => return None,
    })
}

/// HTTP alone. A 407 is a proxy's. A transport 202 means that the first call with this key still runs
/// (<https://docs.midtrans.com/reference/api-headers>): it may be applied, so it is doubt.
fn of_http(operation: Operation, response: &Response<'_>) -> Verdict {
    match response.status {
        402 => Verdict::Misconfigured(Why::Credentials),
        412 => response.not_yet(),
        _ => by_http_status(operation, response),
    }
}

fn reading(verdict: Verdict, ask: &Ask<'_>, response: &Response<'_>, body: &Value) -> Reading {
    let text = |name: &str| loose_text(&body[name]);
    let believed = response.is_success() && is_about(ask, body) && !is_a_later_one(ask, body);
    let is_cancelled = matches!(verdict, Verdict::Cancelled { .. });
    let remark = remark(ask, body);
    let reading = Reading::of(verdict, response)
        .with(
            text("status_code"),
            text("transaction_status"),
            text("status_message"),
        )
        .reference("order_id", text("order_id"))
        .reference("transaction_id", text("transaction_id"))
        .learn(
            "transaction_id",
            text("transaction_id").filter(|id| believed && is_id(id)),
        );
    match remark {
        Some(remark) => reading.remark(remark),
        None if is_cancelled => reading.amount(text("gross_amount"), text("currency")),
        None => reading,
    }
}

/// Midtrans' transaction ids are UUIDs; nothing else may find its way into a path.
fn is_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}
