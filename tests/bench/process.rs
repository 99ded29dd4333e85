//! The processes that are measured: started, watched through /proc, ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::load::Load;
use crate::provider::Provider;

/// What a worker is to be started with. Everything that is not said is the default.
pub(crate) struct Worker<'a> {
    load: &'a Load,
    /// URL of the ledger; a new file if there is none.
    ledger: Option<String>,
    listen: SocketAddr,
    accounts: Vec<(String, SocketAddr)>,
    settings: Vec<(&'static str, String)>,
}

impl<'a> Worker<'a> {
    /// One account, `midtrans`.
    pub(crate) fn new(load: &'a Load, provider: &Provider) -> Self {
        Self::of(load, [("midtrans", provider)])
    }

    /// Accounts of these names, all of Midtrans' kind.
    pub(crate) fn of<'b>(
        load: &'a Load,
        accounts: impl IntoIterator<Item = (&'b str, &'b Provider)>,
    ) -> Self {
        let accounts = accounts.into_iter();
        Self {
            load,
            ledger: None,
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            accounts: accounts
                .map(|(name, at)| (name.into(), at.address))
                .collect(),
            settings: Vec::new(),
        }
    }

    /// On this ledger, `sqlite:…` or `postgres:…`.
    pub(crate) fn on(mut self, ledger: impl Into<String>) -> Self {
        self.ledger = Some(ledger.into());
        self
    }

    /// With its endpoints here.
    pub(crate) fn at(mut self, listen: SocketAddr) -> Self {
        self.listen = listen;
        self
    }

    /// With a setting, by its name in the environment.
    pub(crate) fn with(mut self, name: &'static str, value: impl ToString) -> Self {
        self.settings.push((name, value.to_string()));
        self
    }

    pub(crate) fn start(self) -> Process {
        let dir = folder();
        let config = dir.path().join("rescind.toml");
        std::fs::write(&config, self.toml(dir.path())).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rescind"));
        command.arg("worker").arg("--config").arg(&config);
        command.env("RUST_LOG", "warn").envs(self.settings);
        Process::start(command, dir)
    }

    fn toml(&self, dir: &Path) -> String {
        let file = || format!("sqlite:{}", dir.join("rescind.db").display());
        let mut text = format!(
            "[amqp]\nurl = \"{}\"\n{}\n[ledger]\nurl = \"{}\"\n[http]\nlisten = \"{}\"\n",
            self.load.url,
            self.load.names().toml(),
            self.ledger.clone().unwrap_or_else(file),
            self.listen,
        );
        for (name, address) in &self.accounts {
            text += &format!(
                "[providers.{name}]\nkind = \"midtrans\"\nbase_url = \"http://{address}\"\nserver_key = \"bench\"\n"
            );
        }
        text
    }
}

/// The bare relay, with so many requests at once.
pub(crate) fn relay(load: &Load, provider: &Provider, at_once: u16) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let names = load.names();
    let queue_and_exchange = format!("{},{}", names.requests, names.results);
    let base_url = format!("http://{}", provider.address);
    command.args(["relay", &load.url, &queue_and_exchange, &base_url]);
    command.arg(at_once.to_string());
    Process::start(command, folder())
}

/// A port that is free now.
pub(crate) fn free_address() -> SocketAddr {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap()
}

/// A folder of one process's own.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A child process that ends with the benchmark.
pub(crate) struct Process {
    child: Child,
    /// Folder of its files.
    dir: tempfile::TempDir,
}

impl Drop for Process {
    /// As a crash: nothing is tidied up.
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    fn start(mut command: Command, dir: tempfile::TempDir) -> Self {
        let log = |name: &str| Stdio::from(std::fs::File::create(dir.path().join(name)).unwrap());
        let child = command
            .stdin(Stdio::null())
            .stdout(log("out"))
            .stderr(log("err"))
            .spawn()
            .unwrap();
        Self { child, dir }
    }

    /// Ends it in an orderly way.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        self.child.wait().unwrap();
    }

    /// Holds it still.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// What it complained of.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("err")).unwrap_or_default()
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(PathBuf::from(format!("/proc/{}/{file}", self.child.id()))).unwrap()
    }

    /// Processor time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        seconds(&self.proc("stat"))
    }

    /// A field of `/proc/<pid>/status` in megabytes, e.g. `VmRSS`, `VmHWM`.
    pub(crate) fn megabytes(&self, field: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kilobytes = line.split_whitespace().nth(1).unwrap();
        kilobytes.parse::<f64>().unwrap() / 1024.0
    }
}

/// Processor time so far of what runs beside it, in seconds: every broker on this machine, and
/// this process, which is load and provider.
pub(crate) fn beside() -> [f64; 2] {
    let mut broker = 0.0;
    for process in std::fs::read_dir("/proc").unwrap() {
        let stat = std::fs::read_to_string(process.unwrap().path().join("stat"));
        if let Ok(stat) = stat
            && stat.contains("(beam.smp)")
        {
            broker += seconds(&stat);
        }
    }
    [
        broker,
        seconds(&std::fs::read_to_string("/proc/self/stat").unwrap()),
    ]
}

/// Of the text of `/proc/<pid>/stat`, in the system and outside.
fn seconds(stat: &str) -> f64 {
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let ticks = fields.split_whitespace().skip(11).take(2);
    ticks
        .map(|field| field.parse::<f64>().unwrap())
        .sum::<f64>()
        / 100.0
}
