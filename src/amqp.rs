//! The broker: connections, topology, and a supervisor that builds everything anew.
//!
//! lapin is used as a protocol library only. Its automatic recovery can hang for ever after
//! a cut connection, and so can a single await that races the error; so every await here has
//! a deadline, a watch looks at the connection four times a second, and on any trouble the
//! whole session is dropped and built again, for as long as it takes.

use std::future::Future;
use std::time::Duration;

use lapin::message::Delivery;
use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Schedule;
use crate::config::{Amqp, TopologyMode};

mod tls;

/// Longest wait for one step of the protocol.
pub const STEP: Duration = Duration::from_secs(5);
/// Longest header that is read.
const HEADER_BYTES_MAX: usize = 2048;
/// How often a connection is looked at.
const WATCH_EVERY: Duration = Duration::from_millis(250);
/// Seconds between heartbeats, unless the URL says otherwise; the broker's default of 60
/// would leave a dead connection unnoticed for minutes.
const HEARTBEAT_SECONDS: u16 = 10;

/// Waits between two attempts to connect.
const RECONNECT: Schedule = Schedule {
    first: Duration::from_millis(250),
    factor: 2.0,
    max: Duration::from_secs(10),
    give_up_after: Duration::MAX,
};

/// Trouble with the broker; every one of them ends the session.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The protocol's or the connection's own error.
    #[error("{0}: {1}")]
    Protocol(&'static str, lapin::Error),
    /// A step took too long.
    #[error("{0}: no answer within 5 s")]
    Timeout(&'static str),
    /// The connection is no longer there.
    #[error("the connection was lost")]
    Lost,
    /// The broker cancelled a consumer, e.g. since its queue was deleted.
    #[error("the broker cancelled the consumer of {0}")]
    Cancelled(String),
    /// The broker has forgotten a consumer of ours.
    #[error("{0} holds messages, and the broker delivers none of them")]
    Forgotten(String),
    /// One side does not accept the other's certificate, or they cannot agree on TLS.
    #[error("{0}")]
    Tls(String),
    /// The settings cannot be used.
    #[error("{0}")]
    Settings(String),
    /// What is at the broker differs from what is needed.
    #[error("{}", .0.join("; "))]
    Topology(Vec<String>),
}

/// Awaits one step of the protocol, but not for ever.
pub async fn step<T>(
    what: &'static str,
    future: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    match tokio::time::timeout(STEP, future).await {
        Ok(done) => done.map_err(|error| AmqpError::Protocol(what, error)),
        Err(_) => Err(AmqpError::Timeout(what)),
    }
}

/// Connects to the node, or to one of several: all are tried, from any one on, so that a node
/// which takes connections and serves nobody is not the only one that is ever asked. `name`
/// is what the broker's management shows.
pub async fn connect(settings: &Amqp, name: &str) -> Result<Connection, AmqpError> {
    let nodes: Vec<&SecretString> = std::iter::once(&settings.url)
        .chain(&settings.further_urls)
        .collect();
    let first = rand::random_range(0..nodes.len());
    let mut failed = AmqpError::Lost;
    for node in nodes.iter().cycle().skip(first).take(nodes.len()) {
        match connect_to(node, settings, name).await {
            Err(error) if !matches!(error, AmqpError::Settings(_)) => failed = error,
            done => return done,
        }
    }
    Err(failed)
}

async fn connect_to(
    node: &SecretString,
    settings: &Amqp,
    name: &str,
) -> Result<Connection, AmqpError> {
    let mut uri: AMQPUri = node
        .expose_secret()
        .parse()
        .map_err(|why| AmqpError::Settings(format!("amqp.url cannot be read: {why}")))?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    tls::connect(settings, uri, properties).await
}

/// A header of text, if it is of a sensible size.
pub fn header<'d>(delivery: &'d Delivery, name: &str) -> Option<&'d str> {
    let value = delivery.properties.headers().as_ref()?.inner().get(name)?;
    let text = match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok()?,
        AMQPValue::ShortString(text) => text.as_str(),
        _ => return None,
    };
    (text.len() <= HEADER_BYTES_MAX).then_some(text)
}

/// Ends when the connection or the channel is no longer usable. lapin's futures may not.
pub async fn watch(connection: &Connection, channels: &[&Channel]) {
    let usable =
        || connection.status().connected() && channels.iter().all(|c| c.status().connected());
    while usable() {
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Runs sessions, one after the other, until `stop`. A session that was up for a while
/// starts the waits anew. `rebuilt` is told of every session but the first.
pub async fn supervise<F>(
    what: &'static str,
    stop: &CancellationToken,
    rebuilt: impl Fn(),
    session: impl Fn() -> F,
) where
    F: Future<Output = Result<(), AmqpError>>,
{
    let mut failures = 0;
    while !stop.is_cancelled() {
        let started = tokio::time::Instant::now();
        match session().await {
            Ok(()) => continue,
            Err(error) => {
                warn!(session = what, %error, "the broker session ended; building it anew")
            }
        }
        failures = if started.elapsed() > Duration::from_secs(30) {
            0
        } else {
            failures + 1
        };
        let wait = RECONNECT
            .interval(failures)
            .mul_f64(0.5 + rand::random::<f64>() / 2.0);
        tokio::select! {
            () = tokio::time::sleep(wait) => rebuilt(),
            () = stop.cancelled() => {}
        }
    }
    info!(session = what, "the broker session is closed");
}

/// Closes politely, but not for long.
pub async fn close(connection: &Connection) {
    let closing = connection.close(200, "done".into());
    drop(tokio::time::timeout(Duration::from_millis(300), closing).await);
}

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
            // From 4.0 on a queue drops what was looked at twenty times, unless told not to.
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

/// Declares the topology, or checks it, as configured.
pub async fn prepare(connection: &Connection, settings: &Amqp) -> Result<(), AmqpError> {
    match settings.topology {
        TopologyMode::Declare => declare(connection, &Topology::of(settings)).await,
        TopologyMode::Verify => match verify(connection, &Topology::of(settings)).await? {
            differences if differences.is_empty() => Ok(()),
            differences => Err(AmqpError::Topology(differences)),
        },
    }
}

/// Declares everything; what is already there in the same way stays as it is.
pub async fn declare(connection: &Connection, topology: &Topology) -> Result<(), AmqpError> {
    let channel = step("open a channel", connection.create_channel()).await?;
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

/// What is missing or different, one sentence each; creates nothing. Bindings cannot be
/// asked for in AMQP and are not checked.
pub async fn verify(
    connection: &Connection,
    topology: &Topology,
) -> Result<Vec<String>, AmqpError> {
    let mut differences = Vec::new();
    for exchange in &topology.exchanges {
        let label = format!("exchange {}", exchange.name);
        for passive in [true, false] {
            // A refusal closes the channel, so each question has its own.
            let channel = step("open a channel", connection.create_channel()).await?;
            let asked = declare_exchange(&channel, exchange, passive).await;
            if !differs(&label, passive, asked, &mut differences)? {
                break;
            }
        }
    }
    for queue in &topology.queues {
        let label = format!("queue {}", queue.name);
        for passive in [true, false] {
            let channel = step("open a channel", connection.create_channel()).await?;
            let asked = declare_queue(&channel, queue, passive).await;
            if !differs(&label, passive, asked, &mut differences)? {
                break;
            }
        }
    }
    Ok(differences)
}

/// `true` if the next question may be asked. The second one, which compares the arguments
/// of what exists, needs the right to configure; without it they are taken on trust.
fn differs(
    label: &str,
    passive: bool,
    asked: Result<(), AmqpError>,
    differences: &mut Vec<String>,
) -> Result<bool, AmqpError> {
    let Err(error) = asked else {
        return Ok(passive);
    };
    match &error {
        AmqpError::Protocol(_, lapin_error) => match refusal(lapin_error) {
            Some((404, _)) => differences.push(format!("{label} is missing")),
            Some((406, text)) => differences.push(format!("{label} differs: {text}")),
            Some((403, _)) if !passive => {}
            Some((_, text)) => differences.push(format!("{label} cannot be looked at: {text}")),
            None => return Err(error),
        },
        _ => return Err(error),
    }
    Ok(false)
}

/// Code and text of a refusal by the broker.
pub fn refusal(error: &lapin::Error) -> Option<(u16, String)> {
    match error.kind() {
        lapin::ErrorKind::ProtocolError(error) => {
            Some((error.get_id(), error.get_message().to_string()))
        }
        _ => None,
    }
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
