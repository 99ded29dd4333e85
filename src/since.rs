//! How long ago something began, by both clocks.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::wall::STEP_LEAST;

/// When something began. The steady clock stands still while its machine is suspended, and the wall
/// clock can be set: what either of them calls long ago may have been taken over by others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since {
    steady: Instant,
    wall: Timestamp,
}

impl Since {
    /// In this moment.
    pub(crate) fn now(wall: Timestamp) -> Self {
        Self {
            steady: Instant::now(),
            wall,
        }
    }

    /// Whether it is longer ago than this, or may be.
    pub(crate) fn is_over(&self, most: Duration, wall: Timestamp) -> bool {
        let passed = wall.duration_since(self.wall).unsigned_abs();
        self.steady.elapsed().max(passed) > most
    }

    /// Whether the clocks disagree about how long ago it is: the wall clock was set, or the machine stood still.
    pub(crate) fn is_disputed(&self, wall: Timestamp) -> bool {
        let steady = SignedDuration::try_from(self.steady.elapsed()).unwrap_or(SignedDuration::MAX);
        let passed = wall.duration_since(self.wall);
        passed.saturating_sub(steady).abs() >= STEP_LEAST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As after a suspended machine woke up, or a clock was set.
    #[test]
    fn what_one_clock_calls_long_ago_is_long_ago() {
        let wall = |seconds: i64| Timestamp::from_second(1_800_000_000 + seconds).unwrap();
        let since = Since::now(wall(0));
        let most = Duration::from_secs(60);
        for (seconds, expected) in [
            (0, false),
            (60, false),
            (61, true),
            (-60, false),
            (-61, true),
        ] {
            assert_eq!(since.is_over(most, wall(seconds)), expected, "{seconds}");
        }
        assert!(since.is_over(Duration::ZERO, wall(0)));
        for (seconds, expected) in [(0, false), (1, false), (2, true), (-1, true)] {
            assert_eq!(since.is_disputed(wall(seconds)), expected, "{seconds}");
        }
    }
}
