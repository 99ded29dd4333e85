//! Groups of dead letters that failed in the same way, apart from ids and numbers.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use crate::ledger::DeadRecord;
use crate::providers::Evidence;

/// Stands for a word that differs from one dead letter to the next.
const ANY: &str = "…";

/// Dead letters of one kind.
#[derive(Debug, Serialize)]
pub(super) struct Group {
    pub(super) number: usize,
    pub(super) provider: String,
    pub(super) outcome: String,
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) oldest: Timestamp,
    pub(super) newest: Timestamp,
    /// The id of one of them.
    pub(super) example: String,
}

/// The largest group first.
pub(super) fn groups(letters: &[DeadRecord]) -> Vec<Group> {
    let mut groups = BTreeMap::<[String; 4], Group>::new();
    for letter in letters {
        let message = normalised(&message(letter), letter.request_id.as_deref());
        let of = [&letter.provider, &letter.outcome, &letter.reason, &message];
        let group = groups
            .entry(of.map(String::clone))
            .or_insert_with(|| Group {
                number: 0,
                provider: letter.provider.clone(),
                outcome: letter.outcome.clone(),
                reason: letter.reason.clone(),
                message: message.clone(),
                oldest: letter.dead_at,
                newest: letter.dead_at,
                example: letter.id.clone(),
            });
        group.number += 1;
        group.oldest = group.oldest.min(letter.dead_at);
        group.newest = group.newest.max(letter.dead_at);
    }
    let mut groups: Vec<Group> = groups.into_values().collect();
    groups.sort_by(|a, b| b.number.cmp(&a.number).then(a.oldest.cmp(&b.oldest)));
    groups
}

/// The provider's words in the last call, or else our sentence.
pub(super) fn message(letter: &DeadRecord) -> String {
    let words: Vec<&str> = letter.evidence.iter().flat_map(Evidence::words).collect();
    if words.is_empty() {
        letter.detail.clone()
    } else {
        words.join(" · ")
    }
}

/// Replaces words with a digit, which are ids, amounts and times: they differ for the same error.
fn normalised(message: &str, request_id: Option<&str>) -> String {
    let message = match request_id {
        Some(id) => message.replace(id, ANY),
        None => message.to_owned(),
    };
    let mut words: Vec<String> = Vec::new();
    for word in message.split_whitespace() {
        let is_edge = |c: char| !c.is_alphanumeric();
        let core = word.trim_matches(is_edge);
        let word = if core.chars().any(|c| c.is_ascii_digit()) {
            word.replacen(core, ANY, 1)
        } else {
            word.to_owned()
        };
        if words.last() != Some(&word) || word != ANY {
            words.push(word);
        }
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_left_out_and_what_is_said_stays() {
        let same = |text: &str| normalised(text, Some("req-a"));
        for (text, wanted) in [
            ("payment 123 is locked", "payment … is locked"),
            ("payment 0190ac-ffe2 is locked", "payment … is locked"),
            ("payment req-a is locked", "payment … is locked"),
            ("at 10:01:02 2026-11-20 gone", "at … gone"),
            ("no such order \"A-17\".", "no such order \"…\"."),
            ("connection refused", "connection refused"),
            ("", ""),
        ] {
            assert_eq!(same(text), wanted);
        }
    }
}
