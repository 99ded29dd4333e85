//! The signals that stop a worker: the first one drains it, a further one ends it at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Another signal in this time belongs to the first: a terminal signals a whole group, and the program
/// that started the worker signals it again.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Waits for SIGTERM or SIGINT.
pub(super) async fn first() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Waits for a signal that does not belong to the first one.
pub(super) async fn further() -> io::Result<()> {
    tokio::time::sleep(ONE_SIGNAL).await;
    first().await
}
