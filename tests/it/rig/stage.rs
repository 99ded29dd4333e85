//! A stage for a test: a broker, the simulated providers and a worker's configuration for both.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{Broker, Client, Messages, Names, Simulator, Worker};

/// Settings under which everything happens within a test's patience. An answer has time on a busy
/// machine, too; what waits for a call to be given up is told to give it up sooner.
const FAST: &str = r#"
[http]
listen = "127.0.0.1:0"

[shutdown]
drain = "5s"

[defaults]
connect_timeout = "500ms"
timeout = "10s"
retry = { first = "50ms", factor = 2.0, max = "500ms", give_up_after = "10s" }
poll = { first = "100ms", factor = 2.0, max = "500ms", give_up_after = "10s" }
breaker = { failures = 10, open_for = "500ms" }
"#;

/// Broker, simulator and configuration. The worker is started by the test.
pub(crate) struct Stage {
    dir: tempfile::TempDir,
    url: String,
    config: toml::Table,
    /// The topology of this stage.
    pub(crate) names: Names,
    /// The providers of this stage.
    pub(crate) simulator: Simulator,
}

impl Stage {
    /// On the shared node, under names of its own.
    pub(crate) fn new(name: &str) -> Self {
        Self::on(Broker::shared(), name)
    }

    /// On a node that the test will break.
    pub(crate) fn on(broker: &Broker, name: &str) -> Self {
        Self::with(broker.url(), name, Simulator::start())
    }

    /// With a simulator, and a URL that may be a fault proxy's.
    pub(crate) fn with(url: &str, name: &str, simulator: Simulator) -> Self {
        let dir = super::folder(name);
        let names = Names::unique();
        let mut config: toml::Table = FAST.parse().expect("TOML");
        config.insert("amqp".to_owned(), names.table(url).into());
        config.insert("providers".to_owned(), simulator.providers().clone().into());
        let mut stage = Self {
            dir,
            url: url.to_owned(),
            config,
            names,
            simulator,
        };
        let ledger = format!("sqlite:{}", stage.ledger().display());
        stage.set("ledger.url", ledger);
        stage
    }

    /// Sets one value, by its path: `set("defaults.retry.give_up_after", "2s")`.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<toml::Value>) -> &mut Self {
        let (tables, key) = path.rsplit_once('.').unwrap_or(("", path));
        let mut table = &mut self.config;
        for name in tables.split_terminator('.') {
            table = table
                .entry(name)
                .or_insert_with(|| toml::Table::new().into())
                .as_table_mut()
                .expect("a table");
        }
        table.insert(key.to_owned(), value.into());
        self
    }

    /// Takes a value out, by its path below one table; answers what it was.
    pub(crate) fn unset(&mut self, path: &str) -> toml::Value {
        let (table, key) = path.split_once('.').expect("a table");
        let table = self.config[table].as_table_mut().expect("a table");
        table.remove(key).expect("a value")
    }

    /// The configuration as it is now.
    pub(crate) fn config(&self) -> String {
        self.config.to_string()
    }

    /// The ledger's file, which every worker of this stage uses and outlives none of them.
    pub(crate) fn ledger(&self) -> PathBuf {
        self.dir.path().join("rescind.db")
    }

    /// A folder for the test's own files.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts a worker and waits until it is ready.
    pub(crate) fn worker(&self) -> Worker {
        Worker::start(&self.config(), &[])
    }

    /// As [`Stage::worker`], with environment.
    pub(crate) fn worker_with(&self, environment: &[(&str, &str)]) -> Worker {
        Worker::start(&self.config(), environment)
    }

    /// A publisher.
    pub(crate) async fn client(&self) -> Client {
        Client::connect(&self.url).await
    }

    /// Results, corrections and notifications from now on; may be asked for before a worker runs.
    pub(crate) async fn results(&self) -> Messages {
        self.client().await.results(&self.names).await
    }

    /// Dead letters from now on.
    pub(crate) async fn dead_letters(&self) -> Messages {
        self.client().await.dead_letters(&self.names).await
    }
}

/// A fresh request for a payment that behaves as the word says; [`payment_id`] is its name
/// at the simulator. The word may be several (`captured-accepted-then-done`).
pub(crate) fn request(provider: &str, behaviour: &str) -> Value {
    let unique = super::unique();
    let id = format!("{behaviour}-{unique}");
    let mut request = json!({
        "request_id": format!("{provider}-{unique}"),
        "provider": provider,
        "reason": "customer_cancelled",
    });
    request["payment"] = match provider {
        "bento" => json!({ "order_id": format!("order-{unique}"), "transaction_id": id }),
        "midtrans" => json!({ "order_id": id }),
        "pismo" => json!({ "original_tracking_id": id }),
        "tingg" => json!({ "merchant_transaction_id": id, "service_code": "DEMO" }),
        // migo, gr4vy
        _ => json!({ "transaction_id": id }),
    };
    if provider == "pismo" {
        request["amount"] = json!("50.00");
        request["currency"] = json!("BRL");
    }
    request
}

/// The id under which the simulator knows the payment of a request: a payment of two ids is
/// named by both.
pub(crate) fn payment_id(request: &Value) -> String {
    let id = |key: &str| request["payment"][key].as_str().expect("an id").to_owned();
    match request["provider"].as_str() {
        Some("bento") => format!("{}/{}", id("order_id"), id("transaction_id")),
        Some("tingg") => format!("{}/{}", id("service_code"), id("merchant_transaction_id")),
        Some("midtrans") => id("order_id"),
        Some("pismo") => id("original_tracking_id"),
        _ => id("transaction_id"),
    }
}
