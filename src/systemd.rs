//! Tells systemd how far the worker is, and that it works, where it was started as `Type=notify`.

use std::convert::Infallible;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tracing::warn;

/// Whoever started the worker, if it wants to be told.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    socket: Option<String>,
    /// Hearing nothing for longer, it ends the worker.
    watchdog: Option<Duration>,
}

impl Systemd {
    /// `socket` is the value of `NOTIFY_SOCKET`, `watchdog` that of `WATCHDOG_USEC`.
    pub fn new(socket: Option<&str>, watchdog: Option<&str>) -> Self {
        let micros = watchdog.and_then(|micros| micros.parse().ok());
        Self {
            socket: socket.filter(|path| !path.is_empty()).map(str::to_owned),
            watchdog: micros
                .filter(|&micros| micros > 0)
                .map(Duration::from_micros),
        }
    }

    /// Tells that the worker works, for as long as it does. A worker whose threads are all stuck, e.g. in a
    /// log that nobody reads, keeps its lease by a thread of its own, and its requests with it.
    pub async fn keep_alive(&self) -> Infallible {
        let Some(watchdog) = self.watchdog else {
            return std::future::pending().await;
        };
        loop {
            self.tell("WATCHDOG=1");
            tokio::time::sleep(watchdog / 3).await;
        }
    }

    /// It works, or waits for its broker, which is work too.
    pub fn ready(&self) {
        self.tell("READY=1\nSTATUS=consuming, or waiting for the broker; see /readyz");
    }

    /// It takes in no more.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=draining");
    }

    /// Never stops the worker: a supervisor that does not listen is not its trouble.
    fn tell(&self, state: &str) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, state) {
            warn!(%error, "systemd could not be told");
        }
    }
}

/// A name that begins with `@` is not in the file system.
fn send(socket: &str, state: &str) -> io::Result<()> {
    let address = match socket.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(socket)?,
    };
    UnixDatagram::unbound()?
        .send_to_addr(state.as_bytes(), &address)
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_outside_of_the_file_system_is_reached() {
        let name = format!("rescind-{}", uuid::Uuid::new_v4());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        Systemd::new(Some(&format!("@{name}")), None).ready();
        let mut told = [0; 200];
        let length = listener.recv(&mut told).unwrap();
        assert!(told[..length].starts_with(b"READY=1\n"));
        // Nobody there, and nobody asked: nothing happens.
        Systemd::new(Some("/nonexistent/socket"), None).stopping();
        Systemd::new(None, None).ready();
    }

    #[test]
    fn a_watchdog_is_told_where_there_is_one() {
        let watchdog = |micros| Systemd::new(None, micros).watchdog;
        assert_eq!(watchdog(Some("30000000")), Some(Duration::from_secs(30)));
        for none in [None, Some(""), Some("0"), Some("soon")] {
            assert_eq!(watchdog(none), None, "{none:?}");
        }
    }
}
