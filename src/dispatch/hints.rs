//! Notifications at an account's dispatcher: asking sooner, and checking results.
//!
//! A check is an ordinary call: it is claimed from the ledger, so that it outlives a crash,
//! and goes through the same gate, client and call log as every other one.

use std::sync::Arc;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::attempt::Attempt;
use super::carry::End;
use super::commit::progress_only;
use super::replay::correction;
use super::{Dispatcher, Place};
use crate::finding::{Finding, Source};
use crate::ledger::{CallEnd, Change, Claim, DeadLetter, Hear, Heard};
use crate::lifecycle::{Checked, Progress, Terms};
use crate::metrics::Notified;
use crate::outcome::{Operation, Outcome, Unresolved, Verdict};
use crate::providers::{Arrived, Evidence, Hint, Notification};

/// Where a request stands if a notification came during its call, if that makes a difference.
pub(super) fn hinted(progress: &Progress, terms: &Terms, now: Timestamp) -> Option<Box<Progress>> {
    let mut hinted = progress.clone();
    hinted.heard(None, terms, now).then(|| Box::new(hinted))
}

/// What a check found against a result.
struct Contradiction<'a> {
    found: Outcome,
    /// A person has to look.
    at_stake: bool,
    evidence: &'a Evidence,
}

impl Dispatcher {
    /// Tells the ledger of a notification, for as long as it takes. One that came after an answer must find what
    /// that led to: told before it, it would be taken for news of a call under way, and forgotten with its end.
    /// An answer of another worker's is not waited for.
    pub async fn hear(self: &Arc<Self>, hint: &Hint) {
        self.uncommitted.until_committed(&hint.payments).await;
        let hear = self.hearing(hint, (self.shared.clock)());
        let heard = self
            .shared
            .retry_until_done("cannot note a notification", |ledger| {
                ledger.notified(self.name(), hint.payments.clone(), Arc::clone(&hear))
            })
            .await;
        match heard.into_iter().max() {
            None => self.notified(Notified::Unmatched),
            Some(Heard::Known) => self.notified(Notified::Duplicate),
            Some(Heard::Contradicted) => {
                self.tell_contradiction(&hint.payments.join(", "));
                self.notified(Notified::Contradictory);
            }
            // Counted when the answer is there.
            Some(Heard::Checking) => self.wake(),
            Some(Heard::Open) => {
                self.notified(Notified::Applied);
                self.wake();
            }
        }
    }

    fn hearing(self: &Arc<Self>, hint: &Hint, now: Timestamp) -> Hear {
        let dispatcher = Arc::clone(self);
        let hint = hint.clone();
        Arc::new(move |stored, progress, outcome| {
            let Ok(job) = dispatcher.config.job(stored) else {
                return Heard::Known;
            };
            let terms = dispatcher.config.terms(&job);
            let event = hint.event.as_deref();
            let Some(outcome) = outcome else {
                progress.heard(event, &terms, now);
                return Heard::Open;
            };
            let reported = hint.reported.as_ref();
            if progress.heard_after(outcome, reported, event, &terms, now) {
                Heard::Checking
            } else if !terms.abilities.lookup
                && reported.is_some_and(|claim| progress.is_contradicted(outcome, claim))
            {
                Heard::Contradicted
            } else {
                Heard::Known
            }
        })
    }

    /// A notification, as the account's adapter reads it.
    pub fn read_notification(&self, arrived: &Arrived<'_>) -> Notification {
        let adapter = self.config.adapter;
        adapter.notification(&self.config.account, arrived)
    }

    /// Counts a notification by how it ended.
    pub fn notified(&self, verdict: Notified) {
        self.shared.metrics.notified(self.name(), verdict);
    }

    fn tell_contradiction(&self, payment: &str) {
        if self.contradictions.is_news(payment, Instant::now()) {
            warn!(
                provider = self.name(),
                payment,
                "a notification contradicts the result, and this provider cannot be asked; compare the payment with the provider's dashboard"
            );
        }
    }

    /// Counts a result that a look-up brought because of a notification.
    pub(super) fn confirmed(&self, before: &Progress, operation: Operation, outcome: Outcome) {
        let given_up = outcome == Outcome::Unresolved(Unresolved::LookupsExhausted);
        if operation == Operation::Lookup && before.hints.waiting && !given_up {
            self.notified(Notified::ConfirmedByLookup);
        }
    }

    /// Asks whether a result holds, and publishes a correction if it does not.
    pub(super) async fn check(&self, claim: Claim, mut place: Place) {
        let (Ok(job), Some(outcome)) = (self.config.job(&claim.stored), claim.outcome) else {
            error!("a finished request can no longer be read; it is not checked");
            place.give_back();
            return self.leave_unchecked(&claim).await;
        };
        let attempt = Attempt {
            dispatcher: self,
            claim: &claim,
            job: &job,
            operation: Operation::Lookup,
            place: &mut place,
        };
        let ended = attempt.counted().await;
        let taken_at = place.taken_at;
        place.give_back();
        let now = (self.shared.clock)();
        let verdict_name = ended.verdict_name();
        let reading = ended.into_reading();
        let mut progress = claim.progress.clone();
        let terms = self.config.terms(&job);
        // As in `call`: a clock that was set cannot tell how long this check has been going on.
        if taken_at.is_disputed(now) {
            progress.hints.checking_since = Some(now);
        }
        let verdict = &reading.verdict;
        let checked = progress.after_check(outcome, verdict, &terms, now, rand::random());
        let mut change = Change {
            call: Some(CallEnd {
                verdict: verdict_name,
                evidence: reading.evidence.clone(),
            }),
            ..progress_only(&claim, progress, now)
        };
        if let Checked::Contradicted { found, at_stake } = checked {
            let contradiction = Contradiction {
                found,
                at_stake,
                evidence: &reading.evidence,
            };
            self.correct(&claim, outcome, &mut change, &contradiction);
        }
        if self.commit(change, &claim, Some(job.payment.key)).await {
            self.tell_check(outcome, verdict, checked);
        }
    }

    /// Its result stays, and retention takes it in its time.
    async fn leave_unchecked(&self, claim: &Claim) {
        let progress = Progress {
            operation: None,
            due_at: None,
            ..claim.progress.clone()
        };
        let change = progress_only(claim, progress, (self.shared.clock)());
        self.commit(change, claim, None).await;
    }

    /// The correction of what was told, and a dead letter where a person has to look.
    fn correct(
        &self,
        claim: &Claim,
        outcome: Outcome,
        change: &mut Change,
        contradiction: &Contradiction<'_>,
    ) {
        let end = End {
            outcome: contradiction.found,
            detail: None,
            source: Source::Lookup,
            evidence: contradiction.evidence,
        };
        let finding = self.finding(claim, &change.progress, &end, change.at);
        let correction = correction(&mut change.progress.hints, &finding);
        change.messages.push(correction);
        if contradiction.at_stake {
            let (told, reason) = claim.progress.last_told(outcome).names();
            let now = finding.sentence();
            let detail = format!("Published as {told} ({reason}); now: {now}");
            let dead = Finding {
                outcome: Outcome::Unresolved(Unresolved::ContradictoryEvidence),
                detail: Some(&detail),
                ..finding
            };
            change.messages.push(dead.dead_letter());
            change.dead_letter = Some(DeadLetter::of(&dead));
            change.progress.replays.letters += 1;
        }
    }

    fn tell_check(&self, outcome: Outcome, verdict: &Verdict, checked: Checked) {
        match checked {
            Checked::Holds => {
                if let Verdict::Unresolved(why) = verdict {
                    warn!(
                        seen = why.as_str(),
                        "the result holds, and the provider shows what only a person can judge, such as a later payment for the same order; compare it with the provider's dashboard"
                    );
                }
                self.notified(Notified::Duplicate);
            }
            Checked::Again => {}
            Checked::Unclear => {
                warn!(
                    verdict = verdict.as_str(),
                    "a notification contradicts the result, and the provider gives no clear answer"
                );
                self.notified(Notified::Duplicate);
            }
            Checked::Contradicted { found, at_stake } => {
                self.notified(Notified::Contradictory);
                self.shared.metrics.corrected(self.name(), found);
                info!(
                    outcome = outcome.as_str(),
                    found = found.as_str(),
                    at_stake,
                    "the result does not hold; a correction is published"
                );
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::backoff::Schedule;
    use crate::config::{AccountConfig, Breaker};
    use crate::ledger::{ClaimId, Stored};
    use crate::lifecycle::Plan;
    use crate::outcome::Refused;
    use crate::providers::{self, Account};
    use crate::shared::tests::shared;
    use crate::wire::Envelope;

    /// With waits of a second.
    pub(in crate::dispatch) fn account() -> AccountConfig {
        let second = Duration::from_secs(1);
        let schedule = Schedule {
            first: second,
            factor: 2.0,
            max: second,
            give_up_after: second,
        };
        AccountConfig {
            adapter: providers::ALL[0],
            account: Account::default(),
            connect_timeout: second,
            ca_file: None,
            timeout: second,
            max_in_flight: 1,
            rate_per_second: 0.0,
            retry: schedule,
            poll: schedule,
            breaker: Breaker {
                failures: 1,
                open_for: second,
            },
        }
    }

    fn check_of_one_received_at(received_at: Timestamp) -> Claim {
        Claim {
            id: ClaimId { seq: 1, token: 1 },
            stored: Stored {
                request_id: "r-1".to_owned(),
                provider: String::new(),
                envelope: Envelope {
                    received_at,
                    ..Envelope::default()
                },
            },
            progress: Progress::new(received_at),
            plan: Plan::Check,
            outcome: None,
        }
    }

    #[tokio::test]
    async fn a_correction_and_its_dead_letter_say_what_was_told_and_are_not_dated_before_their_request()
     {
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let dispatcher = Dispatcher::new(account(), Arc::new(shared(&folder))).unwrap();
        let claim = check_of_one_received_at(Timestamp::from_second(2_000).unwrap());
        let went_back_to = Timestamp::from_second(1_000).unwrap();
        let mut change = progress_only(&claim, claim.progress.clone(), went_back_to);
        let refused = Outcome::Refused(Refused::NotFound);
        let contradiction = Contradiction {
            found: Outcome::Unresolved(Unresolved::ContradictoryEvidence),
            at_stake: true,
            evidence: &Evidence::default(),
        };
        dispatcher.correct(&claim, refused, &mut change, &contradiction);
        let detail = &change.dead_letter.as_ref().unwrap().detail;
        assert!(
            detail.starts_with("Published as refused (not_found); now: "),
            "{detail}"
        );
        let dated = change.messages.iter().map(|m| m.properties.timestamp);
        assert_eq!(dated.collect::<Vec<_>>(), [2_000, 2_000]);
    }
}
