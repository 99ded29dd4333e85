//! The loop of a dispatcher: claims the due requests that have a place, and starts them.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::error;

use super::clock::Clock;
use super::{Dispatcher, Place, is_late};
use crate::backoff::{elapsed, plus};
use crate::failpoint::{self, Point};
use crate::gate::NoRoom;
use crate::ledger::{Claims, LedgerError, Planner, Which};
use crate::lifecycle::{Plan, Progress};
use crate::outcome::{Failed, Outcome, State, Unresolved};
use crate::shared::{Failing, LEDGER_PAUSE};

/// Most rows in one claim; the rest follows at once.
const CLAIM_MAX: usize = 128;
/// A look at the ledger without any signal: a lost wake-up costs this much, not a request.
const SCAN_EVERY: Duration = Duration::from_secs(5);
/// Between some requests whose deadline has passed and the next ones.
const OVERDUE_PAUSE: Duration = Duration::from_millis(20);

/// What the loop of a dispatcher does next.
enum Next {
    /// Looks again: there may be more at once.
    Again,
    /// Waits for a signal, but no longer than until then.
    WaitUntil(Instant),
}

/// What the loop of a dispatcher remembers from one round to the next.
struct Rounds<'a> {
    clock: Clock,
    /// Where no claim is tried, nothing waits for the ledger.
    claiming: Failing<'a>,
    /// Requests that ask what became of a call go first in the next claim. In every other one, so that neither they
    /// nor new calls wait for all of the others, and a provider that is down is tried with both.
    questions_first: bool,
    /// When those whose deadline has passed are looked for next.
    overdue_at: Instant,
}

impl Dispatcher {
    /// Claims and starts due requests until the worker stops.
    pub async fn run(self: Arc<Self>) {
        let mut rounds = Rounds {
            clock: Clock::default(),
            claiming: Failing::of(&self.shared),
            questions_first: true,
            overdue_at: Instant::now(),
        };
        while !self.shared.stop.is_cancelled() {
            if self.shared.hold.is_on() {
                rounds.claiming.set(false);
                tokio::select! {
                    () = self.shared.stop.cancelled() => {}
                    () = self.shared.hold.until(false) => {}
                }
                continue;
            }
            self.end_overdue(&mut rounds).await;
            let next = match self.enter(CLAIM_MAX) {
                Ok(places) => self.claim(places, &mut rounds).await,
                Err(no_room) => {
                    rounds.claiming.set(false);
                    self.wait_for(no_room)
                }
            };
            let Next::WaitUntil(mut end) = next else {
                continue;
            };
            if self.backlog.load(Ordering::Acquire) {
                end = end.min(rounds.overdue_at);
            }
            tokio::select! {
                () = self.shared.stop.cancelled() => {}
                () = self.wake.notified() => {}
                () = tokio::time::sleep_until(end) => {}
            }
        }
    }

    fn wait_for(&self, no_room: NoRoom) -> Next {
        let was_known = self.backlog.swap(true, Ordering::AcqRel);
        match no_room {
            // A place that was given back meanwhile woke no one: the backlog was not known.
            NoRoom::Full if !was_known => Next::Again,
            NoRoom::Full => Next::WaitUntil(Instant::now() + SCAN_EVERY),
            NoRoom::Rate(at) | NoRoom::Breaker(at) => {
                Next::WaitUntil((self.started + at).min(Instant::now() + SCAN_EVERY))
            }
        }
    }

    /// Ends the requests whose deadline has passed while they wait for a place: they need none any more.
    async fn end_overdue(self: &Arc<Self>, rounds: &mut Rounds<'_>) {
        let waits = self.backlog.load(Ordering::Acquire);
        if !waits || Instant::now() < rounds.overdue_at {
            return;
        }
        // So that calls go on beside very many of them.
        let most = self.uncommitted.room().min(CLAIM_MAX);
        let all = most > 0 && self.end_some_overdue(&rounds.clock, most).await < most;
        rounds.overdue_at = Instant::now() + if all { SCAN_EVERY } else { OVERDUE_PAUSE };
    }

    /// Returns how many. None as well if the ledger fails: the next claim tells.
    async fn end_some_overdue(self: &Arc<Self>, clock: &Clock, most: usize) -> usize {
        let _ending = self.shared.tasks.token();
        if self.shared.stop.is_cancelled() {
            return 0;
        }
        let now = (self.shared.clock)();
        let planner = self.planner(clock.steady_since(), now);
        let which = Which::Overdue(most);
        let claimed = self.shared.ledger.claim(self.name(), which, now, planner);
        let claims = claimed.await.unwrap_or_default().claims;
        let number = claims.len();
        for claim in claims {
            self.extra_place().start(claim, None);
        }
        number
    }

    async fn claim(self: &Arc<Self>, places: Vec<Place>, rounds: &mut Rounds<'_>) -> Next {
        // A call to come: a worker that stops waits for it as for one that is under way.
        let _claiming = self.shared.tasks.token();
        if self.shared.stop.is_cancelled() {
            return Next::Again;
        }
        let now = (self.shared.clock)();
        // Until the next due time is known, every one that is committed wakes the loop.
        let armed = self.armed.swap(i64::MAX, Ordering::AcqRel);
        let claimed = self.claim_due(places.len(), rounds, now).await;
        rounds.claiming.set(claimed.is_err());
        match claimed {
            Ok(claims) => self.start_all(claims, places, armed, now),
            Err(error) => {
                if rounds.claiming.is_told() {
                    error!(provider = self.name(), %error, "cannot claim; trying again");
                }
                Next::WaitUntil(Instant::now() + LEDGER_PAUSE)
            }
        }
    }

    async fn claim_due(
        self: &Arc<Self>,
        most: usize,
        rounds: &mut Rounds<'_>,
        now: Timestamp,
    ) -> Result<Claims, LedgerError> {
        self.check_clock(&mut rounds.clock, now).await?;
        let plan = self.planner(rounds.clock.steady_since(), now);
        let which = self.due(most, rounds);
        self.shared
            .ledger
            .claim(self.name(), which, now, plan)
            .await
    }

    /// Where there is room for all, their order does not matter.
    fn due(&self, most: usize, rounds: &mut Rounds<'_>) -> Which {
        if !self.backlog.load(Ordering::Acquire) {
            return Which::due(most);
        }
        let questions = if rounds.questions_first { most } else { 0 };
        rounds.questions_first = !rounds.questions_first;
        Which::Due { most, questions }
    }

    /// Starts the claims, and says when to look for the next ones.
    fn start_all(
        self: &Arc<Self>,
        claims: Claims,
        places: Vec<Place>,
        armed: i64,
        now: Timestamp,
    ) -> Next {
        let Claims { claims, next_due } = claims;
        let full = claims.len() == places.len();
        let idle = claims.is_empty() && next_due.is_none();
        self.backlog.store(full, Ordering::Release);
        for (claim, place) in claims.into_iter().zip(places) {
            failpoint::pass(Point::AfterIntentCommit);
            place.start(claim, None);
        }
        let mut gate = self.gate();
        gate.rest(idle, self.started.elapsed());
        self.gauges.breaker(gate.breaker_open());
        drop(gate);
        if full {
            // No due time was read: the old one still holds, or every commit would wake a loop without a place.
            self.armed.store(armed, Ordering::Release);
            return Next::Again;
        }
        self.freed.notify_one();
        let wait = next_due.map_or(SCAN_EVERY, |due| elapsed(now, due).min(SCAN_EVERY));
        let next = plus(now, wait).as_millisecond();
        self.armed.store(next, Ordering::Release);
        Next::WaitUntil(Instant::now() + wait)
    }

    /// The decision that the ledger asks for, inside its transaction, about each due request.
    fn planner(self: &Arc<Self>, steady_since: Timestamp, now: Timestamp) -> Planner {
        let dispatcher = Arc::clone(self);
        let quiet = Self::quiet(&self.config);
        Arc::new(move |stored, progress| {
            progress.distrust(steady_since, now, quiet);
            let Ok(job) = dispatcher.config.job(stored) else {
                return begun(unreadable(progress), progress, now);
            };
            let is_late = is_late(stored.envelope.received_at, steady_since, now);
            let terms = dispatcher.terms_late(&job, &progress.learned, is_late);
            let plan = progress.plan(&terms, now);
            if let Plan::Call(operation) = plan {
                dispatcher.begin(progress, operation, &terms.abilities, now);
            }
            begun(plan, progress, now)
        })
    }
}

/// The plan, with its check begun if it is one.
fn begun(plan: Plan, progress: &mut Progress, now: Timestamp) -> Plan {
    if plan == Plan::Check {
        progress.begin_check(now);
    }
    plan
}

/// A stored request that this configuration cannot read any more, e.g. after a change of
/// the account's kind.
fn unreadable(progress: &Progress) -> Plan {
    if progress.state == State::Finished {
        return Plan::Check;
    }
    Plan::Finish(if progress.exposed || progress.under_way {
        Outcome::Unresolved(Unresolved::ContradictoryEvidence)
    } else {
        Outcome::Failed(Failed::RejectedByProvider)
    })
}
