//! From the layers to the configuration: each table's values, each account, and every mistake.

use std::collections::{BTreeMap, BTreeSet};

use secrecy::SecretString;

use super::{
    AccountConfig, Amqp, Breaker, Config, Effective, Ledger, LogFormat, TlsFiles, TopologyMode,
};
use crate::backoff::Schedule;
use crate::job::{UNKNOWN_PROVIDER, is_account_name};
use crate::layers::{Layers, closest};
use crate::problem::{Origin, Problem};
use crate::providers::{Account, Provider, Setting};
use crate::settings::{ACCOUNT, FIELDS, Field, Form, Parsed, Resolved, Values};

/// The values that were read so far, and the problems found in them.
pub(super) struct Loader<'a> {
    pub(super) layers: &'a Layers,
    providers: &'a [&'static dyn Provider],
    pub(super) problems: Vec<Problem>,
    pub(super) effective: Vec<Effective>,
    /// Every path that is a setting here.
    known: BTreeSet<String>,
}

impl<'a> Loader<'a> {
    pub(super) fn new(layers: &'a Layers, providers: &'a [&'static dyn Provider]) -> Self {
        Self {
            layers,
            providers,
            problems: Vec::new(),
            effective: Vec::new(),
            known: BTreeSet::new(),
        }
    }

    /// The values of the fields of one table. A value that was not written, or cannot be used, is
    /// inherited or has its default, so that the checks can go on.
    fn values(
        &mut self,
        prefix: &str,
        fields: impl Iterator<Item = Field>,
        defaults: Option<&Values>,
    ) -> Values {
        let mut values = Values::default();
        for field in fields {
            let (path, file_path) = field.paths(prefix);
            self.known.insert(path.clone());
            self.known.extend(file_path);
            let written = self.layers.find(prefix, &field, &mut self.problems);
            let inherited = || defaults.and_then(|defaults| inherited(defaults, &field));
            let resolved = written
                .or_else(inherited)
                .or_else(|| Resolved::default(&field));
            let Some(resolved) = resolved else { continue };
            self.effective.push(Effective {
                path,
                value: resolved.shown(field.form),
                origin: resolved.origin.clone(),
            });
            values.0.insert(field.path, resolved);
        }
        values
    }

    pub(super) fn problem(&mut self, path: &str, what: impl Into<String>) {
        self.problems.push(Problem {
            origin: self.layers.origin(path).cloned(),
            path: path.to_owned(),
            what: what.into(),
        });
    }

    pub(super) fn config(&mut self) -> Config {
        let values = &self.values("", FIELDS.iter().copied(), None);
        let accounts = self.accounts(values);
        let config = Config {
            amqp: amqp(values),
            ledger: ledger(values),
            listen: values.socket("http.listen"),
            drain: values.span("shutdown.drain"),
            log_format: match values.text("log.format").as_str() {
                "text" => LogFormat::Text,
                _ => LogFormat::Json,
            },
            accounts,
        };
        self.check_amqp(&config.amqp);
        self.check_ledger(&config.ledger);
        self.check_schedules("defaults.", values, "defaults.", None);
        config
    }

    fn accounts(&mut self, defaults: &Values) -> BTreeMap<String, AccountConfig> {
        let (mut accounts, mut skipped) = (BTreeMap::new(), BTreeSet::new());
        for name in self.layers.accounts() {
            match self.account(&name, defaults) {
                Some(account) => {
                    accounts.insert(name, account);
                }
                None => {
                    skipped.insert(name);
                }
            }
        }
        let unknown = self.layers.unknown(&self.known, &skipped);
        self.problems.extend(unknown);
        accounts
    }

    fn account(&mut self, name: &str, defaults: &Values) -> Option<AccountConfig> {
        let path = format!("providers.{name}");
        if let Err(what) = check_name(name) {
            self.problem(&path, what);
            return None;
        }
        let prefix = format!("{path}.");
        let adapter = self.adapter(&prefix)?;
        let settings = adapter.settings();
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
            && let Err(what) = adapter.check(&account)
        {
            self.problem(&path, format!("cannot be used: {what}"));
        }
        Some(account_config(adapter, account, &values))
    }

    fn adapter(&mut self, prefix: &str) -> Option<&'static dyn Provider> {
        let path = format!("{prefix}kind");
        let field = ACCOUNT.iter().find(|field| field.path == "kind")?;
        let kinds: Vec<&str> = self.providers.iter().map(|p| p.kind()).collect();
        let before = self.problems.len();
        let found = self.layers.find(prefix, field, &mut self.problems);
        let Some(Parsed::Text(kind)) = found.map(|resolved| resolved.value) else {
            if self.problems.len() == before {
                let what = format!("is missing; set one of {}", kinds.join(", "));
                self.problem(&path, what);
            }
            return None;
        };
        let mut providers = self.providers.iter().copied();
        let adapter = providers.find(|p| p.kind() == kind);
        if adapter.is_none() {
            let what = match closest(&kind, kinds.iter().copied()) {
                Some(guess) => format!("= {kind:?} is not a kind; did you mean {guess:?}?"),
                None => format!("= {kind:?} is not a kind; use one of {}", kinds.join(", ")),
            };
            self.problem(&path, what);
        }
        adapter
    }
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if !is_account_name(name) {
        return Err("is not a valid account name; use 1 to 64 of a-z, 0-9, _ and -");
    }
    if name == UNKNOWN_PROVIDER {
        return Err("is what metrics call every account that is not configured; use another name");
    }
    Ok(())
}

fn inherited(defaults: &Values, field: &Field) -> Option<Resolved> {
    let path = format!("defaults.{}", field.path);
    let mut resolved = defaults.0.get(path.as_str())?.clone();
    if resolved.origin != Origin::Default {
        resolved.origin = Origin::Inherited;
    }
    Some(resolved)
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
    adapter: &'static dyn Provider,
    account: Account,
    values: &Values,
) -> AccountConfig {
    AccountConfig {
        adapter,
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

pub(super) fn schedule(values: &Values, path: &str) -> Schedule {
    Schedule {
        first: values.span(&format!("{path}.first")),
        factor: values.number(&format!("{path}.factor")),
        max: values.span(&format!("{path}.max")),
        give_up_after: values.span(&format!("{path}.give_up_after")),
    }
}

fn tls_files(values: &Values, table: &str) -> TlsFiles {
    TlsFiles {
        ca: values.path(&format!("{table}.ca_file")),
        cert: values.path(&format!("{table}.cert_file")),
        key: values.path(&format!("{table}.key_file")),
    }
}

fn amqp(values: &Values) -> Amqp {
    Amqp {
        url: values.secret("amqp.url"),
        further_urls: values.secrets("amqp.further_urls"),
        files: tls_files(values, "amqp"),
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

fn ledger(values: &Values) -> Ledger {
    Ledger {
        url: values.secret("ledger.url"),
        files: tls_files(values, "ledger"),
        retention: values.span("ledger.retention"),
    }
}
