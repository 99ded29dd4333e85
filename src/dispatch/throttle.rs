//! How often the log is told of a contradiction: where a provider's notifications are not signed, who knows one
//! payment can send them without end, and the disk is the ledger's.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Payments that are remembered.
const PAYMENTS_MAX: usize = 64;
/// Between two lines about one payment.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// The payments of the last lines, oldest first.
#[derive(Default)]
pub(super) struct Throttle(Mutex<VecDeque<(String, Instant)>>);

impl Throttle {
    /// Whether the log is to be told of this payment now; from now on it was.
    pub(super) fn is_news(&self, payment: &str, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(_, at)| now < *at + TOLD_EVERY);
        if told.iter().any(|(known, _)| known == payment) {
            return false;
        }
        if told.len() >= PAYMENTS_MAX {
            told.pop_front();
        }
        told.push_back((payment.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_payment_is_told_once_a_minute_and_hides_no_other() {
        let (throttle, now) = (Throttle::default(), Instant::now());
        assert!(throttle.is_news("a", now));
        assert!(!throttle.is_news("a", now + TOLD_EVERY / 2));
        assert!(throttle.is_news("b", now + TOLD_EVERY / 2));
        assert!(throttle.is_news("a", now + TOLD_EVERY));
        for payment in 0..PAYMENTS_MAX {
            assert!(throttle.is_news(&payment.to_string(), now + TOLD_EVERY));
        }
        assert_eq!(throttle.0.lock().unwrap().len(), PAYMENTS_MAX);
    }
}
