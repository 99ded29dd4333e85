//! Wires the parts of a worker, starts them, and drains them in reverse.
//!
//! The worker's only reader of the wall clock. Every part that runs for as long as the worker is spawned
//! here, except the ledger's own threads.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::amqp;
use crate::config::Config;
use crate::dispatch::{Dispatcher, Dispatchers};
use crate::handover::Handover;
use crate::hold::Hold;
use crate::intake::Intake;
use crate::ledger::postgres::Settings;
use crate::ledger::{Ledger, Location, Quiet};
use crate::metrics::Metrics;
use crate::notice::Notices;
use crate::outbox::Outbox;
use crate::process;
use crate::retention;
use crate::server::Server;
use crate::shared::Shared;
use crate::spans::Spans;
use crate::systemd::Systemd;

use self::signals::Signals;

mod recovery;
mod signals;

/// The part of the drain that is kept for publishing the last results.
const FLUSH: Duration = Duration::from_secs(5);
/// For the HTTP endpoints' last answers; later requests are not waited for.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The wall clock, in milliseconds.
pub fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the clock"
    )]
    let now = Timestamp::now();
    Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
}

/// How a worker is started, beside its configuration.
pub struct Start {
    /// Of the source.
    pub revision: &'static str,
    /// Every open request without a claim starts in doubt.
    pub reconcile: bool,
    /// Exports spans.
    pub spans: Spans,
    /// Told when the worker has started, and when it stops.
    pub systemd: Systemd,
}

/// How a worker was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// It drained, within its time.
    Drained,
    /// By a further signal, as by a crash.
    Interrupted,
}

/// Runs a worker until SIGTERM or SIGINT, and drains it.
pub async fn worker(config: Config, start: Start) -> anyhow::Result<Stopped> {
    let mut signals = Signals::listen()?;
    process::keep_private();
    process::allow_many_files();
    let names: Vec<String> = config.accounts.keys().cloned().collect();
    let metrics = Arc::new(Metrics::new(&names, start.revision)?);
    let opening = open(&config, &start, &metrics);
    let Some(ledger) = signals.or_first(opening).await.transpose()? else {
        return Ok(stopped_while_starting(&start));
    };
    let preparing = recovery::prepare(&*ledger, &config, start.reconcile);
    if signals.or_first(preparing).await.transpose()?.is_none() {
        ledger.leave().await;
        return Ok(stopped_while_starting(&start));
    }
    let shared = Arc::new(Shared {
        ledger,
        metrics,
        spans: start.spans.clone(),
        clock: now,
        unwritten: AtomicUsize::new(0),
        handover: Handover::default(),
        hold: Hold::new(config.amqp.max_unpublished),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
    });
    let listener = TcpListener::bind(config.listen)
        .await
        .with_context(|| format!("cannot listen on http.listen = {}", config.listen))?;
    let worker = Worker::start(&config, Arc::clone(&shared), listener)?;
    start.systemd.ready();
    let stopped = tokio::select! {
        stopped = until_stopped(worker, &config, &start.systemd, signals) => stopped?,
        never = start.systemd.keep_alive() => match never {},
    };
    if stopped == Stopped::Drained {
        start.spans.close().await;
    }
    Ok(stopped)
}

/// Nothing was begun that would have to end.
fn stopped_while_starting(start: &Start) -> Stopped {
    start.systemd.stopping();
    info!("stopped while starting");
    Stopped::Drained
}

async fn until_stopped(
    worker: Worker,
    config: &Config,
    systemd: &Systemd,
    mut signals: Signals,
) -> anyhow::Result<Stopped> {
    signals.first().await;
    systemd.stopping();
    let shared = Arc::clone(&worker.shared);
    tokio::select! {
        () = worker.drain(config.drain) => Ok(Stopped::Drained),
        further = signals.further() => {
            further?;
            warn!(
                calls = shared.tasks.len(),
                "a further signal: ending at once, as in a crash; calls on the wire are in doubt at the next start, and results that were not published are published then"
            );
            Ok(Stopped::Interrupted)
        }
    }
}

/// Opens the ledger of a worker whose broker, if it answers, has what is needed.
async fn open(
    config: &Config,
    start: &Start,
    metrics: &Arc<Metrics>,
) -> anyhow::Result<Arc<dyn Ledger>> {
    amqp::check(&config.amqp).await?;
    let names: Vec<&str> = config.accounts.keys().map(String::as_str).collect();
    info!(
        version = env!("CARGO_PKG_VERSION"),
        revision = start.revision,
        ledger = %location(config),
        accounts = names.join(", "),
        "starting"
    );
    if let Some(advised) = config.retention_advised() {
        warn!(
            retention_s = config.ledger.retention.as_secs(),
            advised_s = advised.as_secs(),
            "ledger.retention is shorter than the longest give_up_after and a day: what ended is forgotten so soon that a repeat of it may be carried out again"
        );
    }
    open_ledger(config, Arc::clone(metrics)).await
}

/// On a thread that a stop leaves behind: migrating a file keeps it busy, for long. What was not committed by
/// then has not been done.
async fn open_ledger(config: &Config, metrics: Arc<Metrics>) -> anyhow::Result<Arc<dyn Ledger>> {
    let (location, runtime) = (location(config), Handle::current());
    let observer = move |seconds, operations| metrics.committed(seconds, operations);
    let opening = spawn_blocking(move || runtime.block_on(location.open(observer)));
    Ok(opening.await??)
}

/// Where the configured ledger is kept.
pub fn location(config: &Config) -> Location {
    let ledger = &config.ledger;
    match ledger.url.expose_secret().strip_prefix("sqlite:") {
        Some(path) => Location::File(path.into()),
        None => Location::Database(Settings {
            url: ledger.url.clone(),
            files: ledger.files.clone(),
        }),
    }
}

/// A worker that runs.
struct Worker {
    shared: Arc<Shared>,
    /// Every task except the calls.
    parts: TaskTracker,
    /// Ends the outbox once it is empty.
    flush: CancellationToken,
    /// Ends the endpoints.
    close: CancellationToken,
}

impl Worker {
    fn start(config: &Config, shared: Arc<Shared>, listener: TcpListener) -> anyhow::Result<Self> {
        let dispatchers: Dispatchers = config
            .accounts
            .iter()
            .map(|(name, account)| {
                let made = Dispatcher::new(account.clone(), Arc::clone(&shared));
                made.map(|dispatcher| (name.clone(), dispatcher))
            })
            .collect::<Result<_, _>>()
            .context("a provider cannot be called")?;
        let intake = Arc::new(Intake::new(
            config.amqp.clone(),
            dispatchers.clone(),
            Arc::clone(&shared),
        ));
        let outbox = Arc::new(Outbox::new(config.amqp.clone(), Arc::clone(&shared)));
        let worker = Self {
            shared: Arc::clone(&shared),
            parts: TaskTracker::new(),
            flush: CancellationToken::new(),
            close: CancellationToken::new(),
        };
        let notices = Arc::new(Notices::new(
            config.amqp.clone(),
            dispatchers.clone(),
            Arc::clone(&shared),
        ));
        let server = Server {
            shared,
            intake: Arc::clone(&intake),
            outbox: Arc::clone(&outbox),
            notices: Arc::clone(&notices),
        };
        worker.start_server(server, listener);
        worker.start_outbox(outbox);
        worker.start_recovery(dispatchers.clone(), recovery::quiet(config));
        for dispatcher in dispatchers.into_values() {
            worker.parts.spawn(dispatcher.run());
        }
        worker.start_intake(intake);
        worker.start_notices(notices);
        worker.start_retention(config.ledger.retention);
        Ok(worker)
    }

    fn start_server(&self, server: Server, listener: TcpListener) {
        let close = self.close.clone();
        if let Ok(address) = listener.local_addr() {
            info!(%address, "metrics and health");
        }
        self.parts.spawn(async move {
            let stop = close.clone().cancelled_owned();
            let ended = tokio::select! {
                ended = Arc::new(server).serve(listener, stop) => ended,
                () = async { close.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => Ok(()),
            };
            if let Err(error) = ended {
                error!(%error, "the HTTP endpoints ended");
            }
        });
    }

    fn start_outbox(&self, outbox: Arc<Outbox>) {
        let flush = self.flush.clone();
        self.parts.spawn(async move { outbox.run(&flush).await });
    }

    fn start_intake(&self, intake: Arc<Intake>) {
        let shared = Arc::clone(&self.shared);
        self.parts.spawn(async move {
            let rebuilt = || shared.metrics.broker_reconnect();
            amqp::supervise("intake", &shared.stop, rebuilt, || intake.session()).await;
        });
    }

    fn start_notices(&self, notices: Arc<Notices>) {
        let shared = Arc::clone(&self.shared);
        self.parts.spawn(async move {
            let rebuilt = || shared.metrics.broker_reconnect();
            let taking = amqp::supervise("notifications in", &shared.stop, rebuilt, || {
                notices.session()
            });
            let publishing = amqp::supervise("notifications out", &shared.stop, rebuilt, || {
                notices.publish_session()
            });
            tokio::join!(taking, publishing);
        });
    }

    fn start_recovery(&self, dispatchers: Dispatchers, quiet: Quiet) {
        let shared = Arc::clone(&self.shared);
        self.parts.spawn(recovery::run(shared, dispatchers, quiet));
    }

    fn start_retention(&self, retention: Duration) {
        let shared = Arc::clone(&self.shared);
        self.parts.spawn(retention::run(shared, retention));
    }

    /// Stops intake and dispatch, lets calls end, and publishes their results. A call that does not end in
    /// time stays in the ledger as under way and is in doubt at the next start, as after a crash.
    async fn drain(self, limit: Duration) {
        info!("draining");
        let end = Instant::now() + limit;
        let calls_end = end - FLUSH.min(limit / 2);
        self.shared.metrics.draining();
        self.shared.stop.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout_at(calls_end, self.shared.tasks.wait())
            .await
            .is_err()
        {
            warn!(
                calls = self.shared.tasks.len(),
                "calls did not end in time; they are in doubt now"
            );
        }
        self.flush.cancel();
        self.shared.handover.require_read();
        self.close.cancel();
        self.parts.close();
        if tokio::time::timeout_at(end, self.parts.wait())
            .await
            .is_err()
        {
            warn!(
                "the time to drain is over and some parts still run; messages left in the outbox are published at the next start"
            );
        }
        self.shared.ledger.leave().await;
        info!("stopped");
    }
}
