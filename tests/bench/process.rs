//! The processes that are measured: started, watched through /proc, ended.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::load::Names;

/// A child process that ends with the benchmark.
pub(crate) struct Process {
    child: Child,
    /// Folder of its files.
    pub(crate) dir: tempfile::TempDir,
}

/// A file of its own; with `DATABASE_URL`, a database of its own there.
fn ledger(dir: &Path) -> String {
    let Ok(url) = std::env::var("DATABASE_URL") else {
        return format!("sqlite:{}", dir.join("rescind.db").display());
    };
    let name = format!("bench_{}", uuid::Uuid::new_v4().simple());
    let made = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/database"))
        .args(["sql", "-", "-q", "-c", &format!("CREATE DATABASE {name}")])
        .status()
        .unwrap();
    assert!(made.success());
    let mut url = url::Url::parse(&url).unwrap();
    url.set_path(&name);
    url.into()
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Process {
    /// A worker with the default durable settings.
    pub(crate) fn worker(url: &str, names: &Names, provider: SocketAddr, more: &str) -> Self {
        let more = format!("\n[http]\nlisten = \"127.0.0.1:0\"\n{more}");
        Self::with_http(url, names, provider, &more)
    }

    fn with_http(url: &str, names: &Names, provider: SocketAddr, more: &str) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = dir.path().join("rescind.toml");
        let text = format!(
            "[amqp]\nurl = \"{url}\"\n{}\n[ledger]\nurl = \"{}\"\n{more}\n\
             [providers.midtrans]\nkind = \"midtrans\"\nbase_url = \"http://{provider}\"\nserver_key = \"bench\"\n",
            names.toml(),
            ledger(dir.path()),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_rescind"));
        command
            .arg("worker")
            .arg("--config")
            .arg(&config)
            .env("RUST_LOG", "warn");
        Self::start(command, dir)
    }

    /// A worker whose endpoints are at this address.
    pub(crate) fn worker_at(
        url: &str,
        names: &Names,
        provider: SocketAddr,
        listen: SocketAddr,
    ) -> Self {
        let more = format!("\n[http]\nlisten = \"{listen}\"\n");
        Self::with_http(url, names, provider, &more)
    }

    /// The bare relay.
    pub(crate) fn relay(url: &str, names: &Names, provider: SocketAddr) -> Self {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        let queue_and_exchange = format!("{},{}", names.requests, names.results);
        command.args([
            "relay",
            url,
            &queue_and_exchange,
            &format!("http://{provider}"),
        ]);
        Self::start(command, dir)
    }

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

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(PathBuf::from(format!("/proc/{}/{file}", self.child.id()))).unwrap()
    }

    /// Processor time so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        let stat = self.proc("stat");
        let fields: Vec<&str> = stat
            .rsplit(')')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ticks: f64 = fields[11..13]
            .iter()
            .map(|field| field.parse::<f64>().unwrap())
            .sum();
        ticks / 100.0
    }

    /// A field of `/proc/<pid>/status` in megabytes, e.g. `VmRSS`, `VmHWM`.
    pub(crate) fn megabytes(&self, field: &str) -> f64 {
        let status = self.proc("status");
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<f64>()
            .unwrap()
            / 1024.0
    }
}
