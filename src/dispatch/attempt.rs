//! One call of a claim at its provider: the login, the sending, the reading of the answer.

use tokio::time::Instant;
use tracing::info;

use super::ended::Ended;
use super::{Dispatcher, Place, SEND_WITHIN};
use crate::call::{Authorization, LoginError, Roundtrip};
use crate::job::Job;
use crate::ledger::Claim;
use crate::outcome::{Cause, Operation, Verdict};
use crate::providers::{Ask, Reading, Request};
use crate::spans::{Call, Span};
use crate::wire;

/// A call that is about to be made.
pub(super) struct Attempt<'a> {
    pub(super) dispatcher: &'a Dispatcher,
    pub(super) claim: &'a Claim,
    pub(super) job: &'a Job,
    pub(super) operation: Operation,
    pub(super) place: &'a mut Place,
}

/// The answer of a provider that refused the token, where there is a newer one to be had.
struct TokenRefused(Reading);

impl Attempt<'_> {
    /// Makes it, and counts it in the metrics and at the gate.
    pub(super) async fn counted(mut self) -> Ended {
        let (dispatcher, claim, job) = (self.dispatcher, self.claim, self.job);
        let key = wire::idempotency_key(dispatcher.name(), &job.request_id);
        let ask = Ask {
            account: &dispatcher.config.account,
            job,
            key: &key,
            learned: &claim.progress.learned,
            exposed: claim.progress.exposed,
            presumed: claim.progress.is_presumed(),
            accepted: claim.progress.accepted,
            received_at: claim.stored.envelope.received_at,
        };
        let started = Instant::now();
        let ended = self.renewing_token(&ask).await;
        let (verdict, took) = (ended.verdict_name(), started.elapsed());
        let (metrics, operation) = (&dispatcher.shared.metrics, self.operation.as_str());
        metrics.called(dispatcher.name(), operation, verdict, took);
        self.place.health = ended.health();
        self.place.failure = ended.failure();
        ended
    }

    /// Repeated once with a new token where the first one was refused.
    async fn renewing_token(&mut self, ask: &Ask<'_>) -> Ended {
        let adapter = self.dispatcher.config.adapter;
        let request = match self.operation {
            Operation::Cancel => adapter.cancel(ask),
            Operation::Lookup => adapter.lookup(ask),
        };
        let refusal = match self.once(ask, &request).await {
            Ok(ended) => return ended,
            Err(TokenRefused(reading)) => reading,
        };
        info!("the token was refused; asking for a new one");
        match self.once(ask, &request).await {
            // One call was sent and refused, and no other one.
            Ok(Ended::NotSent(_) | Ended::Withheld(_)) => Ended::Read(Reading {
                verdict: Verdict::unprocessed(self.operation, None, Cause::Retryable),
                ..refusal
            }),
            Ok(Ended::NoToken(_)) => Ended::Read(refusal),
            Ok(ended) => ended,
            Err(TokenRefused(reading)) => Ended::Read(reading),
        }
    }

    async fn once(&mut self, ask: &Ask<'_>, request: &Request) -> Result<Ended, TokenRefused> {
        let dispatcher = self.dispatcher;
        let (caller, shared) = (&dispatcher.caller, &dispatcher.shared);
        let observe = |verdict, took| {
            shared
                .metrics
                .called(dispatcher.name(), "token", verdict, took);
        };
        let authorization = match caller.authorize((shared.clock)(), &observe).await {
            Ok(authorization) => authorization,
            Err(LoginError::Refused(why)) => return Ok(Ended::NoToken(why)),
            Err(error @ LoginError::Unavailable(_)) => {
                return Ok(Ended::NotSent(error.to_string()));
            }
        };
        if self.operation == Operation::Cancel
            && let Some(why) = self.withheld()
        {
            return Ok(Ended::Withheld(why));
        }
        self.place.sent_at = Some(Instant::now());
        let (roundtrip, mut span) = self.sent(request, &authorization).await;
        let answer = match roundtrip {
            Roundtrip::Answered(answer) => answer,
            Roundtrip::NotSent(why) => return Ok(Ended::NotSent(why)),
            Roundtrip::Lost(why) => return Ok(Ended::Lost(why)),
        };
        let adapter = dispatcher.config.adapter;
        let reading = match self.operation {
            Operation::Cancel => adapter.read_cancel(ask, &answer.response()),
            Operation::Lookup => adapter.read_lookup(ask, &answer.response()),
        };
        span.set("rescind.verdict", reading.verdict.as_str());
        if reading.verdict == Verdict::Unauthorized && caller.refused(&authorization) {
            return Err(TokenRefused(reading));
        }
        Ok(Ended::Read(reading))
    }

    /// One send, as one span of the request's trace.
    async fn sent(&self, request: &Request, authorization: &Authorization) -> (Roundtrip, Span) {
        let dispatcher = self.dispatcher;
        let envelope = &self.claim.stored.envelope;
        let call = Call {
            provider: dispatcher.name(),
            operation: self.operation,
            method: request.method,
            base_url: &dispatcher.config.account.base_url,
            attempt: self.claim.progress.attempts,
        };
        let mut span = dispatcher.shared.spans.call(envelope, &call);
        let traceparent = span.traceparent(envelope);
        let caller = &dispatcher.caller;
        let sent = caller.send(request, authorization, traceparent.as_deref());
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

    /// Why a cancel is not sent now: the login may have taken long, or the machine was suspended. Where nobody can be
    /// asked an earlier call may still be carried out, whatever made this one due: a clock that was set, other settings.
    fn withheld(&self) -> Option<&'static str> {
        let now = (self.dispatcher.shared.clock)();
        let progress = &self.claim.progress;
        if progress.blind && progress.quiet(now).is_some() {
            return Some("an earlier call may still be carried out");
        }
        if self.job.deadline.is_some_and(|deadline| deadline <= now) {
            return Some("the deadline passed before the call");
        }
        let taken_at = self.place.taken_at;
        taken_at
            .is_over(SEND_WITHIN, now)
            .then_some("the worker was held up before the call; others may have its work by now")
    }
}
