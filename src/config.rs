//! The configuration: what the program needs, checked as a whole before anything starts.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use crate::backoff::Schedule;
pub use crate::layers::{ConfigError, Origin, Problem, Sources};
use crate::layers::{Layers, closest};
use crate::providers::{Account, Provider, Setting};
pub use crate::settings::{ACCOUNT, FIELDS, Field, Form};
use crate::settings::{Parsed, Resolved, Values};

mod check;
mod documented;

pub use documented::default_toml;

/// Everything the program was told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The broker and the names on it.
    pub amqp: Amqp,
    /// The ledger.
    pub ledger: Ledger,
    /// The worker's own HTTP server.
    pub http: Http,
    /// How to stop.
    pub shutdown: Shutdown,
    /// How to log.
    pub log: Log,
    /// The accounts at providers, by name.
    pub accounts: BTreeMap<String, AccountConfig>,
}

/// The broker and the names on it.
#[derive(Debug, Clone)]
pub struct Amqp {
    /// `amqp://` or `amqps://`, with credentials.
    pub url: SecretString,
    /// Other nodes of the same cluster.
    pub further_urls: Vec<SecretString>,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate; given together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
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
    /// What the broker itself gave up on.
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
    /// PEM file of the authorities to trust instead of the system's, for PostgreSQL.
    pub ca_file: Option<PathBuf>,
    /// PEM file of the client certificate; given together with `key_file`.
    pub cert_file: Option<PathBuf>,
    /// PEM file of its key.
    pub key_file: Option<PathBuf>,
    /// Finished requests and closed dead letters older than this are removed.
    pub retention: Duration,
}

/// The worker's own HTTP server.
#[derive(Debug, Clone)]
pub struct Http {
    /// Address to listen on.
    pub listen: SocketAddr,
}

/// How to stop.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// How long calls under way may take to end.
    pub drain: Duration,
}

/// How to log.
#[derive(Debug, Clone)]
pub struct Log {
    /// Form of a line.
    pub format: LogFormat,
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
#[derive(Clone)]
pub struct AccountConfig {
    /// The adapter of its kind.
    pub provider: &'static dyn Provider,
    /// Name, address and credentials.
    pub account: Account,
    /// PEM file of the authorities to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// To reach the provider.
    pub connect_timeout: Duration,
    /// Whole exchange.
    pub timeout: Duration,
    /// Calls at once, at least 1.
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

impl fmt::Debug for AccountConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccountConfig")
            .field("kind", &self.provider.kind())
            .field("account", &self.account)
            .field("ca_file", &self.ca_file)
            .field("connect_timeout", &self.connect_timeout)
            .field("timeout", &self.timeout)
            .field("max_in_flight", &self.max_in_flight)
            .field("rate_per_second", &self.rate_per_second)
            .field("retry", &self.retry)
            .field("poll", &self.poll)
            .field("breaker", &self.breaker)
            .finish()
    }
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

/// A value in force, for people: secrets are masked. What is optional and was not set is
/// left out.
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
/// All problems at once, in one [`ConfigError`]. A file that cannot be read or is not TOML
/// is the only one, since what it was to say is missing everywhere else.
pub fn load(sources: &Sources, providers: &[&'static dyn Provider]) -> Result<Loaded, ConfigError> {
    let layers = Layers::read(sources).map_err(|problem| ConfigError {
        problems: vec![problem],
    })?;
    let mut loader = Loader {
        layers: &layers,
        problems: Vec::new(),
        effective: Vec::new(),
        known: BTreeSet::new(),
    };
    let values = loader.values("", FIELDS.iter().copied(), None);
    let config = loader.config(&values, providers);
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

struct Loader<'a> {
    layers: &'a Layers,
    problems: Vec<Problem>,
    effective: Vec<Effective>,
    /// Every path that is a setting here.
    known: BTreeSet<String>,
}

impl Loader<'_> {
    /// The values of the fields of one table. What was not written, or cannot be used,
    /// is inherited or has its default, so that the checks can go on.
    fn values(
        &mut self,
        prefix: &str,
        fields: impl Iterator<Item = Field>,
        defaults: Option<&Values>,
    ) -> Values {
        let mut values = Values::default();
        for field in fields {
            self.known.extend(field.paths(prefix));
            let written = self.layers.find(prefix, &field, &mut self.problems);
            let inherited = || defaults.and_then(|defaults| inherited(defaults, &field));
            let resolved = written
                .or_else(inherited)
                .or_else(|| Resolved::default(&field));
            let Some(resolved) = resolved else { continue };
            self.effective.push(Effective {
                path: format!("{prefix}{}", field.path),
                value: resolved.shown(field.form),
                origin: resolved.origin.clone(),
            });
            values.0.insert(field.path, resolved);
        }
        values
    }

    fn problem(&mut self, path: &str, what: impl Into<String>) {
        self.problems.push(Problem {
            origin: self.layers.origin(path).cloned(),
            path: path.to_owned(),
            what: what.into(),
        });
    }

    fn config(&mut self, values: &Values, providers: &[&'static dyn Provider]) -> Config {
        let mut skipped = BTreeSet::new();
        let mut accounts = BTreeMap::new();
        for name in self.layers.accounts() {
            match self.account(&name, values, providers) {
                Some(account) => {
                    accounts.insert(name, account);
                }
                None => {
                    skipped.insert(name);
                }
            }
        }
        self.problems
            .extend(self.layers.unknown(&self.known, &skipped));
        let config = Config {
            amqp: amqp(values),
            ledger: Ledger {
                url: values.secret("ledger.url"),
                ca_file: values.path("ledger.ca_file"),
                cert_file: values.path("ledger.cert_file"),
                key_file: values.path("ledger.key_file"),
                retention: values.span("ledger.retention"),
            },
            http: Http {
                listen: values.socket("http.listen"),
            },
            shutdown: Shutdown {
                drain: values.span("shutdown.drain"),
            },
            log: Log {
                format: match values.text("log.format").as_str() {
                    "text" => LogFormat::Text,
                    _ => LogFormat::Json,
                },
            },
            accounts,
        };
        self.check_amqp(&config.amqp);
        self.check_ledger(&config.ledger);
        self.check_schedules("defaults.", values, "defaults.", None);
        config
    }

    fn account(
        &mut self,
        name: &str,
        defaults: &Values,
        providers: &[&'static dyn Provider],
    ) -> Option<AccountConfig> {
        let path = format!("providers.{name}");
        if !check::is_account_name(name) {
            self.problem(
                &path,
                "is no account name; use 1 to 64 of a-z, 0-9, _ and -",
            );
            return None;
        }
        let prefix = format!("{path}.");
        let provider = self.provider(&prefix, providers)?;
        let settings = provider.settings();
        let before = self.problems.len();
        let values = self.values(&prefix, account_fields(settings), Some(defaults));
        self.check_schedules(&prefix, &values, "", Some(defaults));
        self.check_presence(&prefix, &values, settings);
        let account = Account {
            name: name.to_owned(),
            base_url: self.base_url(&prefix, &values),
            plain: plain(&values, settings),
            secrets: secrets(&values, settings),
        };
        if self.problems.len() == before
            && let Err(what) = provider.check(&account)
        {
            self.problem(&path, format!("cannot be used: {what}"));
        }
        Some(account_config(provider, account, &values))
    }

    fn provider(
        &mut self,
        prefix: &str,
        providers: &[&'static dyn Provider],
    ) -> Option<&'static dyn Provider> {
        let path = format!("{prefix}kind");
        let field = ACCOUNT.iter().find(|field| field.path == "kind")?;
        let kinds: Vec<&str> = providers.iter().map(|p| p.kind()).collect();
        let before = self.problems.len();
        let found = self.layers.find(prefix, field, &mut self.problems);
        let Some(Parsed::Text(kind)) = found.map(|resolved| resolved.value) else {
            if self.problems.len() == before {
                let what = format!("is missing; set one of {}", kinds.join(", "));
                self.problem(&path, what);
            }
            return None;
        };
        let provider = providers.iter().find(|p| p.kind() == kind).copied();
        if provider.is_none() {
            let what = match closest(&kind, kinds.iter().copied()) {
                Some(guess) => format!("= {kind:?} is not a kind; did you mean {guess:?}?"),
                None => format!("= {kind:?} is not a kind; use one of {}", kinds.join(", ")),
            };
            self.problem(&path, what);
        }
        provider
    }
}

fn inherited(defaults: &Values, field: &Field) -> Option<Resolved> {
    let path = format!("defaults.{}", field.path);
    let resolved = defaults.0.get(path.as_str())?.clone();
    Some(match resolved.origin {
        Origin::Default => resolved,
        _ => Resolved {
            origin: Origin::Inherited,
            ..resolved
        },
    })
}

/// Everything that may stand in the table of an account.
fn account_fields(settings: &'static [Setting]) -> impl Iterator<Item = Field> {
    let shared = FIELDS.iter().filter_map(|field| {
        let path = field.path.strip_prefix("defaults.")?;
        Some(Field { path, ..*field })
    });
    let own = settings.iter().map(as_field);
    ACCOUNT.iter().copied().chain(own).chain(shared)
}

fn account_config(
    provider: &'static dyn Provider,
    account: Account,
    values: &Values,
) -> AccountConfig {
    AccountConfig {
        provider,
        account,
        ca_file: values.path("ca_file"),
        connect_timeout: values.span("connect_timeout"),
        timeout: values.span("timeout"),
        max_in_flight: values.whole("max_in_flight"),
        rate_per_second: values.number("rate_per_second"),
        retry: schedule(values, "retry"),
        poll: schedule(values, "poll"),
        breaker: Breaker {
            failures: values.whole("breaker.failures"),
            open_for: values.span("breaker.open_for"),
        },
    }
}

fn as_field(setting: &Setting) -> Field {
    Field {
        path: setting.key,
        form: match (setting.secret, setting.many) {
            (true, true) => Form::Secrets,
            (true, false) => Form::Secret,
            (false, true) => Form::List,
            (false, false) => Form::TextOrNone,
        },
        default: None,
        about: "",
    }
}

fn plain(values: &Values, settings: &[Setting]) -> BTreeMap<String, String> {
    let given = settings.iter().filter_map(|setting| {
        let value = match &values.0.get(setting.key)?.value {
            Parsed::Text(text) => text.clone(),
            Parsed::List(items) => items.join(","),
            _ => return None,
        };
        Some((setting.key.to_owned(), value))
    });
    given.collect()
}

fn secrets(values: &Values, settings: &[Setting]) -> BTreeMap<String, Vec<SecretString>> {
    let given = settings.iter().filter_map(|setting| {
        let Parsed::Secret(secrets) = &values.0.get(setting.key)?.value else {
            return None;
        };
        Some((setting.key.to_owned(), secrets.clone()))
    });
    given.collect()
}

fn schedule(values: &Values, path: &str) -> Schedule {
    Schedule {
        first: values.span(&format!("{path}.first")),
        factor: values.number(&format!("{path}.factor")),
        max: values.span(&format!("{path}.max")),
        give_up_after: values.span(&format!("{path}.give_up_after")),
    }
}

fn amqp(values: &Values) -> Amqp {
    Amqp {
        url: values.secret("amqp.url"),
        further_urls: values.secrets("amqp.further_urls"),
        ca_file: values.path("amqp.ca_file"),
        cert_file: values.path("amqp.cert_file"),
        key_file: values.path("amqp.key_file"),
        topology: match values.text("amqp.topology").as_str() {
            "verify" => TopologyMode::Verify,
            _ => TopologyMode::Declare,
        },
        prefetch: values.whole("amqp.prefetch"),
        max_unpublished: values.whole("amqp.max_unpublished"),
        reply_to: values.flag("amqp.reply_to"),
        requests_exchange: values.text("amqp.requests_exchange"),
        requests_queue: values.text("amqp.requests_queue"),
        results_exchange: values.text("amqp.results_exchange"),
        results_queue: values.text("amqp.results_queue"),
        notifications_queue: values.text("amqp.notifications_queue"),
        dead_exchange: values.text("amqp.dead_exchange"),
        dead_queue: values.text("amqp.dead_queue"),
        dropped_exchange: values.text("amqp.dropped_exchange"),
        dropped_queue: values.text("amqp.dropped_queue"),
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on has failed"
)]
mod tests;
