//! Copies of results for `reply_to`: a convenience beside the real result, sent and not confirmed.

use lapin::Connection;
use lapin::options::BasicPublishOptions;
use tokio::sync::Mutex;
use tracing::warn;

use crate::amqp::{self, AmqpError, Link, step};
use crate::config::Amqp;
use crate::ledger::Pending;
use crate::publish;
use crate::wire::{Kind, Outgoing};

/// Sends them on a connection of their own, made for the first one: publishers choose the queue, and for some
/// names the broker closes the whole connection.
#[derive(Default)]
pub(super) struct Copies(Mutex<Option<Link>>);

impl Copies {
    /// Copies each result to the queue that its publisher asked for.
    pub(super) async fn send(&self, settings: &Amqp, confirmed: &[&Pending]) {
        let messages = confirmed.iter().map(|pending| &pending.message);
        for message in messages.filter(|message| message.kind == Kind::Result) {
            let Some(queue) = &message.properties.reply_to else {
                continue;
            };
            if let Err(error) = self.copy(settings, queue, message).await {
                warn!(message_id = %message.id, %error, "the copy for reply_to was not delivered");
            }
        }
    }

    async fn copy(
        &self,
        settings: &Amqp,
        queue: &str,
        message: &Outgoing,
    ) -> Result<(), AmqpError> {
        let mut link = self.0.lock().await;
        link.take_if(|link| !link.status().connected());
        let link = match &mut *link {
            Some(link) => link,
            none => none.insert(amqp::connect(settings, "rescind copies").await?),
        };
        publish_one(link, queue, message).await
    }
}

/// On a channel of its own, since the broker closes it where that is not allowed.
async fn publish_one(
    connection: &Connection,
    queue: &str,
    message: &Outgoing,
) -> Result<(), AmqpError> {
    let channel = amqp::open_channel(connection).await?;
    let options = BasicPublishOptions::default();
    let publishing = channel.basic_publish(
        "".into(),
        queue.into(),
        options,
        &message.body,
        publish::properties(message),
    );
    step("publish", publishing).await?;
    step("close a channel", channel.close(200, "done".into())).await
}
