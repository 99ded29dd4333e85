//! Limits of queries: a database counts with a sign.

pub(super) fn most(most: impl TryInto<i64>) -> i64 {
    most.try_into().unwrap_or(i64::MAX)
}
