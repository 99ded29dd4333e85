//! Commits the outcome of a claim, and hands its messages to the outbox.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tracing::{info, warn};

use super::Dispatcher;
use crate::backoff::elapsed;
use crate::failpoint::{self, Point};
use crate::ledger::{About, Change, Claim, Committed, Pending};
use crate::lifecycle::Progress;
use crate::outcome::Outcome;
use crate::wire::{Kind, Outgoing};

/// A change that only says where the request stands.
pub(super) fn progress_only(claim: &Claim, progress: Progress, at: Timestamp) -> Change {
    Change {
        id: claim.id,
        progress,
        hinted: None,
        call: None,
        outcome: None,
        messages: Vec::new(),
        dead_letter: None,
        at,
    }
}

impl Dispatcher {
    /// Commits, for as long as it takes: the provider must not be asked again what is known now. `payment`: where it
    /// was called about that. `false`: the claim was lost, and nothing was written.
    pub(super) async fn commit(
        &self,
        change: Change,
        claim: &Claim,
        payment: Option<String>,
    ) -> bool {
        let outstanding = self.uncommitted.begin(payment);
        let changes: Arc<[Change]> = Arc::from([change]);
        let answer = self
            .shared
            .retry_until_done("cannot commit an outcome", |ledger| {
                ledger.commit(Arc::clone(&changes))
            })
            .await;
        if outstanding.end() {
            self.wake();
        }
        let ([change], Some(answer)) = (&*changes, answer.first()) else {
            return true;
        };
        if answer.committed == Committed::Lost {
            warn!(
                "the claim was lost and nothing was written: another worker took it over, a notification restarted the check, or an earlier commit wrote this outcome already"
            );
            return false;
        }
        failpoint::pass(Point::AfterOutcomeCommit);
        // Before the result is published: a consumer that has it finds it counted.
        if let Some(outcome) = change.outcome {
            self.tell_end(claim, change, outcome);
        }
        self.hand_over(claim, change, &answer.rows);
        let due = matches!(answer.committed, Committed::Freed | Committed::Hinted);
        let sooner = change
            .progress
            .due_at
            .is_some_and(|due| due.as_millisecond() < self.armed.load(Ordering::Acquire));
        if due || sooner {
            self.wake();
        }
        true
    }

    /// Hands the messages that were committed to the outbox.
    fn hand_over(&self, claim: &Claim, change: &Change, rows: &[i64]) {
        let about = change.outcome.map(|outcome| About {
            provider: self.name().to_owned(),
            outcome: outcome.as_str().to_owned(),
            received_at: claim.stored.envelope.received_at,
        });
        let pending = |(&seq, message): (&i64, &Outgoing)| Pending {
            seq,
            repeats: 0,
            message: message.clone(),
            about: about.clone().filter(|_| message.kind == Kind::Result),
        };
        let pending: Vec<Pending> = rows.iter().zip(&change.messages).map(pending).collect();
        if !pending.is_empty() {
            self.shared.handover.give(pending);
        }
    }

    /// Counts and logs the end of a request, or of its replay.
    fn tell_end(&self, claim: &Claim, change: &Change, outcome: Outcome) {
        let received_at = claim.stored.envelope.received_at;
        let corrected = change.messages.iter().any(|m| m.kind == Kind::Correction);
        match claim.outcome {
            None => self.shared.metrics.finished(self.name(), outcome),
            Some(_) if corrected => self.shared.metrics.corrected(self.name(), outcome),
            Some(_) => {}
        }
        let seconds = elapsed(received_at, change.at).as_secs_f64();
        let duration_s = (seconds * 1000.0).round() / 1000.0;
        let said = match (claim.outcome, corrected) {
            (None, _) => "finished",
            (_, true) => "replayed; a correction is published",
            (_, false) => "replayed; it is as it was",
        };
        let (name, reason) = outcome.names();
        if outcome.is_dead_letter() {
            warn!(outcome = name, reason, duration_s, "{said}");
        } else {
            info!(outcome = name, reason, duration_s, "{said}");
        }
    }
}
