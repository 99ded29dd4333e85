//! Takes requests in: parse, store, acknowledge, in this order.
//!
//! An acknowledgement follows the commit, on the delivery's own channel, and no message stays
//! unacknowledged for longer than a few commits take.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use lapin::{Channel, Connection};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tracing::{info, warn};

use crate::amqp::{self, AmqpError};
use crate::config::Amqp;
use crate::consume::{self, Batches};
use crate::dispatch::Dispatchers;
use crate::failpoint::{self, Point};
use crate::ledger::{
    Accepted, Arrival, Claim, ClaimId, DeadLetter, LedgerError, NewRequest, Stored,
};
use crate::lifecycle::Plan;
use crate::metrics::Received;
use crate::shared::{Failing, Shared};

use self::acks::Acks;
use self::admission::{Sorted, Start, Taken};
use self::batch::{BATCH_MAX, part};

mod acks;
mod admission;
mod batch;
mod read;

/// Pause before a queue is subscribed to once more that this user may not read.
const AGAIN_EVERY: Duration = Duration::from_secs(10);
/// What the log is told while the ledger stores nothing.
const CANNOT_STORE: &str = "cannot store requests";

/// The consuming side of a worker.
pub struct Intake {
    settings: Amqp,
    dispatchers: Dispatchers,
    shared: Arc<Shared>,
    /// A consumer is subscribed.
    consuming: AtomicBool,
    /// Held while a batch is stored.
    storing: Arc<Mutex<()>>,
}

/// Where a delivery comes from.
#[derive(Clone, Copy, PartialEq)]
enum Queue {
    Requests,
    /// The messages that the broker gave up on.
    Dropped,
}

impl Intake {
    /// An intake that hands requests to these dispatchers.
    pub fn new(settings: Amqp, dispatchers: Dispatchers, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            dispatchers,
            shared,
            consuming: AtomicBool::new(false),
            storing: Arc::default(),
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
        let mut from_requests = Batches::of(&requests, &settings.requests_queue, BATCH_MAX).await?;
        let mut from_dropped = None;
        self.consuming.store(true, Ordering::Release);
        info!(queue = self.settings.requests_queue, "consuming");
        let channels = [&requests];
        let mut acks = Acks::of(settings.prefetch);
        let ended = tokio::select! {
            ended = self.take_all(&mut from_requests, &mut acks, Queue::Requests) => ended,
            ended = self.take_dropped(connection, dropped, &mut from_dropped) => ended,
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

    /// A consumer is subscribed.
    pub fn is_consuming(&self) -> bool {
        self.consuming.load(Ordering::Acquire)
    }

    /// Waits until the ledger can store requests.
    async fn wait_for_ledger(&self) {
        // A batch that waits to be stored goes first.
        let _storing = self.storing.lock().await;
        // An empty batch: it is answered once the ledger can write.
        self.shared
            .retry_until_done(CANNOT_STORE, |ledger| ledger.accept(Arc::from([])))
            .await;
    }

    /// Dropped messages are consumed only once requests are, and not while the ledger does not answer: each
    /// return to the queue would count against a message that has done nothing.
    async fn take_dropped(
        self: &Arc<Self>,
        connection: &Connection,
        mut channel: Channel,
        batches: &mut Option<Batches>,
    ) -> Result<(), AmqpError> {
        let queue = &self.settings.dropped_queue;
        let batches = loop {
            self.wait_for_ledger().await;
            match Batches::beside_others(&channel, queue, 1).await {
                Ok(subscribed) => break batches.insert(subscribed),
                // No reason to give back the requests that are here.
                Err(error) if is_forbidden(&error) => warn!(
                    queue,
                    %error,
                    "what the broker gave up on cannot be consumed, requests can; trying again: `rescind check` tells what this user may not do"
                ),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(AGAIN_EVERY).await;
            channel = consume::channel(connection, 1).await?;
        };
        // None waits to be acknowledged with others.
        let (mut acks, channels) = (Acks::of(1), [&channel]);
        tokio::select! {
            ended = self.take_all(batches, &mut acks, Queue::Dropped) => ended,
            () = amqp::watch(connection, &channels) => Err(AmqpError::Lost),
        }
    }

    async fn take_all(
        self: &Arc<Self>,
        batches: &mut Batches,
        acks: &mut Acks,
        queue: Queue,
    ) -> Result<(), AmqpError> {
        let mut holding = Failing::of(&self.shared);
        loop {
            if acks.are_all_held() {
                batches.expect_none();
            }
            let batch = tokio::select! {
                biased;
                () = tokio::time::sleep_until(acks.due_at()), if !acks.is_empty() => {
                    acks.acknowledge().await?;
                    continue;
                }
                () = tokio::time::sleep_until(acks.again_at()), if acks.holds() => {
                    let sorted = self.store_all(acks.take_held(), queue).await?;
                    acks.put_back(sorted, &mut holding).await?;
                    continue;
                }
                batch = batches.next() => batch?,
            };
            let mut deliveries = VecDeque::from(batch);
            while !deliveries.is_empty() {
                let part = part(&mut deliveries).into_iter();
                let read = part.map(|delivery| self.read_delivery(delivery, queue));
                let mut taken: VecDeque<Taken> = read.collect();
                while !taken.is_empty() {
                    // A stop waits for requests that have a place: they may be begun.
                    let _admitting = self.shared.tasks.token();
                    let admitted = admission::next(&mut taken).await;
                    let sorted = self.store_all(admitted, queue).await?;
                    acks.add(sorted, &mut holding).await?;
                }
            }
        }
    }

    async fn store_all(
        self: &Arc<Self>,
        batch: Vec<Taken>,
        queue: Queue,
    ) -> Result<Sorted, AmqpError> {
        // The next session brings the same deliveries once more, and waits for this one.
        let storing = Arc::clone(&self.storing).lock_owned().await;
        // In a task of its own: requests that the ledger has accepted are begun, even if the session
        // with the broker ends meanwhile.
        let stored = self
            .shared
            .tasks
            .spawn(Arc::clone(self).store_batch(batch, queue, storing));
        stored.await.map_err(|_| AmqpError::Lost)
    }

    async fn store_batch(
        self: Arc<Self>,
        batch: Vec<Taken>,
        queue: Queue,
        _storing: OwnedMutexGuard<()>,
    ) -> Sorted {
        let (arrivals, beside): (Vec<Arrival>, Vec<_>) = batch
            .into_iter()
            .map(|taken| (taken.arrival, (taken.acker, taken.span, taken.start)))
            .unzip();
        let arrivals: Arc<[Arrival]> = arrivals.into();
        failpoint::pass(Point::AfterDeliver);
        let accepted = self.store(&arrivals).await;
        failpoint::pass(Point::AfterIntakeCommit);
        let (mut deliveries, mut conflicts) = (Vec::with_capacity(arrivals.len()), Vec::new());
        for ((arrival, (acker, mut span, start)), accepted) in
            arrivals.iter().zip(beside).zip(accepted)
        {
            let stored = match accepted {
                Ok(accepted) => {
                    let received = Received::from(&accepted);
                    span.set("rescind.intake", received.as_str());
                    match self.after_commit(arrival, accepted, start) {
                        Some(conflict) => conflicts.push((deliveries.len(), conflict)),
                        None => self.count(received, queue),
                    }
                    Ok(())
                }
                Err(blocked) => {
                    start.give_back();
                    Err(blocked)
                }
            };
            deliveries.push((acker, span, stored));
        }
        // All in one commit, and only once every request has begun that was committed as under way.
        if !conflicts.is_empty() {
            for (number, blocked) in self.store_conflicts(conflicts).await {
                deliveries[number].2 = Err(blocked);
            }
        }
        let mut sorted = Sorted::default();
        for (arrival, (acker, span, stored)) in arrivals.iter().zip(deliveries) {
            match stored {
                Ok(()) => sorted.stored.push(acker),
                Err(blocked) => {
                    let again = Taken::again(arrival.clone(), acker, span);
                    sorted.held.push(again);
                    sorted.reason = Some(blocked);
                }
            }
        }
        sorted
    }

    fn count(&self, received: Received, queue: Queue) {
        if queue == Queue::Dropped && received == Received::New {
            self.shared.metrics.received(Received::Dropped);
        }
        self.shared.metrics.received(received);
    }

    /// Begins a request that was stored as begun, or gives its place back. Returns the dead letter of a
    /// conflict.
    fn after_commit(&self, arrival: &Arrival, accepted: Accepted, start: Start) -> Option<Arrival> {
        match (arrival, accepted) {
            (Arrival::Request(request), Accepted::New(claim)) => self.begin(request, claim, start),
            (Arrival::Request(request), Accepted::Conflicting) => {
                start.give_back();
                return Some(self.conflict(request));
            }
            (Arrival::Request(_), _) | (_, Accepted::Repeated) => {
                start.give_back();
                self.shared.handover.require_read();
            }
            (Arrival::Invalid(dead, _), _) => self.recorded(dead),
        }
        None
    }

    /// Returns the numbers of those that could not be stored, which are not counted yet, and why.
    async fn store_conflicts(&self, conflicts: Vec<(usize, Arrival)>) -> Vec<(usize, LedgerError)> {
        let (numbers, conflicts): (Vec<_>, Vec<_>) = conflicts.into_iter().unzip();
        let conflicts: Arc<[Arrival]> = conflicts.into();
        let accepted = self.store(&conflicts).await;
        let mut held = Vec::new();
        for ((conflict, number), accepted) in conflicts.iter().zip(numbers).zip(accepted) {
            match accepted {
                Ok(accepted) => {
                    self.shared.metrics.received(Received::Conflicting);
                    drop(self.after_commit(conflict, accepted, Start::Later));
                }
                Err(blocked) => held.push((number, blocked)),
            }
        }
        held
    }

    /// Tries for as long as it takes: nothing is acknowledged that is not stored. One that needs what somebody
    /// has locked is not stored, and keeps no other one waiting.
    async fn store(&self, arrivals: &Arc<[Arrival]>) -> Vec<Result<Accepted, LedgerError>> {
        match self.store_together(Arc::clone(arrivals)).await {
            Ok(accepted) => accepted.into_iter().map(Ok).collect(),
            Err(blocked) if arrivals.len() == 1 => vec![Err(blocked)],
            Err(_) => {
                let alone = |arrival: &Arrival| self.store_together([arrival.clone()].into());
                // Asked for at once, they are stored in their order.
                let stored = join_all(arrivals.iter().map(alone)).await;
                let only = |accepted: Vec<_>| {
                    accepted
                        .into_iter()
                        .next()
                        .ok_or_else(LedgerError::without_result)
                };
                stored
                    .into_iter()
                    .map(|stored| stored.and_then(only))
                    .collect()
            }
        }
    }

    /// Fails only if somebody has locked what one of them needs.
    async fn store_together(&self, arrivals: Arc<[Arrival]>) -> Result<Vec<Accepted>, LedgerError> {
        self.shared
            .retry_until_done(CANNOT_STORE, |ledger| {
                let accepted = ledger.accept(Arc::clone(&arrivals));
                Box::pin(async {
                    match accepted.await {
                        Err(blocked @ LedgerError::Blocked(_)) => Ok(Err(blocked)),
                        accepted => accepted.map(Ok),
                    }
                })
            })
            .await
    }

    fn begin(&self, request: &NewRequest, claim: Option<ClaimId>, start: Start) {
        let (id, ready) = match (claim, start) {
            (Some(id), Start::Ready(ready)) => (id, ready),
            (_, start) => {
                // Before the dispatcher looks for one.
                start.give_back();
                if let Some(dispatcher) = self.dispatchers.get(&request.provider) {
                    dispatcher.note_due();
                }
                return;
            }
        };
        failpoint::pass(Point::AfterIntentCommit);
        let claim = Claim {
            id,
            stored: Stored {
                request_id: request.request_id.clone(),
                provider: request.provider.clone(),
                envelope: request.envelope.clone(),
            },
            progress: request.progress.clone(),
            plan: Plan::Call(ready.operation),
            outcome: None,
        };
        ready.place.start(claim, Some(ready.job));
    }

    fn recorded(&self, dead: &DeadLetter) {
        self.shared.metrics.finished(&dead.provider, dead.outcome);
        self.shared.handover.require_read();
        warn!(
            request_id = dead.request_id,
            provider = dead.provider,
            reason = dead.outcome.reason(),
            dead_letter = %dead.id,
            "a message is invalid: `rescind dead show` tells why",
        );
    }
}

/// The broker closed the channel for this, and nothing else.
fn is_forbidden(error: &AmqpError) -> bool {
    matches!(error.refusal(), Some((amqp::ACCESS_REFUSED, _)))
}
