//! The wall clock at an account's dispatcher: noticing that it was set, and what follows.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tracing::{info, warn};

use super::Dispatcher;
use crate::backoff::plus;
use crate::ledger::LedgerError;
use crate::lifecycle::CHECK_EVERY;
use crate::wall::Wall;

/// The wall clock as the loop of one dispatcher has seen it.
#[derive(Default)]
pub(super) struct Clock {
    wall: Wall,
    /// When due times were last looked at that are out of reach.
    hastened_at: Option<Instant>,
}

/// How often they are looked at where nobody saw the clock being set: it was set twice in a moment, or it
/// was another worker's.
const HASTEN_EVERY: Duration = Duration::from_secs(60);

impl Clock {
    /// Wall times before this are not compared with later ones.
    pub(super) fn steady_since(&self) -> Timestamp {
        self.wall.steady_since()
    }
}

impl Dispatcher {
    /// Notices that the clock was set, and brings forward the requests that would wait for a time that
    /// is an hour away again. The first time and now and then also those that others left behind.
    pub(super) async fn check_clock(
        &self,
        clock: &mut Clock,
        now: Timestamp,
    ) -> Result<(), LedgerError> {
        let set_by = clock.wall.observe(now, self.started.elapsed());
        if let Some(seconds) = set_by.as_ref().map(SignedDuration::as_secs_f64) {
            warn!(provider = self.name(), seconds, "the wall clock was set");
            clock.hastened_at = None;
        }
        let at = clock.hastened_at;
        if at.is_some_and(|at| at.elapsed() < HASTEN_EVERY) {
            return Ok(());
        }
        let latest = plus(now, self.longest_wait());
        let hastened = self.shared.ledger.hasten(self.name(), latest, now).await?;
        clock.hastened_at = Some(Instant::now());
        if hastened > 0 {
            info!(
                provider = self.name(),
                requests = hastened,
                "requests were due later than the longest wait; they are due now"
            );
        }
        Ok(())
    }

    /// Of the schedules, between two checks of a result, and until a call that nobody answered must have ended.
    fn longest_wait(&self) -> Duration {
        let schedules = self.config.retry.longest().max(self.config.poll.longest());
        schedules.max(CHECK_EVERY).max(Self::quiet(&self.config))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::hints::tests::account;
    use super::*;
    use crate::ledger::{Arrival, NewRequest, Which};
    use crate::lifecycle::{Plan, Progress};
    use crate::outcome::{Failed, Outcome};
    use crate::shared::tests::shared;
    use crate::wire::Envelope;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn due(second: i64) -> Arc<[Arrival]> {
        let request = NewRequest {
            request_id: "a".into(),
            provider: String::new(),
            payment_key: "p".into(),
            digest: [0; 32],
            deadline: None,
            progress: Progress::new(at(second)),
            envelope: Envelope::default(),
        };
        Arc::from([Arrival::Request(Box::new(request))])
    }

    /// Where every wait of the schedules is shorter.
    #[tokio::test]
    async fn a_check_that_waits_for_its_minute_is_within_reach() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let dispatcher = Dispatcher::new(account(), Arc::new(shared(&folder))).unwrap();
        assert_eq!(dispatcher.longest_wait(), Duration::from_secs(60));
    }

    /// It was set twice in a moment, or another worker's was wrong.
    #[tokio::test]
    async fn what_is_due_out_of_reach_is_found_within_a_minute_also_if_nobody_saw_why() {
        drop(rustls::crypto::ring::default_provider().install_default());
        let folder = tempfile::tempdir().unwrap();
        let dispatcher = Dispatcher::new(account(), Arc::new(shared(&folder))).unwrap();
        let ledger = &dispatcher.shared.ledger;
        let found = async |clock: &mut Clock| {
            dispatcher.check_clock(clock, at(0)).await.unwrap();
            let gives_up = Plan::Finish(Outcome::Failed(Failed::RetriesExhausted));
            let begin = Arc::new(move |_: &_, _: &mut _| gives_up);
            let claimed = ledger.claim("", Which::due(9), at(0), begin).await.unwrap();
            claimed.claims.len()
        };
        let mut clock = Clock::default();
        assert_eq!(found(&mut clock).await, 0);
        ledger.accept(due(3_600)).await.unwrap();
        assert_eq!(found(&mut clock).await, 0);
        clock.hastened_at = Instant::now().checked_sub(HASTEN_EVERY);
        assert_eq!(found(&mut clock).await, 1);
    }
}
