//! The one list of settings, and how a value of each is read and shown. Pure.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::problem::Origin;
pub(crate) use values::Values;

mod values;

/// One setting. Its default, its variable, the check for unknown keys and the printed value all follow
/// from its row in [`FIELDS`], [`ACCOUNT`] or a provider's list.
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
    /// The same, or empty: a provider's setting may be switched off that way.
    TextOrNone,
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
    unset("amqp.further_urls", Form::Secrets, "other nodes of the same cluster; each connection starts at a random node and tries all"),
    unset("amqp.ca_file", Form::Path, "PEM file of the authorities to trust instead of the system's"),
    unset("amqp.cert_file", Form::Path, "PEM file of the client certificate"),
    unset("amqp.key_file", Form::Path, "PEM file of its key"),
    field("amqp.topology", Choice(&["declare", "verify"]), "declare", "verify: passive, refuses to start on a difference and says which"),
    field("amqp.prefetch", Whole(1, 2000), "256", "deliveries held at once before they are in the ledger"),
    field("amqp.max_unpublished", Whole(1, 1_000_000_000), "50000", "messages waiting for the broker; beyond, nothing is taken in or begun"),
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
    field("ledger.url", Address, "sqlite:rescind.db", "sqlite:PATH, one worker; postgres://user@host/db, several"),
    unset("ledger.ca_file", Form::Path, "PostgreSQL: PEM file of the authorities to trust instead of the system's"),
    unset("ledger.cert_file", Form::Path, "PEM file of the client certificate"),
    unset("ledger.key_file", Form::Path, "PEM file of its key"),
    field("ledger.retention", Span, "90d", "finished requests and closed dead letters older than this are removed"),
    field("http.listen", Socket, "127.0.0.1:8620", "/metrics /livez /readyz /notifications/<provider>"),
    field("shutdown.drain", SpanOrZero, "25s", "longest time for a stop; calls have all but the last 5s of it"),
    field("log.format", Choice(&["json", "text"]), "json", "RUST_LOG sets levels"),
    unset("defaults.ca_file", Form::Path, "PEM file of the authorities to trust instead of the system's"),
    field("defaults.connect_timeout", Span, "3s", "to reach a provider"),
    field("defaults.timeout", Span, "20s", "whole exchange"),
    field("defaults.max_in_flight", Whole(0, 100_000), "64", "calls at once to an account; 0: none begins"),
    field("defaults.rate_per_second", Number(0.0), "0", "calls begun per second; 0: no limit"),
    field("defaults.retry.first", Span, "2s", "wait before a cancel, or the look-up before it, is sent again"),
    field("defaults.retry.factor", Number(1.0), "2.0", "growth of that wait"),
    field("defaults.retry.max", Span, "10m", "longest wait"),
    field("defaults.retry.give_up_after", Span, "24h", "counted from the first time it had to be sent again"),
    field("defaults.poll.first", Span, "2s", "wait before a provider is asked again"),
    field("defaults.poll.factor", Number(1.0), "2.0", "growth of that wait"),
    field("defaults.poll.max", Span, "5m", "longest wait"),
    field("defaults.poll.give_up_after", Span, "24h", "counted from the first time the provider had to be asked"),
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

impl Field {
    /// The path under which it is written, below `prefix`, and that of the file of a secret.
    pub(crate) fn paths(&self, prefix: &str) -> (String, Option<String>) {
        let path = format!("{prefix}{}", self.path);
        let file = self.form.is_secret().then(|| format!("{path}_file"));
        (path, file)
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

pub(crate) fn span(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, unit) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let millis = number.parse::<u64>().ok()?.checked_mul(*unit)?;
    (millis <= CENTURY).then(|| Duration::from_millis(millis))
}

/// In the largest unit that divides it; up to a day in hours, as people write it.
fn span_text(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let whole = |(name, unit): &&(&str, u64)| {
        let day = *name == "d" && millis <= *unit;
        millis > 0 && millis.is_multiple_of(*unit) && !day
    };
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

    pub(crate) fn is_many(self) -> bool {
        matches!(self, Self::Secrets | Self::List)
    }

    /// What a value has to be, as the end of the sentence "it must be …".
    pub(crate) fn expected(self) -> String {
        match self {
            Self::Text | Self::Path | Self::Secret | Self::Address => {
                "a non-empty string in quotes"
            }
            Self::Name => "a name of 1 to 255 bytes that does not start with amq.",
            Self::TextOrNone => "a string in quotes",
            Self::NameOrNone => "empty or a name of up to 255 bytes that does not start with amq.",
            Self::Secrets | Self::List => "a list of non-empty strings",
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

    pub(crate) fn list(self, items: Vec<SecretString>) -> Result<Parsed, String> {
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
    pub(crate) fn parse(self, text: &str) -> Result<Parsed, String> {
        let name = |text: &str| text.len() <= 255 && !text.starts_with("amq.");
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let parsed = match self {
            Self::Secrets | Self::List => {
                return self.list(text.split(',').map(|item| item.trim().into()).collect());
            }
            Self::Text | Self::Path => some(text).map(Parsed::Text),
            Self::TextOrNone => Some(Parsed::Text(text.to_owned())),
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
                let number = text.parse().ok().filter(|n| (least..=f64::MAX).contains(n));
                number.map(Parsed::Number)
            }
            Self::Span => span(text).filter(|s| !s.is_zero()).map(Parsed::Span),
            Self::SpanOrZero => span(text).map(Parsed::Span),
            Self::Socket => text.parse().ok().map(Parsed::Socket),
        };
        parsed.ok_or_else(|| self.refuse(text))
    }

    fn refuse(self, text: &str) -> String {
        let wrong = format!("must be {}", self.expected());
        if self.is_secret() || matches!(self, Self::Text | Self::TextOrNone | Self::Path) {
            return wrong;
        }
        let start: String = text.chars().take(40).collect();
        format!("{wrong}, not {start:?}")
    }
}
