//! The signals that stop a worker: the first one drains it, a further one ends it at once.

use std::io;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Another one in this time belongs to the first: a terminal tells all of a group, and whoever started
/// the worker tells it again.
const ONE_SIGNAL: Duration = Duration::from_secs(1);

/// Until SIGTERM or SIGINT comes.
pub(super) async fn first() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Until one comes that is not the first one again.
pub(super) async fn further() -> io::Result<()> {
    tokio::time::sleep(ONE_SIGNAL).await;
    first().await
}
