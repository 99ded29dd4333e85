//! A TCP proxy for HTTP/1.1 that knows where a request ends, so that a fault can strike before,
//! within or after an exchange.
//!
//! It passes the bytes as they are. A `duplicate` sends the same request bytes a second time on a
//! connection of its own, after an answer of success, and throws the second answer away: what a
//! gateway on the way may do. It is not done to a part of a payment without a key (Bento's
//! `refundAmount`), nor is one delivered late: no worker can make two such calls one, and at a payment with the word
//! `parts` the judge would see two effects.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::hop::{abort, listen};
use crate::rig::process::free_address;
use crate::tally::Tally;

/// What can happen to an exchange. Numbers are parts of a thousand of the bytes there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Reset before a byte left.
    ResetBefore,
    /// The server gets a part of the request.
    CutRequest(u16),
    /// The server answers, nobody hears it.
    ResetAfterRequest,
    /// A part of the answer comes back.
    CutAnswer(u16),
    /// The whole answer comes back, then a reset.
    ResetAfter,
    /// The request never arrives, and nobody says so.
    StallRequest,
    /// The request arrives, the answer never does, and nobody says so.
    StallAnswer,
    /// The request arrives after the caller has hung up.
    Late(Duration),
    /// The request and its answer trickle.
    Slow(Duration),
    /// The request arrives twice.
    Duplicate,
}

impl Fault {
    fn draw(random: &mut StdRng) -> Self {
        match random.random_range(0..20) {
            0 | 1 => Self::ResetBefore,
            2 | 3 => Self::CutRequest(random.random_range(0..1000)),
            4..7 => Self::ResetAfterRequest,
            7..10 => Self::CutAnswer(random.random_range(0..1000)),
            10 => Self::ResetAfter,
            11 => Self::StallRequest,
            12 | 13 => Self::StallAnswer,
            14 => Self::Late(Duration::from_millis(random.random_range(0..1200))),
            15..17 => Self::Slow(Duration::from_millis(random.random_range(200..1500))),
            _ => Self::Duplicate,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::ResetBefore => "reset before the exchange",
            Self::CutRequest(_) => "cut after byte n of the request",
            Self::ResetAfterRequest => "reset after the request",
            Self::CutAnswer(_) => "cut after byte n of the answer",
            Self::ResetAfter => "reset after the exchange",
            Self::StallRequest => "stall before the request",
            Self::StallAnswer => "stall before the answer",
            Self::Late(_) => "request delivered late",
            Self::Slow(_) => "slow",
            Self::Duplicate => "duplicate",
        }
    }

    /// Whether it may strike this request.
    fn fits(self, request: &[u8]) -> bool {
        let keyless_part = find(request, b"refundAmount").is_some();
        !(keyless_part && matches!(self, Self::Duplicate | Self::Late(_)))
    }
}

/// How often an exchange meets a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Odds {
    /// Decides the n-th draw.
    pub(crate) seed: u64,
    /// Of a thousand exchanges.
    pub(crate) per_mille: u32,
}

/// A proxy in front of one server, or of several in turn.
pub(crate) struct ExchangeHop {
    address: SocketAddr,
    state: Arc<State>,
    _accepting: JoinSet<()>,
}

struct State {
    name: String,
    targets: Vec<SocketAddr>,
    tally: Tally,
    draws: Mutex<Draws>,
    refuse_until: Mutex<Option<Instant>>,
    refuse: Notify,
}

struct Draws {
    random: StdRng,
    per_mille: u32,
    turn: usize,
}

impl ExchangeHop {
    /// Listens on an address of its own.
    pub(crate) async fn start(
        name: &str,
        targets: Vec<SocketAddr>,
        odds: Odds,
        tally: &Tally,
    ) -> Self {
        let listener = listen(free_address()).await;
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(State {
            name: name.to_owned(),
            targets,
            tally: tally.clone(),
            draws: Mutex::new(Draws {
                random: StdRng::seed_from_u64(odds.seed),
                per_mille: odds.per_mille,
                turn: 0,
            }),
            refuse_until: Mutex::default(),
            refuse: Notify::new(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(Arc::clone(&state).accept(listener, address));
        Self {
            address,
            state,
            _accepting: accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// New connections are refused for so long.
    pub(crate) fn refuse(&self, time: Duration) {
        let end = Instant::now() + time;
        *self.state.refuse_until.lock().expect("nobody panics here") = Some(end);
        self.state.refuse.notify_one();
        self.state.tally.count(&self.state.name, "refuse");
    }

    /// No further faults.
    pub(crate) fn heal(&self) {
        *self.state.refuse_until.lock().expect("nobody panics here") = None;
        self.state.refuse.notify_one();
        self.state
            .draws
            .lock()
            .expect("nobody panics here")
            .per_mille = 0;
    }
}

impl State {
    async fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut open = JoinSet::new();
        let mut listener = Some(listener);
        loop {
            let until = *self.refuse_until.lock().expect("nobody panics here");
            if let Some(until) = until.filter(|until| *until > Instant::now()) {
                drop(listener.take());
                tokio::select! {
                    () = sleep_until(until) => {}
                    () = self.refuse.notified() => {}
                }
                continue;
            }
            let taking = match listener.take() {
                Some(taking) => taking,
                None => listen(address).await,
            };
            tokio::select! {
                accepted = taking.accept() => if let Ok((stream, _)) = accepted {
                    open.spawn(Arc::clone(&self).serve(stream));
                },
                () = self.refuse.notified() => {}
            }
            listener = Some(taking);
            while open.try_join_next().is_some() {}
        }
    }

    /// One connection: exchanges, one after the other.
    async fn serve(self: Arc<Self>, mut near: TcpStream) {
        drop(near.set_nodelay(true));
        loop {
            let Ok(request) = message(&mut near, true).await else {
                return;
            };
            let (fault, target) = self.draw(&request);
            let going = match fault {
                None => self.relay(&mut near, &request, target).await,
                Some(fault) => {
                    self.tally.count(&self.name, fault.name());
                    self.strike(fault, &mut near, &request, target).await
                }
            };
            if !matches!(going, Ok(true)) {
                return;
            }
        }
    }

    fn draw(&self, request: &[u8]) -> (Option<Fault>, SocketAddr) {
        let mut draws = self.draws.lock().expect("nobody panics here");
        draws.turn += 1;
        let target = self.targets[draws.turn % self.targets.len()];
        let strikes = draws.random.random_range(0..1000) < draws.per_mille;
        // Drawn in any case, so that the n-th exchange meets the n-th fault.
        let fault = Fault::draw(&mut draws.random);
        let fault = Some(fault).filter(|fault| strikes && fault.fits(request));
        (fault, target)
    }

    /// Passes one exchange; whether the connection can be used again.
    async fn relay(
        &self,
        near: &mut TcpStream,
        request: &[u8],
        target: SocketAddr,
    ) -> io::Result<bool> {
        let Some(answer) = exchange(near, request, target).await? else {
            abort(near);
            return Ok(false);
        };
        near.write_all(&answer).await?;
        Ok(true)
    }

    async fn strike(
        &self,
        fault: Fault,
        near: &mut TcpStream,
        request: &[u8],
        target: SocketAddr,
    ) -> io::Result<bool> {
        match fault {
            Fault::ResetBefore => {}
            Fault::CutRequest(part) => {
                let mut far = TcpStream::connect(target).await?;
                far.write_all(share(request, part)).await?;
                abort(&far);
            }
            Fault::ResetAfterRequest => drop(exchange(near, request, target).await?),
            Fault::CutAnswer(part) => {
                let answer = exchange(near, request, target).await?.unwrap_or_default();
                near.write_all(share(&answer, part)).await?;
                // The bytes before the cut are to arrive; a reset can overtake them.
                sleep(Duration::from_millis(5)).await;
            }
            Fault::ResetAfter => {
                self.relay(near, request, target).await?;
                sleep(Duration::from_millis(5)).await;
            }
            Fault::StallRequest => hung_up(near).await,
            Fault::StallAnswer => {
                drop(exchange(near, request, target).await?);
                hung_up(near).await;
            }
            Fault::Late(time) => {
                hung_up(near).await;
                sleep(time).await;
                send_and_forget(request, target).await;
            }
            Fault::Slow(time) => {
                sleep(time / 2).await;
                let Some(answer) = exchange(near, request, target).await? else {
                    return Ok(false);
                };
                for part in answer.chunks(answer.len().div_ceil(8).max(1)) {
                    sleep(time / 16).await;
                    near.write_all(part).await?;
                }
                return Ok(true);
            }
            Fault::Duplicate => return self.duplicate(near, request, target).await,
        }
        abort(near);
        Ok(false)
    }

    /// Only what succeeded is sent again: a refusal that the caller was promised to be without
    /// effect stays so.
    async fn duplicate(
        &self,
        near: &mut TcpStream,
        request: &[u8],
        target: SocketAddr,
    ) -> io::Result<bool> {
        let Some(answer) = exchange(near, request, target).await? else {
            return Ok(false);
        };
        if answer.starts_with(b"HTTP/1.1 2") {
            send_and_forget(request, target).await;
        }
        near.write_all(&answer).await?;
        Ok(true)
    }
}

/// Sends a request and reads the whole answer; `None`: the server ended without one, or the
/// caller hung up.
async fn exchange(
    near: &mut TcpStream,
    request: &[u8],
    target: SocketAddr,
) -> io::Result<Option<Vec<u8>>> {
    let mut far = TcpStream::connect(target).await?;
    far.set_nodelay(true)?;
    far.write_all(request).await?;
    tokio::select! {
        answer = message(&mut far, false) => Ok(answer.ok()),
        () = hung_up(near) => Ok(None),
    }
}

async fn send_and_forget(request: &[u8], target: SocketAddr) {
    let sent = async {
        let mut far = TcpStream::connect(target).await?;
        far.write_all(request).await?;
        message(&mut far, false).await
    };
    // What comes back is nobody's.
    drop(timeout(Duration::from_secs(2), sent).await);
}

/// Waits until the caller is gone, however long that takes it.
async fn hung_up(near: &TcpStream) {
    loop {
        if near.readable().await.is_err() {
            return;
        }
        match near.try_read(&mut [0; 1]) {
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {}
            // HTTP/1.1 without pipelining: there is nothing to read before the answer.
            _ => return,
        }
    }
}

/// One whole HTTP/1.1 message. One without a length ends with its connection, if it is an answer.
async fn message(stream: &mut TcpStream, request: bool) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(2048);
    let mut buffer = [0; 8192];
    loop {
        if let Some(length) = complete(&bytes, request) {
            bytes.truncate(length);
            return Ok(bytes);
        }
        match stream.read(&mut buffer).await? {
            0 if !request && find(&bytes, b"\r\n\r\n").is_some() => return Ok(bytes),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// The length of the message, once all of it is there.
fn complete(bytes: &[u8], request: bool) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        Some(line.trim().to_owned())
    };
    if field("transfer-encoding:").is_some() {
        let end = find(&bytes[head..], b"0\r\n\r\n")?;
        return Some(head + end + 5);
    }
    let length = match field("content-length:") {
        Some(length) => length.parse().ok()?,
        None if request => 0,
        None => return None,
    };
    (bytes.len() >= head + length).then_some(head + length)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn share(bytes: &[u8], part: u16) -> &[u8] {
    &bytes[..bytes.len() * usize::from(part) / 1000]
}
