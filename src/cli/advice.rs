//! What a person is to do about a dead letter.

use crate::ledger::DeadRecord;
use crate::outcome::{Failed, Invalid, Unresolved};

/// Advice about a request's open dead letter, if it has one; `corrected` is the outcome of its last correction,
/// `newer` a later request on the same payment that may have moved money.
pub(super) fn advice(
    letters: &[DeadRecord],
    corrected: Option<&str>,
    newer: Option<&str>,
) -> Option<String> {
    let letter = letters.iter().rfind(|l| l.closed_at.is_none())?;
    if let Some(outcome @ ("cancelled" | "nothing_to_cancel")) = corrected {
        let (known, id) = (outcome.replace('_', " "), named(letter));
        return Some(format!(
            "The provider has said since that it is {known}, and a correction was published: `rescind dead discard {id} --reason TEXT`."
        ));
    }
    let advice = advice_on(letter);
    Some(match newer.filter(|_| may_be_replayed(letter)) {
        Some(newer) => format!(
            "{advice} But {newer}, a later request on the same payment, may have done its work, or is about to: discard this one; a replay is refused without --despite-newer, which is for two that are both wanted."
        ),
        None => advice,
    })
}

fn may_be_replayed(letter: &DeadRecord) -> bool {
    letter.is_request && letter.reason != Failed::DeadlinePassed.as_str()
}

/// Advice about one dead letter, whatever became of its request since.
pub(super) fn advice_on(letter: &DeadRecord) -> String {
    to_do(&letter.outcome, &letter.reason, named(letter))
}

/// The letter's own id where its request's id would be read as an option of the command.
fn named(letter: &DeadRecord) -> &str {
    let id = letter.request_id.as_ref();
    let id = id.filter(|id| letter.is_request && !id.starts_with('-'));
    id.unwrap_or(&letter.id)
}

/// Advice about a dead letter.
fn to_do(outcome: &str, reason: &str, id: &str) -> String {
    match outcome {
        // A replay would be refused.
        "failed" if reason == Failed::DeadlinePassed.as_str() => format!(
            "This request cancelled nothing, and nothing may be sent after the deadline: `rescind dead discard {id} --reason TEXT`; then, if it is still wanted, publish a new request with a new request_id and a later deadline."
        ),
        "failed" => format!(
            "This request cancelled nothing: correct the cause, then `rescind dead replay {id} --reason TEXT`; that is safe unless the publisher has published it anew under another request_id."
        ),
        // As a rule a replay would be refused, and what comes first is the portal.
        "unresolved" if reason == Unresolved::NoLookup.as_str() => format!(
            "It may or may not be cancelled, and the provider could not be asked: look at the payment in its portal before anything else. Then `rescind dead discard {id} --reason TEXT`, so that nobody replays it; if it is not cancelled and still wanted, publish a new request with a new request_id after that."
        ),
        "unresolved" => format!(
            "It may or may not be cancelled: `rescind dead replay {id} --reason TEXT` asks the provider once more where it can be asked. Else look at the payment in the provider's portal, then `rescind dead discard {id} --reason TEXT`, so that nobody replays it; if it is not cancelled and still wanted, publish a new request with a new request_id after that."
        ),
        _ if reason == Invalid::RequestIdConflict.as_str() => format!(
            "An earlier request has this request_id and is untouched, see `rescind show` of it. Do not publish this message again if it means the same cancellation; correct the publisher, then `rescind dead discard {id} --reason TEXT`."
        ),
        _ if reason == Invalid::UnknownProvider.as_str() => format!(
            "Configure the account and restart the worker, or correct the publisher; `rescind dead discard {id} --reason TEXT`, then publish it again; the same request_id will do."
        ),
        _ => format!(
            "Correct the publisher, or see the log of the worker if the message may have stopped it; `rescind dead discard {id} --reason TEXT`, then publish it again; the same request_id will do."
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::dead::tests::letter;
    use super::*;

    #[test]
    fn where_a_later_request_forbids_a_replay_the_advice_says_so() {
        let advised = |letter| advice(&[letter], None, Some("b")).unwrap();
        assert!(advised(letter()).contains("But b, a later request"));
        let late = DeadRecord {
            reason: "deadline_passed".into(),
            ..letter()
        };
        assert!(!advised(late).contains("a later request"));
    }

    #[test]
    fn what_the_provider_has_said_since_is_not_sent_again() {
        let advised = |corrected| advice(&[letter()], Some(corrected), None).unwrap();
        for corrected in ["cancelled", "nothing_to_cancel"] {
            let text = advised(corrected);
            assert!(
                text.contains("dead discard") && !text.contains("dead replay"),
                "{text}"
            );
        }
        assert!(advised("refused").contains("dead replay"));
    }

    /// The publisher chooses the id, and a person pastes the line.
    #[test]
    fn an_id_that_is_an_option_of_the_command_is_in_no_advice() {
        let letter = |id: &str| DeadRecord {
            request_id: Some(id.into()),
            ..letter()
        };
        assert!(advice_on(&letter("a-request")).contains("replay a-request "));
        let advice = advice_on(&letter("--all"));
        assert!(advice.contains("replay the-letter ") && !advice.contains("--all"));
    }

    #[test]
    fn every_dead_lettered_outcome_says_what_to_do() {
        for outcome in ["failed", "unresolved", "invalid"] {
            let text = to_do(outcome, "some-reason", "some-id");
            assert!(
                text.contains("`rescind dead ") && text.contains("some-id"),
                "{text}"
            );
        }
        let nobody = to_do("unresolved", "no_lookup", "some-id");
        assert!(!nobody.contains("dead replay"), "{nobody}");
        let conflict = to_do("invalid", "request_id_conflict", "some-id");
        assert!(conflict.contains("Do not publish"), "{conflict}");
        let unknown = to_do("invalid", "unknown_provider", "some-id");
        assert!(unknown.contains("Configure the account"), "{unknown}");
        // A new one beside a publisher that repeats the old one makes two cancels.
        for reason in ["unknown_provider", "schema", "too_large"] {
            let text = to_do("invalid", reason, "some-id");
            assert!(text.contains("the same request_id will do"), "{text}");
        }
        let late = to_do("failed", "deadline_passed", "some-id");
        assert!(!late.contains("replay") && late.contains("dead discard some-id"));
        for reason in ["retries_exhausted", "credentials_refused"] {
            assert!(to_do("failed", reason, "some-id").contains("dead replay some-id"));
        }
    }
}
