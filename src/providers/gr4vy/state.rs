//! What the state of a transaction says. Pure.

use serde_json::Value;

use super::super::loose_text;
use super::{Route, cancelled};
use crate::outcome::{Nothing, Refused, Verdict};

pub(super) fn status(body: &Value) -> String {
    body["status"]
        .as_str()
        .unwrap_or_default()
        .to_ascii_lowercase()
}

pub(super) fn is_set(timestamp: &Value) -> bool {
    timestamp.as_str().is_some_and(|text| !text.is_empty())
}

/// Authorised, or captured: beside that, a success contradicts itself.
pub(super) fn is_in_force(transaction: &Value) -> bool {
    let standing = [
        "authorization_succeeded",
        "capture_pending",
        "capture_succeeded",
    ];
    standing.contains(&status(transaction).as_str())
}

/// There is no "cancelled" among the statuses: a cancelled transaction that was pending shows by
/// `canceled_at`. Beside an authorisation that stands, or money that was captured, the date proves nothing.
pub(super) fn is_cancelled(body: &Value) -> bool {
    let ended = [
        "processing",
        "buyer_approval_pending",
        "authorization_declined",
        "authorization_failed",
    ];
    is_set(&body["canceled_at"]) && ended.contains(&status(body).as_str())
}

/// A void was taken and is not through, or only a date speaks of one beside a state that is open without it.
/// `voided_at` proves no void: Gr4vy's own description of the field says so. Nor may "nothing was cancelled"
/// be said beside it.
pub(super) fn is_under_way(body: &Value) -> bool {
    let is_dated = is_set(&body["voided_at"]) || is_set(&body["canceled_at"]);
    match status(body).as_str() {
        "authorization_void_pending" => true,
        "authorization_succeeded" | "processing" | "buyer_approval_pending" => {
            is_dated && !is_cancelled(body)
        }
        _ => false,
    }
}

/// What a state says that is not open.
/// A pending capture is waited for: it ends as captured, or the void becomes possible again.
pub(super) fn by_state(body: &Value) -> Option<Verdict> {
    let units = |field: &str| loose_text(&body[field])?.parse::<u64>().ok();
    let refunded = units("refunded_amount").unwrap_or(0);
    let captured = units("captured_amount").filter(|captured| *captured > 0);
    let all = captured.is_some_and(|captured| refunded >= captured);
    match status(body).as_str() {
        // A part leaves the rest with the merchant.
        "capture_succeeded" if all => Some(Verdict::Refused(Refused::AlreadyRefunded)),
        "capture_succeeded" => Some(Verdict::Refused(Refused::Settled)),
        "capture_pending" => None,
        "authorization_voided" => Some(cancelled(Route::Void, true)),
        _ if is_cancelled(body) => Some(cancelled(Route::Cancel, true)),
        "authorization_declined" => Some(Verdict::NothingToCancel(Nothing::Denied)),
        "authorization_failed" => Some(Verdict::NothingToCancel(Nothing::PaymentFailed)),
        _ => None,
    }
}
