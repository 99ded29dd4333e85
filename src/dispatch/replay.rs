//! Replays: how a request is taken up again, and the messages about its new end.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use crate::config::AccountConfig;
use crate::finding::Finding;
use crate::ledger::{Reopen, Stored};
use crate::lifecycle::{Hindrance, Hints, Plan, Progress};
use crate::outcome::{Operation, Outcome};
use crate::wire::Outgoing;

/// How the ledger takes a request up again, under the terms of its account. Two requests on one
/// payment have a key each: where the later one was published in the place of this one, the
/// provider would carry out both.
pub fn reopening(
    accounts: &BTreeMap<String, AccountConfig>,
    despite_newer: bool,
    now: Timestamp,
) -> Reopen {
    let accounts = accounts.clone();
    Arc::new(move |stored, progress, outcome, overtaken| {
        if overtaken && !despite_newer {
            return Err(Hindrance::NewerRequest);
        }
        let account = accounts.get(&stored.provider);
        let account = account.ok_or(Hindrance::Unreadable)?;
        let job = account.job(stored).map_err(|_| Hindrance::Unreadable)?;
        progress.replay(outcome, &account.terms(&job), now)
    })
}

/// The call that a replayed request begins with.
pub fn first_call(
    accounts: &BTreeMap<String, AccountConfig>,
    stored: &Stored,
    again: &Progress,
    now: Timestamp,
) -> Option<Operation> {
    let account = accounts.get(&stored.provider)?;
    let job = account.job(stored).ok()?;
    match again.plan(&account.terms(&job), now) {
        Plan::Call(operation) => Some(operation),
        Plan::Finish(_) | Plan::Check => None,
    }
}

/// The correction of the last message that consumers were sent.
pub(super) fn correction(hints: &mut Hints, finding: &Finding<'_>) -> Outgoing {
    let supersedes = hints.correction.unwrap_or(finding.result_id());
    let correction = finding.correction(supersedes);
    hints.correction = Some(correction.id);
    correction
}

/// A correction where the replay found something else, a dead letter where it failed again; neither where
/// the provider has said meanwhile what became of the payment, and did not answer now.
/// The result, `first`, stays what it was.
pub(super) fn replayed(
    progress: &mut Progress,
    first: Outcome,
    finding: &Finding<'_>,
) -> Vec<Outgoing> {
    let mut messages = Vec::new();
    let told = progress.last_told(first);
    if progress.has_learned_nothing(told, finding.outcome) {
        return messages;
    }
    if told.names() != finding.outcome.names() {
        messages.push(correction(&mut progress.hints, finding));
        progress.correct(finding.outcome);
    }
    if finding.outcome.is_dead_letter() {
        messages.push(finding.dead_letter());
    }
    messages
}
