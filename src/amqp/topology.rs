//! The exchanges, queues and bindings that have to be at the broker: declared or compared.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, ExchangeKind};
use tracing::warn;

use super::{
    ACCESS_REFUSED, AmqpError, NOT_FOUND, PRECONDITION_FAILED, close, connect, open_channel, step,
};
use crate::config::{Amqp, TopologyMode};

/// An exchange of the contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// Name.
    pub name: String,
    /// `topic` or `fanout`.
    pub kind: &'static str,
}

/// A queue of the contract with its bindings.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// Name.
    pub name: String,
    /// Arguments.
    pub arguments: Vec<(&'static str, Argument)>,
    /// Exchange and key.
    pub bindings: Vec<(String, &'static str)>,
}

/// The value of a queue's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A string.
    Text(String),
    /// A number.
    Number(i64),
}

impl Exchange {
    fn label(&self) -> String {
        format!("exchange {}", self.name)
    }
}

impl Queue {
    fn label(&self) -> String {
        format!("queue {}", self.name)
    }
}

/// Everything that has to be at the broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// In an order in which they can be declared.
    pub exchanges: Vec<Exchange>,
    /// All quorum queues.
    pub queues: Vec<Queue>,
}

impl Topology {
    /// The contract's topology under the configured names.
    pub fn of(settings: &Amqp) -> Self {
        let exchange = |name: &str, kind| Exchange {
            name: name.to_owned(),
            kind,
        };
        let dropped = settings.dropped_exchange.clone();
        let mut queues = vec![
            // At-least-once dead lettering needs all three, or silently becomes at-most-once.
            queue(
                &settings.requests_queue,
                &[(&settings.requests_exchange, "cancel.#")],
                vec![
                    ("x-dead-letter-exchange", Argument::Text(dropped.clone())),
                    (
                        "x-dead-letter-strategy",
                        Argument::Text("at-least-once".into()),
                    ),
                    ("x-overflow", Argument::Text("reject-publish".into())),
                ],
            ),
            queue(
                &settings.notifications_queue,
                &[(&settings.results_exchange, "notification.#")],
                vec![],
            ),
            // From 4.0 on a queue drops a message after twenty looks at it, unless told not to.
            queue(
                &settings.dead_queue,
                &[(&settings.dead_exchange, "#")],
                vec![("x-delivery-limit", Argument::Number(-1))],
            ),
            queue(
                &settings.dropped_queue,
                &[(&settings.dropped_exchange, "")],
                vec![],
            ),
        ];
        if !settings.results_queue.is_empty() {
            let exchange = &settings.results_exchange;
            let bindings = [(exchange, "result.#"), (exchange, "correction.#")];
            queues.push(queue(&settings.results_queue, &bindings, vec![]));
        }
        Self {
            exchanges: vec![
                exchange(&settings.dropped_exchange, "fanout"),
                exchange(&settings.requests_exchange, "topic"),
                exchange(&settings.results_exchange, "topic"),
                exchange(&settings.dead_exchange, "topic"),
            ],
            queues,
        }
    }
}

fn queue(
    name: &str,
    bindings: &[(&String, &'static str)],
    mut arguments: Vec<(&'static str, Argument)>,
) -> Queue {
    arguments.insert(0, ("x-queue-type", Argument::Text("quorum".into())));
    let bindings = bindings
        .iter()
        .map(|(exchange, key)| ((*exchange).clone(), *key))
        .collect();
    Queue {
        name: name.to_owned(),
        arguments,
        bindings,
    }
}

/// What the broker does not have as it has to be, and its own words about that. Displayed as a sentence.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Difference {
    /// It is not there.
    #[error("{0} is missing")]
    Missing(String),
    /// It is there, and otherwise.
    #[error("{0} differs: {1}")]
    Differs(String, String),
    /// The broker does not say.
    #[error("{0} cannot be checked: {1}")]
    Unchecked(String, String),
}

/// The result of a look at the broker.
#[derive(Debug, Default)]
pub struct Verified {
    /// What is missing or different.
    pub differences: Vec<Difference>,
    /// What is there, and whose arguments could not be compared: this user may not declare it.
    on_trust: Vec<String>,
}

impl Verified {
    /// For a person, where there are no differences: what was compared, and what was not.
    pub const fn sentence(&self) -> &'static str {
        if self.on_trust.is_empty() {
            "exchanges and queues match; bindings cannot be checked over AMQP"
        } else {
            "exchanges and queues are there; queue arguments and exchange types are taken on trust where this user may not configure them; bindings cannot be checked over AMQP"
        }
    }
}

/// Declares the topology, or checks it, as configured.
pub async fn prepare(connection: &Connection, settings: &Amqp) -> Result<(), AmqpError> {
    let topology = Topology::of(settings);
    match settings.topology {
        TopologyMode::Declare => declare(connection, &topology).await,
        TopologyMode::Verify => {
            let found = verify(connection, &topology).await?;
            if found.differences.is_empty() {
                Ok(())
            } else {
                let sentences = found.differences.iter().map(ToString::to_string);
                Err(AmqpError::Topology(sentences.collect()))
            }
        }
    }
}

/// A look at the broker before anything is begun: one that answers and has another topology is a mistake
/// to be told at once; one that does not answer is waited for.
pub async fn check(settings: &Amqp) -> Result<(), AmqpError> {
    let connection = match connect(settings, "rescind start").await {
        Ok(connection) => connection,
        Err(error @ AmqpError::Settings(_)) => return Err(error),
        Err(error) => {
            warn!(%error, "the broker cannot be reached; trying for as long as it takes");
            return Ok(());
        }
    };
    let prepared = prepare(&connection, settings).await;
    close(&connection).await;
    let Err(error) = prepared else {
        return Ok(());
    };
    match error.explained() {
        error @ AmqpError::Topology(_) => Err(error),
        error => {
            warn!(%error, "the topology could not be checked; trying again");
            Ok(())
        }
    }
}

/// Declares everything; an exchange or queue that is there already stays as it is.
pub async fn declare(connection: &Connection, topology: &Topology) -> Result<(), AmqpError> {
    let channel = open_channel(connection).await?;
    for exchange in &topology.exchanges {
        declare_exchange(&channel, exchange, false).await?;
    }
    for queue in &topology.queues {
        declare_queue(&channel, queue, false).await?;
        for (exchange, key) in &queue.bindings {
            let binding = channel.queue_bind(
                queue.name.as_str().into(),
                exchange.as_str().into(),
                (*key).into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            step("bind a queue", binding).await?;
        }
    }
    Ok(())
}

/// What is missing or different; creates nothing. Bindings cannot be asked for in AMQP and are not checked.
pub async fn verify(connection: &Connection, topology: &Topology) -> Result<Verified, AmqpError> {
    let mut found = Verified::default();
    for exchange in &topology.exchanges {
        let label = exchange.label();
        let ask = async move |channel, passive| declare_exchange(&channel, exchange, passive).await;
        compare(connection, &label, ask, &mut found).await?;
    }
    for queue in &topology.queues {
        let label = queue.label();
        let ask = async move |channel, passive| declare_queue(&channel, queue, passive).await;
        compare(connection, &label, ask, &mut found).await?;
    }
    Ok(found)
}

/// What of it this user may not declare, whether it is there or missing. Creates nothing.
pub async fn undeclarable(
    connection: &Connection,
    topology: &Topology,
    found: &Verified,
) -> Result<Vec<String>, AmqpError> {
    let mut barred = found.on_trust.clone();
    let is_missing = |label: &str| {
        let mut differences = found.differences.iter();
        differences.any(|found| matches!(found, Difference::Missing(missing) if missing == label))
    };
    for exchange in &topology.exchanges {
        let label = exchange.label();
        if is_missing(&label) && is_barred(try_exchange(connection, &exchange.name).await)? {
            barred.push(label);
        }
    }
    for queue in &topology.queues {
        let label = queue.label();
        if is_missing(&label) && is_barred(try_queue(connection, &queue.name).await)? {
            barred.push(label);
        }
    }
    Ok(barred)
}

fn is_barred(tried: Result<(), AmqpError>) -> Result<bool, AmqpError> {
    match tried {
        Err(error) if error.mistake().is_none() => Err(error),
        Err(error) => Ok(matches!(error.refusal(), Some((ACCESS_REFUSED, _)))),
        Ok(()) => Ok(false),
    }
}

/// The broker judges the user first, and then refuses an exchange's name that is a number.
fn impossible(argument: &'static str) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert(argument.into(), AMQPValue::LongInt(0));
    arguments
}

async fn try_exchange(connection: &Connection, name: &str) -> Result<(), AmqpError> {
    let channel = open_channel(connection).await?;
    let options = ExchangeDeclareOptions::default();
    let arguments = impossible("alternate-exchange");
    let asking = channel.exchange_declare(name.into(), ExchangeKind::Topic, options, arguments);
    step("declare an exchange", asking).await
}

async fn try_queue(connection: &Connection, name: &str) -> Result<(), AmqpError> {
    let channel = open_channel(connection).await?;
    // Should a broker make it after all, it ends with the connection.
    let options = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let arguments = impossible("x-dead-letter-exchange");
    let asking = channel.queue_declare(name.into(), options, arguments);
    step("declare a queue", asking).await.map(drop)
}

/// Whether it is there, and then what it is like.
async fn compare<F>(
    connection: &Connection,
    label: &str,
    ask: impl Fn(Channel, bool) -> F,
    found: &mut Verified,
) -> Result<(), AmqpError>
where
    F: Future<Output = Result<(), AmqpError>>,
{
    for passive in [true, false] {
        // A refusal closes the channel, so each question has its own.
        let channel = open_channel(connection).await?;
        let asked = ask(channel, passive).await;
        if !differs(label, passive, asked, found)? {
            break;
        }
    }
    Ok(())
}

/// `true` if the next question may be asked. The second one, which compares the arguments
/// of what exists, needs the right to configure; without it they are taken on trust.
fn differs(
    label: &str,
    passive: bool,
    asked: Result<(), AmqpError>,
    found: &mut Verified,
) -> Result<bool, AmqpError> {
    let differences = &mut found.differences;
    let Err(error) = asked else {
        return Ok(passive);
    };
    let Some(why) = error.mistake() else {
        return Err(error);
    };
    let label = label.to_owned();
    match error.refusal() {
        Some((NOT_FOUND, _)) => differences.push(Difference::Missing(label)),
        Some((PRECONDITION_FAILED, _)) => differences.push(Difference::Differs(label, why)),
        Some((ACCESS_REFUSED, _)) if !passive => found.on_trust.push(label),
        _ => differences.push(Difference::Unchecked(label, why)),
    }
    Ok(false)
}

async fn declare_exchange(
    channel: &Channel,
    exchange: &Exchange,
    passive: bool,
) -> Result<(), AmqpError> {
    let kind = match exchange.kind {
        "fanout" => ExchangeKind::Fanout,
        _ => ExchangeKind::Topic,
    };
    let options = ExchangeDeclareOptions {
        passive,
        durable: true,
        ..ExchangeDeclareOptions::default()
    };
    let name = exchange.name.as_str().into();
    step(
        "declare an exchange",
        channel.exchange_declare(name, kind, options, FieldTable::default()),
    )
    .await
}

async fn declare_queue(channel: &Channel, queue: &Queue, passive: bool) -> Result<(), AmqpError> {
    let options = QueueDeclareOptions {
        passive,
        durable: true,
        ..QueueDeclareOptions::default()
    };
    let mut arguments = FieldTable::default();
    for (name, value) in &queue.arguments {
        let value = match value {
            Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
            Argument::Number(number) => AMQPValue::LongLongInt(*number),
        };
        arguments.insert((*name).into(), value);
    }
    let declared = channel.queue_declare(queue.name.as_str().into(), options, arguments);
    step("declare a queue", declared).await.map(drop)
}

#[cfg(test)]
mod tests {
    use lapin::ErrorKind;
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPHardError, AMQPSoftError};

    use super::*;

    fn refused(by: impl Into<AMQPErrorKind>) -> Result<(), AmqpError> {
        let error = ErrorKind::ProtocolError(AMQPError::new(by.into(), "refused".into()));
        Err(AmqpError::Protocol("declare a queue", error.into()))
    }

    #[test]
    fn what_could_not_be_compared_is_said_to_be_taken_on_trust() {
        let mut found = Verified::default();
        assert!(differs("queue a", true, Ok(()), &mut found).unwrap());
        assert!(!differs("queue a", false, Ok(()), &mut found).unwrap());
        assert!(found.sentence().contains("match; bindings"));
        let forbidden = refused(AMQPSoftError::ACCESSREFUSED);
        assert!(!differs("queue a", false, forbidden, &mut found).unwrap());
        for says in ["on trust", "bindings cannot be checked"] {
            assert!(found.sentence().contains(says), "{}", found.sentence());
        }
        assert!(found.differences.is_empty());
        assert_eq!(found.on_trust, ["queue a"]);
        let unseen = refused(AMQPSoftError::ACCESSREFUSED);
        assert!(!differs("queue a", true, unseen, &mut found).unwrap());
        let says = found.differences.iter().map(ToString::to_string);
        assert_eq!(
            says.collect::<Vec<_>>(),
            ["queue a cannot be checked: refused"]
        );
    }

    #[test]
    fn a_broker_that_has_no_time_now_says_nothing_of_a_queue() {
        for passing in [
            AMQPHardError::CONNECTIONFORCED,
            AMQPHardError::INTERNALERROR,
        ] {
            let mut found = Verified::default();
            let passing = refused(passing);
            assert!(differs("queue a", true, passing, &mut found).is_err());
            assert!(found.differences.is_empty());
        }
    }
}
