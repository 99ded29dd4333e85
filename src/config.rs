//! The configuration: what the program needs, checked as a whole before anything starts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::backoff::Schedule;
use crate::layers::Layers;
pub use crate::layers::Sources;
pub use crate::pem::TlsFiles;
pub use crate::problem::{ConfigError, Origin, Problem};
use crate::providers::{Account, Provider};
pub use crate::settings::{ACCOUNT, FIELDS, Field, Form};
use loader::Loader;

mod check;
mod documented;
mod loader;

pub use documented::default_toml;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Everything that is configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// The broker and the names on it.
    pub amqp: Amqp,
    /// The ledger.
    pub ledger: Ledger,
    /// Address of the worker's own HTTP server.
    pub listen: SocketAddr,
    /// Longest time for a stop: for calls to end and their results to be published.
    pub drain: Duration,
    /// Form of a log line.
    pub log_format: LogFormat,
    /// The accounts at providers, by name.
    pub accounts: BTreeMap<String, AccountConfig>,
}

impl Config {
    /// How long what ended should be known at least, where `ledger.retention` is shorter: after it a repeat is a new
    /// request. A publisher repeats while it has no result, for as long as a request may take and for a day after it.
    pub fn retention_advised(&self) -> Option<Duration> {
        let accounts = self.accounts.values();
        let times = accounts.flat_map(|a| [a.retry.give_up_after, a.poll.give_up_after]);
        let advised = times.max().unwrap_or_default().saturating_add(DAY);
        (self.ledger.retention < advised).then_some(advised)
    }
}

/// The broker and the names on it.
#[derive(Debug, Clone)]
pub struct Amqp {
    /// `amqp://` or `amqps://`, with credentials.
    pub url: SecretString,
    /// Other nodes of the same cluster.
    pub further_urls: Vec<SecretString>,
    /// For TLS.
    pub files: TlsFiles,
    /// What to do about exchanges and queues at the start.
    pub topology: TopologyMode,
    /// Deliveries held at once, 1 to 2000.
    pub prefetch: u16,
    /// Messages that may wait for the broker before nothing is taken in or begun.
    pub max_unpublished: u64,
    /// A copy of each result goes to the request's `reply_to`.
    pub reply_to: bool,
    /// Where publishers write.
    pub requests_exchange: String,
    /// Where workers read.
    pub requests_queue: String,
    /// Results, corrections and notifications.
    pub results_exchange: String,
    /// Default place for results; empty: none is declared.
    pub results_queue: String,
    /// Notifications waiting to be matched.
    pub notifications_queue: String,
    /// Dead letters.
    pub dead_exchange: String,
    /// The operators' feed.
    pub dead_queue: String,
    /// Messages that the broker itself gave up on.
    pub dropped_exchange: String,
    /// Its queue.
    pub dropped_queue: String,
}

/// What to do about exchanges and queues at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopologyMode {
    /// Declare what is missing.
    Declare,
    /// Only look, and refuse to start on a difference.
    Verify,
}

/// The ledger.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// `sqlite:PATH` or `postgres://…`, which may hold a password.
    pub url: SecretString,
    /// For TLS to PostgreSQL.
    pub files: TlsFiles,
    /// Finished requests and closed dead letters older than this are removed.
    pub retention: Duration,
}

/// Form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// One account at a provider and how it is treated.
#[derive(Debug, Clone)]
pub struct AccountConfig {
    /// The adapter of its kind.
    pub adapter: &'static dyn Provider,
    /// Name, address and credentials.
    pub account: Account,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// To reach the provider.
    pub connect_timeout: Duration,
    /// Whole exchange.
    pub timeout: Duration,
    /// Calls at once; 0: none begins.
    pub max_in_flight: u32,
    /// Calls begun per second; 0: no limit.
    pub rate_per_second: f64,
    /// When a cancel is sent again.
    pub retry: Schedule,
    /// When the provider is asked again.
    pub poll: Schedule,
    /// When calls are stopped for a while.
    pub breaker: Breaker,
}

/// When calls to an account are stopped for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Failures in a row, at least 1.
    pub failures: u32,
    /// How long no call is made.
    pub open_for: Duration,
}

/// A valid configuration and how it came about.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the program needs.
    pub config: Config,
    /// Every value in force, in the order of the documented file, then by account.
    pub effective: Vec<Effective>,
    /// The file that was read.
    pub file: Option<PathBuf>,
}

/// A value in force, for people: secrets are masked. Optional values that were not set are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effective {
    /// Dotted path.
    pub path: String,
    /// The value, masked.
    pub value: String,
    /// Where it was written.
    pub origin: Origin,
}

/// Reads, merges and checks everything. The only files read are the configuration file and
/// the secret files that it or the environment names.
///
/// # Errors
/// All problems at once, in one [`ConfigError`]. A file that cannot be read or is not TOML is the only
/// one, since its values are missing everywhere else.
pub fn load(sources: &Sources, providers: &[&'static dyn Provider]) -> Result<Loaded, ConfigError> {
    let layers = Layers::read(sources).map_err(|problem| ConfigError {
        problems: vec![problem],
    })?;
    let mut loader = Loader::new(&layers, providers);
    let config = loader.config();
    if !loader.problems.is_empty() {
        let problems = loader.problems;
        return Err(ConfigError { problems });
    }
    Ok(Loaded {
        config,
        effective: loader.effective,
        file: layers.file,
    })
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
mod tests;
