//! A way to a database that is cut at a COMMIT: before the server sees it, or after it did and
//! before anybody hears of it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The end of a query, as the ledger sends it.
const COMMIT: &[u8] = b"; COMMIT\0";
/// What a look at the schema names.
const LOOK: &[u8] = b"rescind_schema";

/// Where the way is cut.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Cut {
    /// The server never sees it.
    Before,
    /// The server has done it, and its answer goes nowhere.
    After,
}

#[derive(Default)]
struct Plan {
    /// 0: none, 1: before, 2: after the next COMMIT.
    next: AtomicU8,
    cuts: AtomicU32,
    /// Nobody gets through.
    shut: AtomicBool,
    /// How many have tried since.
    turned_away: AtomicU32,
    /// Shuts itself at the next cut.
    shutting: AtomicBool,
    /// How often those who were through were hushed.
    hushes: AtomicU32,
    /// The next one who looks at the schema hears nothing any more.
    hushing_a_look: AtomicBool,
}

/// A TCP proxy before a database.
pub(crate) struct Cutter {
    address: SocketAddr,
    plan: Arc<Plan>,
}

impl Cutter {
    pub(crate) async fn before(url: &str) -> Self {
        let url = url::Url::parse(url).expect("an address");
        let port = url.port().expect("a port");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("its address");
        let plan = Arc::new(Plan::default());
        let plans = Arc::clone(&plan);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if plans.shut.load(Ordering::SeqCst) {
                    plans.turned_away.fetch_add(1, Ordering::SeqCst);
                } else {
                    tokio::spawn(serve(client, port, Arc::clone(&plans)));
                }
            }
        });
        Self { address, plan }
    }

    /// The same database, this way.
    pub(crate) fn url(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).expect("an address");
        url.set_port(Some(self.address.port())).expect("a port");
        url.into()
    }

    /// Cuts at the next COMMIT.
    pub(crate) fn cut(&self, cut: Cut) {
        let code = match cut {
            Cut::Before => 1,
            Cut::After => 2,
        };
        self.plan.next.store(code, Ordering::SeqCst);
    }

    /// The same, and nobody gets through from then on.
    pub(crate) fn cut_and_shut(&self, cut: Cut) {
        self.plan.shutting.store(true, Ordering::SeqCst);
        self.cut(cut);
    }

    /// From now on those who are through hear nothing, and are not told; others get through.
    pub(crate) fn hush(&self) {
        self.plan.hushes.fetch_add(1, Ordering::SeqCst);
    }

    /// The next one who looks at the schema hears nothing any more, and is not told.
    pub(crate) fn hush_a_look(&self) {
        self.plan.hushing_a_look.store(true, Ordering::SeqCst);
    }

    /// The way is free again.
    pub(crate) fn open(&self) {
        self.plan.shut.store(false, Ordering::SeqCst);
    }

    /// How many found it shut.
    pub(crate) fn turned_away(&self) -> u32 {
        self.plan.turned_away.load(Ordering::SeqCst)
    }

    /// How often it was cut.
    pub(crate) fn cuts(&self) -> u32 {
        self.plan.cuts.load(Ordering::SeqCst)
    }
}

impl Plan {
    /// What is to be done about what a client sends.
    fn at(&self, sent: &[u8]) -> Option<Cut> {
        if !sent.windows(COMMIT.len()).any(|bytes| bytes == COMMIT) {
            return None;
        }
        match self.next.swap(0, Ordering::SeqCst) {
            1 => Some(Cut::Before),
            2 => Some(Cut::After),
            _ => None,
        }
    }

    fn hushes_look(&self, sent: &[u8]) -> bool {
        sent.windows(LOOK.len()).any(|bytes| bytes == LOOK)
            && self.hushing_a_look.swap(false, Ordering::SeqCst)
    }

    fn done(&self) {
        if self.shutting.swap(false, Ordering::SeqCst) {
            self.shut.store(true, Ordering::SeqCst);
        }
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }
}

async fn serve(mut client: TcpStream, port: u16, plan: Arc<Plan>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", port)).await else {
        return;
    };
    let (mut up, mut down) = ([0; 65536], [0; 65536]);
    let before = plan.hushes.load(Ordering::SeqCst);
    while plan.hushes.load(Ordering::SeqCst) == before {
        tokio::select! {
            read = client.read(&mut up) => {
                let Ok(size @ 1..) = read else { return };
                if plan.hushes.load(Ordering::SeqCst) > before {
                    break;
                }
                if plan.hushes_look(&up[..size]) {
                    break;
                }
                let cut = plan.at(&up[..size]);
                if cut != Some(Cut::Before) && server.write_all(&up[..size]).await.is_err() {
                    return;
                }
                if cut == Some(Cut::After) {
                    // Its answer is read, so that it is sure to have been given.
                    drop(server.read(&mut down).await);
                }
                if cut.is_some() {
                    return plan.done();
                }
            }
            read = server.read(&mut down) => {
                let Ok(size @ 1..) = read else { return };
                if client.write_all(&down[..size]).await.is_err() {
                    return;
                }
            }
        }
    }
    // Open, and silent.
    std::future::pending().await
}
