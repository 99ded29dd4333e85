//! The idempotency keys of voids, one for each failure that is stored. Pure.
//!
//! A failure is stored under its key for 24 h, so the next void needs another one
//! (<https://docs.gr4vy.com/guides/api/idempotent-requests>).

use uuid::Uuid;

use super::super::{Ask, Response, is_client_error};
use crate::outcome::Verdict;

/// Learned: how many stored failures the request's key has met.
pub(super) const GENERATION: &str = "generation";

/// The request's key; after a stored failure one derived from it, the same for every repeat of
/// that attempt.
pub(super) fn of_void(ask: &Ask<'_>) -> String {
    let space = Uuid::try_parse(ask.key).unwrap_or(Uuid::NAMESPACE_OID);
    match generation(ask) {
        0 => ask.key.to_owned(),
        n => Uuid::new_v5(&space, format!("generation {n}").as_bytes()).to_string(),
    }
}

/// What is learned from an answer that is a stored failure.
pub(super) fn next_generation(
    ask: &Ask<'_>,
    verdict: &Verdict,
    response: &Response<'_>,
) -> Option<String> {
    is_stored(verdict, response).then(|| (generation(ask) + 1).to_string())
}

/// What was refused before it was looked at is not stored, nor is what a gateway says, as a page or as JSON,
/// while the call may still be carried out: a second one under the same key is told so.
fn is_stored(verdict: &Verdict, response: &Response<'_>) -> bool {
    match response.status {
        200..=299 => matches!(verdict, Verdict::NotYet { .. }),
        300..=399 | 401 | 408 | 422 | 425 | 429 => false,
        409 => response.json()["code"] != "concurrent_request",
        status => is_client_error(status) || response.json()["type"] == "error",
    }
}

fn generation(ask: &Ask<'_>) -> u32 {
    let known = ask.learned(GENERATION).and_then(|n| n.parse::<u32>().ok());
    known.unwrap_or(0).min(u32::MAX - 1)
}
