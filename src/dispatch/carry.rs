//! One claim, from its call to its commit.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tracing::{debug, error};

use super::attempt::Attempt;
use super::commit::progress_only;
use super::ended::Ended;
use super::hints::hinted;
use super::replay::replayed;
use super::{Dispatcher, Place};
use crate::failpoint::{self, Point};
use crate::finding::{Finding, Source};
use crate::job::Job;
use crate::ledger::{CallEnd, Change, Claim, DeadLetter};
use crate::lifecycle::{Plan, Progress, Step, Terms};
use crate::outcome::{Operation, Outcome};
use crate::providers::Evidence;
use crate::wire::{Kind, Misunderstood};

impl Dispatcher {
    pub(super) async fn carry_out(
        self: Arc<Self>,
        claim: Claim,
        job: Option<Job>,
        mut place: Place,
    ) {
        let (change, payment) = match claim.plan {
            Plan::Finish(outcome) => {
                let job = self.config.job(&claim.stored);
                let change = self.finish_without_call(&claim, outcome, job.as_ref().err());
                (change, job.ok().map(|job| job.payment.key))
            }
            Plan::Call(operation) => match job.map_or_else(|| self.config.job(&claim.stored), Ok) {
                Ok(job) => {
                    let change = self.call(&claim, &job, operation, &mut place).await;
                    (change, Some(job.payment.key))
                }
                Err(_) => {
                    place.give_back();
                    return error!("a claimed request can no longer be read");
                }
            },
            Plan::Check => return self.check(claim, place).await,
        };
        failpoint::pass(Point::AfterAnswer);
        place.give_back();
        self.commit(change, &claim, payment).await;
    }

    fn finish_without_call(
        &self,
        claim: &Claim,
        outcome: Outcome,
        unreadable: Option<&Misunderstood>,
    ) -> Change {
        let attempts = claim.progress.attempts;
        let detail = unreadable.map(|why| unreadable_sentence(outcome, attempts, &why.detail));
        let end = End {
            outcome,
            detail: detail.as_deref(),
            source: Source::Worker,
            evidence: &Evidence::default(),
        };
        self.finish(claim, claim.progress.clone(), &end, None)
    }

    async fn call(
        &self,
        claim: &Claim,
        job: &Job,
        operation: Operation,
        place: &mut Place,
    ) -> Change {
        let attempt = Attempt {
            dispatcher: self,
            claim,
            job,
            operation,
            place: &mut *place,
        };
        let ended = attempt.counted().await;
        let judged = self.judge(claim, job, &ended, place);
        self.change(claim, operation, ended, judged)
    }

    fn judge(&self, claim: &Claim, job: &Job, ended: &Ended, place: &Place) -> Judged {
        // Before `now` is read: should the worker be stopped in between, the quiet ends later, not sooner.
        let quiet = unheard_for(self.config.timeout, place.sent_at.map(|at| at.elapsed()));
        let now = (self.shared.clock)();
        let mut progress = claim.progress.clone();
        let terms = self.config.terms(job);
        // The clock was set since the place was taken: no remembered time can be compared with `now`.
        if place.taken_at.is_disputed(now) {
            progress.distrust(now, now, Self::quiet(&self.config));
        }
        if ended.is_unheard() {
            progress.unheard(now, quiet);
        }
        let step = ended.apply(&mut progress, &terms, now, rand::random());
        Judged {
            step,
            progress,
            terms,
            now,
        }
    }

    fn change(&self, claim: &Claim, operation: Operation, ended: Ended, judged: Judged) -> Change {
        let Judged {
            step,
            progress,
            terms,
            now,
        } = judged;
        let (verdict, source) = (ended.verdict_name(), ended.source(operation));
        let detail = ended.own_words().map(str::to_owned);
        let evidence = ended.into_reading().evidence;
        debug!(
            operation = operation.as_str(),
            verdict,
            http_status = evidence.http_status,
            code = evidence.code,
            detail,
            "call ended"
        );
        let call = Some(CallEnd {
            verdict,
            evidence: evidence.clone(),
        });
        match step {
            Step::Finish(outcome) => {
                self.confirmed(&claim.progress, operation, outcome);
                let end = End {
                    outcome,
                    detail: None,
                    source,
                    evidence: &evidence,
                };
                let change = self.finish(claim, progress, &end, call);
                let hinted = change.progress.ended_unheard(outcome, &terms, now);
                Change {
                    hinted: hinted.map(Box::new),
                    ..change
                }
            }
            Step::Wait(cause) => {
                self.shared.metrics.scheduled(self.name(), cause);
                Change {
                    hinted: hinted(&progress, &terms, now),
                    call,
                    ..progress_only(claim, progress, now)
                }
            }
        }
    }

    fn finish(
        &self,
        claim: &Claim,
        mut progress: Progress,
        end: &End<'_>,
        call: Option<CallEnd>,
    ) -> Change {
        let now = (self.shared.clock)();
        progress.finish();
        let finding = self.finding(claim, &progress, end, now);
        let messages = match claim.outcome {
            None => finding.messages(),
            Some(first) => replayed(&mut progress, first, &finding),
        };
        let is_dead_letter = messages.iter().any(|m| m.kind == Kind::DeadLetter);
        progress.replays.letters += u32::from(is_dead_letter);
        Change {
            messages,
            dead_letter: is_dead_letter.then(|| DeadLetter::of(&finding)),
            call,
            outcome: Some(end.outcome),
            ..progress_only(claim, progress, now)
        }
    }

    /// The finding about a claim. It is never dated before its request, even if the clock was set back.
    pub(super) fn finding<'a>(
        &'a self,
        claim: &'a Claim,
        progress: &Progress,
        end: &End<'a>,
        at: Timestamp,
    ) -> Finding<'a> {
        Finding {
            request_id: &claim.stored.request_id,
            provider: self.name(),
            title: self.config.adapter.title(),
            envelope: &claim.stored.envelope,
            outcome: end.outcome,
            detail: end.detail,
            source: end.source,
            evidence: end.evidence,
            attempts: progress.attempts,
            lookups: progress.lookups,
            completed_at: at.max(claim.stored.envelope.received_at),
            letters: progress.replays.letters,
        }
    }
}

/// What follows from the end of a call.
struct Judged {
    step: Step,
    progress: Progress,
    terms: Terms,
    now: Timestamp,
}

/// The end of a claim: what was found, where, and in whose words.
pub(super) struct End<'a> {
    pub(super) outcome: Outcome,
    /// A sentence that replaces the standard one.
    pub(super) detail: Option<&'a str>,
    pub(super) source: Source,
    pub(super) evidence: &'a Evidence,
}

/// The provider had no part in this end, whatever the standard sentence of its reason says.
fn unreadable_sentence(outcome: Outcome, attempts: u32, why: &str) -> String {
    let known = match outcome {
        Outcome::Failed(_) if attempts == 0 => "No cancel was sent",
        Outcome::Failed(_) => "Nothing was cancelled",
        _ => "It is not known whether the payment is cancelled",
    };
    format!("{known}: the account, as it is configured now, cannot read the request ({why})")
}

/// A call may be carried out for twice its `timeout` since it was sent, however soon nobody answered it any more.
fn unheard_for(timeout: Duration, since_sent: Option<Duration>) -> Duration {
    let passed = since_sent.unwrap_or(timeout);
    (2 * timeout).saturating_sub(passed).max(timeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_broke_off_early_has_all_of_its_time() {
        let second = Duration::from_secs;
        for (passed, left) in [
            (Some(0), 20),
            (Some(4), 16),
            (Some(10), 10),
            (Some(30), 10),
            (None, 10),
        ] {
            let since_sent = passed.map(second);
            assert_eq!(
                unheard_for(second(10), since_sent),
                second(left),
                "{passed:?}"
            );
        }
    }
}
