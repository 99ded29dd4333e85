//! Tells systemd how far the worker is, where it was started as `Type=notify`.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::{io, path::PathBuf};

use tracing::warn;

/// Whoever started the worker, if it wants to be told.
#[derive(Debug, Clone, Default)]
pub struct Systemd {
    socket: Option<PathBuf>,
}

impl Systemd {
    /// `socket` is the value of `NOTIFY_SOCKET`.
    pub fn new(socket: Option<&str>) -> Self {
        let socket = socket.filter(|path| !path.is_empty()).map(PathBuf::from);
        Self { socket }
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
        if let Err(error) = send(&socket.to_string_lossy(), state) {
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
        Systemd::new(Some(&format!("@{name}"))).ready();
        let mut told = [0; 200];
        let length = listener.recv(&mut told).unwrap();
        assert!(told[..length].starts_with(b"READY=1\n"));
        // Nobody there, and nobody asked: nothing happens.
        Systemd::new(Some("/nonexistent/socket")).stopping();
        Systemd::new(None).ready();
    }
}
