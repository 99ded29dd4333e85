//! Limits of queries: a database counts with a sign.

pub(super) fn most(most: usize) -> i64 {
    i64::try_from(most).unwrap_or(i64::MAX)
}
