//! The connection to the database: address, TLS, time limits.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{
    ClientWrapper, Hook, HookError, Manager, ManagerConfig, Pool, PoolBuilder, PoolError,
    RecyclingMethod, Runtime, Timeouts,
};
use secrecy::{ExposeSecret, SecretString};
use tokio_postgres::NoTls;
use tokio_postgres::config::{SslMode, TargetSessionAttrs};
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;
use url::Url;

use super::error::{causes, no_connection, words};
use crate::ledger::LedgerError;
use crate::pem::{TlsFiles, certificates, private_key};

/// How long a connection may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(5);
/// The same for one address, so that a silent one leaves time for the next: the URL may name several
/// hosts, and a name may have several addresses.
const ADDRESS: Duration = Duration::from_millis(1_500);
/// A line on which nothing comes back for so long is dead.
const SILENCE: Duration = Duration::from_secs(10);

/// Limits the time of a statement, the time that a transaction waits for a row while it has locked
/// others, and the time that a worker which stops in the middle of a transaction keeps its rows
/// locked. Plans are made once: each statement has one good plan, by an index.
const WRITER: &str = "-c statement_timeout=5s -c lock_timeout=2s -c idle_in_transaction_session_timeout=3s \
    -c plan_cache_mode=force_generic_plan -c enable_seqscan=off -c jit=off -c default_transaction_isolation=read\\ committed";
const READER: &str =
    "-c statement_timeout=10s -c idle_in_transaction_session_timeout=10s -c jit=off";
/// At the server, for both: none of those limits applies while it sends a result. To a worker that
/// is gone it would send for a quarter of an hour, with its rows locked.
const LINE: &str = "-c tcp_user_timeout=10s -c tcp_keepalives_idle=10 -c tcp_keepalives_interval=2 -c tcp_keepalives_count=3";
/// Not among the options: with `target_session_attrs=read-write` in the address, the driver would
/// take the connection for one to a standby.
const READ_ONLY: &str = "SET default_transaction_read_only = on";

/// Where a ledger is.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `postgres://…`, which may hold a password.
    pub url: SecretString,
    /// For TLS.
    pub files: TlsFiles,
}

impl Settings {
    /// The URL for people, without user and password.
    pub fn address(&self) -> String {
        Url::parse(self.url.expose_secret())
            .map_or_else(|_| "postgres".to_owned(), |url| shown(&url))
    }
}

/// A database that can be connected to, and its name without a password.
#[derive(Clone)]
pub(super) struct Database {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    pub(super) shown: String,
}

impl Database {
    pub(super) fn new(settings: &Settings) -> Result<Self, LedgerError> {
        let url =
            Url::parse(settings.url.expose_secret()).map_err(|_| unusable("it cannot be read"))?;
        let mode = Mode::of(&url)?;
        let mut config = configured(&url)?;
        let (encryption, tls) = match mode {
            Mode::Plain => {
                without_files(settings)?;
                (SslMode::Disable, None)
            }
            Mode::Verified => (SslMode::Require, Some(tls(settings)?)),
        };
        config.ssl_mode(encryption);
        Ok(Self {
            config,
            tls,
            shown: shown(&url),
        })
    }

    /// Connections for the lane and the keeper of the lease.
    pub(super) fn writers(&self, most: usize) -> Result<Pool, LedgerError> {
        built(self.pool(WRITER, most))
    }

    /// Connections for queries that change nothing.
    pub(super) fn readers(&self, most: usize) -> Result<Pool, LedgerError> {
        let read_only = Hook::async_fn(|db: &mut ClientWrapper, _| {
            Box::pin(async {
                db.batch_execute(READ_ONLY)
                    .await
                    .map_err(HookError::Backend)
            })
        });
        built(self.pool(READER, most).post_create(read_only))
    }

    fn pool(&self, options: &str, most: usize) -> PoolBuilder {
        let mut config = self.config.clone();
        let given = config.get_options().unwrap_or_default();
        config.options(format!("{options} {LINE} {given}").trim_end());
        let recycling = ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        };
        let manager = match &self.tls {
            Some(tls) => Manager::from_config(config, tls.clone(), recycling),
            None => Manager::from_config(config, NoTls, recycling),
        };
        Pool::builder(manager)
            .max_size(most)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: Some(CONNECT),
                create: Some(CONNECT),
                recycle: Some(CONNECT),
            })
    }

    /// Why there is no connection: a mistake that a person has to correct, or a condition that may
    /// pass.
    pub(super) fn kept_out(&self, error: &PoolError) -> LedgerError {
        let why = no_connection(error);
        match error {
            PoolError::Backend(error) if is_mistake(error) => LedgerError::Refused {
                url: self.shown.clone(),
                why,
            },
            _ => LedgerError::Failed(format!("{} cannot be reached: {why}", self.shown)),
        }
    }
}

/// The driver's settings: the URL's, and our limits of time.
fn configured(url: &Url) -> Result<tokio_postgres::Config, LedgerError> {
    let mut config: tokio_postgres::Config = plain(url)
        .parse()
        .map_err(|error: tokio_postgres::Error| unusable(&words(&error)))?;
    if config.get_application_name().is_none() {
        config.application_name("rescind");
    }
    let hosts = config.get_hosts().len().max(config.get_hostaddrs().len());
    let chosen = url
        .query_pairs()
        .any(|(key, _)| key == "target_session_attrs");
    // Of several hosts, the one that takes writes, which may be another one tomorrow.
    if hosts > 1 && !chosen {
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
    }
    let given = config.get_connect_timeout().copied();
    config
        .connect_timeout(of_an_address(hosts, given))
        .tcp_user_timeout(SILENCE)
        .keepalives(true)
        .keepalives_idle(SILENCE)
        .keepalives_interval(SILENCE / 5)
        .keepalives_retries(3);
    Ok(config)
}

fn built(pool: PoolBuilder) -> Result<Pool, LedgerError> {
    let pool = pool.build();
    pool.map_err(|error| LedgerError::Failed(error.to_string()))
}

/// A person has to correct the address, the server or a certificate.
fn is_mistake(error: &tokio_postgres::Error) -> bool {
    let mistaken = [
        SqlState::INVALID_PASSWORD,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        SqlState::INVALID_CATALOG_NAME,
        SqlState::INSUFFICIENT_PRIVILEGE,
        SqlState::INVALID_PARAMETER_VALUE,
    ];
    error.code().is_some_and(|code| mistaken.contains(code))
        || error.to_string().contains("TLS handshake")
        || error.to_string().contains("server does not support TLS")
        || is_tls(error)
}

fn is_tls(error: &tokio_postgres::Error) -> bool {
    causes(error).any(|cause| {
        let inner = cause.downcast_ref().and_then(io::Error::get_ref);
        cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

/// Whether the connection is encrypted. An encrypted one always verifies the server.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Plain,
    Verified,
}

impl Mode {
    /// If the URL does not say: TLS, unless the server is on this machine.
    fn of(url: &Url) -> Result<Self, LedgerError> {
        let written = url.query_pairs().find(|(key, _)| key == "sslmode");
        let further = url.query_pairs().filter(|(key, _)| key.starts_with("host"));
        let mut further = further.flat_map(|(_, hosts)| {
            let hosts = hosts.split(',').map(str::to_owned);
            hosts.collect::<Vec<_>>()
        });
        let here = url.host_str().is_none_or(is_here) && further.all(|host| is_here(&host));
        match written.as_ref().map(|(_, mode)| mode.as_ref()) {
            Some("disable") => Ok(Self::Plain),
            Some("require" | "verify-ca" | "verify-full") => Ok(Self::Verified),
            Some(_) => Err(unusable(
                "sslmode can be disable or verify-full (require means the same); a mode that may or may not encrypt is not supported",
            )),
            None if here => Ok(Self::Plain),
            None => Ok(Self::Verified),
        }
    }
}

/// Whether a host is this machine, also by a socket's folder.
fn is_here(host: &str) -> bool {
    ["127.0.0.1", "localhost", "[::1]", "::1"].contains(&host) || host.starts_with('/')
}

/// The URL without the parameter that is handled here. The rest stays as written: encoded again, a
/// space would become a plus, which the driver reads as a plus. Hosts are given one by one: the
/// driver takes a list for one name.
fn plain(url: &Url) -> String {
    let mut plain = url.clone();
    let pairs = url.query().unwrap_or_default().split('&');
    let kept = pairs.filter(|pair| pair.split('=').next() != Some("sslmode"));
    let kept = kept.map(|pair| {
        if pair.starts_with("host=") {
            pair.replace(',', "&host=")
        } else {
            pair.to_owned()
        }
    });
    let kept = kept.collect::<Vec<_>>().join("&");
    plain.set_query(Some(kept.as_str()).filter(|kept| !kept.is_empty()));
    plain.into()
}

/// The URL for people: the server and the database, without user and password.
fn shown(url: &Url) -> String {
    let host = url.host_str().unwrap_or("(local socket)");
    let port = url.port().unwrap_or(5432);
    format!("postgres://{host}:{port}{}", url.path())
}

/// The time for one address, so that all hosts are tried within the time for a connection. A shorter
/// limit in the URL stays.
fn of_an_address(hosts: usize, given: Option<Duration>) -> Duration {
    let share = CONNECT * 9 / 10 / u32::try_from(hosts.max(1)).unwrap_or(u32::MAX);
    let most = ADDRESS.min(share);
    given.map_or(most, |given| given.min(most))
}

fn unusable(why: &str) -> LedgerError {
    LedgerError::Refused {
        url: "ledger.url".into(),
        why: why.into(),
    }
}

/// Without TLS they would be read by nobody, and who wrote them takes the connection for a safe one.
fn without_files(settings: &Settings) -> Result<(), LedgerError> {
    match settings.files.given().next() {
        Some(name) => Err(unusable(&format!(
            "its connection is without TLS, and ledger.{name} is only for TLS; add ?sslmode=verify-full to ledger.url or remove ledger.{name}"
        ))),
        None => Ok(()),
    }
}

fn tls(settings: &Settings) -> Result<MakeRustlsConnect, LedgerError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(&error.to_string()))?;
    let builder = match &settings.files.ca {
        Some(file) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(file).map_err(|why| unusable(&why))? {
                roots.add(certificate).map_err(|error| bad(file, error))?;
            }
            builder.with_root_certificates(roots)
        }
        None => {
            let verifier = rustls_platform_verifier::Verifier::new(provider)
                .map_err(|error| unusable(&error.to_string()))?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(verifier))
        }
    };
    let config = match (&settings.files.cert, &settings.files.key) {
        (Some(certificate), Some(key)) => {
            let private = private_key(key).map_err(|why| unusable(&why))?;
            let own = certificates(certificate).map_err(|why| unusable(&why))?;
            builder
                .with_client_auth_cert(own, private)
                .map_err(|error| bad(certificate, error))?
        }
        _ => builder.with_no_client_auth(),
    };
    Ok(MakeRustlsConnect::new(config))
}

fn bad(file: &Path, error: impl std::fmt::Display) -> LedgerError {
    unusable(&format!("{} cannot be used: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use tokio_postgres::config::Host;

    use super::*;

    fn settings(url: &str) -> Settings {
        Settings {
            url: url.into(),
            files: TlsFiles::default(),
        }
    }

    fn is_encrypted(url: &str) -> Option<bool> {
        let mode = Mode::of(&Url::parse(url).unwrap());
        mode.ok().map(|mode| mode == Mode::Verified)
    }

    #[test]
    fn a_line_that_leaves_this_machine_is_encrypted_unless_it_is_said_otherwise() {
        assert_eq!(is_encrypted("postgres://db.example/r"), Some(true));
        for here in ["127.0.0.1", "localhost", "[::1]:5433", ""] {
            let url = format!("postgres://{here}/r?connect_timeout=3");
            assert_eq!(is_encrypted(&url), Some(false), "{url}");
            for mode in ["require", "verify-ca", "verify-full"] {
                let url = format!("{url}&sslmode={mode}");
                assert_eq!(is_encrypted(&url), Some(true), "{url}");
            }
        }
        let open = "postgres://db.example/r?sslmode=disable";
        assert_eq!(is_encrypted(open), Some(false));
        for mode in ["prefer", "allow", ""] {
            let url = format!("postgres://localhost/r?sslmode={mode}");
            assert_eq!(is_encrypted(&url), None, "{url}");
        }
    }

    #[test]
    fn what_else_the_address_says_is_kept() {
        let url =
            "postgres://u:p@localhost/r?sslmode=disable&application_name=mine&options=-c%20a%3Db";
        let config = Database::new(&settings(url)).unwrap().config;
        assert_eq!(config.get_application_name(), Some("mine"));
        assert_eq!(config.get_options(), Some("-c a=b"));
        let config = Database::new(&settings("postgres://u@localhost/r"));
        let config = config.unwrap().config;
        assert_eq!(config.get_application_name(), Some("rescind"));
        let config = Database::new(&settings("postgres:///r?user=u&sslmode=disable&host=/a,b"));
        let hosts = [Host::Unix("/a".into()), Host::Tcp("b".into())];
        assert_eq!(config.unwrap().config.get_hosts(), hosts);
    }

    #[test]
    fn of_several_hosts_each_is_tried_in_time_and_the_one_that_can_be_written_to_is_taken() {
        let of = |url: &str| {
            let config = Database::new(&settings(url)).unwrap().config;
            let limit = config.get_connect_timeout().copied().unwrap();
            (limit.as_millis(), config.get_target_session_attrs())
        };
        let (any, writable) = (TargetSessionAttrs::Any, TargetSessionAttrs::ReadWrite);
        for (query, expected) in [
            ("", (1_500, any)),
            ("?connect_timeout=1", (1_000, any)),
            ("?connect_timeout=30", (1_500, any)),
            ("?host=b", (1_500, writable)),
            ("?host=b&target_session_attrs=any", (1_500, any)),
            ("?host=b,c,d,e&connect_timeout=3", (900, writable)),
            ("?host=b&host=c&host=d&host=e", (900, writable)),
            ("?hostaddr=10.0.0.1", (1_500, any)),
        ] {
            let url = format!("postgres://u@a/r{query}");
            assert_eq!(of(&url), expected, "{url}");
        }
        assert_eq!(of("postgres://u@a,b/r"), (1_500, writable));
        let addresses = "postgres:///r?user=u&sslmode=disable&hostaddr=10.0.0.1,10.0.0.2";
        assert_eq!(of(addresses), (1_500, writable));
    }

    /// If the URL does not say: plain only to this machine, however it is named.
    #[test]
    fn a_host_in_the_query_is_looked_at_too() {
        for (url, mode) in [
            ("postgres:///r", Mode::Plain),
            ("postgres:///r?host=/run/postgresql", Mode::Plain),
            ("postgres:///r?host=127.0.0.1,localhost", Mode::Plain),
            ("postgres:///r?host=db.example.com", Mode::Verified),
            ("postgres://localhost/r?host=db.example.com", Mode::Verified),
            (
                "postgres:///r?host=/run/postgresql,db.example.com",
                Mode::Verified,
            ),
            ("postgres://localhost/r?hostaddr=192.0.2.1", Mode::Verified),
        ] {
            let of = Mode::of(&Url::parse(url).unwrap()).unwrap();
            assert!(of == mode, "{url}");
        }
    }

    #[test]
    fn people_are_shown_the_server_and_the_database_and_no_password() {
        for (url, expected) in [
            ("postgres://u:p@localhost/r", "postgres://localhost:5432/r"),
            (
                "postgres://u:p@127.0.0.1:6000/r?a=b",
                "postgres://127.0.0.1:6000/r",
            ),
            (
                "postgres:///r?host=/run",
                "postgres://(local socket):5432/r",
            ),
        ] {
            assert_eq!(shown(&Url::parse(url).unwrap()), expected);
        }
    }

    #[test]
    fn settings_that_are_shown_hide_the_password() {
        let shown = format!("{:?}", settings("postgres://rescind:hunter2@localhost/r"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_file_of_the_client_s_certificate_that_cannot_be_read_is_named() {
        let mut settings = settings("postgres://localhost/r?sslmode=verify-full");
        settings.files.cert = Some("no-certificate.pem".into());
        settings.files.key = Some("no-key.pem".into());
        let told = Database::new(&settings).err().unwrap().to_string();
        assert!(told.contains("no-key.pem"), "{told}");
    }

    #[test]
    fn a_file_for_tls_without_tls_is_named() {
        for (name, url) in [
            ("ca_file", "postgres://db.example/r?sslmode=disable"),
            ("key_file", "postgres:///r?host=/run/postgresql"),
        ] {
            let file = |given: &str| (given == name).then(|| "a.pem".into());
            let mut settings = settings(url);
            settings.files.ca = file("ca_file");
            settings.files.key = file("key_file");
            let told = Database::new(&settings).err().unwrap().to_string();
            let why = format!("ledger.{name} is only for TLS; add ?sslmode=verify-full");
            assert!(told.contains(&why), "{told}");
        }
    }

    /// Or at every server, the issuer of its certificate would be called unknown.
    #[test]
    fn a_file_of_authorities_without_a_certificate_is_named() {
        let empty = tempfile::NamedTempFile::new().unwrap();
        let mut settings = settings("postgres://localhost/r?sslmode=verify-full");
        settings.files.ca = Some(empty.path().to_owned());
        let told = Database::new(&settings).err().unwrap().to_string();
        let why = format!("{} holds no certificate", empty.path().display());
        assert!(told.contains(&why), "{told}");
    }
}
