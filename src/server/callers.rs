//! Who may be connected to the endpoints: so many at once, and nobody who says nothing or never
//! comes to an end.

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
/// From a request's first byte to the first one of its answer. Whoever sends a byte now and then
/// would keep a place for ever.
const REQUEST: Duration = Duration::from_secs(30);

/// The listener of the endpoints.
pub(super) struct Callers {
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: Duration,
    request: Duration,
}

impl Callers {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(CALLERS_MAX)),
            patience: SILENCE,
            request: REQUEST,
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
            end: Box::pin(tokio::time::sleep(self.patience)),
            patience: self.patience,
            request: self.request,
            request_ends_at: None,
            _place: place,
        };
        (caller, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// One connection, and when it is closed if nothing moves on it.
pub(super) struct Caller {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    patience: Duration,
    request: Duration,
    /// Of the request that is being read and has no answer yet.
    request_ends_at: Option<Instant>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Caller {
    fn has_read(&mut self) {
        let now = Instant::now();
        let ends_at = *self.request_ends_at.get_or_insert(now + self.request);
        self.end.as_mut().reset(ends_at.min(now + self.patience));
    }

    fn has_written(&mut self) {
        self.request_ends_at = None;
        self.end.as_mut().reset(Instant::now() + self.patience);
    }

    /// Fails at the end, and is pending before.
    fn wait<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Caller {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                self.has_read();
                match self.wait(context) {
                    Poll::Pending => Poll::Ready(read),
                    over => over,
                }
            }
            Poll::Pending => self.wait(context),
        }
    }
}

impl AsyncWrite for Caller {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match Pin::new(&mut self.stream).poll_write(context, bytes) {
            Poll::Ready(written) => {
                self.has_written();
                Poll::Ready(written)
            }
            Poll::Pending => self.wait(context),
        }
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
        callers.patience = Duration::from_millis(500);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut caller, _) = callers.accept().await;
        client.write_all(b"x").await.unwrap();
        let mut byte = [0];
        caller.read_exact(&mut byte).await.unwrap();
        let silent = caller.read(&mut byte).await.unwrap_err();
        assert_eq!(silent.kind(), io::ErrorKind::TimedOut);
    }

    /// One who sends a byte now and then is never silent, and never comes to an end.
    #[tokio::test]
    async fn one_who_never_comes_to_an_end_is_shown_out() {
        let (mut callers, address) = connected().await;
        callers.request = Duration::from_millis(100);
        let mut client = TcpStream::connect(address).await.unwrap();
        let (mut caller, _) = callers.accept().await;
        let dripping = async {
            let mut byte = [0];
            loop {
                client.write_all(b"x").await.unwrap();
                if let Err(error) = caller.read_exact(&mut byte).await {
                    return error.kind();
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let ended = tokio::time::timeout(SILENCE, dripping);
        assert_eq!(ended.await.unwrap(), io::ErrorKind::TimedOut);
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
