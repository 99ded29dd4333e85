//! A private RabbitMQ node, started through `deploy/broker`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use rustix::process::{Pid, Signal, kill_process};

use super::script::{Script, start_arguments};

const SCRIPT: Script = Script {
    program: "deploy/broker",
    lent: "AMQP_URL",
};

/// A node of our own. Its end is also the end of this process, however that comes about:
/// `deploy/broker` leaves a watchdog behind, so that nothing depends on `Drop`.
pub(crate) struct Broker {
    dir: PathBuf,
    url: String,
    shared: bool,
    folder: Option<tempfile::TempDir>,
}

impl Broker {
    /// Starts a node for a test that breaks it.
    pub(crate) fn start() -> Self {
        Self::start_with("", None)
    }

    /// With a configuration of its own (`rabbitmq.conf`), or as a member of another one's
    /// cluster, which has its configuration.
    pub(crate) fn start_with(settings: &str, member_of: Option<&Self>) -> Self {
        let folder = super::folder("broker");
        let dir = folder.path().join("node");
        std::fs::create_dir(&dir).expect("a folder");
        if !settings.is_empty() {
            std::fs::write(dir.join("rabbitmq.conf"), settings).expect("a configuration");
        }
        let mut arguments = start_arguments();
        let first = member_of.map(|first| first.dir.display().to_string());
        if let Some(first) = &first {
            arguments.extend(["--join", first]);
        }
        Self {
            url: SCRIPT.run(&dir, arguments, false),
            dir,
            shared: false,
            folder: Some(folder),
        }
    }

    /// The one node for all tests that leave it alone; with `AMQP_URL`, the one given there.
    /// Tests keep apart by [`Names::unique`].
    pub(crate) fn shared() -> &'static Self {
        super::watchdog::watch();
        static SHARED: OnceLock<Broker> = OnceLock::new();
        SHARED.get_or_init(|| {
            let dir = super::scratch().join(format!("broker-{}", super::unique()));
            Self {
                url: SCRIPT.run(&dir, start_arguments(), true),
                dir,
                shared: true,
                folder: None,
            }
        })
    }

    /// The same for tests that set something up at it, which they never do at one that somebody lent us.
    pub(crate) fn ours() -> &'static Self {
        static OURS: OnceLock<Broker> = OnceLock::new();
        match std::env::var_os("AMQP_URL") {
            None => Self::shared(),
            Some(_) => OURS.get_or_init(Self::start),
        }
    }

    /// Makes a user who may do everything, and answers its URL.
    pub(crate) fn add_user(&self, name: &str, password: &str) -> String {
        self.ctl(&["add_user", name, password]);
        self.ctl(&["set_permissions", name, ".*", ".*", ".*"]);
        let user = format!("{name}:{password}");
        self.url.replace("guest:guest", &user)
    }

    /// Stays the same over every stop, kill and start.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Its name among Erlang's nodes.
    pub(crate) fn name(&self) -> String {
        let text = std::fs::read_to_string(self.dir.join("node")).expect("a node");
        let line = text.lines().find_map(|line| line.strip_prefix("node="));
        line.expect("its name").to_owned()
    }

    /// Where the node lives; its logs are in `log`.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// `kill -9` of the node. With RabbitMQ 3.10 call [`Broker::settle`] before, if a queue is young.
    pub(crate) fn kill9(&self) {
        self.breaking("kill");
        SCRIPT.run(&self.dir, ["kill"], false);
    }

    /// Stops the world for it (`SIGSTOP`): connections stay open, and nobody answers.
    pub(crate) fn freeze(&self) {
        self.breaking("freeze");
        self.signal(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = std::fs::read_to_string(self.dir.join("pid")).expect("a node of ours");
        let id = id.trim().parse().ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process id"), signal).expect("a signal");
    }

    /// An orderly stop.
    pub(crate) fn stop(&self) {
        self.breaking("stop");
        SCRIPT.run(&self.dir, ["stop"], false);
    }

    /// Starts the node again, on its data and its port, and waits until it takes connections.
    pub(crate) fn start_again(&self) {
        self.breaking("start");
        let url = SCRIPT.run(&self.dir, start_arguments(), false);
        assert_eq!(url, self.url, "the node's port was taken while it was down");
    }

    /// `rabbitmqctl` against the node.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        SCRIPT.run(&self.dir, ["ctl"].iter().chain(arguments).copied(), false)
    }

    /// Makes the node write its tables to disk. A quorum queue is known to its node through a
    /// table that RabbitMQ 3.10 writes seconds later: a node killed before that cannot restart
    /// the queue, and what was confirmed in it cannot be reached.
    pub(crate) fn settle(&self) {
        let flush = "mnesia:dump_log(), [ok = dets:sync(T) || T <- dets:all()], ok.";
        self.ctl(&["eval", flush]);
    }

    fn last_words(&self) -> String {
        let mut words = String::new();
        for entry in std::fs::read_dir(self.dir.join("log"))
            .into_iter()
            .flatten()
        {
            let Ok(text) = entry.and_then(|entry| std::fs::read_to_string(entry.path())) else {
                continue;
            };
            let lines: Vec<&str> = text.lines().collect();
            let last = lines.len().saturating_sub(25);
            words += &lines[last..].join("\n");
            words += "\n";
        }
        words
    }

    /// Kills it if it runs; its drop does the rest.
    pub(super) fn end(&self) {
        drop(
            SCRIPT
                .command(&self.dir, ["kill"])
                .stderr(Stdio::null())
                .status(),
        );
    }

    fn breaking(&self, what: &str) {
        assert!(!self.shared, "other tests use this node: no {what}");
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The folder goes now, and with it what the node had to say.
            eprintln!("the end of the broker's logs:\n{}", self.last_words());
        }
        // Not asserted: a second panic would abort the run. The watchdog is there as well.
        drop(SCRIPT.command(&self.dir, ["stop"]).status());
    }
}

/// The names of a topology; every one can be configured.
#[derive(Debug, Clone)]
pub(crate) struct Names {
    pub(crate) requests_exchange: String,
    pub(crate) requests_queue: String,
    pub(crate) results_exchange: String,
    pub(crate) results_queue: String,
    pub(crate) notifications_queue: String,
    pub(crate) dead_exchange: String,
    pub(crate) dead_queue: String,
    pub(crate) dropped_exchange: String,
    pub(crate) dropped_queue: String,
}

impl Names {
    /// The names of the contract.
    pub(crate) fn contract() -> Self {
        Self::below("rescind")
    }

    /// Names that nobody else uses.
    pub(crate) fn unique() -> Self {
        Self::below(&format!("t-{}", super::unique()))
    }

    fn below(prefix: &str) -> Self {
        let name = |what: &str| format!("{prefix}.{what}");
        Self {
            requests_exchange: name("requests"),
            requests_queue: name("requests"),
            results_exchange: name("results"),
            results_queue: name("results"),
            notifications_queue: name("notifications"),
            dead_exchange: name("dead"),
            dead_queue: name("dead"),
            dropped_exchange: name("dropped"),
            dropped_queue: name("dropped"),
        }
    }

    /// The table `[amqp]` of a configuration, without its heading.
    pub(crate) fn table(&self, url: &str) -> toml::Table {
        [
            ("url", url),
            ("requests_exchange", &self.requests_exchange),
            ("requests_queue", &self.requests_queue),
            ("results_exchange", &self.results_exchange),
            ("results_queue", &self.results_queue),
            ("notifications_queue", &self.notifications_queue),
            ("dead_exchange", &self.dead_exchange),
            ("dead_queue", &self.dead_queue),
            ("dropped_exchange", &self.dropped_exchange),
            ("dropped_queue", &self.dropped_queue),
        ]
        .map(|(key, name)| (key.to_owned(), toml::Value::from(name)))
        .into_iter()
        .collect()
    }

    /// The lines of `[amqp]`, with the heading.
    pub(crate) fn toml(&self, url: &str) -> String {
        format!("[amqp]\n{}", self.table(url))
    }
}
