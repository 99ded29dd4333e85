//! Carries requests out: claims those that fit, calls, reads, commits. One dispatcher per account,
//! so that a provider that hangs delays no other account.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;
use tracing::{Instrument, info, info_span, warn};

use crate::backoff::elapsed;
use crate::call::{self, Caller, ClientError};
use crate::config::AccountConfig;
use crate::gate::{BreakerChange, Gate, Health, Limits, NoRoom};
use crate::job::Job;
use crate::ledger::{Claim, Stored};
use crate::lifecycle::{Plan, Progress, Terms};
use crate::metrics::GateGauges;
use crate::outcome::{Cause, Operation};
use crate::providers::{Abilities, Learned, Provider};
use crate::shared::Shared;
use crate::since::Since;
use crate::wire;

mod attempt;
mod carry;
mod claims;
mod clock;
mod commit;
mod ended;
mod hints;
mod replay;
mod throttle;
mod uncommitted;

pub use replay::{first_call, reopening};
use throttle::Throttle;
use uncommitted::Uncommitted;

/// A cancel is sent this soon after its claim, or not at all: a worker that was held up, and whose
/// work others have taken over, sends nothing late.
const SEND_WITHIN: Duration = Duration::from_secs(5);

/// A request that has waited longer than this is looked at before its first cancel, where what it names may be
/// another payment by now. An order is rarely charged again within a minute after its cancel was asked for.
const LATE: Duration = Duration::from_secs(60);

/// The dispatchers of a worker, by account.
pub type Dispatchers = BTreeMap<String, Arc<Dispatcher>>;

/// The dispatcher of one account.
pub struct Dispatcher {
    config: AccountConfig,
    caller: Caller,
    shared: Arc<Shared>,
    gate: Mutex<Gate>,
    gauges: GateGauges,
    started: Instant,
    wake: Notify,
    /// A place came free, or no due request waits for one any more.
    freed: Notify,
    /// More was due than there was room for: fresh requests do not jump the queue.
    backlog: AtomicBool,
    /// When the loop looks again, milliseconds since the epoch.
    armed: AtomicI64,
    uncommitted: Uncommitted,
    contradictions: Throttle,
}

/// Whether a fresh request may begin.
pub enum Admission {
    /// At once, in this place and with this call, which its progress has as under way.
    Begun(Place, Operation),
    /// In a moment: places come free fast.
    Soon,
    /// Not now: it is stored as due.
    Later,
}

/// A place at the gate, given back when dropped.
pub struct Place {
    dispatcher: Arc<Dispatcher>,
    /// A call was begun in it.
    is_call: bool,
    health: Health,
    /// Why the call failed.
    failure: Option<String>,
    /// When the place was taken, so before its claim: a cancel must begin within [`SEND_WITHIN`] of it.
    taken_at: Since,
    /// When its call was sent last.
    sent_at: Option<Instant>,
}

impl Place {
    /// Carries out a claim in a task of its own. `job`: the request, if it was just read.
    pub fn start(mut self, claim: Claim, job: Option<Job>) {
        let dispatcher = Arc::clone(&self.dispatcher);
        if claim.operation().is_some() {
            self.is_call = true;
            dispatcher.gauges.begun();
        }
        let span = info_span!(
            "request",
            request_id = %claim.stored.request_id,
            provider = dispatcher.name(),
            attempt = claim.progress.attempts,
            trace_id = claim.stored.envelope.trace_id(),
        );
        // Boxed: it is large, and would be moved several times on its way into the task.
        let carrying = Box::pin(Arc::clone(&dispatcher).carry_out(claim, job, self));
        dispatcher.shared.tasks.spawn(carrying.instrument(span));
    }

    /// The call is over, whatever is still to be written about it. Others may wait for the place, also
    /// where no call was made.
    pub fn give_back(self) {
        let dispatcher = Arc::clone(&self.dispatcher);
        drop(self);
        if dispatcher.backlog.load(Ordering::Acquire) {
            dispatcher.wake();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.is_call {
            self.dispatcher.gauges.ended();
        }
        self.dispatcher.leave(self.health, self.failure.as_deref());
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
        if config.max_in_flight == 0 {
            warn!(
                provider = config.account.name,
                "max_in_flight is 0: no call begins, and the account's requests wait"
            );
        }
        Ok(Arc::new(Self {
            caller: Caller::new(&config, call::since_boot)?,
            uncommitted: Uncommitted::of(config.max_in_flight),
            config,
            shared,
            gate: Mutex::new(Gate::new(limits)),
            gauges,
            started: Instant::now(),
            wake: Notify::new(),
            freed: Notify::new(),
            backlog: AtomicBool::new(true),
            armed: AtomicI64::new(0),
            contradictions: Throttle::default(),
        }))
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.config.account.name
    }

    /// How long a call that was claimed until now may still be applied: it may be sent late, take its `timeout`,
    /// and be carried out for another one, as any call without an answer.
    pub fn quiet(config: &AccountConfig) -> Duration {
        SEND_WITHIN + 2 * config.timeout
    }

    /// The account's adapter.
    pub fn adapter(&self) -> &'static dyn Provider {
        self.config.adapter
    }

    /// Something may be due.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// The terms of a stored request that may have waited for its first call: see [`LATE`].
    fn terms_late(&self, job: &Job, known: &Learned, is_late: bool) -> Terms {
        let mut terms = self.config.terms(job);
        terms.abilities.look_first |= is_late && self.config.adapter.may_be_another(job, known);
        terms
    }

    /// A place for a fresh request that may begin at once, with its intent.
    pub fn admit(
        self: &Arc<Self>,
        job: &Job,
        progress: &mut Progress,
        now: Timestamp,
    ) -> Admission {
        let is_held = self.shared.hold.is_on() || self.uncommitted.are_many();
        if is_held || self.shared.stop.is_cancelled() {
            return Admission::Later;
        }
        let terms = self.config.terms(job);
        let Plan::Call(operation) = progress.plan(&terms, now) else {
            return Admission::Later;
        };
        let mut gate = self.gate();
        let at = self.started.elapsed();
        // Fresh requests do not jump the queue.
        if self.backlog.load(Ordering::Acquire) || gate.room(at).is_err() {
            return if gate.brisk(at) {
                Admission::Soon
            } else {
                Admission::Later
            };
        }
        gate.enter(1, at);
        drop(gate);
        self.begin(progress, operation, &terms.abilities, now);
        Admission::Begun(self.place(), operation)
    }

    /// The intent of a call, before it is committed.
    fn begin(
        &self,
        progress: &mut Progress,
        operation: Operation,
        abilities: &Abilities,
        now: Timestamp,
    ) {
        progress.begin(operation, now);
        progress.set_quiet(Self::quiet(&self.config), abilities.lookup);
    }

    /// Waits until there may be a place for a fresh request, but no longer than until `end`.
    pub async fn until_room(&self, end: Instant) {
        drop(tokio::time::timeout_at(end, self.freed.notified()).await);
    }

    /// Requests were stored as due.
    pub fn note_due(&self) {
        self.backlog.store(true, Ordering::Release);
        self.wake();
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, most: usize) -> Result<Vec<Place>, NoRoom> {
        if self.uncommitted.are_many() {
            return Err(NoRoom::Full);
        }
        let mut gate = self.gate();
        let now = self.started.elapsed();
        let most = u32::try_from(most).unwrap_or(u32::MAX);
        let places = gate.room(now)?.min(most);
        gate.enter(places, now);
        Ok(std::iter::repeat_with(|| self.place())
            .take(usize::try_from(places).unwrap_or_default())
            .collect())
    }

    /// A place whether there is room or not, for what makes no call.
    fn extra_place(self: &Arc<Self>) -> Place {
        self.gate().enter(1, self.started.elapsed());
        self.place()
    }

    fn place(self: &Arc<Self>) -> Place {
        Place {
            dispatcher: Arc::clone(self),
            is_call: false,
            health: Health::Untried,
            failure: None,
            taken_at: Since::now((self.shared.clock)()),
            sent_at: None,
        }
    }

    fn leave(&self, health: Health, failure: Option<&str>) {
        let mut gate = self.gate();
        let breaker = gate.leave(health, self.started.elapsed());
        self.gauges.breaker(gate.breaker_open());
        drop(gate);
        match breaker {
            BreakerChange::Opened => warn!(
                provider = self.name(),
                failures = self.config.breaker.failures,
                last = failure,
                "calls failed one after the other: all calls are stopped, but for one now and then"
            ),
            BreakerChange::Closed => info!(provider = self.name(), "calls go on"),
            BreakerChange::Reopened | BreakerChange::Unchanged => {}
        }
        if matches!(breaker, BreakerChange::Opened | BreakerChange::Reopened) {
            let metrics = &self.shared.metrics;
            metrics.scheduled(self.name(), Cause::BreakerOpen);
        }
        self.freed.notify_one();
    }
}

/// Whether a request has waited for longer than [`LATE`], or may have: the clock was set since it came.
fn is_late(received_at: Timestamp, steady_since: Timestamp, now: Timestamp) -> bool {
    !(steady_since..=now).contains(&received_at) || elapsed(received_at, now) > LATE
}

impl AccountConfig {
    /// The stored request as the account reads it today.
    fn job(&self, stored: &Stored) -> Result<Job, wire::Misunderstood> {
        wire::read_request(&stored.envelope.body, self.adapter)
    }

    /// The terms of a request: what the adapter can do, the account's schedules, the deadline.
    fn terms(&self, job: &Job) -> Terms {
        Terms {
            abilities: self.adapter.abilities(&self.account, job),
            retry: self.retry,
            poll: self.poll,
            deadline: job.deadline,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_late_after_a_minute_and_where_nobody_knows() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let always = Timestamp::MIN;
        assert!(!is_late(at(0), always, at(60)));
        assert!(is_late(at(0), always, at(61)));
        assert!(is_late(at(3600), always, at(60)), "the clock went back");
        assert!(is_late(at(0), at(10), at(20)), "it was set since");
    }
}
