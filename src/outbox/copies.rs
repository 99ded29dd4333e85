//! Copies of results for `reply_to`: a convenience beside the real result, sent and not confirmed.
//!
//! They go their own way, on a connection of their own, made for the first one: publishers choose the queue, and
//! for some names the broker closes the whole connection. No result waits for that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lapin::Connection;
use lapin::options::BasicPublishOptions;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tracing::warn;

use crate::amqp::{self, AmqpError, Link, step};
use crate::config::Amqp;
use crate::ledger::Pending;
use crate::publish;
use crate::wire::{Kind, Outgoing};

/// Most bytes of copies that wait or are being sent; those for which there is no room are not sent.
const MOST_BYTES: u32 = 4 * 1024 * 1024;
/// What a copy takes beside its body.
const ENVELOPE_BYTES: u32 = 1024;
/// Copies on one channel: it costs two answers of the broker, for one as for many.
const TOGETHER: usize = 64;
/// How long a worker that stops waits for the last ones.
const LAST: Duration = Duration::from_secs(1);

/// Copies that wait to be sent.
pub(super) struct Copies {
    given: UnboundedSender<ReplyCopy>,
    taken: Mutex<UnboundedReceiver<ReplyCopy>>,
    /// In bytes; all of it is free once all are sent.
    room: Arc<Semaphore>,
    left_out: AtomicU64,
}

struct ReplyCopy {
    queue: String,
    message: Outgoing,
    _room: OwnedSemaphorePermit,
}

impl Default for Copies {
    fn default() -> Self {
        let (given, taken) = unbounded_channel();
        Self {
            given,
            taken: Mutex::new(taken),
            room: Arc::new(Semaphore::new(MOST_BYTES as usize)),
            left_out: AtomicU64::new(0),
        }
    }
}

impl Copies {
    /// A copy of each result for the queue that its publisher asked for. Waits for nothing.
    pub(super) fn give(&self, confirmed: &[&Pending]) {
        let messages = confirmed.iter().map(|pending| &pending.message);
        for message in messages.filter(|message| message.kind == Kind::Result) {
            let Some(queue) = &message.properties.reply_to else {
                continue;
            };
            let body = u32::try_from(message.body.len()).unwrap_or(MOST_BYTES);
            let bytes = body.saturating_add(ENVELOPE_BYTES);
            let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(bytes) else {
                self.leave_out(message);
                continue;
            };
            let (queue, message) = (queue.clone(), message.clone());
            let copy = ReplyCopy {
                queue,
                message,
                _room: room,
            };
            // The other end is here as well.
            drop(self.given.send(copy));
        }
    }

    fn leave_out(&self, message: &Outgoing) {
        let left_out = self.left_out.fetch_add(1, Ordering::Relaxed) + 1;
        // More and more seldom: it is no trouble of the worker's.
        if left_out.is_power_of_two() {
            warn!(
                message_id = %message.id, left_out,
                "copies for reply_to come faster than they can be sent; so many were left out since the start"
            );
        }
    }

    /// Waits for the last ones, but not for long.
    pub(super) async fn until_sent(&self) {
        let all = self.room.acquire_many(MOST_BYTES);
        drop(tokio::time::timeout(LAST, all).await);
    }

    /// Sends what is given. Never ends by itself.
    pub(super) async fn send_all(&self, settings: &Amqp) {
        let mut taken = self.taken.lock().await;
        let mut way = Way {
            settings,
            link: None,
        };
        loop {
            let mut together = Vec::new();
            taken.recv_many(&mut together, TOGETHER).await;
            way.send(&together).await;
        }
    }
}

/// The way to the broker.
struct Way<'a> {
    settings: &'a Amqp,
    link: Option<Link>,
}

impl Way<'_> {
    /// Sends them together. If the broker closes something for one of them, each goes alone: some may come
    /// twice, and only that one does not come.
    async fn send(&mut self, together: &[ReplyCopy]) {
        let Err(error) = self.publish(together).await else {
            return;
        };
        let is_away = matches!(error, AmqpError::Unreached(..) | AmqpError::Timeout(..));
        if together.len() > 1 && !is_away {
            for alone in together.chunks(1) {
                Box::pin(self.send(alone)).await;
            }
        } else if let Some(first) = together.first() {
            warn!(
                message_id = %first.message.id, copies = together.len(), %error,
                "the copy for reply_to was not delivered"
            );
        }
    }

    async fn publish(&mut self, together: &[ReplyCopy]) -> Result<(), AmqpError> {
        self.link.take_if(|link| !link.status().connected());
        let link = match &mut self.link {
            Some(link) => link,
            none => none.insert(amqp::connect(self.settings, "rescind copies").await?),
        };
        publish_on(link, together).await
    }
}

/// On a channel of their own, since the broker closes it where that is not allowed.
async fn publish_on(connection: &Connection, together: &[ReplyCopy]) -> Result<(), AmqpError> {
    let channel = amqp::open_channel(connection).await?;
    for ReplyCopy { queue, message, .. } in together {
        let publishing = channel.basic_publish(
            "".into(),
            queue.as_str().into(),
            BasicPublishOptions::default(),
            &message.body,
            publish::properties(message),
        );
        step("publish", publishing).await?;
    }
    step("close a channel", channel.close(200, "done".into())).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::tests::rows;

    #[test]
    fn copies_for_which_there_is_no_room_are_left_out() {
        let copies = Copies::default();
        let mut all = rows(0..10_000, Kind::Result);
        for pending in &mut all {
            pending.message.properties.reply_to = Some("q".into());
        }
        copies.give(&all.iter().collect::<Vec<_>>());
        let mut taken = copies.taken.try_lock().unwrap();
        let most = MOST_BYTES / ENVELOPE_BYTES;
        assert_eq!(taken.len(), most as usize);
        drop(taken.try_recv());
        copies.give(&[&all[0], &all[1]]);
        assert_eq!(taken.len(), most as usize);
    }
}
