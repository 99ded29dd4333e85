//! The name of a payment, and the idempotency keys of voids, one for each failure that is stored. Pure.
//!
//! A failure is stored under its key for 24 h, so the next void needs another one
//! (<https://docs.gr4vy.com/guides/api/idempotent-requests>).

use uuid::Uuid;

use super::super::{Ask, Response, is_client_error};
use crate::outcome::Verdict;

/// Learned: how many stored failures the request's key has met.
pub(super) const GENERATION: &str = "generation";

/// A UUID is the same one in every spelling of its letters.
pub(super) fn of_payment(id: &str) -> String {
    match Uuid::try_parse(id) {
        Ok(_) => id.to_ascii_lowercase(),
        Err(_) => id.to_owned(),
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_names_one_payment_in_every_spelling_and_another_id_only_as_it_is_spelled() {
        let id = "fe26475d-ec3e-4884-9553-f7356683f7f9";
        for spelled in [id.to_owned(), id.to_uppercase()] {
            assert_eq!(of_payment(&spelled), id);
        }
        assert_eq!(of_payment("TX-1"), "TX-1");
    }
}
