//! Copies of results for `reply_to`: a convenience beside the real result, sent and not confirmed.

use lapin::Connection;
use lapin::options::BasicPublishOptions;
use tracing::warn;

use crate::amqp::{self, AmqpError, step};
use crate::ledger::Pending;
use crate::publish;
use crate::wire::{Kind, Outgoing};

/// Copies each result to the queue that its publisher asked for.
pub(super) async fn send(connection: &Connection, confirmed: &[&Pending]) {
    let messages = confirmed.iter().map(|pending| &pending.message);
    for message in messages.filter(|message| message.kind == Kind::Result) {
        let Some(queue) = &message.properties.reply_to else {
            continue;
        };
        if let Err(error) = copy(connection, queue, message).await {
            warn!(message_id = %message.id, %error, "the copy for reply_to was not delivered");
        }
    }
}

/// On a channel of its own, since the broker closes it where that is not allowed.
async fn copy(connection: &Connection, queue: &str, message: &Outgoing) -> Result<(), AmqpError> {
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
