//! Numbers as columns hold them: times in milliseconds since 1970, limits with a sign.

use jiff::Timestamp;

pub(super) fn millis(time: Timestamp) -> i64 {
    time.as_millisecond()
}

pub(super) fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

pub(super) fn limit(most: impl TryInto<i64>) -> i64 {
    most.try_into().unwrap_or(i64::MAX)
}
