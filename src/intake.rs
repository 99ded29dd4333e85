//! Takes requests in: parse, store, acknowledge, in this order.
//!
//! An acknowledgement follows the commit, on the delivery's own channel, and nothing waits
//! as an unacknowledged message for longer than a few commits take.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lapin::message::Delivery;
use lapin::{Channel, Connection};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::{info, warn};

use crate::amqp::{self, AmqpError};
use crate::config::Amqp;
use crate::consume::{self, Batches};
use crate::dispatch::Dispatcher;
use crate::failpoint::{self, Point};
use crate::finding::{Finding, Source};
use crate::ledger::{Accepted, Arrival, Claim, ClaimId, DeadLetter, NewRequest, Stored};
use crate::lifecycle::{Plan, Progress};
use crate::metrics::Received;
use crate::outcome::{Invalid, Operation, Outcome};
use crate::providers::Evidence;
use crate::shared::Shared;
use crate::wire::{self, Envelope, Misunderstood, UNKNOWN_PROVIDER};

use self::acks::Acks;
use self::admission::{Admitted, Start, Starter, Taken};
use self::batch::{delivery_count, envelope, part, poisonous};

mod acks;
mod admission;
mod batch;

/// Deliveries in one transaction.
const BATCH_MAX: usize = 256;
/// A dropped message that was delivered this often without being acknowledged has most
/// likely stopped the worker each time.
const DROPPED_DELIVERIES_MAX: i64 = 3;
/// Longest wait for the ledger before requests are consumed without it.
const LEDGER_WAIT: Duration = Duration::from_secs(2);

/// The consuming side of a worker.
pub struct Intake {
    settings: Amqp,
    dispatchers: BTreeMap<String, Arc<Dispatcher>>,
    shared: Arc<Shared>,
    /// A consumer is subscribed.
    pub consuming: AtomicBool,
    /// Whoever has it stores a batch.
    turn: Arc<Mutex<()>>,
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
            turn: Arc::default(),
        }
    }

    /// One session: connect, subscribe, take in until something ends it. None begins while
    /// too much waits for the broker.
    pub async fn session(self: &Arc<Self>) -> Result<(), AmqpError> {
        tokio::select! {
            () = self.shared.hold.until(false) => {}
            () = self.shared.stop.cancelled() => return Ok(()),
        }
        let connection = amqp::connect(&self.settings, "rescind intake").await?;
        let ended = self.consume(&connection).await;
        self.consuming.store(false, Ordering::Release);
        amqp::close(&connection).await;
        ended
    }

    async fn consume(self: &Arc<Self>, connection: &Connection) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let (settings, shared) = (&self.settings, &self.shared);
        let requests = consume::channel(connection, settings.prefetch).await?;
        // One at a time: a message that stops the worker takes no other with it.
        let dropped = consume::channel(connection, 1).await?;
        // The answer to a second subscription comes behind what is delivered for the first one.
        let mut from_dropped = match tokio::time::timeout(LEDGER_WAIT, self.ledger()).await {
            Ok(()) => Some(Batches::of(&dropped, &settings.dropped_queue, 1).await?),
            Err(_) => None,
        };
        let mut from_requests = Batches::of(&requests, &settings.requests_queue, BATCH_MAX).await?;
        self.consuming.store(true, Ordering::Release);
        info!(queue = self.settings.requests_queue, "consuming");
        let channels = [&requests, &dropped];
        let mut acks = Acks::of(settings.prefetch);
        let ended = tokio::select! {
            ended = self.take_all(&mut from_requests, &mut acks, false) => ended,
            ended = self.take_dropped(&dropped, &mut from_dropped) => ended,
            () = amqp::watch(connection, &channels) => Err(AmqpError::Lost),
            () = shared.stop.cancelled() => Ok(()),
            () = shared.hold.until(true) => Ok(()),
        };
        if ended.is_ok() {
            acks.acknowledge().await?;
            from_requests.cancel().await?;
            if let Some(from_dropped) = from_dropped {
                from_dropped.cancel().await?;
            }
        }
        ended
    }

    /// Waits until the ledger takes what comes.
    async fn ledger(&self) {
        // A batch that waits to be stored has it.
        let _turn = self.turn.lock().await;
        self.store(&Arc::from([])).await;
    }

    /// Nothing is delivered of what was dropped while the ledger does not answer: each return of it
    /// would count against a message that has done nothing.
    async fn take_dropped(
        self: &Arc<Self>,
        channel: &Channel,
        batches: &mut Option<Batches>,
    ) -> Result<(), AmqpError> {
        let batches = match batches {
            Some(batches) => batches,
            None => {
                self.ledger().await;
                batches.insert(Batches::of(channel, &self.settings.dropped_queue, 1).await?)
            }
        };
        // None waits to be acknowledged with others.
        self.take_all(batches, &mut Acks::of(1), true).await
    }

    async fn take_all(
        self: &Arc<Self>,
        batches: &mut Batches,
        acks: &mut Acks,
        dropped: bool,
    ) -> Result<(), AmqpError> {
        loop {
            let batch = tokio::select! {
                biased;
                () = tokio::time::sleep_until(acks.due_at()), if !acks.is_empty() => {
                    acks.acknowledge().await?;
                    continue;
                }
                batch = batches.next() => batch?,
            };
            let mut batch = VecDeque::from(batch);
            while !batch.is_empty() {
                let part = part(&mut batch);
                let part = part
                    .into_iter()
                    .map(|delivery| self.take(delivery, dropped));
                let mut taken: VecDeque<Taken> = part.collect();
                while !taken.is_empty() {
                    // A stop waits for what has a place: it may be begun.
                    let _admitting = self.shared.tasks.token();
                    let batch = admission::next(&mut taken).await;
                    self.take_batch(batch, acks, dropped).await?;
                }
            }
        }
    }

    async fn take_batch(
        self: &Arc<Self>,
        batch: Vec<Admitted>,
        acks: &mut Acks,
        dropped: bool,
    ) -> Result<(), AmqpError> {
        // The next session brings the same deliveries once more, and waits for this one.
        let turn = Arc::clone(&self.turn).lock_owned().await;
        let (count, last) = (batch.len(), batch.last().map(|last| last.acker.clone()));
        // In a task of its own: what the ledger has accepted is begun, even if the session
        // with the broker ends meanwhile.
        let storing = self
            .shared
            .tasks
            .spawn(Arc::clone(self).store_batch(batch, dropped, turn));
        storing.await.map_err(|_| AmqpError::Lost)?;
        acks.add(last, count).await
    }

    async fn store_batch(
        self: Arc<Self>,
        batch: Vec<Admitted>,
        dropped: bool,
        _turn: OwnedMutexGuard<()>,
    ) {
        let (arrivals, begun): (Vec<Arrival>, Vec<_>) = batch
            .into_iter()
            .map(|admitted| (admitted.arrival, (admitted.step, admitted.start)))
            .unzip();
        let arrivals: Arc<[Arrival]> = arrivals.into();
        failpoint::pass(Point::AfterDeliver);
        let accepted = self.store(&arrivals).await;
        failpoint::pass(Point::AfterIntakeCommit);
        let mut conflicts = Vec::new();
        for ((arrival, (mut step, start)), accepted) in arrivals.iter().zip(begun).zip(accepted) {
            step.says("rescind.intake", received(&accepted).as_str());
            drop(step);
            if dropped && matches!(accepted, Accepted::New(_)) {
                self.shared.metrics.received(Received::Dropped);
            }
            self.shared.metrics.received(received(&accepted));
            match (arrival, accepted) {
                (Arrival::Request(request), Accepted::New(claim)) => {
                    self.begin(request, claim, start);
                }
                (Arrival::Request(request), Accepted::Conflicting) => {
                    admission::give_back(start);
                    conflicts.push(self.conflict(request));
                }
                (Arrival::Request(_), _) | (_, Accepted::Repeated) => {
                    admission::give_back(start);
                    self.shared.outbox.look();
                }
                (Arrival::Invalid(dead, _), _) => self.recorded(dead),
            }
        }
        // All in one commit, and once everything has begun that was committed as under way.
        if !conflicts.is_empty() {
            self.store_conflicts(conflicts.into()).await;
        }
    }

    async fn store_conflicts(&self, conflicts: Arc<[Arrival]>) {
        self.store(&conflicts).await;
        for conflict in &*conflicts {
            if let Arrival::Invalid(dead, _) = conflict {
                self.recorded(dead);
            }
        }
    }

    /// For as long as it takes: nothing is acknowledged that is not stored.
    async fn store(&self, arrivals: &Arc<[Arrival]>) -> Vec<Accepted> {
        self.shared
            .insist("cannot store requests", |ledger| {
                ledger.accept(Arc::clone(arrivals))
            })
            .await
    }

    fn take(&self, mut delivery: Delivery, dropped: bool) -> Taken {
        let count = delivery_count(&delivery);
        let mut envelope = envelope(&mut delivery, (self.shared.clock)());
        let queue = match dropped {
            true => &self.settings.dropped_queue,
            false => &self.settings.requests_queue,
        };
        let mut step = self.shared.spans.intake(queue, &mut envelope);
        let poison = dropped && count >= DROPPED_DELIVERIES_MAX;
        let (arrival, starter) = match poison {
            true => (self.invalid(&poisonous(), &envelope), None),
            false => self.read(envelope),
        };
        if let Arrival::Request(request) = &arrival {
            step.names("rescind.request_id", &request.request_id);
            step.names("rescind.provider", &request.provider);
        }
        Taken {
            acker: delivery.acker,
            arrival,
            starter,
            step,
        }
    }

    fn read(&self, envelope: Envelope) -> (Arrival, Option<Starter>) {
        let known = |name: &str| Some(self.dispatchers.get(name)?.provider());
        let read = match wire::read_new_request(&envelope.body, known) {
            Ok(read) => read,
            Err(why) => return (self.invalid(&why, &envelope), None),
        };
        let job = read.job;
        let request = NewRequest {
            request_id: job.request_id.clone(),
            provider: job.provider.clone(),
            payment_key: job.payment.key.clone(),
            digest: read.digest,
            progress: Progress::new(envelope.received_at),
            envelope,
        };
        let dispatcher = self.dispatchers.get(&job.provider).map(Arc::clone);
        let starter = dispatcher.map(|dispatcher| Starter { dispatcher, job });
        (Arrival::Request(Box::new(request)), starter)
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

    fn begin(&self, request: &NewRequest, claim: Option<ClaimId>, start: Option<Start>) {
        let (id, (starter, place)) = match (claim, start) {
            (Some(id), Some(start)) => (id, start),
            (_, start) => {
                // Before the dispatcher looks for one.
                admission::give_back(start);
                if let Some(dispatcher) = self.dispatchers.get(&request.provider) {
                    dispatcher.has_due();
                }
                return;
            }
        };
        failpoint::pass(Point::AfterIntentCommit);
        let operation = request.progress.operation.unwrap_or(Operation::Cancel);
        let claim = Claim {
            id,
            stored: Stored {
                request_id: request.request_id.clone(),
                provider: request.provider.clone(),
                envelope: request.envelope.clone(),
            },
            progress: request.progress.clone(),
            plan: Plan::Call(operation),
            outcome: None,
        };
        starter.dispatcher.start(claim, Some(starter.job), place);
    }

    /// The id belongs to other content, which stays as it is.
    fn conflict(&self, request: &NewRequest) -> Arrival {
        let why = Misunderstood {
            request_id: Some(request.request_id.clone()),
            provider: Some(request.provider.clone()),
            reason: Invalid::RequestIdConflict,
            detail: "the request_id was used before with other content, and that request goes on; if this means the same cancellation, do not publish it again".into(),
        };
        self.invalid(&why, &request.envelope)
    }

    fn recorded(&self, dead: &DeadLetter) {
        self.shared.metrics.finished(&dead.provider, dead.outcome);
        self.shared.outbox.look();
        warn!(
            request_id = dead.request_id,
            provider = dead.provider,
            reason = dead.outcome.reason(),
            "a message was not understood",
        );
    }
}

fn received(accepted: &Accepted) -> Received {
    match accepted {
        Accepted::New(_) => Received::New,
        Accepted::Repeated => Received::Repeated,
        Accepted::Conflicting => Received::Conflicting,
        Accepted::Recorded => Received::Invalid,
    }
}
