//! A worker: the real binary, its health, its metrics and its log.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::http;
use super::process::{Process, free_address};

/// One `rescind worker`. Dropping it kills it.
pub(crate) struct Worker {
    dir: tempfile::TempDir,
    config: PathBuf,
    environment: Vec<(String, String)>,
    wrapper: Vec<String>,
    address: SocketAddr,
    reconciles: bool,
    process: Process,
}

impl Worker {
    /// Starts a worker and waits until it is ready; panics with its log if it does not get there.
    pub(crate) fn start(config: &str, environment: &[(&str, &str)]) -> Self {
        let mut worker = Self::spawn(config, environment);
        worker.get_ready();
        worker
    }

    /// A port that was free a moment ago may be somebody else's by now: then another one.
    fn get_ready(&mut self) {
        for attempt in 0.. {
            match self.become_ready(Duration::from_secs(20)) {
                Ok(()) => break,
                Err(why) if attempt < 3 && why.contains("Address already in use") => {
                    self.address = free_address();
                    self.process = self.run();
                }
                Err(why) => panic!("{why}"),
            }
        }
    }

    /// Starts a worker at an address that others know before, and waits until it is ready.
    pub(crate) fn start_at(config: &str, address: SocketAddr) -> Self {
        let mut worker = Self::spawn_at(config, &[], address);
        if let Err(why) = worker.become_ready(Duration::from_secs(20)) {
            panic!("{why}");
        }
        worker
    }

    /// Starts a worker and does not wait: for those that must not get ready.
    pub(crate) fn spawn(config: &str, environment: &[(&str, &str)]) -> Self {
        Self::spawn_at(config, environment, free_address())
    }

    /// As [`Worker::spawn`], under another program, also when it is started again.
    pub(crate) fn spawn_under(wrapper: &[&str], config: &str) -> Self {
        let wrapper = wrapper.iter().map(|&word| word.to_owned()).collect();
        Self::spawn_all(wrapper, config, &[], free_address())
    }

    /// From now on it is started without another program.
    pub(crate) fn bare(&mut self) {
        self.wrapper.clear();
    }

    /// From now on it is started with `--reconcile`.
    pub(crate) fn reconcile(&mut self) {
        self.reconciles = true;
    }

    fn spawn_at(config: &str, environment: &[(&str, &str)], address: SocketAddr) -> Self {
        Self::spawn_all(Vec::new(), config, environment, address)
    }

    fn spawn_all(
        wrapper: Vec<String>,
        config: &str,
        environment: &[(&str, &str)],
        address: SocketAddr,
    ) -> Self {
        let dir = super::folder("worker");
        let path = dir.path().join("rescind.toml");
        fs::write(&path, config).expect("a configuration");
        let environment: Vec<_> = environment
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let process = run(&wrapper, dir.path(), &path, address, &environment, false);
        Self {
            dir,
            config: path,
            environment,
            wrapper,
            address,
            reconciles: false,
            process,
        }
    }

    fn run(&self) -> Process {
        run(
            &self.wrapper,
            self.dir.path(),
            &self.config,
            self.address,
            &self.environment,
            self.reconciles,
        )
    }

    /// Waits until it is ready; the error holds its log.
    pub(crate) fn become_ready(&mut self, within: Duration) -> Result<(), String> {
        let end = Instant::now() + within;
        loop {
            if let Some(status) = self.process.ended() {
                return Err(format!("the worker ended, {status}:\n{}", self.log()));
            }
            if self.ready() {
                return Ok(());
            }
            if Instant::now() > end {
                let health = http::get(self.address, "/readyz");
                return Err(format!(
                    "not ready within {within:?}, {health:?}:\n{}",
                    self.log()
                ));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What `/readyz` says now.
    pub(crate) fn ready(&self) -> bool {
        matches!(http::get(self.address, "/readyz"), Ok((200, _)))
    }

    /// Where `/metrics`, the health endpoints and the notification endpoint are.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its folder: configuration and output.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its configuration file, for the other commands.
    pub(crate) fn config(&self) -> &Path {
        &self.config
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn kill9(&mut self) {
        self.process.kill9();
    }

    pub(crate) fn sigterm(&self) {
        self.process.signal(Signal::TERM);
    }

    /// Ctrl-C.
    pub(crate) fn sigint(&self) {
        self.process.signal(Signal::INT);
    }

    /// Stops the world for it (`SIGSTOP`), as a long pause of its machine would.
    pub(crate) fn freeze(&self) {
        self.process.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Whether it is stopped as by [`Worker::freeze`].
    pub(crate) fn is_stopped(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap_or_default();
        // The state follows the name, which is in parentheses.
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Waits for its end by itself.
    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        self.process.wait(within)
    }

    /// How it ended, if it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Starts it again with the same configuration, folder and address, killing it first if it
    /// still runs.
    pub(crate) fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// As [`Worker::restart`], without waiting until it is ready.
    pub(crate) fn respawn(&mut self) {
        self.process.kill9();
        self.process = self.run();
    }

    /// As [`Worker::restart`], with further environment for this and later runs.
    pub(crate) fn restart_with(&mut self, environment: &[(&str, &str)]) {
        self.process.kill9();
        for (key, value) in environment {
            self.environment
                .push(((*key).to_owned(), (*value).to_owned()));
        }
        self.process = self.run();
        self.get_ready();
    }

    /// Starts it again to be killed at a fail point (`name:count`). Not waited for: a delivery
    /// of the last run that was not acknowledged in time may bring it there before it is ready.
    pub(crate) fn arm(&mut self, place: &str) {
        self.environment
            .push(("RESCIND_FAIL_POINT".to_owned(), place.to_owned()));
        self.respawn();
    }

    /// Every series of `/metrics`.
    pub(crate) fn metrics(&self) -> Metrics {
        let (status, text) = http::get_once(self.address, "/metrics").expect("/metrics answers");
        assert_eq!(status, 200, "{text}");
        Metrics::parse(&text)
    }

    /// The sum of the series of that name which carry these labels; panics if the name is unknown.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().sum(name, labels)
    }

    /// Stdout and stderr of all its runs.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Stdout of all its runs.
    pub(crate) fn stdout(&self) -> String {
        self.process.stdout()
    }

    /// The log's lines that are JSON objects.
    pub(crate) fn log_lines(&self) -> Vec<serde_json::Value> {
        let text = self.process.stdout();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

fn run(
    wrapper: &[String],
    dir: &Path,
    config: &Path,
    address: SocketAddr,
    environment: &[(String, String)],
    reconciles: bool,
) -> Process {
    let mut environment = environment.to_vec();
    environment.push(("RESCIND_HTTP__LISTEN".to_owned(), address.to_string()));
    let mut arguments = vec![Path::new("worker"), Path::new("--config"), config];
    arguments.extend(reconciles.then(|| Path::new("--reconcile")));
    Process::start_under(wrapper, dir, "worker", &arguments, &environment)
}

/// A page of `/metrics`: the value of each name with its labels.
#[derive(Debug)]
pub(crate) struct Metrics(BTreeMap<Series, f64>);

/// A name and its labels.
type Series = (String, BTreeMap<String, String>);

impl Metrics {
    fn parse(text: &str) -> Self {
        Self(
            text.lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(|line| series(line).unwrap_or_else(|| panic!("no metric: {line}")))
                .collect(),
        )
    }

    /// See [`Worker::metric`].
    #[track_caller]
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let mut named = self.0.iter().filter(|((n, _), _)| n == name).peekable();
        assert!(named.peek().is_some(), "no metric {name}");
        named
            .filter(|((_, has), _)| {
                labels
                    .iter()
                    .all(|(key, value)| has.get(*key).is_some_and(|v| v == value))
            })
            .map(|(_, value)| value)
            .sum()
    }

    /// Every series.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &BTreeMap<String, String>, f64)> {
        self.0
            .iter()
            .map(|((name, labels), value)| (name.as_str(), labels, *value))
    }
}

/// `name{label="value",…} 1.5`; values of labels hold no ids and no quotes here.
fn series(line: &str) -> Option<(Series, f64)> {
    let (left, value) = line.rsplit_once(' ')?;
    let (name, labels) = left.split_once('{').unwrap_or((left, "}"));
    let labels = labels
        .strip_suffix('}')?
        .split_terminator(',')
        .map(|pair| {
            let (key, value) = pair.split_once('=')?;
            Some((key.to_owned(), value.trim_matches('"').to_owned()))
        })
        .collect::<Option<_>>()?;
    Some(((name.to_owned(), labels), value.parse().ok()?))
}

#[test]
fn metrics_are_read_by_name_and_labels() {
    let page = Metrics::parse(
        "# HELP a b\na{x=\"1\",y=\"p\"} 2\na{x=\"1\",y=\"q\"} 3\na{x=\"2\",y=\"q\"} 4\nb 1e-3\n",
    );
    assert_eq!(page.sum("a", &[("x", "1")]), 5.0);
    assert_eq!(page.sum("a", &[]), 9.0);
    assert_eq!(page.sum("a", &[("x", "9")]), 0.0);
    assert_eq!(page.sum("b", &[]), 0.001);
}
