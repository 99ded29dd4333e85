//! Takes requests in: parse, store, acknowledge, in this order.
//!
//! An acknowledgement follows the commit, on the delivery's own channel, and nothing waits
//! as an unacknowledged message for longer than a commit takes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions};
use lapin::types::AMQPValue;
use lapin::{Connection, Consumer};
use tracing::{error, info, warn};

use crate::amqp::{self, AmqpError, step};
use crate::config::Amqp;
use crate::dispatch::{Dispatcher, Place, Shared};
use crate::failpoint::{self, Point};
use crate::ledger::{
    Accepted, Arrival, Claim, ClaimId, DeadLetter, LedgerError, NewRequest, Stored,
};
use crate::lifecycle::{Invalid, Operation, Outcome, Plan, Progress};
use crate::metrics::Received;
use crate::providers::Evidence;
use crate::wire::{self, Envelope, Finding, Misunderstood, Source, UNKNOWN_PROVIDER};

/// Deliveries in one transaction.
const BATCH_MAX: usize = 256;
/// Wait before a failed ledger operation is tried again.
const LEDGER_PAUSE: Duration = Duration::from_millis(500);
/// A dropped message that was delivered this often without being acknowledged has most
/// likely stopped the worker each time.
const DROPPED_DELIVERIES_MAX: i64 = 3;

/// The consuming side of a worker.
pub struct Intake {
    settings: Amqp,
    dispatchers: BTreeMap<String, Arc<Dispatcher>>,
    shared: Arc<Shared>,
    /// A consumer is subscribed.
    pub consuming: AtomicBool,
}

/// What intake makes of one delivery.
struct Taken {
    arrival: Arrival,
    /// Room to begin at once, with the adapter's account.
    start: Option<(Arc<Dispatcher>, Place)>,
    dropped: bool,
}

impl Intake {
    /// An intake that hands requests to these dispatchers.
    pub fn new(settings: Amqp, dispatchers: &[Arc<Dispatcher>], shared: Arc<Shared>) -> Self {
        let dispatchers = dispatchers
            .iter()
            .map(|d| (d.name().to_owned(), Arc::clone(d)))
            .collect();
        Self {
            settings,
            dispatchers,
            shared,
            consuming: AtomicBool::new(false),
        }
    }

    /// One session: connect, subscribe, take in until something ends it.
    pub async fn session(&self) -> Result<(), AmqpError> {
        let connection = amqp::connect(&self.settings, "rescind intake").await?;
        let ended = self.consume(&connection).await;
        self.consuming.store(false, Ordering::Release);
        amqp::close(&connection).await;
        ended
    }

    async fn consume(&self, connection: &Connection) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let requests = amqp::channel(connection, self.settings.prefetch).await?;
        // One at a time: a message that stops the worker takes no other with it.
        let dropped = amqp::channel(connection, 1).await?;
        let from_requests = amqp::subscribe(&requests, &self.settings.requests_queue).await?;
        let from_dropped = amqp::subscribe(&dropped, &self.settings.dropped_queue).await?;
        let tags = [
            (&requests, from_requests.tag()),
            (&dropped, from_dropped.tag()),
        ];
        self.consuming.store(true, Ordering::Release);
        info!(queue = self.settings.requests_queue, "consuming");
        let channels = [&requests, &dropped];
        let ended = tokio::select! {
            ended = self.take_all(from_requests, false) => ended,
            ended = self.take_all(from_dropped, true) => ended,
            () = amqp::watch(connection, &channels) => Err(AmqpError::Lost),
            () = self.shared.stop.cancelled() => Ok(()),
        };
        if ended.is_ok() {
            // What was delivered and not acknowledged goes back to the queue with the channel.
            for (channel, tag) in tags {
                step(
                    "cancel a consumer",
                    channel.basic_cancel(tag, BasicCancelOptions::default()),
                )
                .await?;
            }
        }
        ended
    }

    async fn take_all(&self, consumer: Consumer, dropped: bool) -> Result<(), AmqpError> {
        let queue = consumer.queue().to_string();
        let mut batches = consumer.ready_chunks(BATCH_MAX);
        while let Some(batch) = batches.next().await {
            let batch = batch
                .into_iter()
                .collect::<lapin::Result<Vec<Delivery>>>()
                .map_err(|error| AmqpError::Protocol("consume", error))?;
            self.take_batch(batch, dropped).await?;
        }
        Err(AmqpError::Cancelled(queue))
    }

    async fn take_batch(&self, batch: Vec<Delivery>, dropped: bool) -> Result<(), AmqpError> {
        failpoint::pass(Point::AfterDeliver);
        let taken: Vec<Taken> = batch
            .iter()
            .map(|delivery| self.take(delivery, dropped))
            .collect();
        let arrivals: Vec<Arrival> = taken.iter().map(|taken| taken.arrival.clone()).collect();
        let accepted = self.store(arrivals).await;
        failpoint::pass(Point::AfterIntakeCommit);
        for (taken, accepted) in taken.into_iter().zip(accepted) {
            self.stored(taken, accepted).await;
        }
        let Some(last) = batch.last() else {
            return Ok(());
        };
        // All of them are in the ledger, and this channel has no older delivery open.
        let acked = step(
            "acknowledge",
            last.acker.ack(BasicAckOptions { multiple: true }),
        )
        .await?;
        if acked { Ok(()) } else { Err(AmqpError::Lost) }
    }

    /// For as long as it takes: nothing is acknowledged that is not stored.
    async fn store(&self, arrivals: Vec<Arrival>) -> Vec<Accepted> {
        loop {
            match self.shared.ledger.accept(arrivals.clone()).await {
                Ok(accepted) => return accepted,
                Err(error @ LedgerError::Failed(_)) => {
                    error!(%error, "cannot store requests; trying again")
                }
                Err(error) => error!(%error, "cannot store requests; trying again"),
            }
            tokio::time::sleep(LEDGER_PAUSE).await;
        }
    }

    fn take(&self, delivery: &Delivery, dropped: bool) -> Taken {
        let envelope = envelope(delivery, (self.shared.clock)());
        if dropped && delivery_count(delivery) >= DROPPED_DELIVERIES_MAX {
            let poison = Misunderstood {
                request_id: None,
                provider: None,
                reason: Invalid::Schema,
                detail: "the message was delivered again and again without being taken in; it may have stopped the worker".into(),
            };
            return Taken {
                arrival: self.invalid(&poison, &envelope),
                start: None,
                dropped,
            };
        }
        let known = |name: &str| {
            self.dispatchers
                .get(name)
                .map(|dispatcher| dispatcher.provider())
        };
        match wire::read_request(&envelope.body, known) {
            Ok(read) => self.take_request(read, envelope, dropped),
            Err(why) => Taken {
                arrival: self.invalid(&why, &envelope),
                start: None,
                dropped,
            },
        }
    }

    fn take_request(&self, read: wire::Understood, envelope: Envelope, dropped: bool) -> Taken {
        let now = envelope.received_at;
        let mut progress = Progress::new(now);
        let start = self
            .dispatchers
            .get(&read.job.provider)
            .and_then(|dispatcher| {
                let place = dispatcher.admit(&read.job, &mut progress, now)?;
                Some((Arc::clone(dispatcher), place))
            });
        let request = NewRequest {
            request_id: read.job.request_id,
            provider: read.job.provider,
            payment_key: read.job.payment.key,
            digest: read.digest,
            envelope,
            progress,
        };
        Taken {
            arrival: Arrival::Request(Box::new(request)),
            start,
            dropped,
        }
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
        };
        let messages = match why.request_id {
            Some(_) => finding.messages(),
            None => vec![finding.dead_letter()],
        };
        Arrival::Invalid(Box::new(DeadLetter::of(&finding)), messages)
    }

    async fn stored(&self, taken: Taken, accepted: Accepted) {
        let kind = match (&accepted, taken.dropped) {
            (Accepted::New(_), false) => Received::New,
            (Accepted::New(_), true) => {
                self.shared.metrics.received(Received::Dropped);
                Received::New
            }
            (Accepted::Repeated, _) => Received::Repeated,
            (Accepted::Conflicting, _) => Received::Conflicting,
            (Accepted::Recorded, _) => Received::Invalid,
        };
        self.shared.metrics.received(kind);
        match (taken.arrival, accepted) {
            (Arrival::Request(request), Accepted::New(claim)) => {
                self.begin(*request, claim, taken.start)
            }
            (Arrival::Request(request), Accepted::Conflicting) => self.conflict(&request).await,
            (Arrival::Request(_), _) => self.shared.outbox.notify_one(),
            (Arrival::Invalid(dead, _), _) => self.recorded(&dead),
        }
    }

    fn begin(
        &self,
        request: NewRequest,
        claim: Option<ClaimId>,
        start: Option<(Arc<Dispatcher>, Place)>,
    ) {
        match (claim, start) {
            (Some(id), Some((dispatcher, place))) => {
                failpoint::pass(Point::AfterIntentCommit);
                let operation = request.progress.operation.unwrap_or(Operation::Cancel);
                let stored = Stored {
                    request_id: request.request_id,
                    provider: request.provider,
                    envelope: request.envelope,
                };
                let claim = Claim {
                    id,
                    stored,
                    progress: request.progress,
                    plan: Plan::Call(operation),
                    outcome: None,
                };
                dispatcher.start(claim, place);
            }
            _ => {
                if let Some(dispatcher) = self.dispatchers.get(&request.provider) {
                    dispatcher.has_due();
                }
            }
        }
    }

    /// The id belongs to other content, which stays as it is.
    async fn conflict(&self, request: &NewRequest) {
        let why = Misunderstood {
            request_id: Some(request.request_id.clone()),
            provider: Some(request.provider.clone()),
            reason: Invalid::RequestIdConflict,
            detail: "the request_id was used before with other content; choose a new one".into(),
        };
        let arrival = self.invalid(&why, &request.envelope);
        if let Arrival::Invalid(dead, _) = &arrival {
            let dead = dead.clone();
            self.store(vec![arrival]).await;
            self.recorded(&dead);
        }
    }

    fn recorded(&self, dead: &DeadLetter) {
        self.shared.metrics.finished(&dead.provider, dead.outcome);
        self.shared.outbox.notify_one();
        warn!(
            request_id = dead.request_id,
            provider = dead.provider,
            reason = dead.outcome.reason(),
            "a message was not understood",
        );
    }
}

fn envelope(delivery: &Delivery, now: jiff::Timestamp) -> Envelope {
    let properties = &delivery.properties;
    let text = |value: &lapin::types::ShortString| value.as_str().to_owned();
    Envelope {
        body: delivery.data.clone(),
        correlation_id: properties.correlation_id().as_ref().map(text),
        reply_to: properties.reply_to().as_ref().map(text),
        traceparent: amqp::header(delivery, "traceparent").map(str::to_owned),
        tracestate: amqp::header(delivery, "tracestate").map(str::to_owned),
        received_at: jiff::Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now),
    }
}

/// How often a quorum queue has delivered this message before.
fn delivery_count(delivery: &Delivery) -> i64 {
    let headers = delivery.properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get("x-delivery-count")) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => i64::from(*count),
        Some(AMQPValue::LongUInt(count)) => i64::from(*count),
        Some(AMQPValue::ShortInt(count)) => i64::from(*count),
        _ => i64::from(delivery.redelivered),
    }
}
