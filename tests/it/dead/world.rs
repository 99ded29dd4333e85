//! Providers that change their mind, and a person with a terminal.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::PATIENCE;
use crate::rig::checker::id;
use crate::rig::process::Process;
use crate::rig::stage::{payment_id, request};
use crate::rig::terminal::{Done, Terminal};
use crate::rig::{Broker, Messages, Money, Simulator, Stage, Worker, until};

/// A stage whose providers all behave in one way, until they are told otherwise.
pub(super) struct World {
    pub(super) stage: Stage,
    /// What the worker and the person have in common.
    config: PathBuf,
    rules: PathBuf,
    folder: tempfile::TempDir,
}

impl World {
    pub(super) fn new(name: &str, behaviour: &str) -> Self {
        let folder = crate::rig::folder(name);
        let rules = folder.path().join("rules.toml");
        write_rule(&rules, behaviour);
        let simulator = Simulator::with_scenario(&rules);
        let stage = Stage::with(Broker::shared().url(), name, simulator);
        let config = folder.path().join("rescind.toml");
        let mut world = Self {
            stage,
            config,
            rules,
            folder,
        };
        world.save();
        world
    }

    /// Sets one value, for the worker and for the person.
    pub(super) fn set(&mut self, path: &str, value: &str) {
        self.stage.set(path, value);
        self.save();
    }

    /// The person's configuration has no account, and no more than the ledger.
    pub(super) fn only_the_ledger(&self) {
        let ledger = self.stage.ledger();
        let text = format!("[ledger]\nurl = \"sqlite:{}\"\n", ledger.display());
        std::fs::write(&self.config, text).unwrap();
    }

    fn save(&mut self) {
        std::fs::write(&self.config, self.stage.config()).unwrap();
    }

    /// From now on, and with no memory of what was.
    pub(super) fn behaves(&mut self, behaviour: &str) {
        write_rule(&self.rules, behaviour);
        self.stage.simulator.restart();
    }

    /// Takes in requests and waits for their results; answers the requests.
    pub(super) async fn have(&self, results: &mut Messages, providers: &[&str]) -> Vec<Value> {
        let requests: Vec<Value> = providers.iter().map(|p| request(p, "payment")).collect();
        let client = self.stage.client().await;
        client.confirm_all(&self.stage.names, &requests).await;
        results.about(requests.iter().map(id), PATIENCE).await;
        if self.stage.ledger().exists() {
            self.noted().await;
        }
        requests
    }

    /// Waits until the worker has written down that all messages are published.
    pub(super) async fn noted(&self) {
        let noted = || self.unpublished() == 0;
        until("it is noted as published", PATIENCE, noted).await;
    }

    fn unpublished(&self) -> i64 {
        let file = rusqlite::Connection::open(self.stage.ledger()).unwrap();
        let query = "SELECT count(*) FROM messages WHERE published_at IS NULL";
        file.query_row(query, [], |row| row.get(0)).unwrap()
    }

    pub(super) fn money(&self, request: &Value) -> Money {
        let provider = request["provider"].as_str().unwrap();
        self.stage.simulator.money(provider, &payment_id(request))
    }

    /// Runs `rescind …` to its end.
    pub(super) fn rescind(&self, arguments: &[&str]) -> Done {
        self.child(arguments).spawn_and_wait()
    }

    /// Runs `rescind dead …` to its end.
    pub(super) fn dead(&self, arguments: &[&str]) -> Done {
        self.rescind(&[&["dead"], arguments].concat())
    }

    /// Starts `rescind dead …`.
    pub(super) fn start(&self, name: &str, arguments: &[&str]) -> Process {
        let config = self.config.to_string_lossy();
        let arguments = [&["--config", &config, "dead"], arguments].concat();
        Process::start(self.folder.path(), name, &arguments, &[])
    }

    pub(super) fn child(&self, arguments: &[&str]) -> Terminal {
        Terminal::new(&self.config, arguments)
    }

    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Every open dead letter, as objects.
    pub(super) fn letters(&self) -> Vec<Value> {
        self.dead(&["list", "--json", "--limit", "1000"]).objects()
    }

    /// All that a person can see of the ledger.
    pub(super) fn everything(&self) -> String {
        let list = self.rescind(&["list", "--json", "--limit", "1000"]).stdout;
        let closed = self.dead(&["export", "--closed"]).stdout;
        list + &self.dead(&["export"]).stdout + &closed
    }
}

fn write_rule(path: &Path, behaviour: &str) {
    std::fs::write(path, format!("[[rule]]\nbehaviour = '{behaviour}'\n")).unwrap();
}

/// Dead letters that were closed, as the worker counts them.
pub(super) fn closed(worker: &Worker, action: &str) -> f64 {
    worker.metric("rescind_dead_letters_closed_total", &[("action", action)])
}
