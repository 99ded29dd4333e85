//! One claim, from its call to its commit.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::{debug, error, info};

use super::ended::Ended;
use super::entered::Entered;
use super::hints::hinted;
use super::replay::replayed;
use super::{Dispatcher, Place, SEND_WITHIN};
use crate::call::{Authorization, Exchange, LoginError};
use crate::failpoint::{self, Point};
use crate::finding::{Finding, Source};
use crate::job::Job;
use crate::ledger::{CallEnd, Change, Claim, DeadLetter};
use crate::lifecycle::{Plan, Progress, Step};
use crate::outcome::{Cause, Operation, Outcome, Verdict, Why};
use crate::providers::{Ask, Evidence, Reading, Request};
use crate::spans::{Call, Step as Told};
use crate::wire::{self, Envelope};

impl Dispatcher {
    pub(super) async fn carry_out(
        self: Arc<Self>,
        claim: Claim,
        job: Option<Job>,
        mut place: Place,
    ) {
        let change = match claim.plan {
            Plan::Finish(outcome) => self.finish(
                &claim,
                claim.progress.clone(),
                outcome,
                Source::Worker,
                &Evidence::default(),
                None,
            ),
            Plan::Call(operation) => match job.map_or_else(|| self.job(&claim.stored), Ok) {
                Ok(job) => self.call(&claim, &job, operation, &mut place).await,
                Err(_) => {
                    self.give_back(place);
                    return error!("a claimed request can no longer be read");
                }
            },
            Plan::Check => return self.check(claim, place).await,
        };
        failpoint::pass(Point::AfterAnswer);
        self.give_back(place);
        self.commit(change, &claim).await;
    }

    /// The call is over, whatever is still to be written about it. Also after a decision without
    /// a call, and of one that was not begun after all, others may wait for the place.
    pub(crate) fn give_back(&self, place: Place) {
        drop(place);
        if self.backlog.load(Ordering::Acquire) {
            self.wake();
        }
    }

    /// One call of a claim, counted.
    pub(super) async fn ask_about(
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
            accepted: claim.progress.accepted,
            sent_at: claim.progress.first_sent_at,
        };
        let started = Instant::now();
        let sending = Sending {
            claimed: place.entered,
            envelope: &claim.stored.envelope,
            attempt: claim.progress.attempts,
        };
        let ended = self.ask(&ask, operation, &sending).await;
        let (verdict, took) = (ended.verdict_name(), started.elapsed());
        self.shared
            .metrics
            .called(self.name(), operation.as_str(), verdict, took);
        place.health = ended.health();
        ended
    }

    async fn call(
        &self,
        claim: &Claim,
        job: &Job,
        operation: Operation,
        place: &mut Place,
    ) -> Change {
        let ended = self.ask_about(claim, job, operation, place).await;
        let verdict = ended.verdict_name();
        let source = ended.source(operation);
        let now = (self.shared.clock)();
        let mut progress = claim.progress.clone();
        let terms = self.terms(job);
        let jitter = rand::random();
        if ended.is_unheard() {
            progress.unheard(now, self.config.timeout);
        }
        let step = match &ended {
            Ended::Read(reading) => {
                progress.learned.extend(reading.learned.clone());
                progress.after(&reading.verdict, &terms, now, jitter)
            }
            Ended::NotSent(_) | Ended::Withheld(_) => progress.not_sent(&terms, now, jitter),
            Ended::NoToken(_) => progress.no_token(&terms, now, jitter),
            Ended::Lost(_) => progress.after(&Verdict::Doubt, &terms, now, jitter),
        };
        let detail = ended.own_words().map(str::to_owned);
        let reading = ended.reading();
        debug!(
            operation = operation.as_str(),
            verdict,
            http_status = reading.evidence.http_status,
            code = reading.evidence.code,
            detail,
            "call ended"
        );
        let call = CallEnd {
            verdict,
            evidence: reading.evidence.clone(),
        };
        match step {
            Step::Finish(outcome) => {
                self.confirmed(&claim.progress, operation);
                self.finish(
                    claim,
                    progress,
                    outcome,
                    source,
                    &reading.evidence,
                    Some(call),
                )
            }
            Step::Wait(cause) => {
                self.shared.metrics.scheduled(self.name(), cause);
                Change {
                    id: claim.id,
                    hinted: hinted(&progress, &terms, now),
                    progress,
                    call: Some(call),
                    outcome: None,
                    messages: Vec::new(),
                    dead_letter: None,
                    at: now,
                }
            }
        }
    }

    /// One exchange, repeated once with a new token where the first one was refused.
    async fn ask(&self, ask: &Ask<'_>, operation: Operation, sending: &Sending<'_>) -> Ended {
        let request = match operation {
            Operation::Cancel => self.config.provider.cancel(ask),
            Operation::Lookup => self.config.provider.lookup(ask),
        };
        let (ended, renewable) = self.exchange(ask, operation, &request, sending).await;
        let refusal = match ended {
            Ended::Read(reading) if renewable => reading,
            ended => return ended,
        };
        info!("the token was refused; asking for a new one");
        match self.exchange(ask, operation, &request, sending).await.0 {
            // One call was sent and refused, and no other one.
            Ended::NotSent(_) | Ended::Withheld(_) => Ended::Read(Reading {
                verdict: Verdict::unprocessed(operation, None, Cause::Retryable),
                ..refusal
            }),
            Ended::NoToken(_) => Ended::Read(Reading {
                verdict: Verdict::Misconfigured(Why::Credentials),
                ..refusal
            }),
            ended => ended,
        }
    }

    async fn exchange(
        &self,
        ask: &Ask<'_>,
        operation: Operation,
        request: &Request,
        sending: &Sending<'_>,
    ) -> (Ended, bool) {
        let observe = |verdict, took| {
            self.shared
                .metrics
                .called(self.name(), "token", verdict, took)
        };
        let authorization = match self.caller.authorize((self.shared.clock)(), &observe).await {
            Ok(authorization) => authorization,
            Err(LoginError::Refused(why)) => return (Ended::NoToken(why), false),
            Err(error @ LoginError::Unavailable(_)) => {
                return (Ended::NotSent(error.to_string()), false);
            }
        };
        if operation == Operation::Cancel
            && let Some(why) = self.too_late(ask, sending.claimed)
        {
            return (Ended::Withheld(why), false);
        }
        let (exchange, mut told) = self.send(operation, request, &authorization, sending).await;
        let answer = match exchange {
            Exchange::Answered(answer) => answer,
            Exchange::NotSent(why) => return (Ended::NotSent(why), false),
            Exchange::Lost(why) => return (Ended::Lost(why), false),
        };
        let reading = match operation {
            Operation::Cancel => self.config.provider.read_cancel(ask, &answer.response()),
            Operation::Lookup => self.config.provider.read_lookup(ask, &answer.response()),
        };
        told.says("rescind.verdict", reading.verdict.as_str());
        let renewable =
            reading.verdict == Verdict::Unauthorized && self.caller.refused(&authorization);
        (Ended::Read(reading), renewable)
    }

    /// One send, as one step of the request's trace.
    async fn send(
        &self,
        operation: Operation,
        request: &Request,
        authorization: &Authorization,
        sending: &Sending<'_>,
    ) -> (Exchange, Told) {
        let call = Call {
            provider: self.name(),
            operation,
            method: request.method,
            base_url: &self.config.account.base_url,
            attempt: sending.attempt,
        };
        let mut told = self.shared.spans.call(sending.envelope, &call);
        let traceparent = told.traceparent(sending.envelope);
        let sent = self
            .caller
            .send(request, authorization, traceparent.as_deref());
        let exchange = sent.await;
        match &exchange {
            Exchange::Answered(answer) => {
                told.says("http.response.status_code", i64::from(answer.status));
                if answer.status >= 400 {
                    told.failed("http_status");
                }
            }
            Exchange::NotSent(_) => told.failed("not_sent"),
            Exchange::Lost(_) => told.failed("no_answer"),
        }
        (exchange, told)
    }

    /// The login may have taken its time, or the machine.
    fn too_late(&self, ask: &Ask<'_>, claimed: Entered) -> Option<&'static str> {
        let now = (self.shared.clock)();
        if ask.job.deadline.is_some_and(|deadline| deadline <= now) {
            return Some("the deadline passed before the call");
        }
        claimed
            .is_before(SEND_WITHIN, now)
            .then_some("the worker was held up before the call; others may have its work by now")
    }

    pub(super) fn finish(
        &self,
        claim: &Claim,
        mut progress: Progress,
        outcome: Outcome,
        source: Source,
        evidence: &Evidence,
        call: Option<CallEnd>,
    ) -> Change {
        let now = (self.shared.clock)();
        progress.finish();
        let finding = self.finding(claim, &progress, outcome, source, evidence, now);
        let messages = match claim.outcome {
            None => finding.messages(),
            Some(first) => replayed(&mut progress, first, &finding),
        };
        progress.replays.letters += u32::from(outcome.is_dead_letter());
        Change {
            id: claim.id,
            messages,
            dead_letter: outcome.is_dead_letter().then(|| DeadLetter::of(&finding)),
            progress,
            hinted: None,
            call,
            outcome: Some(outcome),
            at: now,
        }
    }

    /// What was found out about a claim, in no case dated before its request: the clock may have been
    /// set back since.
    pub(super) fn finding<'a>(
        &'a self,
        claim: &'a Claim,
        progress: &Progress,
        outcome: Outcome,
        source: Source,
        evidence: &'a Evidence,
        at: Timestamp,
    ) -> Finding<'a> {
        Finding {
            request_id: &claim.stored.request_id,
            provider: self.name(),
            title: self.config.provider.title(),
            envelope: &claim.stored.envelope,
            outcome,
            detail: None,
            source,
            evidence,
            attempts: progress.attempts,
            lookups: progress.lookups,
            completed_at: at.max(claim.stored.envelope.received_at),
            letters: progress.replays.letters,
        }
    }
}

/// What a send has to know beside the call itself.
struct Sending<'a> {
    /// Before the claim that it is for.
    claimed: Entered,
    envelope: &'a Envelope,
    attempt: u32,
}
