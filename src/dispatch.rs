//! Carries requests out: claim what fits, call, read, commit. One dispatcher per account,
//! so that a provider that hangs keeps nobody else waiting.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Instrument, error, info_span};

use crate::call::{Caller, ClientError};
use crate::config::AccountConfig;
use crate::failpoint::{self, Point};
use crate::gate::{Closed, Gate, Health, Limits};
use crate::job::Job;
use crate::ledger::{Begin, Claim, Claims, LedgerError, Stored};
use crate::lifecycle::{Plan, Progress, Terms};
use crate::metrics::GateGauges;
use crate::outcome::{Cause, Failed, Outcome, State, Unresolved};
use crate::shared::{LEDGER_PAUSE, Shared};
use crate::wall::Wall;
use crate::wire;

mod carry;
mod clock;
mod ended;
mod entered;
mod hints;
mod replay;
mod settle;

pub use replay::{first_call, reopening};

/// Most rows in one claim; more are claimed at once after.
const CLAIM_MAX: u32 = 128;
/// A look at the ledger without any signal: a lost wake-up costs this much, not a request.
const SCAN_EVERY: Duration = Duration::from_secs(5);
/// A cancel is sent this soon after its claim, or not at all: so a worker that was held up, and
/// whose work others have taken over, sends nothing late.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// The dispatcher of one account.
pub struct Dispatcher {
    config: AccountConfig,
    caller: Caller,
    shared: Arc<Shared>,
    gate: Mutex<Gate>,
    gauges: GateGauges,
    started: Instant,
    wake: Notify,
    /// A place came free, or nothing waits for one any more.
    freed: Notify,
    /// Places held for the claim under way: no calls yet, and perhaps never.
    held: AtomicU32,
    /// The last claim failed.
    unclaimed: AtomicBool,
    /// More was due than there was room for: fresh requests do not jump the queue.
    backlog: AtomicBool,
    /// When the loop looks again, milliseconds since the epoch.
    armed: AtomicI64,
    wall: Mutex<Wall>,
    /// Due times may be out of reach: the clock went back, perhaps before this start.
    astray: AtomicBool,
}

/// Whether a fresh request may begin.
pub enum Admission {
    /// At once, with this place.
    Begun(Place),
    /// In a moment: places come free fast.
    Soon,
    /// Some time.
    Later,
}

/// A place at the gate, given back when dropped.
pub struct Place {
    dispatcher: Arc<Dispatcher>,
    health: Health,
    /// Before the claim that it is for.
    entered: entered::Entered,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.dispatcher.leave(self.health);
    }
}

impl Dispatcher {
    /// A dispatcher that has not been started.
    pub fn new(config: AccountConfig, shared: Arc<Shared>) -> Result<Arc<Self>, ClientError> {
        let limits = Limits {
            in_flight: config.max_in_flight,
            rate_per_second: config.rate_per_second,
            breaker_failures: config.breaker.failures,
            breaker_open_for: config.breaker.open_for,
        };
        let gauges = shared
            .metrics
            .gate(&config.account.name, config.max_in_flight);
        Ok(Arc::new(Self {
            caller: Caller::new(&config)?,
            config,
            shared,
            gate: Mutex::new(Gate::new(limits)),
            gauges,
            started: Instant::now(),
            wake: Notify::new(),
            freed: Notify::new(),
            held: AtomicU32::new(0),
            unclaimed: AtomicBool::new(false),
            backlog: AtomicBool::new(true),
            armed: AtomicI64::new(0),
            wall: Mutex::new(Wall::default()),
            astray: AtomicBool::new(true),
        }))
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.config.account.name
    }

    /// How long a call that was claimed until now may still reach the provider.
    pub fn quiet(config: &AccountConfig) -> Duration {
        SEND_WITHIN + config.timeout
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
            if self.shared.hold.is_on() {
                self.unclaimed(false);
                tokio::select! {
                    () = self.shared.stop.cancelled() => {}
                    () = self.shared.hold.until(false) => {}
                }
                continue;
            }
            let wait = match self.enter(CLAIM_MAX) {
                Ok(places) => self.claim(places).await,
                Err(closed) => self.wait_for(closed),
            };
            let Some(until) = wait else { continue };
            tokio::select! {
                () = self.shared.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }

    /// Whether the last claim failed. Where none is tried, nothing waits for the ledger.
    fn unclaimed(&self, fails: bool) {
        let mut counted = self.unclaimed.load(Ordering::Acquire);
        self.shared.note(&mut counted, fails);
        self.unclaimed.store(counted, Ordering::Release);
    }

    /// `None` to look again at once, else until when to wait for a signal.
    fn wait_for(&self, closed: Closed) -> Option<Instant> {
        self.unclaimed(false);
        let was_known = self.backlog.swap(true, Ordering::AcqRel);
        match closed {
            // A place that was given back meanwhile has woken nobody.
            Closed::Full if !was_known => None,
            Closed::Full => Some(Instant::now() + SCAN_EVERY),
            Closed::Rate(at) | Closed::Breaker(at) => Some(self.started + at),
        }
    }

    /// `None` when there may be more at once, else until when to wait for a signal.
    async fn claim(self: &Arc<Self>, places: Vec<Place>) -> Option<Instant> {
        // A call to come: a worker that stops waits for it as for one that is under way.
        let _claiming = self.shared.tasks.token();
        if self.shared.stop.is_cancelled() {
            return None;
        }
        let now = (self.shared.clock)();
        let held = u32::try_from(places.len()).unwrap_or(u32::MAX);
        self.held.store(held, Ordering::Release);
        // Until it is known what is due next, every due time is news.
        let armed = self.armed.swap(i64::MAX, Ordering::AcqRel);
        let claims = self.claim_due(places.len(), now).await;
        self.unclaimed(claims.is_err());
        let claims = match claims {
            Ok(claims) => claims,
            Err(error) => {
                self.held.store(0, Ordering::Release);
                error!(provider = self.name(), %error, "cannot claim; trying again");
                return Some(Instant::now() + LEDGER_PAUSE);
            }
        };
        let full = claims.claims.len() == places.len();
        let idle = claims.claims.is_empty() && claims.next_due.is_none();
        self.backlog.store(full, Ordering::Release);
        for (claim, place) in claims.claims.into_iter().zip(places) {
            failpoint::pass(Point::AfterIntentCommit);
            self.start(claim, None, place);
        }
        self.held.store(0, Ordering::Release);
        let mut gate = self.gate();
        gate.rest(idle, self.started.elapsed());
        self.show(&gate);
        drop(gate);
        if full {
            self.armed.store(armed, Ordering::Release);
            return None;
        }
        self.freed.notify_one();
        let wait = claims.next_due.map_or(SCAN_EVERY, |due| {
            crate::backoff::elapsed(now, due).min(SCAN_EVERY)
        });
        let next = crate::backoff::plus(now, wait).as_millisecond();
        self.armed.store(next, Ordering::Release);
        Some(Instant::now() + wait)
    }

    async fn claim_due(
        self: &Arc<Self>,
        most: usize,
        now: Timestamp,
    ) -> Result<Claims, LedgerError> {
        self.look_at_the_clock(now).await?;
        let begin = self.begin(now);
        self.shared
            .ledger
            .claim(self.name(), most, now, begin)
            .await
    }

    /// What the ledger asks, inside its transaction, for each due request.
    fn begin(self: &Arc<Self>, now: Timestamp) -> Begin {
        let dispatcher = Arc::clone(self);
        let (steady_since, quiet) = (self.steady_since(), Self::quiet(&self.config));
        Arc::new(move |stored, progress| {
            progress.distrust(steady_since, now, quiet);
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
        job(&self.config, stored)
    }

    fn terms(&self, job: &Job) -> Terms {
        terms(&self.config, job)
    }

    /// A place for a fresh request that may begin at once, with its intent.
    pub fn admit(
        self: &Arc<Self>,
        job: &Job,
        progress: &mut Progress,
        now: Timestamp,
    ) -> Admission {
        if self.shared.hold.is_on() || self.shared.stop.is_cancelled() {
            return Admission::Later;
        }
        let Plan::Call(operation) = progress.plan(&self.terms(job), now) else {
            return Admission::Later;
        };
        let mut gate = self.gate();
        let at = self.started.elapsed();
        // Fresh requests do not jump the queue.
        if self.backlog.load(Ordering::Acquire) || gate.room(at).is_err() {
            return match gate.brisk(at) {
                true => Admission::Soon,
                false => Admission::Later,
            };
        }
        gate.enter(1, at);
        self.show(&gate);
        drop(gate);
        progress.begin(operation, now);
        Admission::Begun(self.place())
    }

    /// Ends when there may be a place for a fresh request, or at `end`.
    pub async fn room(&self, end: Instant) {
        drop(tokio::time::timeout_at(end, self.freed.notified()).await);
    }

    /// Requests were stored as due.
    pub fn has_due(&self) {
        self.backlog.store(true, Ordering::Release);
        self.wake();
    }

    /// Carries out a claim in a task of its own. `job`: the request, if it was just read.
    pub fn start(self: &Arc<Self>, claim: Claim, job: Option<Job>, place: Place) {
        let dispatcher = Arc::clone(self);
        let span = info_span!(
            "request",
            request_id = %claim.stored.request_id,
            provider = dispatcher.name(),
            attempt = claim.progress.attempts,
            trace_id = claim.stored.envelope.trace_id(),
        );
        // Boxed: it is large, and would be moved several times on its way into the task.
        let carrying = Box::pin(dispatcher.carry_out(claim, job, place));
        self.shared.tasks.spawn(carrying.instrument(span));
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, most: u32) -> Result<Vec<Place>, Closed> {
        let mut gate = self.gate();
        let now = self.started.elapsed();
        let places = gate.room(now)?.min(most);
        gate.enter(places, now);
        Ok(std::iter::repeat_with(|| self.place())
            .take(usize::try_from(places).unwrap_or_default())
            .collect())
    }

    fn place(self: &Arc<Self>) -> Place {
        Place {
            dispatcher: Arc::clone(self),
            health: Health::Untried,
            entered: entered::Entered::now((self.shared.clock)()),
        }
    }

    fn leave(&self, health: Health) {
        let mut gate = self.gate();
        let opened = gate.leave(health, self.started.elapsed());
        self.show(&gate);
        drop(gate);
        if opened {
            let metrics = &self.shared.metrics;
            metrics.scheduled(self.name(), Cause::BreakerOpen);
        }
        self.freed.notify_one();
    }

    fn show(&self, gate: &Gate) {
        let calls = gate
            .in_flight()
            .saturating_sub(self.held.load(Ordering::Acquire));
        self.gauges.show(calls, gate.breaker_open());
    }
}

/// The stored request as the account reads it today.
fn job(account: &AccountConfig, stored: &Stored) -> Result<Job, wire::Misunderstood> {
    wire::read_request(&stored.envelope.body, |_| Some(account.provider)).map(|read| read.job)
}

/// What applies to it.
fn terms(account: &AccountConfig, job: &Job) -> Terms {
    Terms {
        abilities: account.provider.abilities(&account.account, job),
        retry: account.retry,
        poll: account.poll,
        deadline: job.deadline,
    }
}

/// A stored request that this configuration cannot read any more, e.g. after a change of
/// the account's kind.
fn unreadable(progress: &Progress) -> Plan {
    if progress.state == State::Finished {
        return Plan::Check;
    }
    Plan::Finish(match progress.exposed || progress.under_way {
        true => Outcome::Unresolved(Unresolved::ContradictoryEvidence),
        false => Outcome::Failed(Failed::RejectedByProvider),
    })
}
