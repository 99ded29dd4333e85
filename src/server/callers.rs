//! Who may be connected to the endpoints: so many at once, and nobody who says nothing.

use std::future::Future as _;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// Connections at once; more wait with the system.
const CALLERS_MAX: usize = 512;
/// A connection on which nothing moves for so long is closed.
const SILENCE: Duration = Duration::from_secs(10);

/// The listener of the endpoints.
pub(super) struct Callers {
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Duration,
}

impl Callers {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CALLERS_MAX)),
            patience: SILENCE,
        }
    }
}

impl Listener for Callers {
    type Io = Caller;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Caller, SocketAddr) {
        // Fails only once the semaphore is closed, which nobody does.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let caller = Caller {
            stream,
            silence: Box::pin(tokio::time::sleep(self.patience)),
            patience: self.patience,
            _place: place,
        };
        (caller, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection, and since when nothing moved on it.
pub(super) struct Caller {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    patience: Duration,
    _place: Option<OwnedSemaphorePermit>,
}

impl Caller {
    fn moved<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match poll {
            Poll::Ready(moved) => {
                let end = Instant::now() + self.patience;
                self.silence.as_mut().reset(end);
                Poll::Ready(moved)
            }
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.moved(context, read)
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.moved(context, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn connected() -> (Callers, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Callers::of(listener), address)
    }

    #[tokio::test]
    async fn one_who_says_nothing_is_shown_out() {
        let (mut callers, address) = connected().await;
        callers.patience = Duration::from_millis(50);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut caller, _) = callers.accept().await;
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        caller.read_exact(&mut byte).await.unwrap();
        let silent = caller.read(&mut byte).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_place_is_given_back() {
        let (mut callers, address) = connected().await;
        callers.places = Arc::new(Semaphore::new(1));
        let _clients = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        let first = callers.accept().await;
        let second = tokio::time::timeout(Duration::from_millis(100), callers.accept());
        assert!(second.await.is_err(), "there is one place");
        drop(first);
        callers.accept().await;
    }
}
