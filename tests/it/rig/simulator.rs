//! The simulated providers: the real binary's `simulate`, with its own record of the money.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustix::process::Signal;
use serde::Deserialize;

use super::http;
use super::process::Process;

/// One `rescind simulate`. Dropping it kills it.
pub(crate) struct Simulator {
    dir: tempfile::TempDir,
    arguments: Vec<String>,
    address: SocketAddr,
    providers: toml::Table,
    process: Process,
}

/// What the simulator knows of one payment.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Money {
    /// The payment's id.
    pub(crate) payment: String,
    /// Each movement of money, in order.
    pub(crate) effects: Vec<serde_json::Value>,
    /// Cancel calls that arrived.
    pub(crate) cancel_calls: u64,
    /// Look-ups that arrived.
    pub(crate) lookup_calls: u64,
    /// The payment's state.
    pub(crate) state: serde_json::Value,
    /// Calls whose login was refused.
    pub(crate) refused_logins: u64,
}

impl Money {
    /// Of a payment that no call has mentioned.
    pub(crate) fn none() -> Self {
        Self {
            payment: String::new(),
            effects: Vec::new(),
            cancel_calls: 0,
            lookup_calls: 0,
            state: serde_json::Value::Null,
            refused_logins: 0,
        }
    }
}

impl Simulator {
    /// The behaviour of a payment is a word in its id.
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// The behaviour of payments is in a scenario.
    pub(crate) fn with_scenario(scenario: &Path) -> Self {
        Self::start_with(&["--scenario", &scenario.to_string_lossy()])
    }

    /// With further arguments, e.g. `--latency 50ms`.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let dir = super::folder("simulator");
        let arguments: Vec<String> = arguments.iter().map(|&a| a.to_owned()).collect();
        let mut process = run(dir.path(), "127.0.0.1:0", &arguments);
        let (providers, address) = written(dir.path(), &mut process);
        answers(address, &mut process);
        Self {
            dir,
            arguments,
            address,
            providers,
            process,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The tables `[providers.*]` for this simulator.
    pub(crate) fn providers(&self) -> &toml::Table {
        &self.providers
    }

    /// The same as text.
    pub(crate) fn providers_toml(&self) -> String {
        let mut table = toml::Table::new();
        table.insert("providers".to_owned(), self.providers.clone().into());
        table.to_string()
    }

    /// What it knows of a payment.
    pub(crate) fn money(&self, provider: &str, payment: &str) -> Money {
        let payment = utf8_percent_encode(payment, NON_ALPHANUMERIC);
        serde_json::from_value(self.get(&format!("/money/{provider}/{payment}")))
            .expect("what is known of a payment")
    }

    /// What it knows of all payments.
    pub(crate) fn all_money(&self) -> serde_json::Value {
        self.get("/money")
    }

    fn get(&self, path: &str) -> serde_json::Value {
        let (status, body) = http::get_once(self.address, path).expect("the simulator answers");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).expect("JSON")
    }

    /// The file it appends each movement of money to, over restarts.
    pub(crate) fn record(&self) -> PathBuf {
        self.dir.path().join("money.jsonl")
    }

    /// Stops the world for it (`SIGSTOP`): it takes connections, and answers nobody.
    pub(crate) fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Takes all providers down.
    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Brings them back on the same address, without a memory but for the record.
    pub(crate) fn restart(&mut self) {
        self.process.kill9();
        let address = self.address.to_string();
        self.process = run(self.dir.path(), &address, &self.arguments);
        answers(self.address, &mut self.process);
    }
}

fn run(dir: &Path, address: &str, further: &[String]) -> Process {
    let config = dir.join("config");
    let record = dir.join("money.jsonl");
    let (config, record) = (config.to_string_lossy(), record.to_string_lossy());
    let mut arguments = vec!["simulate", "--listen", address];
    arguments.extend(["--write-config", &config, "--record", &record]);
    arguments.extend(further.iter().map(String::as_str));
    Process::start(dir, "simulator", &arguments, &[])
}

/// Waits for the configuration it writes, and reads its address there.
fn written(dir: &Path, process: &mut Process) -> (toml::Table, SocketAddr) {
    let mut found = None;
    wait(process, "wrote its configuration", || {
        found = fs::read_to_string(dir.join("config/rescind.toml"))
            .ok()
            .and_then(|text| text.parse::<toml::Table>().ok())
            .and_then(|config| {
                let providers = config.get("providers")?.as_table()?.clone();
                let address = providers.values().find_map(address_of)?;
                Some((providers, address))
            });
        found.is_some()
    });
    found.expect("was waited for")
}

fn address_of(provider: &toml::Value) -> Option<SocketAddr> {
    let url = url::Url::parse(provider.get("base_url")?.as_str()?).ok()?;
    url.socket_addrs(|| None).ok()?.first().copied()
}

fn answers(address: SocketAddr, process: &mut Process) {
    wait(process, "answered", || {
        matches!(http::get(address, "/money"), Ok((200, _)))
    });
}

fn wait(process: &mut Process, what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !holds() {
        let ended = process.ended();
        assert!(
            ended.is_none() && Instant::now() < end,
            "the simulator never {what} ({ended:?}):\n{}",
            process.log()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
