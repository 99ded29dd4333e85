//! A TCP proxy for a stream (AMQP, PostgreSQL) whose connections break on command.
//!
//! Every byte passes unchanged and in order until a fault strikes: a cut after so many bytes in
//! one direction, a reset, a stall, a slow line, or no listener at all.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::rig::process::free_address;
use crate::tally::Tally;

/// What can happen to a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamFault {
    /// No listener for so long: new connections are refused.
    Refuse(Duration),
    /// Every connection is reset now.
    Reset,
    /// The next connection is reset before its first byte.
    ResetBefore,
    /// Reset after so many more bytes from the worker.
    CutUp(u32),
    /// Reset after so many more bytes to the worker.
    CutDown(u32),
    /// No byte in either direction for so long.
    Stall(Duration),
    /// So many bytes a second in both directions, for so long.
    Slow(u32, Duration),
}

impl StreamFault {
    /// As the report names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refuse(_) => "refuse",
            Self::Reset => "reset",
            Self::ResetBefore => "reset before the first byte",
            Self::CutUp(_) => "cut after byte n to the server",
            Self::CutDown(_) => "cut after byte n from the server",
            Self::Stall(_) => "stall",
            Self::Slow(..) => "slow",
        }
    }
}

/// A proxy in front of one server.
pub(crate) struct Hop {
    name: String,
    address: SocketAddr,
    state: Arc<State>,
    tally: Tally,
    _accepting: JoinSet<()>,
}

struct State {
    name: String,
    target: SocketAddr,
    tally: Tally,
    refuse_until: Mutex<Option<Instant>>,
    refuse: Notify,
    reset_next: AtomicBool,
    links: Mutex<Vec<Arc<Link>>>,
}

/// One connection through the proxy.
#[derive(Default)]
struct Link {
    up: Lane,
    down: Lane,
    reset: Notify,
}

/// One direction.
struct Lane {
    /// Bytes until the cut; negative: none is planned.
    left: AtomicI64,
    stall_until: Mutex<Option<Instant>>,
    slow: Mutex<Option<(u32, Instant)>>,
    moved: AtomicU64,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            left: AtomicI64::new(-1),
            stall_until: Mutex::default(),
            slow: Mutex::default(),
            moved: AtomicU64::new(0),
        }
    }
}

impl Hop {
    /// Listens on an address of its own.
    pub(crate) async fn start(name: &str, target: SocketAddr, tally: &Tally) -> Self {
        let listener = listen(free_address()).await;
        let address = listener.local_addr().expect("its address");
        let state = Arc::new(State {
            name: name.to_owned(),
            target,
            tally: tally.clone(),
            refuse_until: Mutex::default(),
            refuse: Notify::new(),
            reset_next: AtomicBool::new(false),
            links: Mutex::default(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(Arc::clone(&state).accept(listener, address));
        Self {
            name: name.to_owned(),
            address,
            state,
            tally: tally.clone(),
            _accepting: accepting,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Strikes now, or at the next byte that fits.
    pub(crate) fn strike(&self, fault: StreamFault) {
        let links = self.state.links.lock().expect("nobody panics here").clone();
        match fault {
            StreamFault::Refuse(time) => {
                let end = Instant::now() + time;
                *self.state.refuse_until.lock().expect("nobody panics here") = Some(end);
                self.state.refuse.notify_one();
                links.iter().for_each(|link| link.reset.notify_one());
            }
            StreamFault::Reset => links.iter().for_each(|link| link.reset.notify_one()),
            StreamFault::ResetBefore => {
                self.state.reset_next.store(true, Ordering::SeqCst);
                links.iter().for_each(|link| link.reset.notify_one());
                // Counted when it strikes.
                return;
            }
            // Counted when they strike.
            StreamFault::CutUp(bytes) => return arm(&links, |link| &link.up, bytes),
            StreamFault::CutDown(bytes) => return arm(&links, |link| &link.down, bytes),
            StreamFault::Stall(time) => {
                for lane in lanes(&links) {
                    *lane.stall_until.lock().expect("nobody panics here") =
                        Some(Instant::now() + time);
                }
            }
            StreamFault::Slow(rate, time) => {
                for lane in lanes(&links) {
                    *lane.slow.lock().expect("nobody panics here") =
                        Some((rate, Instant::now() + time));
                }
            }
        }
        self.tally.count(&self.name, fault.name());
    }

    /// Takes back whatever is planned or lasts.
    pub(crate) fn heal(&self) {
        *self.state.refuse_until.lock().expect("nobody panics here") = None;
        self.state.refuse.notify_one();
        self.state.reset_next.store(false, Ordering::SeqCst);
        let links = self.state.links.lock().expect("nobody panics here").clone();
        for lane in lanes(&links) {
            lane.left.store(-1, Ordering::SeqCst);
            *lane.stall_until.lock().expect("nobody panics here") = None;
            *lane.slow.lock().expect("nobody panics here") = None;
        }
    }
}

/// The busiest connection: that is where something is under way.
fn arm(links: &[Arc<Link>], lane: impl Fn(&Link) -> &Lane, bytes: u32) {
    let busiest = links
        .iter()
        .max_by_key(|link| lane(link).moved.swap(0, Ordering::SeqCst));
    if let Some(link) = busiest {
        lane(link).left.store(i64::from(bytes), Ordering::SeqCst);
    }
}

fn lanes(links: &[Arc<Link>]) -> impl Iterator<Item = &Lane> {
    links.iter().flat_map(|link| [&link.up, &link.down])
}

impl State {
    async fn accept(self: Arc<Self>, listener: TcpListener, address: SocketAddr) {
        let mut open = JoinSet::new();
        let mut listener = Some(listener);
        loop {
            let until = *self.refuse_until.lock().expect("nobody panics here");
            match (until, listener.take()) {
                (Some(until), taking) if until > Instant::now() => {
                    drop(taking);
                    tokio::select! {
                        () = sleep_until(until) => {}
                        () = self.refuse.notified() => {}
                    }
                }
                (_, None) => listener = Some(listen(address).await),
                (_, Some(taking)) => {
                    tokio::select! {
                        accepted = taking.accept() => if let Ok((stream, _)) = accepted {
                            open.spawn(Arc::clone(&self).carry(stream));
                        },
                        () = self.refuse.notified() => {}
                    }
                    listener = Some(taking);
                }
            }
            while open.try_join_next().is_some() {}
        }
    }

    async fn carry(self: Arc<Self>, mut near: TcpStream) {
        if self.reset_next.swap(false, Ordering::SeqCst) {
            self.tally
                .count(&self.name, StreamFault::ResetBefore.name());
            return abort(&near);
        }
        let Ok(mut far) = TcpStream::connect(self.target).await else {
            return abort(&near);
        };
        drop((near.set_nodelay(true), far.set_nodelay(true)));
        let link = Arc::new(Link::default());
        self.links
            .lock()
            .expect("nobody panics here")
            .push(Arc::clone(&link));
        let broken = {
            let (near_in, near_out) = near.split();
            let (far_in, far_out) = far.split();
            tokio::select! {
                ended = pump(near_in, far_out, &link.up) => ended.then_some(StreamFault::CutUp(0)),
                ended = pump(far_in, near_out, &link.down) => ended.then_some(StreamFault::CutDown(0)),
                () = link.reset.notified() => Some(StreamFault::Reset),
            }
        };
        if let Some(fault) = broken {
            if fault != StreamFault::Reset {
                self.tally.count(&self.name, fault.name());
            }
            abort(&near);
            abort(&far);
        }
        let mut links = self.links.lock().expect("nobody panics here");
        links.retain(|other| !Arc::ptr_eq(other, &link));
    }
}

/// Moves bytes until an end; `true`: it was cut. An end of one direction is an end of both, as
/// neither protocol here closes by halves.
async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, lane: &Lane) -> bool {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else {
            return false;
        };
        lane.moved.fetch_add(read as u64, Ordering::SeqCst);
        lane.wait(read).await;
        let left = lane.left.load(Ordering::SeqCst);
        let cut = left >= 0 && left < read as i64;
        let passing = if cut { left as usize } else { read };
        if to.write_all(&buffer[..passing]).await.is_err() {
            return false;
        }
        if cut {
            return true;
        }
        if left >= 0 {
            lane.left.fetch_sub(read as i64, Ordering::SeqCst);
        }
    }
}

impl Lane {
    /// Holds bytes back while the line is stalled or slow.
    async fn wait(&self, bytes: usize) {
        loop {
            let until = *self.stall_until.lock().expect("nobody panics here");
            match until {
                Some(until) if until > Instant::now() => sleep(Duration::from_millis(20)).await,
                _ => break,
            }
        }
        let slow = *self.slow.lock().expect("nobody panics here");
        if let Some((rate, until)) = slow.filter(|(_, until)| *until > Instant::now()) {
            let time = Duration::from_secs_f64(bytes as f64 / f64::from(rate.max(1)));
            sleep_until(until.min(Instant::now() + time)).await;
        }
    }
}

/// A close that the other side sees as a reset.
pub(crate) fn abort(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

/// Its port may be in the last throes of earlier connections.
pub(crate) async fn listen(address: SocketAddr) -> TcpListener {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(why) => assert!(Instant::now() < end, "cannot listen on {address}: {why}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}
