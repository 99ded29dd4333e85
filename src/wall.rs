//! Notices that the wall clock was set, by a second clock that only goes forward. Pure.
//!
//! The wall clock is followed wherever it goes, since deadlines and signatures are in its
//! time. But a time that was written before it was set says nothing of how long ago that was.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

/// Less than this is the ordinary correction of a clock.
pub(crate) const STEP_LEAST: SignedDuration = SignedDuration::from_secs(1);

/// What the two clocks showed when they were last read.
#[derive(Debug)]
pub(crate) struct Wall {
    last: Option<(Timestamp, Duration)>,
    steady_since: Timestamp,
}

impl Default for Wall {
    /// Every time is believed until the clocks are read.
    fn default() -> Self {
        Self {
            last: None,
            steady_since: Timestamp::MIN,
        }
    }
}

impl Wall {
    /// By how much the wall clock was set since the last call, if it was. `passed` is the
    /// time since any fixed start by a clock that cannot be set.
    pub(crate) fn observe(&mut self, wall: Timestamp, passed: Duration) -> Option<SignedDuration> {
        let (last, passed_then) = self.last.replace((wall, passed))?;
        let real = SignedDuration::try_from(passed.saturating_sub(passed_then)).ok()?;
        let step = wall.duration_since(last).saturating_sub(real);
        if step.abs() < STEP_LEAST {
            return None;
        }
        self.steady_since = wall;
        Some(step)
    }

    /// When the clock was last set, by its new time.
    pub(crate) fn steady_since(&self) -> Timestamp {
        self.steady_since
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wall(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).expect("a time")
    }

    #[test]
    fn a_step_either_way_is_noticed_once_and_drift_is_not() {
        let mut clock = Wall::default();
        let mut look = |at: i64, passed: f64| {
            let step = clock.observe(wall(at), Duration::from_secs_f64(passed));
            (step.map(|step| step.as_secs()), clock.steady_since())
        };
        assert_eq!(look(0, 7.0), (None, Timestamp::MIN));
        assert_eq!(look(5, 12.1), (None, Timestamp::MIN), "drift");
        assert_eq!(look(3_610, 17.1), (Some(3_600), wall(3_610)));
        assert_eq!(look(3_615, 22.1), (None, wall(3_610)));
        assert_eq!(look(20, 27.1), (Some(-3_600), wall(20)));
        // Stood still, as a machine that sleeps.
        assert_eq!(look(920, 27.1), (Some(900), wall(920)));
        assert_eq!(look(922, 28.1), (Some(1), wall(922)), "the least step");
    }
}
