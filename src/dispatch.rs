//! Carries requests out: claim what fits, call, read, commit. One dispatcher per account,
//! so that a provider that hangs keeps nobody else waiting.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, error, info, info_span, warn};

use crate::call::{Caller, Exchange, LoginError};
use crate::config::AccountConfig;
use crate::failpoint::{self, Point};
use crate::gate::{Closed, Gate, Health, Limits};
use crate::job::Job;
use crate::ledger::{Begin, CallEnd, Change, Claim, Committed, DeadLetter, Ledger, Stored};
use crate::lifecycle::{Plan, Progress, Step, Terms};
use crate::metrics::Metrics;
use crate::outcome::{Cause, Failed, Operation, Outcome, State, Unresolved, Verdict, Why};
use crate::providers::{Ask, Evidence, Learned, Reading, Request};
use crate::wire::{self, Finding, Source};

mod hints;

/// Most rows in one claim; more are claimed at once after.
const CLAIM_MAX: u32 = 128;
/// A look at the ledger without any signal: a lost wake-up costs this much, not a request.
const SCAN_EVERY: Duration = Duration::from_secs(5);
/// Wait before a failed ledger operation is tried again.
const LEDGER_PAUSE: Duration = Duration::from_millis(500);

/// What the dispatchers share.
pub struct Shared {
    /// The truth.
    pub ledger: Arc<dyn Ledger>,
    /// The counts.
    pub metrics: Arc<Metrics>,
    /// The wall clock.
    pub clock: fn() -> Timestamp,
    /// Told when there is something to publish.
    pub outbox: Arc<Notify>,
    /// Every call that is under way.
    pub tasks: TaskTracker,
    /// The worker is stopping: nothing new is begun.
    pub stop: CancellationToken,
}

/// The dispatcher of one account.
pub struct Dispatcher {
    config: AccountConfig,
    caller: Caller,
    shared: Arc<Shared>,
    gate: Mutex<Gate>,
    started: Instant,
    wake: Notify,
    /// More was due than there was room for: fresh requests do not jump the queue.
    backlog: AtomicBool,
    /// When the loop looks again, milliseconds since the epoch.
    armed: AtomicI64,
}

/// A place at the gate, given back when dropped.
pub struct Place {
    dispatcher: Arc<Dispatcher>,
    health: Health,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dispatcher.leave(self.health);
    }
}

impl Dispatcher {
    /// A dispatcher that has not been started.
    pub fn new(config: AccountConfig, shared: Arc<Shared>) -> Result<Arc<Self>, reqwest::Error> {
        let limits = Limits {
            in_flight: config.max_in_flight,
            rate_per_second: config.rate_per_second,
            breaker_failures: config.breaker.failures,
            breaker_open_for: config.breaker.open_for,
        };
        shared
            .metrics
            .gate(&config.account.name, 0, config.max_in_flight, false);
        Ok(Arc::new(Self {
            caller: Caller::new(&config)?,
            config,
            shared,
            gate: Mutex::new(Gate::new(limits)),
            started: Instant::now(),
            wake: Notify::new(),
            backlog: AtomicBool::new(true),
            armed: AtomicI64::new(0),
        }))
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.config.account.name
    }

    /// The account's adapter.
    pub fn provider(&self) -> &'static dyn crate::providers::Provider {
        self.config.provider
    }

    /// Something may be due.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Claims and starts what is due until the worker stops.
    pub async fn run(self: Arc<Self>) {
        while !self.shared.stop.is_cancelled() {
            let wait = match self.enter(CLAIM_MAX) {
                Ok(places) => self.claim(places).await,
                Err(closed) => Some(self.wait_for(closed)),
            };
            let Some(until) = wait else { continue };
            tokio::select! {
                () = self.shared.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    fn wait_for(&self, closed: Closed) -> Instant {
        self.backlog.store(true, Ordering::Release);
        match closed {
            Closed::Full => Instant::now() + SCAN_EVERY,
            Closed::Rate(at) => self.started + at,
            Closed::Breaker(at) => {
                self.shared
                    .metrics
                    .scheduled(self.name(), Cause::BreakerOpen);
                self.started + at
            }
        }
    }

    /// `None` when there may be more at once, else until when to wait for a signal.
    async fn claim(self: &Arc<Self>, places: Vec<Place>) -> Option<Instant> {
        let now = (self.shared.clock)();
        let claimed = self
            .shared
            .ledger
            .claim(self.name(), places.len(), now, self.begin(now))
            .await;
        let claims = match claimed {
            Ok(claims) => claims,
            Err(error) => {
                error!(provider = self.name(), %error, "cannot claim; trying again");
                return Some(Instant::now() + LEDGER_PAUSE);
            }
        };
        let full = claims.claims.len() == places.len();
        self.backlog.store(full, Ordering::Release);
        for (claim, place) in claims.claims.into_iter().zip(places) {
            failpoint::pass(Point::AfterIntentCommit);
            self.start(claim, place);
        }
        if full {
            return None;
        }
        let wait = claims.next_due.map_or(SCAN_EVERY, |due| {
            crate::backoff::elapsed(now, due).min(SCAN_EVERY)
        });
        self.armed.store(
            crate::backoff::plus(now, wait).as_millisecond(),
            Ordering::Release,
        );
        Some(Instant::now() + wait)
    }

    /// What the ledger asks, inside its transaction, for each due request.
    fn begin(self: &Arc<Self>, now: Timestamp) -> Begin {
        let dispatcher = Arc::clone(self);
        Arc::new(move |stored, progress| {
            let plan = match dispatcher.job(stored) {
                Ok(job) => progress.plan(&dispatcher.terms(&job), now),
                Err(_) => unreadable(progress),
            };
            match plan {
                Plan::Call(operation) => progress.begin(operation, now),
                Plan::Check => progress.begin_check(now),
                Plan::Finish(_) => {}
            }
            plan
        })
    }

    fn job(&self, stored: &Stored) -> Result<Job, wire::Misunderstood> {
        wire::read_request(&stored.envelope.body, |_| Some(self.config.provider))
            .map(|read| read.job)
    }

    fn terms(&self, job: &Job) -> Terms {
        Terms {
            abilities: self.config.provider.abilities(&self.config.account, job),
            retry: self.config.retry,
            poll: self.config.poll,
            deadline: job.deadline,
        }
    }

    /// A place for a fresh request that may begin at once, with its intent, or `None`.
    pub fn admit(
        self: &Arc<Self>,
        job: &Job,
        progress: &mut Progress,
        now: Timestamp,
    ) -> Option<Place> {
        if self.backlog.load(Ordering::Acquire) || self.shared.stop.is_cancelled() {
            return None;
        }
        let Plan::Call(operation) = progress.plan(&self.terms(job), now) else {
            return None;
        };
        let place = self.enter(1).ok()?.pop()?;
        progress.begin(operation, now);
        Some(place)
    }

    /// Requests were stored as due.
    pub fn has_due(&self) {
        self.backlog.store(true, Ordering::Release);
        self.wake();
    }

    /// Carries out a claim in a task of its own.
    pub fn start(self: &Arc<Self>, claim: Claim, place: Place) {
        let dispatcher = Arc::clone(self);
        let span = info_span!(
            "request",
            request_id = %claim.stored.request_id,
            provider = dispatcher.name(),
            attempt = claim.progress.attempts,
            trace_id = claim.stored.envelope.trace_id(),
        );
        self.shared
            .tasks
            .spawn(async move { dispatcher.carry_out(claim, place).await }.instrument(span));
    }

    async fn carry_out(self: Arc<Self>, claim: Claim, mut place: Place) {
        let received_at = claim.stored.envelope.received_at;
        let change = match claim.plan {
            Plan::Finish(outcome) => {
                place.health = Health::Untried;
                self.finish(
                    &claim,
                    claim.progress.clone(),
                    outcome,
                    Source::Worker,
                    &Evidence::default(),
                    None,
                )
            }
            Plan::Call(operation) => match self.job(&claim.stored) {
                Ok(job) => self.call(&claim, &job, operation, &mut place).await,
                Err(_) => return error!("a claimed request can no longer be read"),
            },
            Plan::Check => return self.check(claim, place).await,
        };
        failpoint::pass(Point::AfterAnswer);
        self.commit(change, received_at).await;
        drop(place);
        // Also after a decision without a call: others may wait for its place.
        if self.backlog.load(Ordering::Acquire) {
            self.wake();
        }
    }

    /// One call of a claim, counted.
    async fn ask_about(
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
        };
        let started = Instant::now();
        let ended = self.ask(&ask, operation).await;
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
        let now = (self.shared.clock)();
        let mut progress = claim.progress.clone();
        let terms = self.terms(job);
        let jitter = rand::random();
        let (step, reading) = match ended {
            Ended::Read(reading) => {
                progress.learned.extend(reading.learned.clone());
                (
                    progress.after(&reading.verdict, &terms, now, jitter),
                    reading,
                )
            }
            Ended::NotSent(why) => (progress.not_sent(&terms, now, jitter), ours(why)),
            Ended::Lost(why) => (
                progress.after(&Verdict::Doubt, &terms, now, jitter),
                ours(why),
            ),
        };
        debug!(
            operation = operation.as_str(),
            verdict,
            detail = reading.evidence.message,
            "call ended"
        );
        let call = CallEnd {
            verdict,
            evidence: reading.evidence.clone(),
        };
        match step {
            Step::Finish(outcome) => {
                self.confirmed(&claim.progress, operation);
                let source = match operation {
                    Operation::Cancel => Source::Response,
                    Operation::Lookup => Source::Lookup,
                };
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
                    hinted: hints::hinted(&progress, &terms, now),
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
    async fn ask(&self, ask: &Ask<'_>, operation: Operation) -> Ended {
        let request = match operation {
            Operation::Cancel => self.config.provider.cancel(ask),
            Operation::Lookup => self.config.provider.lookup(ask),
        };
        let (ended, renewable) = self.exchange(ask, operation, &request).await;
        match ended {
            Ended::Read(Reading {
                verdict: Verdict::Unauthorized,
                ..
            }) if renewable => {
                info!("the token was refused; asking for a new one");
                self.exchange(ask, operation, &request).await.0
            }
            ended => ended,
        }
    }

    async fn exchange(
        &self,
        ask: &Ask<'_>,
        operation: Operation,
        request: &Request,
    ) -> (Ended, bool) {
        let observe = |verdict, took| {
            self.shared
                .metrics
                .called(self.name(), "token", verdict, took)
        };
        let authorization = match self.caller.authorize((self.shared.clock)(), &observe).await {
            Ok(authorization) => authorization,
            Err(LoginError::Refused(why)) => return (Ended::Read(refused_login(why)), false),
            Err(error @ LoginError::Unavailable(_)) => {
                return (Ended::NotSent(error.to_string()), false);
            }
        };
        // The login may have taken its time.
        let too_late = ask
            .job
            .deadline
            .is_some_and(|deadline| deadline <= (self.shared.clock)());
        if operation == Operation::Cancel && too_late {
            return (
                Ended::NotSent("the deadline passed before the call".into()),
                false,
            );
        }
        let answer = match self.caller.send(request, &authorization).await {
            Exchange::Answered(answer) => answer,
            Exchange::NotSent(why) => return (Ended::NotSent(why), false),
            Exchange::Lost(why) => return (Ended::Lost(why), false),
        };
        let reading = match operation {
            Operation::Cancel => self.config.provider.read_cancel(ask, &answer.response()),
            Operation::Lookup => self.config.provider.read_lookup(ask, &answer.response()),
        };
        let renewable =
            reading.verdict == Verdict::Unauthorized && self.caller.refused(&authorization);
        (Ended::Read(reading), renewable)
    }

    fn finish(
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
        let finding = Finding {
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
            completed_at: now,
        };
        Change {
            id: claim.id,
            messages: finding.messages(),
            dead_letter: outcome.is_dead_letter().then(|| DeadLetter::of(&finding)),
            progress,
            hinted: None,
            call,
            outcome: Some(outcome),
            at: now,
        }
    }

    /// Commits, for as long as it takes: what is known now must not be asked again.
    async fn commit(&self, change: Change, received_at: Timestamp) -> bool {
        let changes: Arc<[Change]> = Arc::from([change]);
        let committed = loop {
            match self.shared.ledger.commit(Arc::clone(&changes)).await {
                Ok(committed) => break committed,
                Err(error) => error!(%error, "cannot commit an outcome; trying again"),
            }
            tokio::time::sleep(LEDGER_PAUSE).await;
        };
        if committed.first() == Some(&Committed::Lost) {
            warn!("the claim was lost; its outcome was not written");
            return false;
        }
        failpoint::pass(Point::AfterOutcomeCommit);
        let [change] = &*changes else { return true };
        if let Some(outcome) = change.outcome {
            self.shared.metrics.finished(self.name(), outcome);
            self.shared.outbox.notify_one();
            info!(
                outcome = outcome.as_str(),
                reason = outcome.reason(),
                duration_s = crate::backoff::elapsed(received_at, change.at).as_secs_f64(),
                "finished"
            );
        }
        let due = [Some(&Committed::Freed), Some(&Committed::Hinted)].contains(&committed.first());
        let sooner = change
            .progress
            .due_at
            .is_some_and(|due| due.as_millisecond() < self.armed.load(Ordering::Acquire));
        if due || sooner {
            self.wake();
        }
        true
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, most: u32) -> Result<Vec<Place>, Closed> {
        let mut gate = self.gate();
        let places = gate.room(self.started.elapsed())?.min(most);
        gate.enter(places);
        self.show(&gate);
        let place = || Place {
            dispatcher: Arc::clone(self),
            health: Health::Untried,
        };
        Ok(std::iter::repeat_with(place)
            .take(usize::try_from(places).unwrap_or_default())
            .collect())
    }

    fn leave(&self, health: Health) {
        let mut gate = self.gate();
        gate.leave(health, self.started.elapsed());
        self.show(&gate);
    }

    fn show(&self, gate: &Gate) {
        let limit = self.config.max_in_flight;
        self.shared
            .metrics
            .gate(self.name(), gate.in_flight(), limit, gate.breaker_open());
    }
}

/// How a call ended.
enum Ended {
    Read(Reading),
    NotSent(String),
    Lost(String),
}

impl Ended {
    fn verdict_name(&self) -> &'static str {
        match self {
            Self::Read(reading) => reading.verdict.as_str(),
            Self::NotSent(_) => "not_sent",
            Self::Lost(_) => "doubt",
        }
    }

    fn health(&self) -> Health {
        match self {
            Self::Read(reading) => match reading.evidence.http_status {
                Some(500..) => Health::Failed,
                _ => Health::Answered,
            },
            Self::NotSent(_) | Self::Lost(_) => Health::Failed,
        }
    }
}

/// A reading of our own words, where the provider gave none.
fn ours(why: String) -> Reading {
    let evidence = Evidence {
        message: Some(why),
        ..Evidence::default()
    };
    Reading {
        verdict: Verdict::Doubt,
        evidence,
        learned: Learned::new(),
    }
}

fn refused_login(why: String) -> Reading {
    Reading {
        verdict: Verdict::Misconfigured(Why::Credentials),
        ..ours(why)
    }
}

/// A stored request that this configuration cannot read any more, e.g. after a change of
/// the account's kind.
fn unreadable(progress: &Progress) -> Plan {
    if progress.state == State::Finished {
        return Plan::Check;
    }
    Plan::Finish(match progress.exposed {
        true => Outcome::Unresolved(Unresolved::ContradictoryEvidence),
        false => Outcome::Failed(Failed::RejectedByProvider),
    })
}
