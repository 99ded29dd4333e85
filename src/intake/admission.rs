//! Which of the deliveries that were read go into the ledger next, and which of them begin at once.
//!
//! One that begins at once costs a single commit until its call. So where an account's places come
//! free fast, a request waits in its delivery for one instead of being stored as due, claimed and
//! read again. It does not wait for long: behind it may be requests for other accounts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lapin::Acker;
use tokio::time::Instant;

use crate::dispatch::{Admission, Dispatcher, Place};
use crate::job::Job;
use crate::ledger::Arrival;
use crate::spans::Step;

/// How long a delivery waits for a place, counted together for those that were read together: so
/// one account never slows the intake to less than 1,000 a second.
const PATIENCE: Duration = Duration::from_millis(1);

/// A delivery that was read.
pub(super) struct Taken {
    pub(super) acker: Acker,
    pub(super) arrival: Arrival,
    /// Of a request of a configured account.
    pub(super) starter: Option<Starter>,
    /// Its place in the trace.
    pub(super) step: Step,
}

/// Who carries a request out.
pub(super) struct Starter {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) job: Job,
}

/// A request that has room to begin.
pub(super) type Start = (Starter, Place);

/// It does not begin after all.
pub(super) fn give_back(start: Option<Start>) {
    if let Some((starter, place)) = start {
        starter.dispatcher.give_back(place);
    }
}

/// A delivery on its way into the ledger.
pub(super) struct Admitted {
    pub(super) acker: Acker,
    pub(super) arrival: Arrival,
    /// If it begins at once.
    pub(super) start: Option<Start>,
    pub(super) step: Step,
}

/// The first of them, at least one, in their order.
pub(super) async fn next(taken: &mut VecDeque<Taken>) -> Vec<Admitted> {
    let patience = PATIENCE * u32::try_from(taken.len()).unwrap_or(u32::MAX);
    let end = Instant::now() + patience;
    let mut admitted = Vec::with_capacity(taken.len());
    while let Some(mut first) = taken.pop_front() {
        match admit(&mut first) {
            Admission::Begun(place) => admitted.push(first.admitted(Some(place))),
            Admission::Soon if !admitted.is_empty() => {
                taken.push_front(first);
                break;
            }
            Admission::Soon if Instant::now() < end => {
                if let Some(starter) = &first.starter {
                    starter.dispatcher.room(end).await;
                }
                taken.push_front(first);
            }
            Admission::Soon | Admission::Later => admitted.push(first.admitted(None)),
        }
    }
    admitted
}

fn admit(taken: &mut Taken) -> Admission {
    match (&taken.starter, &mut taken.arrival) {
        (Some(starter), Arrival::Request(request)) => {
            let now = request.envelope.received_at;
            let (dispatcher, job) = (&starter.dispatcher, &starter.job);
            dispatcher.admit(job, &mut request.progress, now)
        }
        _ => Admission::Later,
    }
}

impl Taken {
    fn admitted(self, place: Option<Place>) -> Admitted {
        Admitted {
            acker: self.acker,
            arrival: self.arrival,
            start: self.starter.zip(place),
            step: self.step,
        }
    }
}
