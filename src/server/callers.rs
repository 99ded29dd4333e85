//! The connections to the endpoints: only so many at once, and none that is silent or never comes to an
//! end.

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
const CALLERS_MAX: usize = 1024;
/// Of these have all of their time. Others must not keep a probe from its answer by being slow: the worker would be
/// restarted.
const PATIENT_MAX: usize = 512;
/// What [`SILENCE`] and [`REQUEST`] are for the rest.
const HURRIED: Duration = Duration::from_secs(1);
/// A connection on which nothing moves for so long is closed.
const SILENCE: Duration = Duration::from_secs(10);
/// From a request's first byte to the first one of its answer. A caller that sends a byte now and then
/// would keep its permit for ever.
const REQUEST: Duration = Duration::from_secs(30);

/// Bytes of a request up to the end of its headers. Without a bound each caller may have some 400 KiB of them
/// in memory before it is known who it is.
const HEAD_MAX: usize = 16 * 1024;

/// The listener of the endpoints.
pub(super) struct Callers {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    patient: Arc<Semaphore>,
    patience: Duration,
    request: Duration,
}

impl Callers {
    pub(super) fn of(listener: TcpListener) -> Self {
        Self {
            listener,
            permits: Arc::new(Semaphore::new(CALLERS_MAX)),
            patient: Arc::new(Semaphore::new(PATIENT_MAX)),
            patience: SILENCE,
            request: REQUEST,
        }
    }
}

impl Listener for Callers {
    type Io = Caller;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Caller, SocketAddr) {
        // Fails only once the semaphore is closed, and it never is.
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let patient = Arc::clone(&self.patient).try_acquire_owned().ok();
        let (patience, request) = match patient {
            Some(_) => (self.patience, self.request),
            None => (HURRIED, HURRIED),
        };
        let caller = Caller {
            stream,
            end: Box::pin(tokio::time::sleep(patience)),
            patience,
            request,
            request_ends_at: None,
            head: Head::default(),
            _permits: [permit, patient],
        };
        (caller, address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// How much has come of a request's headers.
#[derive(Default)]
struct Head {
    bytes: usize,
    begun: bool,
    /// Line ends in a row: two are the end of the headers.
    line_ends: u8,
}

impl Head {
    const BEGUN_ANSWER: &[u8] = b"HTTP/1.1 1";

    /// Whether the headers are still short enough.
    fn fits(&mut self, read: &[u8]) -> bool {
        for byte in read {
            if self.line_ends == 2 {
                break;
            }
            self.bytes += 1;
            self.line_ends = match byte {
                // Empty lines before a request are none of its own.
                b'\n' if self.begun => self.line_ends + 1,
                b'\r' | b'\n' => self.line_ends,
                _ => {
                    self.begun = true;
                    0
                }
            };
        }
        self.bytes <= HEAD_MAX
    }

    /// What is read after an answer is another request, but not after `100 Continue`.
    fn note_written(&mut self, answer: &[u8]) {
        if !answer.starts_with(Self::BEGUN_ANSWER) {
            *self = Self::default();
        }
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
    head: Head,
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

impl Caller {
    fn note_read(&mut self) {
        let now = Instant::now();
        let ends_at = *self.request_ends_at.get_or_insert(now + self.request);
        self.end.as_mut().reset(ends_at.min(now + self.patience));
    }

    fn note_written(&mut self) {
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
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Ready(read) => {
                if !self.head.fits(&buffer.filled()[before..]) {
                    return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
                }
                self.note_read();
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
                self.note_written();
                self.head.note_written(bytes);
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
    async fn a_silent_caller_is_disconnected() {
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

    /// A caller that sends a byte now and then is never silent.
    #[tokio::test]
    async fn a_caller_that_never_comes_to_an_end_is_disconnected() {
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
    async fn headers_that_are_too_long_are_not_read_to_their_end() {
        let (mut callers, address) = connected().await;
        for (header, fits) in [(HEAD_MAX - 100, true), (HEAD_MAX, false)] {
            let mut client = TcpStream::connect(address).await.unwrap();
            let (mut caller, _) = callers.accept().await;
            let mut bytes = Vec::new();
            // The body does not count, nor does the request before.
            for _ in 0..2 {
                let head = format!(
                    "\r\n\r\nPOST / HTTP/1.1\r\nx: {}\r\n\r\n",
                    "x".repeat(header)
                );
                client.write_all(head.as_bytes()).await.unwrap();
                client.write_all(&[b'x'; HEAD_MAX]).await.unwrap();
                bytes.resize(head.len() + HEAD_MAX, 0);
                let read = caller.read_exact(&mut bytes).await;
                assert_eq!(read.is_ok(), fits, "{read:?}");
                if fits {
                    caller
                        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                        .await
                        .unwrap();
                    client.write_all(&[b'x'; HEAD_MAX * 2]).await.unwrap();
                    bytes.resize(HEAD_MAX * 2, 0);
                    caller.read_exact(&mut bytes).await.unwrap();
                    caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                }
            }
        }
    }

    #[tokio::test]
    async fn a_permit_is_given_back() {
        let (mut callers, address) = connected().await;
        callers.permits = Arc::new(Semaphore::new(1));
        let _clients = [
            TcpStream::connect(address).await.unwrap(),
            TcpStream::connect(address).await.unwrap(),
        ];
        let first = callers.accept().await;
        let second = tokio::time::timeout(Duration::from_millis(100), callers.accept());
        assert!(second.await.is_err(), "there is one permit");
        drop(first);
        callers.accept().await;
    }

    #[tokio::test]
    async fn where_all_places_are_held_for_long_there_are_some_for_a_moment() {
        let (mut callers, address) = connected().await;
        callers.patient = Arc::new(Semaphore::new(1));
        let mut clients = Vec::new();
        let mut accepted = Vec::new();
        for _ in 0..3 {
            clients.push(TcpStream::connect(address).await.unwrap());
            accepted.push(callers.accept().await.0);
        }
        let times = |caller: &Caller| (caller.patience, caller.request);
        assert_eq!(times(&accepted[0]), (SILENCE, REQUEST));
        assert_eq!(times(&accepted[2]), (HURRIED, HURRIED));
        clients[2].write_all(b"x").await.unwrap();
        let mut bytes = [0; 2];
        let slow = accepted[2].read_exact(&mut bytes).await.unwrap_err();
        assert_eq!(slow.kind(), io::ErrorKind::TimedOut);
        drop(accepted.remove(0));
        clients.push(TcpStream::connect(address).await.unwrap());
        assert_eq!(times(&callers.accept().await.0), (SILENCE, REQUEST));
    }
}
