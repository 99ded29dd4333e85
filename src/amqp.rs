//! The broker: connections, topology, and a supervisor that connects again after any failure.
//!
//! lapin is used as a protocol library only. Its automatic recovery can hang for ever after
//! a cut connection, and so can a single await that races the error; so every await here has
//! a deadline, a watch checks the connection four times a second, and on any failure the
//! whole session is dropped and built again, for as long as it takes.

use std::time::Duration;

use lapin::message::Delivery;
use lapin::types::AMQPValue;
use lapin::{Channel, Connection};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::backoff::Schedule;

mod connect;
mod tls;
mod topology;

pub use connect::{Link, connect};
pub use topology::{
    Argument, Difference, Exchange, Queue, Topology, check, declare, prepare, undeclarable, verify,
};

/// Longest wait for one step of the protocol.
pub const STEP: Duration = Duration::from_secs(5);
/// Longest header that is read.
const HEADER_BYTES_MAX: usize = 2048;
/// How often a connection is checked.
const WATCH_EVERY: Duration = Duration::from_millis(250);

// Codes by which the broker calls a request a mistake.
/// This user may not do that.
pub const ACCESS_REFUSED: u16 = 403;
/// It is not there.
pub const NOT_FOUND: u16 = 404;
/// It belongs to another connection.
pub const RESOURCE_LOCKED: u16 = 405;
/// It was declared in another way, or is too large.
pub const PRECONDITION_FAILED: u16 = 406;

/// A session that was up for longer starts the waits anew.
const STEADY: Duration = Duration::from_secs(30);
/// Longest wait for the end of a connection that is closed.
const FAREWELL: Duration = Duration::from_millis(300);

/// Waits between two attempts to connect.
const RECONNECT: Schedule = Schedule {
    first: Duration::from_millis(250),
    factor: 2.0,
    max: Duration::from_secs(10),
    give_up_after: Duration::MAX,
};

/// A failure at the broker; each ends the session.
#[derive(Debug, thiserror::Error)]
pub enum AmqpError {
    /// The protocol's or the connection's own error.
    #[error("{0}: {1}")]
    Protocol(&'static str, lapin::Error),
    /// A node cannot be used: its address without the password, and why.
    #[error("{0}: {1}")]
    Unreached(String, Box<AmqpError>),
    /// A step took too long.
    #[error("{0}: no answer within {secs} s", secs = .1.as_secs())]
    Timeout(&'static str, Duration),
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
    /// The broker's exchanges or queues differ from those that are needed.
    #[error("{}", .0.join("; "))]
    Topology(Vec<String>),
}

impl AmqpError {
    /// Code and text of the broker's refusal, if that is the cause.
    pub fn refusal(&self) -> Option<(u16, String)> {
        let error = match self {
            Self::Protocol(_, error) => error,
            Self::Unreached(_, error) => return error.refusal(),
            _ => return None,
        };
        match error.kind() {
            lapin::ErrorKind::ProtocolError(error) => {
                Some((error.get_id(), error.get_message().to_string()))
            }
            _ => None,
        }
    }

    /// What the broker refused to declare, as a difference of the topology, with what to do about it.
    pub fn explained(self) -> Self {
        match (&self, self.mistake()) {
            (Self::Protocol(what, _), Some(why)) => Self::Topology(vec![format!(
                "the broker refuses to {what}: {why}. Correct the object at the broker or the names in [amqp], or set amqp.topology = \"verify\" and declare it elsewhere"
            )]),
            _ => self,
        }
    }

    /// The broker's text, where it calls the request a mistake. Every other refusal passes: the broker is
    /// being stopped (320), or one of its nodes is (541).
    pub fn mistake(&self) -> Option<String> {
        const MISTAKES: [u16; 4] = [
            ACCESS_REFUSED,
            NOT_FOUND,
            RESOURCE_LOCKED,
            PRECONDITION_FAILED,
        ];
        let (code, text) = self.refusal()?;
        MISTAKES.contains(&code).then_some(text)
    }
}

/// A channel of its own.
pub async fn open_channel(connection: &Connection) -> Result<Channel, AmqpError> {
    step("open a channel", connection.create_channel()).await
}

/// Awaits one step of the protocol, but not for ever.
pub async fn step<T>(
    what: &'static str,
    future: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    step_within(what, STEP, future).await
}

/// The same for one that may take longer.
pub async fn step_within<T>(
    what: &'static str,
    most: Duration,
    future: impl Future<Output = lapin::Result<T>>,
) -> Result<T, AmqpError> {
    match tokio::time::timeout(most, future).await {
        Ok(done) => done.map_err(|error| AmqpError::Protocol(what, error)),
        Err(_) => Err(AmqpError::Timeout(what, most)),
    }
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

/// Ends when the connection or a channel is no longer usable. lapin's own futures may never end then.
pub async fn watch(connection: &Connection, channels: &[&Channel]) {
    let usable =
        || connection.status().connected() && channels.iter().all(|c| c.status().connected());
    while usable() {
        tokio::time::sleep(WATCH_EVERY).await;
    }
}

/// Runs sessions, one after the other, until `stop`. `rebuilt` is called before a session that follows a failed one.
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
        let Err(error) = session().await else {
            continue;
        };
        warn!(session = what, %error, "no broker session; connecting again");
        failures = if started.elapsed() > STEADY {
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
    drop(tokio::time::timeout(FAREWELL, closing).await);
}
