//! The checks beyond the form of a single value: whether the values fit together.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::loader::{Loader, schedule};
use super::{Amqp, Ledger, TlsFiles};
use crate::problem::variable;
use crate::providers::Setting;
use crate::settings::Values;

const UNREADABLE: &str =
    "cannot be read as a URL; special characters in a password must be percent-encoded";

impl Loader<'_> {
    pub(super) fn check_presence(&mut self, prefix: &str, values: &Values, settings: &[Setting]) {
        let required = settings.iter().filter(|setting| setting.required);
        let required = required.map(|s| (s.key, s.secret));
        for (key, secret) in required.chain([("base_url", false)]) {
            let path = format!("{prefix}{key}");
            let file = format!("{path}_file");
            let is_written = |path: &str| self.layers.origin(path).is_some();
            if values.0.contains_key(key) || is_written(&path) || (secret && is_written(&file)) {
                continue;
            }
            let variable = variable(&path);
            let what = if secret {
                format!("is missing; set it, {file}, {variable} or {variable}_FILE")
            } else {
                format!("is missing; set it or {variable}")
            };
            self.problem(&path, what);
        }
    }

    /// The checked base URL without its trailing slash. Other addresses among the settings
    /// get credentials too and are held to the same rule about plain HTTP.
    pub(super) fn base_url(&mut self, prefix: &str, values: &Values) -> String {
        let plain = values.flag("allow_plain_http");
        let others = values.0.keys().filter(|key| key.ends_with("_url"));
        for key in others.filter(|key| **key != "base_url") {
            if let Some(Err(what)) = values.optional(key).map(|url| web_address(&url, plain)) {
                self.problem(&format!("{prefix}{key}"), what);
            }
        }
        let text = values.text("base_url");
        let wrong = match web_address(&text, plain) {
            _ if text.is_empty() => None,
            Ok(url) => url
                .query()
                .map(|_| "must not have a query; remove everything from ?"),
            Err(what) => Some(what),
        };
        if let Some(what) = wrong {
            self.problem(&format!("{prefix}base_url"), what);
        }
        text.trim_end_matches('/').to_owned()
    }

    pub(super) fn check_schedules(
        &mut self,
        prefix: &str,
        values: &Values,
        table: &str,
        defaults: Option<&Values>,
    ) {
        for name in ["retry", "poll"] {
            let own = schedule(values, &format!("{table}{name}"));
            let inherited = defaults.map(|d| schedule(d, &format!("defaults.{name}")));
            if own.first > own.max && inherited != Some(own) {
                self.problem(
                    &format!("{prefix}{name}.max"),
                    format!("must not be shorter than {prefix}{name}.first"),
                );
            }
        }
    }

    pub(super) fn check_amqp(&mut self, amqp: &Amqp) {
        let path = self.written("amqp.url");
        let url = Url::parse(amqp.url.expose_secret());
        let secure = match &url {
            Ok(url) if !matches!(url.scheme(), "amqp" | "amqps") => {
                return self.problem(&path, "must begin with amqp:// or amqps://");
            }
            Ok(url) if !url.has_host() => return self.problem(&path, "must name a host"),
            Ok(url) => url.scheme() == "amqps",
            Err(_) => return self.problem(&path, UNREADABLE),
        };
        let unlike = |further: &SecretString| {
            let further = Url::parse(further.expose_secret());
            let scheme = if secure { "amqps" } else { "amqp" };
            !further.is_ok_and(|url| url.scheme() == scheme && url.has_host())
        };
        if amqp.further_urls.iter().any(unlike) {
            let path = self.written("amqp.further_urls");
            self.problem(&path, "must be addresses like amqp.url, of the same scheme");
        }
        let misplaced = "is only for TLS; use amqps:// in amqp.url or remove it";
        self.check_files("amqp", &amqp.files, (!secure).then_some(misplaced));
        self.check_names(amqp);
    }

    /// One queue for two purposes would feed the worker its own output.
    fn check_names(&mut self, amqp: &Amqp) {
        let queues = [
            ("amqp.requests_queue", &amqp.requests_queue),
            ("amqp.results_queue", &amqp.results_queue),
            ("amqp.notifications_queue", &amqp.notifications_queue),
            ("amqp.dead_queue", &amqp.dead_queue),
            ("amqp.dropped_queue", &amqp.dropped_queue),
        ];
        let exchanges = [
            ("amqp.requests_exchange", &amqp.requests_exchange),
            ("amqp.results_exchange", &amqp.results_exchange),
            ("amqp.dead_exchange", &amqp.dead_exchange),
            ("amqp.dropped_exchange", &amqp.dropped_exchange),
        ];
        for names in [queues.as_slice(), exchanges.as_slice()] {
            let mut seen: BTreeMap<&str, &str> = BTreeMap::new();
            for (path, name) in names.iter().filter(|(_, name)| !name.is_empty()) {
                if let Some(other) = seen.insert(name, path) {
                    self.problem(path, format!("is the same as {other}; they have to differ"));
                }
            }
        }
    }

    pub(super) fn check_ledger(&mut self, ledger: &Ledger) {
        let path = self.written("ledger.url");
        let url = ledger.url.expose_secret();
        let file = url.strip_prefix("sqlite:");
        if file.is_some_and(|file| file.trim_matches('/').is_empty()) {
            self.problem(&path, "must name a file, as sqlite:PATH");
        } else if let Some(slashed) = file.and_then(|file| file.strip_prefix("//")) {
            let what = format!(
                "must name a file, as sqlite:PATH without slashes of its own; write sqlite:{slashed}"
            );
            self.problem(&path, what);
        } else if file.is_none() && !is_database(url) {
            self.problem(&path, "must be sqlite:PATH or postgres://user@host/db");
        } else if file.is_none()
            && let Err(what) = database_address(url)
        {
            self.problem(&path, what);
        }
        let misplaced = "is only for PostgreSQL; remove it";
        self.check_files("ledger", &ledger.files, file.map(|_| misplaced));
    }

    /// The files for TLS: authorities, certificate and key. `misplaced` says why there can be none.
    fn check_files(&mut self, table: &str, files: &TlsFiles, misplaced: Option<&str>) {
        if let Some(what) = misplaced {
            for name in files.given() {
                self.problem(&format!("{table}.{name}"), what);
            }
        }
        let (lone, other) = match (&files.cert, &files.key) {
            (Some(_), None) => ("cert_file", "key_file"),
            (None, Some(_)) => ("key_file", "cert_file"),
            _ => return,
        };
        let what = format!("needs {table}.{other} beside it");
        self.problem(&format!("{table}.{lone}"), what);
    }

    /// The path under which a secret was written.
    fn written(&self, path: &str) -> String {
        let file = format!("{path}_file");
        match (self.layers.origin(path), self.layers.origin(&file)) {
            (None, Some(_)) => file,
            _ => path.to_owned(),
        }
    }
}

/// PostgreSQL's own tools take both.
fn is_database(url: &str) -> bool {
    ["postgres://", "postgresql://"]
        .iter()
        .any(|scheme| url.starts_with(scheme))
}

/// Checks the address of a database. Without a host it would be asked for ever.
fn database_address(text: &str) -> Result<(), &'static str> {
    const MODES: [&str; 4] = ["disable", "require", "verify-ca", "verify-full"];
    let url = Url::parse(text).map_err(|_| UNREADABLE)?;
    let mut names_host = url.host_str().is_some_and(|host| !host.is_empty());
    for (key, value) in url.query_pairs() {
        names_host |= key.starts_with("host") && !value.is_empty();
        if key == "sslmode" && !MODES.contains(&&*value) {
            return Err(
                "has an sslmode that is not offered; use disable, or verify-full (require means the same)",
            );
        }
    }
    names_host.then_some(()).ok_or(
        "must name a host, as postgres://user@host/db, or a socket's folder with ?host=/folder",
    )
}

/// Checks the address of a web service. No error shows it, since it may hold credentials.
fn web_address(text: &str, allow_plain_http: bool) -> Result<Url, &'static str> {
    let url = Url::parse(text).map_err(|_| "cannot be read as a URL")?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("must begin with https://");
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must not hold credentials; they have settings of their own");
    }
    if url.fragment().is_some() {
        return Err("must not have a fragment; remove everything from #");
    }
    if url.scheme() == "http" && !allow_plain_http && !is_loopback(&url) {
        return Err(
            "must begin with https://, since http:// is for loopback addresses; \
                    allow_plain_http = true beside it accepts it",
        );
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}
