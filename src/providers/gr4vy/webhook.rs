//! Gr4vy's webhooks: signed over their time and their bytes. Pure.

use jiff::Timestamp;

use super::super::in_one_case;
use super::state::by_state;
use crate::notification::is_hmac_of;
use crate::providers::{Account, Arrived, Hint, Notification};
use crate::strict;

/// What is read of a notification beside its body.
pub(super) const HEADERS: [&str; 5] = [
    SIGNATURES[0],
    SIGNATURES[1],
    TIMESTAMPS[0],
    TIMESTAMPS[1],
    "x-gr4vy-webhook-id",
];

/// By the documentation, and by the SDKs' own pages.
const SIGNATURES: [&str; 2] = ["x-gr4vy-webhook-signatures", "x-gr4vy-signature"];
const TIMESTAMPS: [&str; 2] = ["x-gr4vy-webhook-timestamp", "x-gr4vy-timestamp"];

/// Seconds that a notification may be old, or ahead of our clock.
const TOLERANCE: u64 = 300;

fn is_recent(timestamp: &str, now: Timestamp) -> bool {
    let digits = timestamp.bytes().all(|b| b.is_ascii_digit());
    let signed_at = timestamp.parse::<i64>().ok().filter(|_| digits);
    signed_at.is_some_and(|at| at.abs_diff(now.as_second()) <= TOLERANCE)
}

/// HMAC-SHA256 over the timestamp, a dot and the raw body, once for each active secret
/// (<https://docs.gr4vy.com/guides/features/webhooks>). The event's name is not listed
/// there, so only what it is about counts.
pub(super) fn read(account: &Account, arrived: &Arrived<'_>) -> Notification {
    let header = |names: &[&str]| names.iter().find_map(|name| (arrived.header)(name));
    let (Some(signatures), Some(timestamp)) = (header(&SIGNATURES), header(&TIMESTAMPS)) else {
        return Notification::Forged("a signature or its timestamp is missing");
    };
    let parts = [timestamp.as_bytes(), b".", arrived.body];
    if !is_hmac_of(signatures, &parts, account.secrets("webhook_secrets")) {
        return Notification::Forged("no signature is of one of webhook_secrets");
    }
    if !is_recent(timestamp, arrived.at) {
        return Notification::Forged("the timestamp is more than 300 s off");
    }
    let body = strict::json(arrived.body).unwrap_or_default();
    let target = &body["target"];
    let id = match target["type"].as_str() {
        Some("transaction") => &target["id"],
        _ => &target["transaction_id"],
    };
    let event = header(&["x-gr4vy-webhook-id"]).or(body["id"].as_str());
    Notification::Hint(Hint {
        authenticated: true,
        payments: id.as_str().map(in_one_case).into_iter().collect(),
        reported: by_state(target),
        event: event.map(str::to_owned),
    })
}
