//! The signals that stop a worker: the first one drains it, a further one ends it at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// Another signal in this time belongs to the first: a terminal signals a whole group, and the program
/// that started the worker signals it again.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// SIGTERM and SIGINT, heard from the moment in which this is made: the first process of a container is
/// sent none that it does not ask for.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    pub(super) fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the first signal.
    pub(super) async fn first(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// What becomes of this, unless a signal comes before.
    pub(super) async fn or_first<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = future => Some(done),
            () = self.first() => None,
        }
    }

    /// Waits for a signal that does not belong to the first one.
    pub(super) async fn further(&mut self) -> io::Result<()> {
        tokio::time::sleep(ONE_SIGNAL).await;
        // Those that came meanwhile are not heard.
        *self = Self::listen()?;
        self.first().await;
        Ok(())
    }
}
