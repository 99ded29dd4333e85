//! What a claim led to: committed, and then handed to the outbox.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tracing::{info, warn};

use super::Dispatcher;
use crate::failpoint::{self, Point};
use crate::ledger::{About, Change, Claim, Committed, Pending};
use crate::outcome::Outcome;
use crate::wire::{Kind, Outgoing};

impl Dispatcher {
    /// Commits, for as long as it takes: what is known now must not be asked again.
    pub(super) async fn commit(&self, change: Change, claim: &Claim) -> bool {
        let changes: Arc<[Change]> = Arc::from([change]);
        let settled = self
            .shared
            .insist("cannot commit an outcome", |ledger| {
                ledger.commit(Arc::clone(&changes))
            })
            .await;
        let ([change], Some(settled)) = (&*changes, settled.first()) else {
            return true;
        };
        if settled.committed == Committed::Lost {
            warn!(
                "the claim was lost: another worker has it, a notification came during the check of a result, which is begun anew, or a commit whose answer was lost has written its outcome"
            );
            return false;
        }
        failpoint::pass(Point::AfterOutcomeCommit);
        // Counted before: whoever has the result finds it counted.
        if let Some(outcome) = change.outcome {
            self.ended(claim, change, outcome);
        }
        self.hand_over(claim, change, &settled.rows);
        let due = matches!(settled.committed, Committed::Freed | Committed::Hinted);
        let sooner = change
            .progress
            .due_at
            .is_some_and(|due| due.as_millisecond() < self.armed.load(Ordering::Acquire));
        if due || sooner {
            self.wake();
        }
        true
    }

    /// What was committed with a change goes to the broker.
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
            self.shared.outbox.give(pending);
        }
    }

    /// Counts and logs the end of a request, or of its replay.
    fn ended(&self, claim: &Claim, change: &Change, outcome: Outcome) {
        let received_at = claim.stored.envelope.received_at;
        let corrected = change.messages.iter().any(|m| m.kind == Kind::Correction);
        match claim.outcome {
            None => self.shared.metrics.finished(self.name(), outcome),
            Some(_) if corrected => self.shared.metrics.corrected(self.name(), outcome),
            Some(_) => {}
        }
        info!(
            outcome = outcome.as_str(),
            reason = outcome.reason(),
            duration_s = crate::backoff::elapsed(received_at, change.at).as_secs_f64(),
            "{}",
            match (claim.outcome, corrected) {
                (None, _) => "finished",
                (_, true) => "replayed; a correction is published",
                (_, false) => "replayed; it is as it was",
            }
        );
    }
}
