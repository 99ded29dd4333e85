//! When to try again: the `backoff` crate's intervals with full jitter. Pure.
//!
//! Only the crate's interval arithmetic is used. Its own randomness and clock are switched
//! off, since a wait here is a row with a due time that has to be the same under one seed,
//! and its retry loops are not used at all.

use std::time::Duration;

use backoff::ExponentialBackoffBuilder;
use backoff::backoff::Backoff;
use jiff::Timestamp;

/// An exponential schedule and its end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// Interval before the first repetition.
    pub first: Duration,
    /// Growth of the interval.
    pub factor: f64,
    /// Longest interval.
    pub max: Duration,
    /// Nothing is begun later than this after the first time.
    pub give_up_after: Duration,
}

impl Schedule {
    /// The interval after `repetitions` repetitions, before jitter.
    pub fn interval(&self, repetitions: u32) -> Duration {
        let mut intervals = ExponentialBackoffBuilder::new()
            .with_initial_interval(self.first)
            .with_multiplier(self.factor)
            .with_max_interval(self.max)
            .with_randomization_factor(0.0)
            .with_max_elapsed_time(None)
            .build();
        let mut interval = self.first.min(self.max);
        let mut before = None;
        for _ in 0..=repetitions {
            interval = intervals.next_backoff().unwrap_or(self.max).min(self.max);
            // It stays there.
            if interval == self.max || before == Some(interval) {
                break;
            }
            before = Some(interval);
        }
        interval
    }

    /// When the next repetition is due: full jitter over the interval, which begins with the provider's own `after`,
    /// or all who were told the same would come back at once. `after` is capped at `max` so that no header parks a
    /// request.
    pub fn due(
        &self,
        repetitions: u32,
        after: Option<Duration>,
        now: Timestamp,
        jitter: f64,
    ) -> Timestamp {
        let wait = self.interval(repetitions).mul_f64(jitter.clamp(0.0, 1.0));
        plus(now, self.least(after) + wait)
    }

    fn least(&self, after: Option<Duration>) -> Duration {
        after.unwrap_or_default().min(self.max.max(self.first))
    }

    /// The same for what is of no use at `end` or later: in half of the time that is left, if that is about what the
    /// schedule wants.
    pub fn due_before(
        &self,
        end: Timestamp,
        repetitions: u32,
        after: Option<Duration>,
        now: Timestamp,
        jitter: f64,
    ) -> Option<Timestamp> {
        let due = self.due(repetitions, after, now, jitter);
        let half = elapsed(now, end) / 2;
        let wanted = self.least(after).max(self.interval(repetitions) / 4);
        let sooner = || (half >= wanted).then(|| plus(now, half));
        Some(due).filter(|due| *due < end).or_else(sooner)
    }

    /// No wait is longer, a spaced second question among them.
    pub fn longest(&self) -> Duration {
        self.max.max(self.first).saturating_mul(2)
    }

    /// The instant at which it is given up.
    pub fn end(&self, since: Timestamp) -> Timestamp {
        plus(since, self.give_up_after)
    }

    /// Whether it is given up at `now`.
    pub fn is_over(&self, since: Timestamp, now: Timestamp) -> bool {
        elapsed(since, now) >= self.give_up_after
    }
}

/// Time passed; a clock that went back counts as none.
pub fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

/// A later instant; saturates at the end of time.
pub fn plus(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Schedule = Schedule {
        first: Duration::from_secs(2),
        factor: 2.0,
        max: Duration::from_secs(60),
        give_up_after: Duration::from_secs(600),
    };

    #[test]
    fn intervals_double_up_to_the_longest() {
        let seconds: Vec<u64> = (0..8).map(|n| SCHEDULE.interval(n).as_secs()).collect();
        assert_eq!(seconds, [2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(SCHEDULE.interval(u32::MAX), SCHEDULE.max);
    }

    /// Each one counted out would take the longer the more there were.
    #[test]
    fn intervals_that_do_not_grow_are_all_the_first() {
        let steady = Schedule {
            factor: 1.0,
            ..SCHEDULE
        };
        assert_eq!(steady.interval(0), steady.first);
        assert_eq!(steady.interval(u32::MAX), steady.first);
    }

    #[test]
    fn jitter_is_full_and_retry_after_is_a_floor_within_bounds() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(SCHEDULE.due(3, None, now, 0.0), now);
        assert_eq!(
            SCHEDULE.due(3, None, now, 0.5),
            plus(now, Duration::from_secs(8))
        );
        let after = Some(Duration::from_secs(30));
        for (jitter, seconds) in [(0.0, 30), (0.5, 34), (1.0, 38)] {
            let due = plus(now, Duration::from_secs(seconds));
            assert_eq!(SCHEDULE.due(2, after, now, jitter), due);
        }
        let absurd = Some(Duration::from_secs(1 << 40));
        assert_eq!(SCHEDULE.due(0, absurd, now, 0.0), plus(now, SCHEDULE.max));
    }

    /// A provider that is back a moment before the end is still tried.
    #[test]
    fn a_wait_that_would_end_too_late_is_shorter_as_long_as_that_is_worth_it() {
        let now = Timestamp::UNIX_EPOCH;
        let second = |seconds: u64| plus(now, Duration::from_secs(seconds));
        // The interval is 60 s: down to a quarter of that.
        for (end, due) in [
            (100, Some(60)),
            (60, Some(30)),
            (30, Some(15)),
            (29, None),
            (0, None),
        ] {
            let found = SCHEDULE.due_before(second(end), 9, None, now, 1.0);
            assert_eq!(found, due.map(second), "{end}");
        }
        let after = Some(Duration::from_secs(20));
        for (end, due) in [(39, None), (40, Some(20))] {
            let found = SCHEDULE.due_before(second(end), 9, after, now, 1.0);
            assert_eq!(found, due.map(second), "{end}");
        }
    }

    #[test]
    fn it_is_over_after_its_time_and_a_clock_that_went_back_ends_nothing() {
        let start = Timestamp::UNIX_EPOCH;
        assert!(!SCHEDULE.is_over(start, plus(start, Duration::from_secs(599))));
        assert!(SCHEDULE.is_over(start, plus(start, Duration::from_secs(600))));
        assert!(!SCHEDULE.is_over(plus(start, Duration::from_secs(3600)), start));
    }

    #[test]
    fn no_wait_is_longer_than_the_longest() {
        let now = Timestamp::UNIX_EPOCH;
        let after = Some(Duration::MAX);
        let longest = SCHEDULE.due(9, after, now, 1.0);
        assert_eq!(longest, plus(now, SCHEDULE.longest()));
        let max = Duration::from_secs(1);
        let spaced = Schedule { max, ..SCHEDULE };
        assert_eq!(spaced.longest(), 2 * SCHEDULE.first);
    }
}
