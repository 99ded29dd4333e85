//! A connection to one of the broker's nodes. An attempt without an answer is ended for good, and so is
//! a connection that is given up.

use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Deref;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lapin::tcp::AsyncTcpStream;
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Connection, ConnectionProperties};
use secrecy::{ExposeSecret, SecretString};
use tokio_util::sync::CancellationToken;

use super::{AmqpError, STEP, step, tls};
use crate::config::Amqp;

/// Seconds between heartbeats, unless the URL says otherwise; the broker's default of 60
/// would leave a dead connection unnoticed for minutes.
const HEARTBEAT_SECONDS: u16 = 10;

/// A connection that ends when it is dropped. lapin's own lives on, on a thread of its own, until the
/// broker answers its farewell or misses its heartbeats.
pub struct Link {
    connection: Connection,
    attempt: Arc<Attempt>,
}

impl Deref for Link {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.attempt.hang_up();
    }
}

/// Connects to the node, or to one of several: all are tried, starting at a random one, so that a node
/// which takes connections and serves none is not the only one that is ever asked. The broker's
/// management shows `name`.
pub async fn connect(settings: &Amqp, name: &str) -> Result<Link, AmqpError> {
    let nodes = nodes(&settings.url, &settings.further_urls)?;
    let first = rand::random_range(0..nodes.len());
    let mut failed = AmqpError::Lost;
    for node in nodes.iter().cycle().skip(first).take(nodes.len()) {
        match connect_to(node.clone(), settings, name).await {
            Err(error) if !matches!(error, AmqpError::Settings(_)) => failed = error,
            done => return done,
        }
    }
    Err(failed)
}

/// Every node's address, whichever is tried first: one that cannot be read would be found on the day on
/// which it is needed.
fn nodes(url: &SecretString, further: &[SecretString]) -> Result<Vec<AMQPUri>, AmqpError> {
    let further = further.iter().map(|url| ("amqp.further_urls", url));
    let nodes = std::iter::once(("amqp.url", url)).chain(further);
    let read = |(path, url): (&str, &SecretString)| {
        parse(url.expose_secret())
            .map_err(|why| AmqpError::Settings(format!("{path} cannot be read: {why}")))
    };
    nodes.map(read).collect()
}

/// lapin does not understand an IPv6 address, and would connect to this machine instead.
fn parse(url: &str) -> Result<AMQPUri, String> {
    let mut uri: AMQPUri = url.parse()?;
    let host = url::Url::parse(url).ok();
    if let Some(url::Host::Ipv6(address)) = host.as_ref().and_then(url::Url::host) {
        uri.authority.host = address.to_string();
    }
    Ok(uri)
}

async fn connect_to(mut uri: AMQPUri, settings: &Amqp, name: &str) -> Result<Link, AmqpError> {
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let address = address(&uri);
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    let attempt = Arc::new(Attempt::default());
    match attempt.connect(settings, uri, properties).await {
        Ok(connection) => Ok(Link {
            connection,
            attempt,
        }),
        Err(error) => {
            attempt.hang_up();
            Err(match error {
                AmqpError::Settings(_) => error,
                _ => AmqpError::Unreached(address, Box::new(error)),
            })
        }
    }
}

/// Without the password.
fn address(uri: &AMQPUri) -> String {
    let (scheme, at) = (&uri.scheme, &uri.authority);
    let (user, host, port) = (&at.userinfo.username, &at.host, at.port);
    format!("{scheme}://{user}@{host}:{port} (vhost {})", uri.vhost)
}

/// Time for one of so many addresses: all of them are tried within the time of a step.
fn share(addresses: usize) -> Duration {
    STEP / u32::try_from(addresses + 1).unwrap_or(u32::MAX)
}

/// The addresses of a name in turn, until one takes the connection. A silent one leaves time for the next.
async fn first_of<S, C>(
    addresses: Vec<SocketAddr>,
    each: Duration,
    reach: impl Fn(SocketAddr) -> C,
) -> io::Result<S>
where
    C: Future<Output = io::Result<S>>,
{
    let mut failed = io::Error::from(ErrorKind::AddrNotAvailable);
    for address in addresses {
        match tokio::time::timeout(each, reach(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => failed = error,
            Err(_) => failed = ErrorKind::TimedOut.into(),
        }
    }
    Err(failed)
}

/// One attempt to connect, and its socket for as long as the connection is used. lapin waits without end,
/// on a thread of its own, for a broker that takes the connection and says nothing, even after this
/// attempt was given up.
#[derive(Default)]
struct Attempt {
    given_up: CancellationToken,
    socket: Mutex<Option<TcpStream>>,
}

impl Attempt {
    /// Connects, with TLS where the address says so.
    async fn connect(
        self: &Arc<Self>,
        settings: &Amqp,
        uri: AMQPUri,
        properties: ConnectionProperties,
    ) -> Result<Connection, AmqpError> {
        let runtime = lapin::runtime::default_runtime()
            .map_err(|error| AmqpError::Protocol("connect", error))?;
        let tls = match uri.scheme {
            AMQPScheme::AMQP => None,
            AMQPScheme::AMQPS => Some(tls::connector(settings)?),
        };
        let secure = tls.is_some();
        let attempt = Arc::clone(self);
        let connecting = Connection::connector(
            uri,
            runtime,
            async move |uri, runtime| {
                let dial = async {
                    let authority = (uri.authority.host.as_str(), uri.authority.port);
                    let addresses: Vec<_> = tokio::net::lookup_host(authority).await?.collect();
                    let each = share(addresses.len());
                    let reach = |address| AsyncTcpStream::connect(&runtime, address);
                    let stream = first_of(addresses, each, reach).await?;
                    if let AsyncTcpStream::Plain(socket) = &stream {
                        attempt.keep_socket(socket.get_ref())?;
                    }
                    lapin::Result::Ok(match &tls {
                        Some(tls) => stream.into_rustls(tls, &uri.authority.host).await?,
                        None => stream,
                    })
                };
                let dialled = attempt.given_up.run_until_cancelled(dial).await;
                dialled.unwrap_or_else(|| Err(io::Error::from(ErrorKind::TimedOut).into()))
            },
            properties,
        );
        let connected = step("connect", connecting).await;
        connected.map_err(|error| {
            if secure {
                tls::explained(error, settings)
            } else {
                error
            }
        })
    }

    /// A second handle on the socket; lapin has the first one.
    fn keep_socket(&self, socket: &impl AsFd) -> io::Result<()> {
        let held = socket.as_fd().try_clone_to_owned()?;
        *self.socket() = Some(held.into());
        // A `hang_up` a moment ago found no socket.
        if self.given_up.is_cancelled() {
            Err(ErrorKind::TimedOut.into())
        } else {
            Ok(())
        }
    }

    /// Ends whatever lapin still does for this attempt: the steps before the protocol's first frame by
    /// their token, all others by the end of the stream.
    fn hang_up(&self) {
        self.given_up.cancel();
        if let Some(socket) = self.socket().take() {
            // The other side may have been faster.
            drop(socket.shutdown(Shutdown::Both));
        }
    }

    fn socket(&self) -> MutexGuard<'_, Option<TcpStream>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_silent_address_leaves_time_for_the_next() {
        let [silent, refusing, good] =
            [1, 2, 3].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let reach = async |address: SocketAddr| match address.port() {
            1 => std::future::pending().await,
            2 => Err(io::Error::from(ErrorKind::ConnectionRefused)),
            port => Ok(port),
        };
        let each = Duration::from_millis(1);
        let tried = async |addresses: Vec<SocketAddr>| {
            let tried = first_of(addresses, each, reach).await;
            tried.map_err(|error| error.kind())
        };
        assert_eq!(tried(vec![silent, refusing, good]).await, Ok(3));
        assert_eq!(tried(vec![good, silent]).await, Ok(3));
        let refused = Err(ErrorKind::ConnectionRefused);
        assert_eq!(tried(vec![silent, refusing]).await, refused);
        assert_eq!(tried(vec![silent]).await, Err(ErrorKind::TimedOut));
        assert_eq!(tried(vec![]).await, Err(ErrorKind::AddrNotAvailable));
        assert!((1..99_usize).all(|n| share(n) * u32::try_from(n).unwrap() < STEP));
    }

    #[test]
    fn an_address_of_ipv6_is_no_other_machine() {
        for (url, host) in [
            ("amqp://u:p@[2001:db8::5]:1/%2f", "2001:db8::5"),
            ("amqps://[::1]", "::1"),
            ("amqp://u:p@10.0.0.1:1/v", "10.0.0.1"),
            ("amqp://broker.example:1", "broker.example"),
        ] {
            assert_eq!(parse(url).unwrap().authority.host, host, "{url}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_read_is_named_before_any_is_tried() {
        let told = |url: &str, further: &str| {
            let nodes = nodes(&url.into(), &["amqp://b".into(), further.into()]);
            nodes.map(|nodes| nodes.len()).map_err(|e| e.to_string())
        };
        let (good, bad) = ("amqp://a?heartbeat=5", "amqp://u:secret@c?heartbeat=x");
        assert_eq!(told(good, "amqp://c"), Ok(3));
        let further = told(good, bad).unwrap_err();
        assert!(further.starts_with("amqp.further_urls cannot be read: "));
        assert!(!further.contains("secret"), "{further}");
        let first = told(bad, good).unwrap_err();
        assert!(first.starts_with("amqp.url cannot be read: "), "{first}");
    }

    #[test]
    fn a_broker_is_named_without_the_password() {
        let uri = parse("amqps://rescind:secret@broker.example:5671/orders").unwrap();
        assert_eq!(
            address(&uri),
            "amqps://rescind@broker.example:5671 (vhost orders)"
        );
    }
}
