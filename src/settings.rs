//! What the operator wrote: the one list of settings, the layers they come from, and their values.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// One setting. Its default, its place in the environment, the check for unknown keys and
/// what is printed all follow from its row in [`FIELDS`], [`ACCOUNT`] or a provider's list.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Dotted path: from the top in [`FIELDS`], below `providers.<name>` elsewhere.
    pub path: &'static str,
    /// What a value has to look like.
    pub form: Form,
    /// As it would be written in the environment; `None`: not set unless the operator does.
    pub default: Option<&'static str>,
    /// A few words for the documented file.
    pub about: &'static str,
}

/// What a value has to look like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Form {
    /// Any text.
    Text,
    /// The name of a queue or an exchange.
    Name,
    /// The same, or empty.
    NameOrNone,
    /// A path, relative to the working directory.
    Path,
    /// A text that is never shown; also as `<key>_file`.
    Secret,
    /// Several of them.
    Secrets,
    /// An address that may hold a password: handled as a secret, shown with that masked.
    Address,
    /// `true` or `false`.
    Flag,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A whole number between two bounds, both included.
    Whole(u64, u64),
    /// A number of at least this.
    Number(f64),
    /// A duration above zero.
    Span,
    /// A duration, also zero.
    SpanOrZero,
    /// An IP address and a port.
    Socket,
    /// Several texts.
    List,
}

const fn field(
    path: &'static str,
    form: Form,
    default: &'static str,
    about: &'static str,
) -> Field {
    Field {
        path,
        form,
        default: Some(default),
        about,
    }
}

const fn unset(path: &'static str, form: Form, about: &'static str) -> Field {
    Field {
        path,
        form,
        default: None,
        about,
    }
}

use Form::{Address, Choice, Flag, Name, NameOrNone, Number, Socket, Span, SpanOrZero, Whole};

/// Every setting of the program, in the order of the documented file. What stands under
/// `defaults.` can be set again in each provider's table.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    field("amqp.url", Address, "amqp://guest:guest@127.0.0.1:5672/%2f", "amqps:// for TLS"),
    unset("amqp.ca_file", Form::Path, "PEM file of the authorities to trust instead of the system's"),
    unset("amqp.cert_file", Form::Path, "PEM file of the client certificate"),
    unset("amqp.key_file", Form::Path, "PEM file of its key"),
    field("amqp.topology", Choice(&["declare", "verify"]), "declare", "verify: passive, refuses to start on a difference and says which"),
    field("amqp.prefetch", Whole(1, 2000), "256", "deliveries held at once before they are in the ledger"),
    field("amqp.reply_to", Flag, "false", "send a copy of each result to the request's reply_to"),
    field("amqp.requests_exchange", Name, "rescind.requests", "where publishers write"),
    field("amqp.requests_queue", Name, "rescind.requests", "where workers read"),
    field("amqp.results_exchange", Name, "rescind.results", "results, corrections and notifications"),
    field("amqp.results_queue", NameOrNone, "rescind.results", "empty: do not declare one"),
    field("amqp.notifications_queue", Name, "rescind.notifications", "provider notifications waiting to be matched"),
    field("amqp.dead_exchange", Name, "rescind.dead", "dead letters"),
    field("amqp.dead_queue", Name, "rescind.dead", "the operators' feed"),
    field("amqp.dropped_exchange", Name, "rescind.dropped", "what the broker itself gave up on"),
    field("amqp.dropped_queue", Name, "rescind.dropped", "its queue"),
    field("ledger.url", Address, "sqlite:rescind.db", "or postgres://user@host/db for several workers"),
    field("ledger.retention", Span, "90d", "finished requests and closed dead letters older than this are removed"),
    field("http.listen", Socket, "127.0.0.1:8620", "/metrics /livez /readyz /notifications/<provider>"),
    field("shutdown.drain", SpanOrZero, "25s", "how long calls under way may take to end"),
    field("log.format", Choice(&["json", "text"]), "json", "RUST_LOG sets levels"),
    field("defaults.connect_timeout", Span, "3s", "to reach a provider"),
    field("defaults.timeout", Span, "20s", "whole exchange"),
    field("defaults.max_in_flight", Whole(1, 100_000), "64", "calls at once to an account"),
    field("defaults.rate_per_second", Number(0.0), "0", "calls begun per second; 0: no limit"),
    field("defaults.retry.first", Span, "2s", "wait before a cancel is sent again"),
    field("defaults.retry.factor", Number(1.0), "2.0", "growth of that wait"),
    field("defaults.retry.max", Span, "10m", "longest wait"),
    field("defaults.retry.give_up_after", Span, "24h", "counted from the first attempt"),
    field("defaults.poll.first", Span, "2s", "wait before a provider is asked again"),
    field("defaults.poll.factor", Number(1.0), "2.0", "growth of that wait"),
    field("defaults.poll.max", Span, "5m", "longest wait"),
    field("defaults.poll.give_up_after", Span, "24h", "counted from the first question"),
    field("defaults.breaker.failures", Whole(1, 1_000_000), "10", "failures in a row that stop calls to an account"),
    field("defaults.breaker.open_for", Span, "30s", "how long they stop"),
];

/// What every provider's table has beside the overridable defaults and its kind's own keys.
#[rustfmt::skip]
pub const ACCOUNT: &[Field] = &[
    unset("kind", Form::Text, "kind of provider"),
    unset("base_url", Form::Text, "address of the provider's API"),
    field("allow_plain_http", Flag, "false", "accept http:// for other than loopback addresses"),
];

/// Variables with the prefix that are no settings.
const OTHER_VARIABLES: &[&str] = &[
    "RESCIND_CONFIG",     // path of the configuration file, read by the command line
    "RESCIND_FAIL_POINT", // named crash point, for the tests of crashes
];

const PREFIX: &str = "RESCIND_";

impl Field {
    /// The paths under which it may be written, below `prefix`.
    pub(crate) fn paths(&self, prefix: &str) -> impl Iterator<Item = String> + use<> {
        let path = format!("{prefix}{}", self.path);
        let file = self.form.is_secret().then(|| format!("{path}_file"));
        std::iter::once(path).chain(file)
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The setting of the same name under `[defaults]`, whatever that one's origin.
    Inherited,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Inherited => f.write_str("[defaults]"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong, in one line: where, what, and what to do. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File, variable or command line; `None` where nothing was written.
    pub origin: Option<Origin>,
    /// Dotted path; empty when the whole file is meant.
    pub path: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            None => write!(f, "{} {}", self.path, self.what),
            Some(Origin::Environment(name)) => write!(f, "{name} {}", self.what),
            Some(origin) if self.path.is_empty() => write!(f, "{origin}: {}", self.what),
            Some(origin) => write!(f, "{origin}: {} {}", self.path, self.what),
        }
    }
}

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Where to look. The caller reads the process environment, nothing here does.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that was asked for; it has to be there.
    pub file: Option<PathBuf>,
    /// Otherwise the first of these that exists; none is fine.
    pub default_files: Vec<PathBuf>,
    /// Name and value of every variable; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Dotted path and value of what the command line sets.
    pub flags: Vec<(String, String)>,
}

/// A value as written.
#[derive(Debug, Clone)]
enum Value {
    /// From the environment or the command line: what it is depends on the setting.
    Loose(SecretString),
    Text(SecretString),
    Whole(i64),
    Number(f64),
    Flag(bool),
    List(Vec<SecretString>),
    /// An empty table.
    Nothing,
    /// Something that no setting takes.
    Odd,
}

#[derive(Debug, Clone)]
struct Written {
    value: Value,
    origin: Origin,
}

type Layer = BTreeMap<String, Written>;

/// All that was written, by dotted path; the layer that wins comes first.
#[derive(Debug)]
pub(crate) struct Layers {
    layers: [Layer; 3],
    pub(crate) file: Option<PathBuf>,
}

impl Layers {
    /// Reads the file and sorts the rest. A file that cannot be used is a problem, and the
    /// other layers are still looked at.
    pub(crate) fn read(sources: &Sources, problems: &mut Vec<Problem>) -> Self {
        let mut file = Layer::new();
        let path = match open(sources) {
            Ok(Some((path, text))) => {
                if let Err(problem) = parse(&path, &text, &mut file) {
                    problems.push(problem);
                }
                Some(path)
            }
            Ok(None) => None,
            Err(problem) => {
                problems.push(problem);
                None
            }
        };
        let flags = sources.flags.iter().map(|(path, value)| {
            let value = Value::Loose(value.as_str().into());
            let origin = Origin::Flag;
            (path.clone(), Written { value, origin })
        });
        let mut layers = Self {
            layers: [flags.collect(), Layer::new(), file],
            file: path,
        };
        layers.layers[1] = environment(&sources.environment, &layers.accounts());
        layers
    }

    /// Names of all accounts that something was written about.
    pub(crate) fn accounts(&self) -> BTreeSet<String> {
        let paths = self.layers.iter().flat_map(Layer::keys);
        paths.filter_map(|p| account_of(p)).collect()
    }

    /// The value of a setting below `prefix`, or `None` where nothing usable was written.
    pub(crate) fn find(
        &self,
        prefix: &str,
        field: &Field,
        problems: &mut Vec<Problem>,
    ) -> Option<Resolved> {
        let paths: Vec<String> = field.paths(prefix).collect();
        for layer in &self.layers {
            let found: Vec<_> = paths.iter().map(|p| (p, layer.get(p))).collect();
            let read = match found.as_slice() {
                [(_, Some(one)), (path, Some(other))] => {
                    let name = match &other.origin {
                        Origin::Environment(name) => name,
                        _ => *path,
                    };
                    let what = format!("and {name} are both given; keep one of them");
                    Err((paths.first(), one, what))
                }
                [(path, Some(one)), ..] => field.form.read(one).map_err(|e| (Some(*path), one, e)),
                [_, (path, Some(one))] => {
                    let read = field.form.read_file(one);
                    read.map_err(|e| (Some(*path), one, e))
                }
                _ => continue,
            };
            return read
                .map_err(|(path, written, what)| {
                    problems.push(Problem {
                        origin: Some(written.origin.clone()),
                        path: path.cloned().unwrap_or_default(),
                        what,
                    });
                })
                .ok();
        }
        None
    }

    /// Where the winning value of a path was written, or one of those below it.
    pub(crate) fn origin(&self, path: &str) -> Option<&Origin> {
        let below = format!("{path}.");
        let exact = self.layers.iter().find_map(|layer| layer.get(path));
        let written = exact.or_else(|| {
            let mut all = self.layers.iter().flatten();
            all.find(|(p, _)| p.starts_with(&below)).map(|(_, w)| w)
        });
        written.map(|written| &written.origin)
    }

    /// Whatever was written under a path that is not in `known`. Accounts in `skipped` are
    /// left out.
    pub(crate) fn unknown(
        &self,
        known: &BTreeSet<String>,
        skipped: &BTreeSet<String>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (path, written) in self.layers.iter().flatten() {
            let skip = account_of(path).is_some_and(|name| skipped.contains(&name));
            let section = format!("{path}.");
            let is_section = known.iter().any(|k| k.starts_with(&section)) || path == "providers";
            let what = match written.value {
                _ if skip || known.contains(path) => continue,
                Value::Nothing if is_section => continue,
                _ if is_section => "is a table; set the keys in it one by one".to_owned(),
                _ => unknown_key(path, &written.origin, known),
            };
            problems.push(Problem {
                origin: Some(written.origin.clone()),
                path: path.clone(),
                what,
            });
        }
        problems
    }
}

fn unknown_key(path: &str, origin: &Origin, known: &BTreeSet<String>) -> String {
    let guess = match origin {
        Origin::Environment(name) => {
            let names: Vec<String> = known.iter().map(|path| variable(path)).collect();
            closest(name, names.iter().map(String::as_str)).map(str::to_owned)
        }
        _ => closest(path, known.iter().map(String::as_str)).map(str::to_owned),
    };
    match guess {
        Some(guess) => format!("is not a setting; did you mean {guess}?"),
        None => "is not a setting; remove it".to_owned(),
    }
}

/// The word that was probably meant. Of dotted paths, the last part may be enough.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_owned();
    let distance = |other: &str| {
        let whole = strsim::damerau_levenshtein(word, other);
        let part = strsim::damerau_levenshtein(&last(word), &last(other)) + 2;
        whole.min(part)
    };
    let allowed = 1 + last(word).len() / 3;
    let measured = candidates.map(|other| (distance(other), other));
    let (best, other) = measured.min_by_key(|(distance, _)| *distance)?;
    (best <= allowed).then_some(other)
}

/// The environment variable of a dotted path.
pub(crate) fn variable(path: &str) -> String {
    let name = path.to_uppercase().replace('.', "__").replace('-', "_");
    format!("{PREFIX}{name}")
}

/// The account that a path is about.
fn account_of(path: &str) -> Option<String> {
    let rest = path.strip_prefix("providers.")?;
    let quoted = rest.strip_prefix('"').and_then(|r| r.split_once('"'));
    let name = quoted.map_or_else(|| rest.split('.').next().unwrap_or(rest), |(name, _)| name);
    Some(name.to_owned())
}

fn environment(variables: &[(String, String)], accounts: &BTreeSet<String>) -> Layer {
    let settings = variables.iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix(PREFIX)?;
        if OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(rest) {
            return None;
        }
        let value = Value::Loose(value.as_str().into());
        let origin = Origin::Environment(name.clone());
        let path = path_of(&rest.to_lowercase(), accounts);
        Some((path, Written { value, origin }))
    });
    settings.collect()
}

/// The dotted path of a variable. The names of known accounts go first: they may hold `-`,
/// which most shells do not allow in a variable, or `__`.
fn path_of(rest: &str, accounts: &BTreeSet<String>) -> String {
    let plain = || rest.replace("__", ".");
    let Some(rest) = rest.strip_prefix("providers__") else {
        return plain();
    };
    let below = |name: &String, spelled: &str| {
        let key = rest.strip_prefix(spelled)?.strip_prefix("__")?;
        Some(format!("providers.{name}.{}", key.replace("__", ".")))
    };
    let mut names: Vec<_> = accounts.iter().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let exact = names.iter().find_map(|name| below(name, name));
    exact
        .or_else(|| names.iter().find_map(|n| below(n, &n.replace('-', "_"))))
        .unwrap_or_else(plain)
}

/// Kubernetes puts the addresses of each service into the environment; of a service called
/// `rescind` they start with the prefix. A setting always has `__` in its name.
fn is_service_link(rest: &str) -> bool {
    let port = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let rest = format!("_{rest}");
    !rest.contains("__")
        && (rest.ends_with("_SERVICE_HOST")
            || rest.contains("_SERVICE_PORT")
            || rest.ends_with("_PORT")
            || rest.split("_PORT_").skip(1).any(port))
}

fn open(sources: &Sources) -> Result<Option<(PathBuf, String)>, Problem> {
    let unreadable = |path: &Path, reason: String| Problem {
        origin: Some(Origin::File(path.to_owned())),
        path: String::new(),
        what: reason,
    };
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|e| unreadable(path, format!("cannot be read: {e}")))?;
        return Ok(Some((path.clone(), text)));
    }
    for path in &sources.default_files {
        match std::fs::read_to_string(path) {
            Ok(text) => return Ok(Some((path.clone(), text))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(unreadable(path, format!("cannot be read: {e}"))),
        }
    }
    Ok(None)
}

/// Parses the file. The parser's own error shows the line, which may hold a secret, so only
/// its number and the message are given.
fn parse(path: &Path, text: &str, layer: &mut Layer) -> Result<(), Problem> {
    let origin = Origin::File(path.to_owned());
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        Problem {
            origin: Some(origin.clone()),
            path: String::new(),
            what: format!("line {line}: is not TOML: {}", error.message()),
        }
    })?;
    flatten("", table, &origin, layer);
    Ok(())
}

fn flatten(prefix: &str, table: toml::Table, origin: &Origin, layer: &mut Layer) {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    for (key, value) in table {
        let path = if !key.is_empty() && key.chars().all(bare) {
            format!("{prefix}{key}")
        } else {
            format!("{prefix}\"{key}\"")
        };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => {
                flatten(&format!("{path}."), inner, origin, layer);
            }
            value => {
                let value = Value::from(value);
                let origin = origin.clone();
                layer.insert(path, Written { value, origin });
            }
        }
    }
}

impl From<toml::Value> for Value {
    fn from(value: toml::Value) -> Self {
        let text = |value| match value {
            toml::Value::String(text) => Some(SecretString::from(text)),
            _ => None,
        };
        match value {
            toml::Value::String(text) => Self::Text(text.into()),
            toml::Value::Integer(n) => Self::Whole(n),
            toml::Value::Float(n) => Self::Number(n),
            toml::Value::Boolean(b) => Self::Flag(b),
            toml::Value::Array(items) => {
                let items: Option<_> = items.into_iter().map(text).collect();
                items.map_or(Self::Odd, Self::List)
            }
            toml::Value::Table(_) => Self::Nothing,
            toml::Value::Datetime(_) => Self::Odd,
        }
    }
}

/// A value that was understood.
#[derive(Debug, Clone)]
pub(crate) enum Parsed {
    Text(String),
    List(Vec<String>),
    Secret(Vec<SecretString>),
    Flag(bool),
    Whole(u64),
    Number(f64),
    Span(Duration),
    Socket(SocketAddr),
}

/// A value that was understood and where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) value: Parsed,
    pub(crate) origin: Origin,
    /// The file that a secret was read from.
    pub(crate) secret_file: Option<PathBuf>,
}

impl Resolved {
    /// The built-in value of a setting.
    pub(crate) fn default(field: &Field) -> Option<Self> {
        Some(Self {
            value: field.form.parse(field.default?).ok()?,
            origin: Origin::Default,
            secret_file: None,
        })
    }

    /// For people; no secret in it.
    pub(crate) fn shown(&self, form: Form) -> String {
        let value = match &self.value {
            Parsed::Text(text) => text.clone(),
            Parsed::List(items) => items.join(","),
            Parsed::Secret(secrets) => match (form, secrets.as_slice()) {
                (Form::Address, [one]) => masked(one.expose_secret()),
                _ => vec!["***"; secrets.len()].join(","),
            },
            Parsed::Flag(flag) => flag.to_string(),
            Parsed::Whole(n) => n.to_string(),
            Parsed::Number(n) => n.to_string(),
            Parsed::Span(span) => span_text(*span),
            Parsed::Socket(socket) => socket.to_string(),
        };
        match &self.secret_file {
            Some(file) => format!("{value} (from {})", file.display()),
            None => value,
        }
    }
}

/// An address without its password. A query may hold one as well.
fn masked(address: &str) -> String {
    if address.starts_with("sqlite:") {
        return address.to_owned();
    }
    let Ok(mut url) = url::Url::parse(address) else {
        return "***".to_owned();
    };
    if url.password().is_some() && url.set_password(Some("***")).is_err() {
        return "***".to_owned();
    }
    if url.query().is_some() {
        url.set_query(Some("***"));
    }
    url.to_string()
}

const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// Longest duration taken: a century, in milliseconds. Longer ones overflow clocks.
const CENTURY: u64 = 36_525 * 86_400_000;

fn span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let millis = number.parse::<u64>().ok()?.checked_mul(*unit)?;
    (millis <= CENTURY).then(|| Duration::from_millis(millis))
}

fn span_text(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let whole = |(_, unit): &&(&str, u64)| millis > 0 && millis.is_multiple_of(*unit);
    match UNITS.iter().find(whole) {
        Some((name, unit)) => format!("{}{name}", millis / unit),
        None => "0s".to_owned(),
    }
}

impl Form {
    /// Secrets are never shown and may stand in a file of their own.
    pub fn is_secret(self) -> bool {
        matches!(self, Self::Secret | Self::Secrets | Self::Address)
    }

    fn is_many(self) -> bool {
        matches!(self, Self::Secrets | Self::List)
    }

    /// What a value has to be, as the end of the sentence "it must be …".
    fn expected(self) -> String {
        match self {
            Self::Text | Self::Path | Self::Secret | Self::Address => "a text in quotes, not empty",
            Self::Name => "a name of 1 to 255 bytes that does not start with amq.",
            Self::NameOrNone => "empty or a name of up to 255 bytes that does not start with amq.",
            Self::Secrets | Self::List => "a list of texts, none of them empty",
            Self::Flag => "true or false",
            Self::Choice(words) => return words.join(" or "),
            Self::Whole(least, most) => return format!("a whole number from {least} to {most}"),
            Self::Number(least) => return format!("a number of at least {least}"),
            Self::Span => {
                "a duration above zero such as \"250ms\", \"2s\", \"10m\", \"24h\", \"90d\""
            }
            Self::SpanOrZero => "a duration such as \"0s\", \"250ms\", \"2s\", \"10m\", \"24h\"",
            Self::Socket => "an IP address and a port, e.g. \"127.0.0.1:8620\"",
        }
        .to_owned()
    }

    fn read(self, written: &Written) -> Result<Resolved, String> {
        let wrong = || format!("must be {}", self.expected());
        let value = match (self, &written.value) {
            (_, Value::Loose(text)) => self.parse(text.expose_secret())?,
            (_, Value::List(items)) if self.is_many() => self.list(items.clone())?,
            (Self::Flag, Value::Flag(flag)) => Parsed::Flag(*flag),
            (Self::Whole(..) | Self::Number(_), Value::Whole(n)) => self.parse(&n.to_string())?,
            (Self::Number(_), Value::Number(n)) => self.parse(&n.to_string())?,
            (Self::Flag | Self::Whole(..) | Self::Number(_), _) => return Err(wrong()),
            (_, Value::Text(text)) if !self.is_many() => self.parse(text.expose_secret())?,
            _ => return Err(wrong()),
        };
        Ok(Resolved {
            value,
            origin: written.origin.clone(),
            secret_file: None,
        })
    }

    /// Reads a secret from the file that was written instead of it. Of several secrets each
    /// has a line.
    fn read_file(self, written: &Written) -> Result<Resolved, String> {
        let (Value::Loose(path) | Value::Text(path)) = &written.value else {
            return Err("must be the path of a file, in quotes".to_owned());
        };
        let path = PathBuf::from(path.expose_secret());
        let text = std::fs::read_to_string(&path)
            .map_err(|e| format!("names {}, which cannot be read: {e}", path.display()))?;
        let text = text.trim_end_matches(['\r', '\n']);
        let empty = || format!("names {}, which is empty", path.display());
        let value = if self.is_many() {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            self.list(lines.map(SecretString::from).collect())
        } else {
            self.parse(text)
        };
        Ok(Resolved {
            value: value.map_err(|_| empty())?,
            origin: written.origin.clone(),
            secret_file: Some(path),
        })
    }

    fn list(self, items: Vec<SecretString>) -> Result<Parsed, String> {
        if items.is_empty() || items.iter().any(|item| item.expose_secret().is_empty()) {
            return Err(format!("must be {}", self.expected()));
        }
        Ok(match self {
            Self::Secrets => Parsed::Secret(items),
            _ => Parsed::List(items.iter().map(|i| i.expose_secret().to_owned()).collect()),
        })
    }

    /// Understands a text by the setting's form. The error shows the text only where it can
    /// hold no secret.
    fn parse(self, text: &str) -> Result<Parsed, String> {
        let name = |text: &str| text.len() <= 255 && !text.starts_with("amq.");
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let parsed = match self {
            Self::Secrets | Self::List => {
                return self.list(text.split(',').map(|item| item.trim().into()).collect());
            }
            Self::Text | Self::Path => some(text).map(Parsed::Text),
            Self::Secret | Self::Address => some(text).map(|t| Parsed::Secret(vec![t.into()])),
            Self::NameOrNone => name(text).then(|| Parsed::Text(text.to_owned())),
            Self::Name => some(text).filter(|t| name(t)).map(Parsed::Text),
            Self::Flag => text.parse().ok().map(Parsed::Flag),
            Self::Choice(words) => words.contains(&text).then(|| Parsed::Text(text.to_owned())),
            Self::Whole(least, most) => {
                let number = text.parse().ok().filter(|n| (least..=most).contains(n));
                number.map(Parsed::Whole)
            }
            Self::Number(least) => {
                let number = text.parse::<f64>().ok();
                let number = number.filter(|n| n.is_finite() && *n >= least);
                number.map(Parsed::Number)
            }
            Self::Span => span(text).filter(|s| !s.is_zero()).map(Parsed::Span),
            Self::SpanOrZero => span(text).map(Parsed::Span),
            Self::Socket => text.parse().ok().map(Parsed::Socket),
        };
        parsed.ok_or_else(|| self.refuse(text))
    }

    fn refuse(self, text: &str) -> String {
        let harmless = !self.is_secret() && !matches!(self, Self::Text | Self::Path);
        let expected = self.expected();
        if harmless {
            let start: String = text.chars().take(40).collect();
            format!("must be {expected}, not {start:?}")
        } else {
            format!("must be {expected}")
        }
    }
}

/// The values of the settings of one table, by path.
#[derive(Debug, Default)]
pub(crate) struct Values(pub(crate) BTreeMap<&'static str, Resolved>);

impl Values {
    fn get(&self, path: &str) -> Option<&Parsed> {
        self.0.get(path).map(|resolved| &resolved.value)
    }

    pub(crate) fn optional(&self, path: &str) -> Option<String> {
        match self.get(path)? {
            Parsed::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.optional(path).unwrap_or_default()
    }

    pub(crate) fn path(&self, path: &str) -> Option<PathBuf> {
        self.optional(path).map(PathBuf::from)
    }

    pub(crate) fn secret(&self, path: &str) -> SecretString {
        match self.get(path) {
            Some(Parsed::Secret(secrets)) => secrets.first().cloned().unwrap_or_default(),
            _ => SecretString::default(),
        }
    }

    pub(crate) fn flag(&self, path: &str) -> bool {
        matches!(self.get(path), Some(Parsed::Flag(true)))
    }

    pub(crate) fn whole<T: TryFrom<u64> + Default>(&self, path: &str) -> T {
        match self.get(path) {
            Some(Parsed::Whole(n)) => T::try_from(*n).unwrap_or_default(),
            _ => T::default(),
        }
    }

    pub(crate) fn number(&self, path: &str) -> f64 {
        match self.get(path) {
            Some(Parsed::Number(n)) => *n,
            _ => 0.0,
        }
    }

    pub(crate) fn span(&self, path: &str) -> Duration {
        match self.get(path) {
            Some(Parsed::Span(span)) => *span,
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn socket(&self, path: &str) -> SocketAddr {
        match self.get(path) {
            Some(Parsed::Socket(socket)) => *socket,
            _ => SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}
