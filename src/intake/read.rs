//! What a delivery holds: a request, or a message that cannot be understood.

use lapin::message::Delivery;

use super::admission::{Candidate, Start, Taken};
use super::batch::{delivery_count, envelope};
use super::{Intake, Queue};
use crate::finding::{Finding, Source};
use crate::job::UNKNOWN_PROVIDER;
use crate::ledger::{Arrival, DeadLetter, NewRequest};
use crate::lifecycle::Progress;
use crate::outcome::{Invalid, Outcome};
use crate::providers::Evidence;
use crate::wire::{self, Envelope, Misunderstood};

/// A dropped message that was delivered this often without being acknowledged has most
/// likely stopped the worker each time.
const DROPPED_DELIVERIES_MAX: i64 = 3;
/// From this many on nothing in it is looked at any more.
const DROPPED_LOOKS_MAX: i64 = 6;

impl Intake {
    pub(super) fn read_delivery(&self, mut delivery: Delivery, queue: Queue) -> Taken {
        let count = delivery_count(&delivery);
        let mut envelope = envelope(&mut delivery, (self.shared.clock)());
        let name = match queue {
            Queue::Requests => &self.settings.requests_queue,
            Queue::Dropped => &self.settings.dropped_queue,
        };
        let mut span = self.shared.spans.intake(name, &mut envelope);
        let poison = queue == Queue::Dropped && count >= DROPPED_DELIVERIES_MAX;
        let (arrival, start) = if poison {
            let why = poisonous(&envelope.body, count);
            (self.invalid(&why, &envelope), Start::Later)
        } else {
            self.read(envelope)
        };
        if let Arrival::Request(request) = &arrival {
            span.set_text("rescind.request_id", &request.request_id);
            span.set_text("rescind.provider", &request.provider);
        }
        Taken {
            acker: delivery.acker,
            arrival,
            start,
            span,
        }
    }

    fn read(&self, envelope: Envelope) -> (Arrival, Start) {
        let known = |name: &str| Some(self.dispatchers.get(name)?.adapter());
        let read = match wire::read_new_request(&envelope.body, known) {
            Ok(read) => read,
            Err(why) => return (self.invalid(&why, &envelope), Start::Later),
        };
        let job = read.job;
        let request = NewRequest {
            request_id: job.request_id.clone(),
            provider: job.provider.clone(),
            payment_key: job.payment.key.clone(),
            digest: read.digest,
            deadline: job.deadline,
            progress: Progress::new(envelope.received_at),
            envelope,
        };
        let start = match self.dispatchers.get(&job.provider).cloned() {
            Some(dispatcher) => Start::Candidate(Candidate { dispatcher, job }),
            None => Start::Later,
        };
        (Arrival::Request(Box::new(request)), start)
    }

    fn invalid(&self, why: &Misunderstood, envelope: &Envelope) -> Arrival {
        let provider = why.provider.as_deref().unwrap_or(UNKNOWN_PROVIDER);
        let finding = Finding {
            request_id: why.request_id.as_deref().unwrap_or_default(),
            provider,
            title: provider,
            envelope,
            outcome: Outcome::Invalid(why.reason),
            detail: Some(&why.detail),
            source: Source::Worker,
            evidence: &Evidence::default(),
            attempts: 0,
            lookups: 0,
            completed_at: envelope.received_at,
            letters: 0,
        };
        let messages = match why.request_id {
            Some(_) => finding.messages(),
            None => vec![finding.dead_letter()],
        };
        Arrival::Invalid(Box::new(DeadLetter::of(&finding)), messages)
    }

    /// The dead letter of a request whose id belongs to other content, which stays as it is.
    pub(super) fn conflict(&self, request: &NewRequest) -> Arrival {
        let why = Misunderstood {
            request_id: Some(request.request_id.clone()),
            provider: Some(request.provider.clone()),
            reason: Invalid::RequestIdConflict,
            detail: "the request_id was used before with other content, and that request is untouched; if this means the same cancellation, do not publish it again".into(),
        };
        self.invalid(&why, &request.envelope)
    }
}

/// The finding about a message that was delivered too often. If a request with its id and its content is
/// stored, only the acknowledgements were lost, and the ledger takes it for the repeat that it is.
///
/// What may have stopped the worker is not done again: no adapter sees the message, no amount and no time is
/// read. Its names are looked for, the parts that a result repeats, and its content is compared; if that is
/// what stops the worker, it ends after three more deliveries, since the broker counts those too.
fn poisonous(body: &[u8], count: i64) -> Misunderstood {
    let (request_id, provider) = if count < DROPPED_LOOKS_MAX {
        wire::glimpse(body)
    } else {
        (None, None)
    };
    let reason = if wire::is_too_large(body) {
        Invalid::TooLarge
    } else {
        Invalid::Schema
    };
    Misunderstood {
        request_id,
        provider,
        reason,
        detail: "the message was delivered again and again without being taken in, and may have stopped the worker each time; it need not be wrong, so ask whoever runs the worker before you publish it again".into(),
    }
}
