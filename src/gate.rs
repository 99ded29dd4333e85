//! The gate of one account, so that its calls hurt neither the provider nor other accounts: how many at
//! once, how many a second, and a circuit breaker. Pure: time is an argument.
//!
//! A closed gate postpones; it spends no attempt and turns no doubt into a failure.

use std::time::Duration;

/// Limits of one account.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Calls at once; 0 for none at all.
    pub in_flight: u32,
    /// Calls a second, 0 for no limit.
    pub rate_per_second: f64,
    /// Failures in a row that open the breaker.
    pub breaker_failures: u32,
    /// How long it stays open.
    pub breaker_open_for: Duration,
}

/// Places that come free this fast are worth waiting for: 1,000 a second.
const BRISK: Duration = Duration::from_millis(1);
/// Without a place coming free for this long, the account hangs.
const STALLED: Duration = Duration::from_millis(100);
/// Longest time between two places that counts: a pause says nothing about the pace.
const GAP_MAX: Duration = Duration::from_millis(5);
/// Longest wait for the next call that a rate allows, in seconds.
const WAIT_MAX: f64 = 86_400.0;

/// How a call ended, as far as the provider's health is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The provider answered, whatever it said.
    Answered,
    /// No connection, no answer in time, or a server error.
    Failed,
    /// No call was made after all.
    Untried,
}

/// Why a call may not begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoRoom {
    /// As many calls as allowed are in flight; one of them ending opens it.
    Full,
    /// The rate is used up until then.
    Rate(Duration),
    /// The breaker is open until then.
    Breaker(Duration),
}

/// What the end of a call did to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerChange {
    /// Nothing.
    Unchanged,
    /// It is open, for the first time.
    Opened,
    /// It is open again: the call that tried the provider failed.
    Reopened,
    /// It is closed again.
    Closed,
}

/// The state of one account's gate. Times are durations since any fixed start.
#[derive(Debug)]
pub struct Gate {
    limits: Limits,
    in_flight: u32,
    failures: u32,
    open_until: Option<Duration>,
    /// The breaker's pause is over, and no request waits for the call that would try the provider.
    resting: bool,
    tokens: f64,
    filled_at: Duration,
    /// Smoothed time between two places that come free.
    pace: Duration,
    /// When the last place came free, or when the first call began after a rest.
    left_at: Duration,
}

impl Gate {
    /// A gate with nothing in flight.
    pub fn new(limits: Limits) -> Self {
        let tokens = burst(limits.rate_per_second);
        Self {
            limits,
            in_flight: 0,
            failures: 0,
            open_until: None,
            resting: false,
            tokens,
            filled_at: Duration::ZERO,
            pace: Duration::ZERO,
            left_at: Duration::ZERO,
        }
    }

    /// How many calls may begin now.
    pub fn room(&mut self, now: Duration) -> Result<u32, NoRoom> {
        let free = self.limits.in_flight.saturating_sub(self.in_flight);
        let free = match self.open_until {
            Some(until) if now < until => return Err(NoRoom::Breaker(until)),
            // Half open: one call tries the provider, at the rate of any other.
            Some(_) if self.in_flight > 0 => return Err(NoRoom::Full),
            Some(_) => 1,
            None if free == 0 => return Err(NoRoom::Full),
            None => free,
        };
        if self.limits.rate_per_second <= 0.0 {
            return Ok(free);
        }
        self.fill(now);
        if self.tokens < 1.0 {
            let wait = (1.0 - self.tokens) / self.limits.rate_per_second;
            // At a very low rate the wait would be longer than a duration can be.
            return Err(NoRoom::Rate(
                now + Duration::from_secs_f64(wait.min(WAIT_MAX)),
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "floored, positive, small"
        )]
        let allowed = self.tokens.floor() as u32;
        Ok(free.min(allowed))
    }

    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.filled_at).as_secs_f64();
        let most = burst(self.limits.rate_per_second);
        self.tokens = (self.tokens + passed * self.limits.rate_per_second).min(most);
        self.filled_at = now;
    }

    /// Takes places for calls that are about to begin. Without a rate the tokens are not looked at.
    pub fn enter(&mut self, calls: u32, now: Duration) {
        if self.in_flight == 0 {
            self.left_at = now;
        }
        self.in_flight += calls;
        self.tokens -= f64::from(calls);
    }

    /// Gives a place back.
    pub fn leave(&mut self, health: Health, now: Duration) -> BreakerChange {
        self.in_flight = self.in_flight.saturating_sub(1);
        let gap = now.saturating_sub(self.left_at).min(GAP_MAX);
        self.pace = (self.pace * 31 + gap) / 32;
        self.left_at = now;
        match health {
            Health::Answered => {
                self.failures = 0;
                if self.open_until.take().is_some() {
                    return BreakerChange::Closed;
                }
            }
            Health::Failed => {
                self.failures = self.failures.saturating_add(1);
                if self.failures >= self.limits.breaker_failures {
                    self.resting = false;
                    let until = self.open_until.replace(now + self.limits.breaker_open_for);
                    return match until {
                        None => BreakerChange::Opened,
                        Some(until) if now >= until => BreakerChange::Reopened,
                        // Calls that were on the wire together with the one that opened it fail as well.
                        Some(_) => BreakerChange::Unchanged,
                    };
                }
            }
            Health::Untried => self.tokens += 1.0,
        }
        BreakerChange::Unchanged
    }

    /// Places come free so fast that a request which finds none had better wait for the next.
    pub fn brisk(&self, now: Duration) -> bool {
        self.open_until.is_none()
            && self.limits.rate_per_second <= 0.0
            && self.pace <= BRISK
            && now.saturating_sub(self.left_at) <= STALLED
    }

    /// Notes whether no request waits for a call (`idle`). A breaker whose pause is over stops none then;
    /// the next call tries the provider.
    pub fn rest(&mut self, idle: bool, now: Duration) {
        self.resting = idle && self.open_until.is_some_and(|until| now >= until);
    }

    /// Whether the breaker is open, or half open while something waits.
    pub fn breaker_open(&self) -> bool {
        self.open_until.is_some() && !self.resting
    }
}

/// A second's worth, and at least one call.
fn burst(rate_per_second: f64) -> f64 {
    rate_per_second.max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        in_flight: 4,
        rate_per_second: 0.0,
        breaker_failures: 3,
        breaker_open_for: Duration::from_secs(30),
    };

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn no_more_calls_at_once_than_allowed() {
        let mut gate = Gate::new(LIMITS);
        assert_eq!(gate.room(at(0)), Ok(4));
        gate.enter(4, at(0));
        assert_eq!(gate.room(at(0)), Err(NoRoom::Full));
        gate.leave(Health::Answered, at(1));
        assert_eq!(gate.room(at(1)), Ok(1));
    }

    /// Else every one of them would have to be paid off when the provider is back.
    #[test]
    fn calls_that_look_whether_the_provider_is_back_keep_to_the_rate() {
        let mut gate = Gate::new(Limits {
            rate_per_second: 0.1,
            breaker_open_for: Duration::from_secs(5),
            ..LIMITS
        });
        let mut calls = 0;
        for second in 0..3_600 {
            if gate.room(at(second)) == Ok(1) {
                gate.enter(1, at(second));
                gate.leave(Health::Failed, at(second));
                calls += 1;
            }
        }
        assert!((300..=361).contains(&calls), "{calls} in an hour");
        assert_eq!(gate.room(at(3_620)), Ok(1));
    }

    #[test]
    fn a_rate_below_any_use_waits_for_a_day_and_ends_nothing() {
        let mut gate = Gate::new(Limits {
            rate_per_second: 1e-300,
            ..LIMITS
        });
        gate.enter(1, at(0));
        assert_eq!(gate.room(at(0)), Err(NoRoom::Rate(at(86_400))));
    }

    #[test]
    fn the_rate_is_a_bucket_of_one_second() {
        let mut gate = Gate::new(Limits {
            rate_per_second: 2.0,
            ..LIMITS
        });
        assert_eq!(gate.room(at(0)), Ok(2));
        gate.enter(2, at(0));
        assert_eq!(
            gate.room(at(0)),
            Err(NoRoom::Rate(Duration::from_millis(500)))
        );
        assert_eq!(
            gate.room(Duration::from_millis(250)),
            Err(NoRoom::Rate(Duration::from_millis(500))),
            "half a token"
        );
        assert_eq!(gate.room(Duration::from_millis(500)), Ok(1));
        // What was not called after all is not counted against the rate.
        gate.enter(1, Duration::from_millis(500));
        gate.leave(Health::Untried, Duration::from_millis(500));
        assert_eq!(gate.room(Duration::from_millis(500)), Ok(1));
        gate.leave(Health::Untried, at(1));
        gate.leave(Health::Untried, at(1));
        assert_eq!(gate.room(at(9)), Ok(2));
    }

    /// So many places came free, one each `every`; and when the last one did.
    fn after_leaving(every: Duration, limits: Limits) -> (Gate, Duration) {
        let mut gate = Gate::new(limits);
        gate.enter(200, at(9));
        for n in 1..=100 {
            gate.leave(Health::Answered, at(9) + every * n);
        }
        (gate, at(9) + every * 100)
    }

    #[test]
    fn places_are_worth_waiting_for_while_they_come_free_fast() {
        let (fast, now) = after_leaving(Duration::from_micros(800), LIMITS);
        assert!(fast.brisk(now) && fast.brisk(now + Duration::from_millis(100)));
        assert!(!fast.brisk(now + Duration::from_millis(101)), "it hangs");
        let (slow, now) = after_leaving(Duration::from_millis(3), LIMITS);
        assert!(!slow.brisk(now));
        let limits = Limits {
            rate_per_second: 5_000.0,
            ..LIMITS
        };
        let (limited, now) = after_leaving(Duration::from_micros(800), limits);
        assert!(!limited.brisk(now), "the rate decides, not the provider");
        let (mut failing, now) = after_leaving(Duration::from_micros(800), LIMITS);
        for _ in 0..3 {
            failing.leave(Health::Failed, now);
        }
        assert!(!failing.brisk(now), "the breaker is open");
    }

    #[test]
    fn a_rest_is_no_pace_and_no_stall() {
        let (mut gate, now) = after_leaving(Duration::from_micros(800), LIMITS);
        for _ in 0..100 {
            gate.leave(Health::Answered, now);
        }
        gate.enter(4, now + at(60));
        assert!(gate.brisk(now + at(60)));
        gate.leave(Health::Answered, now + at(60));
        assert!(gate.brisk(now + at(60)));
    }

    #[test]
    fn the_breaker_opens_lets_one_call_try_and_closes_on_an_answer() {
        let mut gate = Gate::new(LIMITS);
        for _ in 0..3 {
            assert!(!gate.breaker_open());
            gate.enter(1, at(10));
            gate.leave(Health::Failed, at(10));
        }
        assert!(gate.breaker_open());
        assert_eq!(gate.room(at(11)), Err(NoRoom::Breaker(at(40))));
        assert_eq!(gate.room(at(40)), Ok(1));
        gate.enter(1, at(40));
        assert_eq!(gate.room(at(40)), Err(NoRoom::Full));
        gate.leave(Health::Failed, at(41));
        assert_eq!(gate.room(at(42)), Err(NoRoom::Breaker(at(71))));
        gate.enter(1, at(72));
        gate.leave(Health::Answered, at(72));
        assert_eq!(gate.room(at(72)), Ok(4));
        assert!(!gate.breaker_open());
    }

    /// However many calls fail with it, or wait for it.
    #[test]
    fn each_change_of_the_breaker_is_told_once() {
        use BreakerChange::{Closed, Opened, Reopened, Unchanged};
        let mut gate = Gate::new(LIMITS);
        gate.enter(4, at(0));
        let mut fails = |second| gate.leave(Health::Failed, at(second));
        let changes = [0, 0, 0, 1].map(&mut fails);
        let expected = [Unchanged, Unchanged, Opened, Unchanged];
        assert_eq!(changes, expected);
        assert_eq!(gate.room(at(31)), Ok(1));
        gate.enter(1, at(31));
        let still_down = gate.leave(Health::Failed, at(32));
        assert_eq!(still_down, Reopened);
        assert_eq!(gate.room(at(62)), Ok(1));
        gate.enter(1, at(62));
        assert_eq!(gate.leave(Health::Answered, at(63)), Closed);
        assert_eq!(gate.leave(Health::Answered, at(64)), Unchanged);
    }

    /// Else it would look open for as long as there is nothing to cancel.
    #[test]
    fn a_breaker_whose_pause_is_over_is_open_for_nobody_where_nothing_waits() {
        let mut gate = Gate::new(LIMITS);
        gate.enter(3, at(0));
        for _ in 0..3 {
            gate.leave(Health::Failed, at(0));
        }
        gate.rest(true, at(29));
        assert!(gate.breaker_open(), "a new request has to wait");
        gate.rest(true, at(30));
        assert!(!gate.breaker_open());
        assert_eq!(gate.room(at(40)), Ok(1), "one call still tries it");
        gate.enter(1, at(40));
        gate.leave(Health::Failed, at(40));
        assert!(gate.breaker_open());
    }
}
