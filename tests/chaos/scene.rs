//! The parts of a run: broker, simulator, ledger, workers, and a proxy on every hop between them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rusqlite::{Connection, OpenFlags};
use tokio::task::block_in_place;

use crate::disk::Disk;
use crate::exchange::{ExchangeHop, Odds};
use crate::hop::Hop;
use crate::plan::{Event, Kind, Plan, Strike, Target};
use crate::rig::database::Database;
use crate::rig::process::free_address;
use crate::rig::{Broker, Names, Simulator, Worker};
use crate::tally::Tally;

const PROVIDERS: [&str; 6] = ["bento", "gr4vy", "midtrans", "migo", "pismo", "tingg"];

/// Schedules that are short beside the run, and ends by giving up that are long beside it: what
/// ends by giving up did not recover.
const SETTINGS: &str = r#"
[shutdown]
drain = "5s"

[defaults]
connect_timeout = "500ms"
timeout = "2s"
retry = { first = "100ms", factor = 2.0, max = "2s", give_up_after = "1h" }
poll = { first = "1500ms", factor = 1.5, max = "2s", give_up_after = "1h" }
breaker = { failures = 10, open_for = "500ms" }
"#;

const BENTO_LOOKUP: &str = "/payments/v1/orders/{order_id}/transactions/{transaction_id}";

/// Where the rows are.
enum Store {
    File(PathBuf),
    Server { server: Database, url: String },
}

/// Something was mended: what it was, and how long the workers then took to be ready.
pub(crate) type Recovery = (&'static str, Duration);

/// Everything that runs.
pub(crate) struct Scene {
    pub(crate) kind: Kind,
    pub(crate) names: Names,
    pub(crate) client: Hop,
    pub(crate) client_url: String,
    pub(crate) tally: Tally,
    /// When a worker stopped working, in milliseconds since the epoch.
    pub(crate) losses: Vec<i64>,
    pub(crate) recoveries: Vec<Recovery>,
    /// Ends of workers that nobody asked for, with their last words.
    pub(crate) own_ends: BTreeMap<String, u64>,
    /// Workers that did not end in time after a SIGTERM.
    pub(crate) overruns: usize,
    /// What happens on the network meanwhile, and when the next of it does.
    strikes: Option<(Plan, Instant, Strike)>,
    workers: Vec<Worker>,
    amqp: Vec<Hop>,
    database: Vec<Hop>,
    providers: Vec<ExchangeHop>,
    notify: ExchangeHop,
    store: Store,
    simulator: Simulator,
    broker: Broker,
    /// After those who have files on it.
    pub(crate) disk: Option<Disk>,
}

impl Scene {
    /// Starts everything; the workers are ready.
    pub(crate) async fn set(kind: Kind, dir: &Path, odds: Odds, tally: &Tally) -> Self {
        let broker = block_in_place(Broker::start);
        let names = Names::unique();
        let disk = match kind {
            Kind::Sqlite => block_in_place(|| Disk::mount(dir)),
            Kind::Postgres => None,
        };
        let store = block_in_place(|| open_store(kind, dir, disk.as_ref()));
        let seats: Vec<_> = (0..kind.workers()).map(|_| free_address()).collect();
        let calm = Odds {
            seed: odds.seed ^ 0x0717,
            ..odds
        };
        let notify = ExchangeHop::start("notifications", seats.clone(), calm, tally).await;
        let url = format!("http://{}", notify.address());
        let simulator = block_in_place(|| Simulator::start_with(&["--notify", &url]));
        let target = address_of(broker.url());
        let client = Hop::start("client - RabbitMQ", target, tally).await;
        let mut scene = Self {
            kind,
            client_url: via(broker.url(), &client),
            names,
            client,
            tally: tally.clone(),
            losses: Vec::new(),
            recoveries: Vec::new(),
            own_ends: BTreeMap::new(),
            overruns: 0,
            strikes: None,
            disk,
            workers: Vec::new(),
            amqp: Vec::new(),
            database: Vec::new(),
            providers: Vec::new(),
            notify,
            store,
            simulator,
            broker,
        };
        scene.start_provider_hops(odds).await;
        for seat in seats {
            scene.start_worker(seat).await;
        }
        block_in_place(|| scene.broker.settle());
        scene
    }

    async fn start_provider_hops(&mut self, odds: Odds) {
        for (n, provider) in (0_u64..).zip(PROVIDERS) {
            let odds = Odds {
                seed: odds.seed.wrapping_add(n),
                ..odds
            };
            let targets = vec![self.simulator.address()];
            let name = format!("worker - {provider}");
            let hop = ExchangeHop::start(&name, targets, odds, &self.tally).await;
            self.providers.push(hop);
        }
    }

    async fn start_worker(&mut self, seat: std::net::SocketAddr) {
        let target = address_of(self.broker.url());
        let amqp = Hop::start("worker - RabbitMQ", target, &self.tally).await;
        let ledger = match &self.store {
            Store::File(path) => format!("sqlite:{}", path.display()),
            Store::Server { url, .. } => {
                let hop = Hop::start("worker - PostgreSQL", address_of(url), &self.tally).await;
                let through = via(url, &hop);
                self.database.push(hop);
                through
            }
        };
        let config = self.config(&via(self.broker.url(), &amqp), &ledger);
        self.amqp.push(amqp);
        let worker = block_in_place(|| Worker::start_at(&config, seat));
        self.workers.push(worker);
    }

    fn config(&self, amqp: &str, ledger: &str) -> String {
        let mut config: toml::Table = SETTINGS.parse().expect("TOML");
        config.insert("amqp".to_owned(), self.names.table(amqp).into());
        let mut table = toml::Table::new();
        table.insert("url".to_owned(), ledger.into());
        config.insert("ledger".to_owned(), table.into());
        let mut providers = self.simulator.providers().clone();
        for (provider, hop) in PROVIDERS.iter().zip(&self.providers) {
            let table = providers.get(*provider).expect("its table").to_string();
            let direct = self.simulator.address().to_string();
            let table = table.replace(&direct, &hop.address().to_string());
            let value: toml::Table = format!("value = {table}").parse().expect("TOML");
            providers.insert((*provider).to_owned(), value["value"].clone());
        }
        let bento = providers["bento"].as_table_mut().expect("a table");
        // Until it is set, a 404 of Bento's look-up proves nothing about a call in doubt.
        bento.insert("lookup_path".to_owned(), BENTO_LOOKUP.into());
        config.insert("providers".to_owned(), providers.into());
        config.to_string()
    }

    /// The broker itself, for those who only look.
    pub(crate) fn broker_url(&self) -> &str {
        self.broker.url()
    }

    pub(crate) fn money(&self) -> String {
        std::fs::read_to_string(self.simulator.record()).unwrap_or_default()
    }

    /// From now on the network fails as planned, whenever time passes.
    pub(crate) fn disturb(&mut self, mut plan: Plan) {
        let (pause, strike) = plan.strike();
        self.strikes = Some((plan, Instant::now() + pause, strike));
    }

    fn strike_if_due(&mut self) {
        let Some((mut plan, due, strike)) = self.strikes.take() else {
            return;
        };
        if Instant::now() < due {
            self.strikes = Some((plan, due, strike));
            return;
        }
        self.strike(strike);
        let (pause, next) = plan.strike();
        self.strikes = Some((plan, Instant::now() + pause, next));
    }

    /// Breaks a connection, or the way to a provider.
    fn strike(&self, strike: Strike) {
        match strike {
            Strike::Stream(Target::Broker(n), fault) => self.amqp[n].strike(fault),
            Strike::Stream(Target::Client, fault) => self.client.strike(fault),
            Strike::Stream(Target::Database(n), fault) => self.database[n].strike(fault),
            Strike::RefuseProvider(n, time) => self.providers[n].refuse(time),
        }
    }

    /// Does it, waits as long as it says, mends it, and waits until the workers are ready.
    pub(crate) async fn play(&mut self, event: Event) {
        if matches!(event, Event::FillDisk(_)) && self.disk.is_none() {
            return;
        }
        self.tally.count(event.part(), event.name());
        match event {
            Event::KillWorker(n, time) => {
                self.kill(n);
                self.wait(time, &[n]).await;
                self.start(n);
            }
            Event::KillAll(time) => {
                let all: Vec<usize> = (0..self.workers.len()).collect();
                all.iter().for_each(|n| self.kill(*n));
                self.wait(time, &all).await;
                all.iter().for_each(|n| self.start(*n));
            }
            Event::PauseWorker(n, time) => {
                self.losses.push(now_ms());
                self.workers[n].freeze();
                self.wait(time, &[n]).await;
                self.workers[n].thaw();
            }
            Event::DrainWorker(n) => self.drain(n).await,
            Event::KillBroker(time) => {
                // RabbitMQ 3.10 forgets a young queue; ours are old, its tables may not be.
                block_in_place(|| self.broker.settle());
                block_in_place(|| self.broker.kill9());
                self.wait(time, &[]).await;
                block_in_place(|| self.broker.start_again());
            }
            Event::RestartBroker => {
                block_in_place(|| self.broker.stop());
                block_in_place(|| self.broker.start_again());
            }
            Event::MemoryAlarm(time) => {
                self.alarm("set_vm_memory_high_watermark", ["0", "0.4"], time)
                    .await
            }
            Event::DiskAlarm(time) => {
                self.alarm("set_disk_free_limit", ["900000000000000", "50000000"], time)
                    .await
            }
            Event::KillDatabase(time) => {
                self.with_server(Database::kill9);
                self.wait(time, &[]).await;
                self.with_server(Database::start_again);
            }
            Event::RestartDatabase => {
                self.with_server(Database::stop);
                self.with_server(Database::start_again);
            }
            Event::FillDisk(time) => self.fill_disk(time).await,
        }
        self.recover(event).await;
    }

    async fn alarm(&mut self, setting: &str, [on, off]: [&str; 2], time: Duration) {
        block_in_place(|| self.broker.ctl(&[setting, on]));
        self.wait(time, &[]).await;
        block_in_place(|| self.broker.ctl(&[setting, off]));
    }

    fn with_server(&self, act: impl FnOnce(&Database)) {
        if let Store::Server { server, .. } = &self.store {
            block_in_place(|| act(server));
        }
    }

    async fn fill_disk(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if let Some(disk) = &self.disk {
                block_in_place(|| disk.fill());
            }
            self.wait(Duration::from_millis(200), &[]).await;
        }
        if let Some(disk) = &self.disk {
            disk.free();
        }
    }

    fn kill(&mut self, n: usize) {
        self.losses.push(now_ms());
        block_in_place(|| self.workers[n].kill9());
    }

    fn start(&mut self, n: usize) {
        block_in_place(|| self.workers[n].respawn());
    }

    async fn drain(&mut self, n: usize) {
        self.losses.push(now_ms());
        self.workers[n].sigterm();
        let end = Instant::now() + Duration::from_secs(12);
        while self.workers[n].ended().is_none() {
            if Instant::now() > end {
                self.note_end("SIGTERM: not ended within 12 s".to_owned());
                self.overruns += 1;
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.start(n);
    }

    /// Lets time pass, and starts workers again that end by themselves, as a supervisor would.
    /// Those that are meant to be down are left alone.
    pub(crate) async fn wait(&mut self, time: Duration, down: &[usize]) {
        let end = Instant::now() + time;
        loop {
            for n in (0..self.workers.len()).filter(|n| !down.contains(n)) {
                self.tend(n);
            }
            self.strike_if_due();
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(Duration::from_millis(100))).await;
        }
    }

    fn tend(&mut self, n: usize) {
        let Some(status) = self.workers[n].ended() else {
            return;
        };
        let log = self.workers[n].log();
        let last = log.lines().last().unwrap_or_default().to_owned();
        self.note_end(format!("{status}: {last}"));
        self.losses.push(now_ms());
        self.start(n);
    }

    fn note_end(&mut self, text: String) {
        self.tally
            .note(&format!("a worker ended by itself: {text}"));
        *self.own_ends.entry(text).or_default() += 1;
    }

    async fn recover(&mut self, event: Event) {
        let began = Instant::now();
        let end = began + Duration::from_secs(30);
        while !self.all_ready() && Instant::now() < end {
            self.wait(Duration::from_millis(100), &[]).await;
        }
        let what = match (event.part(), event.name()) {
            ("worker", name) => name,
            ("RabbitMQ", "kill -9") => "kill -9 of RabbitMQ",
            ("RabbitMQ", "restart") => "restart of RabbitMQ",
            ("PostgreSQL", "kill -9") => "kill -9 of PostgreSQL",
            ("PostgreSQL", _) => "restart of PostgreSQL",
            (_, name) => name,
        };
        self.recoveries.push((what, began.elapsed()));
    }

    fn all_ready(&self) -> bool {
        block_in_place(|| self.workers.iter().all(Worker::ready))
    }

    /// No fault lasts any longer.
    pub(crate) fn heal(&mut self) {
        self.strikes = None;
        for hop in self.amqp.iter().chain(&self.database).chain([&self.client]) {
            hop.heal();
        }
        for hop in self.providers.iter().chain([&self.notify]) {
            hop.heal();
        }
        if let Some(disk) = &self.disk {
            disk.free();
        }
    }

    /// Rows of a query that both databases understand.
    pub(crate) fn query(&self, sql: &str) -> Vec<Vec<String>> {
        block_in_place(|| match &self.store {
            Store::File(path) => query_file(path, sql),
            Store::Server { server, url } => {
                let text = server.sql_in(url, sql);
                text.lines()
                    .map(|line| line.split('|').map(str::to_owned).collect())
                    .collect()
            }
        })
    }

    /// What workers said, for a look after the run.
    pub(crate) fn worker_logs(&self) -> Vec<String> {
        self.workers.iter().map(Worker::log).collect()
    }

    /// Copies what there is to see into a folder that stays.
    pub(crate) fn keep(&self, folder: &Path) {
        let mut from = vec![self.broker.dir().join("log"), self.simulator.record()];
        from.extend(self.workers.iter().map(|worker| worker.dir().to_owned()));
        match &self.store {
            Store::File(path) => {
                from.extend(["", "-wal"].map(|end| format!("{}{end}", path.display()).into()))
            }
            Store::Server { server, .. } => from.push(server.dir().join("log")),
        }
        for (n, path) in from.iter().enumerate() {
            let to = folder.join(format!(
                "{n}-{}",
                path.file_name().unwrap_or_default().display()
            ));
            let copied = std::process::Command::new("cp")
                .arg("-r")
                .arg(path)
                .arg(to)
                .status();
            drop(copied);
        }
        std::fs::write(folder.join("simulator.log"), self.simulator.log()).expect("the folder");
    }
}

fn open_store(kind: Kind, dir: &Path, disk: Option<&Disk>) -> Store {
    match kind {
        Kind::Sqlite => Store::File(disk.map_or(dir, Disk::folder).join("rescind.db")),
        Kind::Postgres => {
            let server = Database::start();
            let url = server.create();
            Store::Server { server, url }
        }
    }
}

fn query_file(path: &Path, sql: &str) -> Vec<Vec<String>> {
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .expect("the ledger's file");
    db.busy_timeout(Duration::from_secs(5)).expect("a setting");
    let mut statement = db.prepare(sql).expect("a query");
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| {
        (0..columns)
            .map(|column| {
                let value: rusqlite::types::Value = row.get(column)?;
                Ok(match value {
                    rusqlite::types::Value::Integer(number) => number.to_string(),
                    rusqlite::types::Value::Text(text) => text,
                    _ => String::new(),
                })
            })
            .collect()
    });
    rows.expect("rows").collect::<Result<_, _>>().expect("rows")
}

fn address_of(url: &str) -> std::net::SocketAddr {
    let url = url::Url::parse(url).expect("an address");
    let host = url.host_str().expect("a host");
    let port = url.port().expect("a port");
    format!("{host}:{port}")
        .parse()
        .expect("a loopback address")
}

/// The same address through a proxy.
fn via(url: &str, hop: &Hop) -> String {
    let mut url = url::Url::parse(url).expect("an address");
    url.set_port(Some(hop.address().port())).expect("a port");
    url.into()
}

pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    i64::try_from(since.expect("after 1970").as_millis()).unwrap_or(i64::MAX)
}
