//! One claim, from its call to its commit.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::commit::progress_only;
use super::ended::Ended;
use super::hints::hinted;
use super::replay::replayed;
use super::{Dispatcher, Place, SEND_WITHIN};
use crate::call::{Authorization, LoginError, Roundtrip};
use crate::failpoint::{self, Point};
use crate::finding::{Finding, Source};
use crate::job::Job;
use crate::ledger::{CallEnd, Change, Claim, DeadLetter};
use crate::lifecycle::{Plan, Progress, Step};
use crate::outcome::{Cause, Operation, Outcome, Verdict};
use crate::providers::{Ask, Evidence, Reading, Request};
use crate::since::Since;
use crate::spans::{Call, Span};
use crate::wire::{self, Kind, Misunderstood};

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
        let detail = unreadable.map(|why| unreadable_sentence(outcome, &why.detail));
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
        let ended = self.call_counted(claim, job, operation, place).await;
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
                self.confirmed(&claim.progress, operation);
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

    /// One call of a claim, counted in the metrics and at the gate.
    pub(super) async fn call_counted(
        &self,
        claim: &Claim,
        job: &Job,
        operation: Operation,
        place: &mut Place,
    ) -> Ended {
        let key = wire::idempotency_key(self.name(), &job.request_id);
        let ask = Ask {
            account: &self.config.account,
            job,
            key: &key,
            learned: &claim.progress.learned,
            exposed: claim.progress.exposed,
            presumed: claim.progress.is_presumed(),
            accepted: claim.progress.accepted,
            received_at: claim.stored.envelope.received_at,
        };
        let started = Instant::now();
        let ended = self
            .call_renewing_token(&ask, operation, claim, place)
            .await;
        let (verdict, took) = (ended.verdict_name(), started.elapsed());
        self.shared
            .metrics
            .called(self.name(), operation.as_str(), verdict, took);
        place.health = ended.health();
        place.failure = ended.failure();
        ended
    }

    /// One call, repeated once with a new token where the first one was refused.
    async fn call_renewing_token(
        &self,
        ask: &Ask<'_>,
        operation: Operation,
        claim: &Claim,
        place: &mut Place,
    ) -> Ended {
        let request = match operation {
            Operation::Cancel => self.config.adapter.cancel(ask),
            Operation::Lookup => self.config.adapter.lookup(ask),
        };
        let refusal = match self.call_once(ask, operation, &request, claim, place).await {
            Ok(ended) => return ended,
            Err(TokenRefused(reading)) => reading,
        };
        info!("the token was refused; asking for a new one");
        match self.call_once(ask, operation, &request, claim, place).await {
            // One call was sent and refused, and no other one.
            Ok(Ended::NotSent(_) | Ended::Withheld(_)) => Ended::Read(Reading {
                verdict: Verdict::unprocessed(operation, None, Cause::Retryable),
                ..refusal
            }),
            Ok(Ended::NoToken(_)) => Ended::Read(refusal),
            Ok(ended) => ended,
            Err(TokenRefused(reading)) => Ended::Read(reading),
        }
    }

    async fn call_once(
        &self,
        ask: &Ask<'_>,
        operation: Operation,
        request: &Request,
        claim: &Claim,
        place: &mut Place,
    ) -> Result<Ended, TokenRefused> {
        let observe = |verdict, took| {
            self.shared
                .metrics
                .called(self.name(), "token", verdict, took)
        };
        let authorization = match self.caller.authorize((self.shared.clock)(), &observe).await {
            Ok(authorization) => authorization,
            Err(LoginError::Refused(why)) => return Ok(Ended::NoToken(why)),
            Err(error @ LoginError::Unavailable(_)) => {
                return Ok(Ended::NotSent(error.to_string()));
            }
        };
        if operation == Operation::Cancel
            && let Some(why) = self.too_late(ask, place.taken_at)
        {
            return Ok(Ended::Withheld(why));
        }
        place.sent_at = Some(Instant::now());
        let sent = self.send_traced(operation, request, &authorization, claim);
        let (roundtrip, mut span) = sent.await;
        let answer = match roundtrip {
            Roundtrip::Answered(answer) => answer,
            Roundtrip::NotSent(why) => return Ok(Ended::NotSent(why)),
            Roundtrip::Lost(why) => return Ok(Ended::Lost(why)),
        };
        let reading = match operation {
            Operation::Cancel => self.config.adapter.read_cancel(ask, &answer.response()),
            Operation::Lookup => self.config.adapter.read_lookup(ask, &answer.response()),
        };
        span.set("rescind.verdict", reading.verdict.as_str());
        if reading.verdict == Verdict::Unauthorized && self.caller.refused(&authorization) {
            return Err(TokenRefused(reading));
        }
        Ok(Ended::Read(reading))
    }

    /// One send, as one span of the request's trace.
    async fn send_traced(
        &self,
        operation: Operation,
        request: &Request,
        authorization: &Authorization,
        claim: &Claim,
    ) -> (Roundtrip, Span) {
        let envelope = &claim.stored.envelope;
        let call = Call {
            provider: self.name(),
            operation,
            method: request.method,
            base_url: &self.config.account.base_url,
            attempt: claim.progress.attempts,
        };
        let mut span = self.shared.spans.call(envelope, &call);
        let traceparent = span.traceparent(envelope);
        let sent = self
            .caller
            .send(request, authorization, traceparent.as_deref());
        let roundtrip = sent.await;
        match &roundtrip {
            Roundtrip::Answered(answer) => {
                span.set("http.response.status_code", i64::from(answer.status));
                if answer.status >= 400 {
                    span.fail("http_status");
                }
            }
            Roundtrip::NotSent(_) => span.fail("not_sent"),
            Roundtrip::Lost(_) => span.fail("no_answer"),
        }
        (roundtrip, span)
    }

    /// Why a cancel is not sent any more: the login may have taken long, or the machine was suspended.
    fn too_late(&self, ask: &Ask<'_>, taken_at: Since) -> Option<&'static str> {
        let now = (self.shared.clock)();
        if ask.job.deadline.is_some_and(|deadline| deadline <= now) {
            return Some("the deadline passed before the call");
        }
        taken_at
            .is_over(SEND_WITHIN, now)
            .then_some("the worker was held up before the call; others may have its work by now")
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

/// The answer of a provider that refused the token, where there is a newer one to be had.
struct TokenRefused(Reading);

/// The end of a claim: what was found, where, and in whose words.
pub(super) struct End<'a> {
    pub(super) outcome: Outcome,
    /// A sentence that replaces the standard one.
    pub(super) detail: Option<&'a str>,
    pub(super) source: Source,
    pub(super) evidence: &'a Evidence,
}

/// The provider had no part in this end, whatever the standard sentence of its reason says.
fn unreadable_sentence(outcome: Outcome, why: &str) -> String {
    let known = match outcome {
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
