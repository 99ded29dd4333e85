//! Publishes the messages in the ledger, until the broker has each in a queue.
//!
//! Persistent, mandatory, confirmed; the stored bytes under the stored id, every time. A
//! publication of unknown fate is simply made again: its id tells consumers that it is the
//! same message.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::try_join_all;
use lapin::{Channel, Connection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::amqp::{self, AmqpError};
use crate::backoff::elapsed;
use crate::config::Amqp;
use crate::failpoint::{self, Point};
use crate::ledger::Pending;
use crate::publish::{self, Line};
use crate::shared::Shared;
use crate::spans::Span;
use crate::wire::{Kind, Receipt, Route};

use self::copies::Copies;
use self::notes::Notes;
use self::round::Round;

mod alarm;
mod copies;
mod mark;
mod notes;
mod refused;
mod returned;
mod round;

/// Windows that are on their way at once, each on a channel of its own: the broker needs longest for a
/// confirmation, and no longer for many of them.
const WINDOWS: usize = 4;
/// Messages of one window.
const WINDOW: usize = 256;
/// A window this large says that more messages are coming: together they cost the broker less.
const CROWD: usize = 8;
/// How long the next window waits for them.
const GATHER: Duration = Duration::from_millis(2);
/// Channels that the broker may close for single messages before the session ends: lapin never uses their
/// numbers again, and a connection has 2,047.
const REFUSALS_MAX: usize = 1000;
/// Pause before a ledger, a blocked connection or a message that came back is looked at once more.
const AGAIN_EVERY: Duration = Duration::from_secs(1);
/// Between two sessions at the end.
const PAUSE: Duration = Duration::from_millis(250);

/// The publishing side of a worker.
pub struct Outbox {
    settings: Amqp,
    shared: Arc<Shared>,
    /// Messages can be published.
    publishing: AtomicBool,
    /// Held while the next window is read.
    round: tokio::sync::Mutex<Round>,
    notes: Notes,
    copies: Copies,
    /// Channels that the broker closed in this session.
    refusals: AtomicUsize,
}

impl Outbox {
    /// An outbox that has not been started.
    pub fn new(settings: Amqp, shared: Arc<Shared>) -> Self {
        Self {
            settings,
            shared,
            publishing: AtomicBool::new(false),
            round: tokio::sync::Mutex::new(Round::new(Instant::now())),
            notes: Notes::default(),
            copies: Copies::default(),
            refusals: AtomicUsize::new(0),
        }
    }

    /// Publishes until `drain`, and what is left then.
    pub async fn run(&self, drain: &CancellationToken) {
        let rebuilt = || self.shared.metrics.broker_reconnect();
        let publishing = async {
            amqp::supervise("outbox", drain, rebuilt, || self.session(drain)).await;
            // A session that fails at the end is repeated as well, for the messages that are left. One that
            // ends well has published every message that the broker takes.
            while !self.is_empty().await && self.session(drain).await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
            self.copies.until_sent().await;
        };
        tokio::select! {
            () = publishing => {}
            () = self.watch_backlog() => {}
            () = self.copies.send_all(&self.settings) => {}
        }
    }

    /// One session: connect, publish until something ends it. `drain` ends it once nothing
    /// is left.
    async fn session(&self, drain: &CancellationToken) -> Result<(), AmqpError> {
        let connection = amqp::connect(&self.settings, "rescind outbox").await?;
        *self.round.lock().await = Round::new(Instant::now());
        self.refusals.store(0, Ordering::Relaxed);
        let ended = self.publish_all(&connection, drain).await;
        self.publishing.store(false, Ordering::Release);
        // At the end of a drain there is nobody to wait for it later; the drain has an end of its own.
        if drain.is_cancelled() {
            self.mark().await;
        } else {
            self.mark_soon().await;
        }
        self.notes.forget();
        amqp::close(&connection).await;
        ended
    }

    /// Messages can be published.
    pub fn is_publishing(&self) -> bool {
        self.publishing.load(Ordering::Acquire)
    }

    /// No message that this worker has to publish waits for the broker.
    async fn is_empty(&self) -> bool {
        let first = self.shared.ledger.pending(0, 1).await;
        first.is_ok_and(|rows| rows.is_empty())
    }

    /// Holds intake and dispatch while too many messages wait. Never ends by itself.
    async fn watch_backlog(&self) {
        loop {
            tokio::time::sleep(AGAIN_EVERY).await;
            let most = self.shared.hold.counts_to();
            let Ok(messages) = self.shared.ledger.unpublished(most).await else {
                continue;
            };
            match self.shared.hold.update(messages) {
                Some(true) => warn!(
                    messages,
                    "too many messages wait for the broker (amqp.max_unpublished); nothing is taken in or begun until half of that is published"
                ),
                Some(false) => info!(messages, "published enough; going on"),
                None => {}
            }
            self.shared.metrics.held(self.shared.hold.is_on());
        }
    }

    async fn publish_all(
        &self,
        connection: &Connection,
        drain: &CancellationToken,
    ) -> Result<(), AmqpError> {
        amqp::prepare(connection, &self.settings).await?;
        let line = Line::over(connection);
        self.publishing.store(true, Ordering::Release);
        info!("publishing");
        let over = CancellationToken::new();
        let publishing = async {
            let _over = over.clone().drop_guard();
            let all = (0..WINDOWS).map(|_| self.publish(&line, drain));
            tokio::select! {
                ended = try_join_all(all) => ended.map(drop),
                () = amqp::watch(connection, &[]) => Err(AmqpError::Lost),
                () = alarm::tell(connection) => Err(AmqpError::Lost),
            }
        };
        tokio::join!(publishing, self.keep_marking(&over)).0
    }

    /// Publishes one window after the other, while others do the same on channels of their own.
    async fn publish(&self, line: &Line<'_>, drain: &CancellationToken) -> Result<(), AmqpError> {
        let mut channel = publish::channel(line.connection).await?;
        while let Some(window) = self.next(line.connection, drain).await {
            let (together, refused) = self.notes.apart(window);
            if !together.is_empty() {
                channel = self.publish_part(line, channel, together).await?;
            }
            for alone in refused {
                // A channel keeps the bound that the broker had when it was opened.
                channel = publish::channel(line.connection).await?;
                channel = self.publish_part(line, channel, vec![alone]).await?;
            }
        }
        Ok(())
    }

    /// Publishes the messages together. If the broker closes the channel for one of them, each goes alone:
    /// only that one is refused again. Returns the channel to go on with.
    async fn publish_part(
        &self,
        line: &Line<'_>,
        channel: Channel,
        part: Vec<Pending>,
    ) -> Result<Channel, AmqpError> {
        let Err(error) = self.publish_window(line, &channel, &part).await else {
            return Ok(channel);
        };
        // While messages are given to a channel that is being closed, the broker's reason can get lost.
        let closed = !channel.status().connected() && line.connection.status().connected();
        let is_refusal = refused::is_of_one(&error) || (closed && part.len() > 1);
        if !is_refusal || self.refusals.fetch_add(1, Ordering::Relaxed) >= REFUSALS_MAX {
            return Err(error);
        }
        let mut channel = publish::channel(line.connection).await?;
        if let [alone] = part.as_slice() {
            self.refused(alone, &error);
            return Ok(channel);
        }
        for alone in part {
            channel = Box::pin(self.publish_part(line, channel, vec![alone])).await?;
        }
        Ok(channel)
    }

    fn refused(&self, pending: &Pending, error: &AmqpError) {
        let message = &pending.message;
        let metrics = &self.shared.metrics;
        metrics.publication(message.kind, Receipt::Nacked);
        warn!(message_id = %message.id, routing_key = message.routing_key, bytes = message.body.len(), %error,
            "the broker refuses this message and closes the channel for it; the others go on, and this one is tried again later. Compare the broker's max_message_size and its permissions");
        self.notes.refused(pending, Instant::now());
    }

    /// The next window. `None`: nothing is left, and nothing more will come.
    async fn next(
        &self,
        connection: &Connection,
        drain: &CancellationToken,
    ) -> Option<Vec<Pending>> {
        let mut round = self.round.lock().await;
        loop {
            let window = self.window(connection, &mut round, drain).await;
            if !window.is_empty() {
                return Some(window);
            }
            if round.was_last() {
                return None;
            }
            if round.is_over() && drain.is_cancelled() {
                *round = Round::last(Instant::now());
                self.notes.hurry(Instant::now());
            } else if round.is_over() {
                tokio::select! {
                    () = self.shared.handover.news() => tokio::task::yield_now().await,
                    () = tokio::time::sleep_until(round.next_at()) => {}
                    () = drain.cancelled() => {}
                }
            }
        }
    }

    /// Messages that are not on their way yet: of those handed over, or else of the next rows.
    async fn window(
        &self,
        connection: &Connection,
        round: &mut Round,
        drain: &CancellationToken,
    ) -> Vec<Pending> {
        // During an alarm at the broker every publication would hang.
        while connection.status().blocked() {
            tokio::time::sleep(AGAIN_EVERY).await;
        }
        tokio::time::sleep_until(round.gathered_at()).await;
        let now = Instant::now();
        // During a drain only the ledger can say that nothing is left.
        if !drain.is_cancelled()
            && round.is_resting(now)
            && let Some(given) = self.shared.handover.take(WINDOW)
        {
            round.note_taken(given.len(), now);
            return self.notes.take(given, now);
        }
        self.read(round).await
    }

    async fn read(&self, round: &mut Round) -> Vec<Pending> {
        // A correction can be read once the message that it corrects is marked.
        if round.is_over() {
            self.mark_soon().await;
        }
        let mut failures = 0_u32;
        loop {
            let began = Instant::now();
            let after = round.begin(began);
            self.notes.begin_read();
            self.shared.handover.clear();
            match self.shared.ledger.pending(after, WINDOW).await {
                Ok(rows) => {
                    let now = Instant::now();
                    let counts = round.note_read(&rows, now);
                    let taken = self.notes.take(rows, now);
                    if counts && taken.is_empty() {
                        round.note_vain(now - began);
                    }
                    return taken;
                }
                Err(error) => {
                    failures += 1;
                    // More and more seldom, while the ledger is away.
                    if failures.is_power_of_two() {
                        error!(%error, "cannot read the outbox; trying again");
                    }
                }
            }
            tokio::time::sleep(AGAIN_EVERY).await;
        }
    }

    async fn publish_window(
        &self,
        line: &Line<'_>,
        channel: &Channel,
        window: &[Pending],
    ) -> Result<(), AmqpError> {
        let messages = window
            .iter()
            .map(|pending| (self.exchange(pending.message.kind), &pending.message));
        // If the window fails as a whole, dropping the spans ends them without a result.
        let spans: Vec<Span> = messages
            .clone()
            .map(|(exchange, message)| self.shared.spans.publication(exchange, message))
            .collect();
        let receipts = line.publish(channel, messages).await?;
        end_spans(spans, &receipts);
        failpoint::pass(Point::AfterPublish);
        self.count(window, &receipts);
        let confirmed = self.note_receipts(window, receipts);
        if self.settings.reply_to {
            self.copies.give(&confirmed);
        }
        Ok(())
    }

    /// Returns the messages that the broker has.
    fn note_receipts<'w>(&self, window: &'w [Pending], receipts: Vec<Receipt>) -> Vec<&'w Pending> {
        let (confirmed, others): (Vec<_>, Vec<_>) = window
            .iter()
            .zip(receipts)
            .partition(|(_, receipt)| *receipt == Receipt::Confirmed);
        let now = Instant::now();
        self.notes.came_back(&others, now);
        let confirmed: Vec<&Pending> = confirmed.into_iter().map(|(pending, _)| pending).collect();
        self.notes
            .add(confirmed.iter().map(|pending| pending.delivered()), now);
        confirmed
    }

    fn exchange(&self, kind: Kind) -> &str {
        match kind.route() {
            Route::Results => &self.settings.results_exchange,
            Route::Dead => &self.settings.dead_exchange,
        }
    }

    fn count(&self, window: &[Pending], receipts: &[Receipt]) {
        let metrics = &self.shared.metrics;
        let now = (self.shared.clock)();
        for (pending, &receipt) in window.iter().zip(receipts) {
            let message = &pending.message;
            metrics.publication(message.kind, receipt);
            if let (Receipt::Confirmed, Some(about)) = (receipt, &pending.about) {
                let took = elapsed(about.received_at, now);
                metrics.end_to_end(&about.provider, &about.outcome, took);
            }
        }
    }
}

fn end_spans(spans: Vec<Span>, receipts: &[Receipt]) {
    for (mut span, receipt) in spans.into_iter().zip(receipts) {
        match receipt {
            Receipt::Confirmed => {}
            Receipt::Returned => span.fail("returned"),
            Receipt::Nacked => span.fail("nacked"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::{Outgoing, Properties};

    /// One message of this kind in each row.
    pub(crate) fn rows(rows: impl IntoIterator<Item = i64>, kind: Kind) -> Vec<Pending> {
        let pending = |seq| Pending {
            seq,
            repeats: 0,
            message: Outgoing {
                id: uuid::Uuid::nil(),
                kind,
                routing_key: String::new(),
                properties: Properties::default(),
                body: Vec::new(),
            },
            about: None,
        };
        rows.into_iter().map(pending).collect()
    }
}
