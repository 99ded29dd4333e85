//! Which of the deliveries that were read go into the ledger next, and which of them begin at once.
//!
//! A request that begins at once costs a single commit until its call. So where an account's places
//! come free fast, a request waits in its delivery for a place instead of being stored as due, claimed
//! and read again. It does not wait for long: behind it may be requests for other accounts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use lapin::Acker;
use tokio::time::Instant;

use crate::dispatch::{Admission, Dispatcher, Place};
use crate::job::Job;
use crate::ledger::{Arrival, LedgerError};
use crate::lifecycle::Progress;
use crate::outcome::Operation;
use crate::spans::Span;

/// How long a delivery waits for a place, counted together for those that were read together: so
/// one account never slows the intake to less than 1,000 a second.
const PATIENCE: Duration = Duration::from_millis(1);

/// A delivery that was read.
pub(super) struct Taken {
    pub(super) acker: Acker,
    pub(super) arrival: Arrival,
    pub(super) start: Start,
    pub(super) span: Span,
}

/// Whether what was delivered begins at once.
pub(super) enum Start {
    /// It does not: it is no request of a configured account.
    Later,
    /// It may, should there be a place for it.
    Candidate(Candidate),
    Ready(Ready),
}

impl Taken {
    /// To be stored later. It begins as any other one then, once it is due.
    pub(super) fn again(mut arrival: Arrival, acker: Acker, span: Span) -> Self {
        if let Arrival::Request(request) = &mut arrival {
            request.progress = Progress::new(request.envelope.received_at);
        }
        Self {
            acker,
            arrival,
            start: Start::Later,
            span,
        }
    }

    pub(super) fn request_id(&self) -> Option<&str> {
        match &self.arrival {
            Arrival::Request(request) => Some(&request.request_id),
            Arrival::Invalid(dead, _) => dead.request_id.as_deref(),
        }
    }

    /// Bytes of the message.
    pub(super) fn size(&self) -> usize {
        match &self.arrival {
            Arrival::Request(request) => request.envelope.body.len(),
            Arrival::Invalid(dead, _) => dead.body.len(),
        }
    }
}

/// What became of a batch.
#[derive(Default)]
pub(super) struct Sorted {
    /// In the ledger, in the order of their delivery.
    pub(super) stored: Vec<Acker>,
    /// Not in it, as they need what somebody has locked.
    pub(super) held: Vec<Taken>,
    /// The ledger's words about the last of these.
    pub(super) reason: Option<LedgerError>,
}

/// A request that may begin at once, and the dispatcher that carries it out.
pub(super) struct Candidate {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) job: Job,
}

/// A request that has the place to begin.
pub(super) struct Ready {
    pub(super) job: Job,
    pub(super) place: Place,
    pub(super) operation: Operation,
}

impl Start {
    /// The request does not begin after all: its place is free.
    pub(super) fn give_back(self) {
        if let Self::Ready(ready) = self {
            ready.place.give_back();
        }
    }
}

/// The next deliveries to store, at least one, in their order: up to the first that had better wait for a place.
pub(super) async fn next(taken: &mut VecDeque<Taken>) -> Vec<Taken> {
    let patience = PATIENCE * u32::try_from(taken.len()).unwrap_or(u32::MAX);
    let end = Instant::now() + patience;
    let mut admitted = Vec::with_capacity(taken.len());
    while let Some(mut first) = taken.pop_front() {
        match admit(&mut first) {
            Admission::Begun(place, operation) => {
                if let Start::Candidate(Candidate { job, .. }) = first.start {
                    first.start = Start::Ready(Ready {
                        job,
                        place,
                        operation,
                    });
                }
            }
            Admission::Soon if !admitted.is_empty() => {
                taken.push_front(first);
                break;
            }
            Admission::Soon if Instant::now() < end => {
                if let Start::Candidate(candidate) = &first.start {
                    candidate.dispatcher.until_room(end).await;
                }
                taken.push_front(first);
                continue;
            }
            Admission::Soon | Admission::Later => {}
        }
        admitted.push(first);
    }
    admitted
}

fn admit(taken: &mut Taken) -> Admission {
    match (&taken.start, &mut taken.arrival) {
        (Start::Candidate(Candidate { dispatcher, job }), Arrival::Request(request)) => {
            let now = request.envelope.received_at;
            dispatcher.admit(job, &mut request.progress, now)
        }
        _ => Admission::Later,
    }
}
