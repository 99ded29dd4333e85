//! `rescind check`: configuration, broker, topology, ledger and providers on one screen.

use std::fs;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::text::{self, Screen, Style};
use super::{Exit, connect};
use crate::amqp::{self, ACCESS_REFUSED, AmqpError, Topology};
use crate::call;
use crate::config::{AccountConfig, Amqp, Config, Loaded, TopologyMode};
use crate::ledger::postgres::{Postgres, Settings};
use crate::ledger::sqlite::{Sqlite, lock_file};
use crate::ledger::{LedgerError, Location};
use crate::{consume, publish, run};

/// How long a provider's address may take to answer.
const REACH: Duration = Duration::from_secs(3);

/// Check configuration, broker, topology, ledger and the providers' addresses.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// The result of one check.
#[derive(Debug, Serialize)]
struct Check {
    /// `broker`, `topology`, `ledger`, `providers` or `providers.<name>`.
    subject: String,
    ok: bool,
    says: String,
    #[serde(skip)]
    exit: Exit,
}

impl Check {
    fn good(subject: &str, says: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            ok: true,
            says: says.into(),
            exit: Exit::Done,
        }
    }

    fn bad(subject: &str, exit: Exit, says: impl Into<String>) -> Self {
        Self {
            subject: subject.to_owned(),
            ok: false,
            says: says.into(),
            exit,
        }
    }
}

/// Checks everything; a configuration that cannot be used has ended the command before.
pub(super) async fn run(args: Args, loaded: &Loaded, screen: Screen) -> anyhow::Result<Exit> {
    let (mut checks, providers) = tokio::join!(broker(loaded), providers(&loaded.config));
    checks.extend(ledger(&loaded.config).await);
    checks.extend(providers);
    checks.extend(without_account(&loaded.config).await);
    if args.json {
        screen.document(&document(loaded, &checks))?
    } else {
        print(loaded, &checks, screen)?
    }
    Ok(verdict(&checks))
}

/// The worst result decides: a usage error, then something unreachable, then a difference.
fn verdict(checks: &[Check]) -> Exit {
    let has = |exit| checks.iter().any(|check| check.exit == exit);
    [Exit::Usage, Exit::Unreachable, Exit::Found]
        .into_iter()
        .find(|exit| has(*exit))
        .unwrap_or(Exit::Done)
}

async fn broker(loaded: &Loaded) -> Vec<Check> {
    let settings = &loaded.config.amqp;
    let connection = match connect(loaded, "rescind check").await {
        Ok(connection) => connection,
        Err(error) => {
            return vec![Check::bad("broker", Exit::of(&error), format!("{error:#}"))];
        }
    };
    let verified = amqp::verify(&connection, &Topology::of(settings)).await;
    let mut checks = vec![Check::good("broker", "takes our connection")];
    for exchange in [&settings.results_exchange, &settings.dead_exchange] {
        let tried = publish::probe(&connection, exchange).await;
        checks.extend(tried.err().and_then(|error| barred(exchange, &error)));
    }
    for queue in [
        &settings.requests_queue,
        &settings.dropped_queue,
        &settings.notifications_queue,
    ] {
        let tried = consume::probe(&connection, queue).await;
        checks.extend(tried.err().and_then(|error| unread(queue, &error)));
    }
    amqp::close(&connection).await;
    match verified {
        Ok(found) if found.differences.is_empty() => {
            checks.push(Check::good("topology", found.sentence()));
        }
        Ok(found) => checks.extend(differing(settings, found.differences)),
        Err(error) => {
            let says = error.to_string();
            checks.push(Check::bad("topology", Exit::Unreachable, says));
        }
    }
    checks
}

/// That the exchange is missing is a difference of the topology, and told there.
fn barred(exchange: &str, error: &AmqpError) -> Option<Check> {
    let (code, why) = error.refusal()?;
    let says = format!(
        "this user may not publish to the exchange {exchange}: {why}. Give it the permission to write; until then results or dead letters wait in the ledger"
    );
    (code == ACCESS_REFUSED).then(|| Check::bad("broker", Exit::Found, says))
}

fn unread(queue: &str, error: &AmqpError) -> Option<Check> {
    let (code, why) = error.refusal()?;
    let says = format!(
        "this user may not read the queue {queue}: {why}. Give it the permission to read; until then nothing is taken from there"
    );
    (code == ACCESS_REFUSED).then(|| Check::bad("broker", Exit::Found, says))
}

fn differing(settings: &Amqp, differences: Vec<String>) -> Vec<Check> {
    let check = |line: String| match settings.topology {
        TopologyMode::Declare if line.ends_with(" is missing") => {
            Check::good("topology", format!("{line}; the worker will declare it"))
        }
        _ => Check::bad("topology", Exit::Found, line),
    };
    differences.into_iter().map(check).collect()
}

async fn ledger(config: &Config) -> Vec<Check> {
    match run::location(config) {
        Location::File(path) => vec![file(&path)],
        Location::Database(settings) => database(&settings).await,
    }
}

async fn database(settings: &Settings) -> Vec<Check> {
    let opened = match Postgres::open_to_read(settings).await {
        Ok(ledger) => ledger.risks().await,
        Err(LedgerError::Missing { path }) => {
            let says = format!("{path} will get its tables from the worker");
            return vec![Check::good("ledger", says)];
        }
        Err(LedgerError::TooOld { path, found, known }) => {
            return vec![migrated(&path, found, known)];
        }
        Err(error) => Err(error),
    };
    let risks = match opened {
        Ok(risks) => risks,
        Err(error) => {
            return vec![Check::bad("ledger", Exit::Unreachable, error.to_string())];
        }
    };
    let risk = |setting: String| {
        let says = format!(
            "{setting} at the server, so a crash there can lose confirmed commits; set it to on"
        );
        Check::bad("ledger", Exit::Found, says)
    };
    let good = Check::good("ledger", "the database has the schema of this version");
    std::iter::once(good)
        .chain(risks.into_iter().map(risk))
        .collect()
}

fn file(path: &Path) -> Check {
    match Sqlite::open_to_read(path) {
        Ok(_) => {
            let user = if in_use(path) {
                "; a worker is using it"
            } else {
                ""
            };
            let says = format!("{} has the schema of this version{user}", path.display());
            Check::good("ledger", says)
        }
        Err(LedgerError::Missing { .. }) => new_ledger(path),
        Err(LedgerError::TooOld { path, found, known }) => migrated(&path, found, known),
        Err(error) => Check::bad("ledger", Exit::Unreachable, error.to_string()),
    }
}

/// The ledger is older than this binary, as between an upgrade and the first start.
fn migrated(place: &str, found: i64, known: i64) -> Check {
    let says = format!(
        "{place} has schema {found}; the worker brings it to {known} when it starts, so have a backup"
    );
    Check::good("ledger", says)
}

/// Shows the absolute path: the worker may have been started in another folder.
fn new_ledger(path: &Path) -> Check {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = path.parent().unwrap_or(&path);
    if folder.is_dir() {
        let says = format!("{} will be created by the worker", path.display());
        return Check::good("ledger", says);
    }
    let says = format!("the folder {} does not exist; create it", folder.display());
    Check::bad("ledger", Exit::Unreachable, says)
}

/// Whether a worker holds the lock. Read from the kernel's list: trying the lock would keep
/// a worker away that starts at this moment.
fn in_use(path: &Path) -> bool {
    let (Some(file), Ok(locks)) = (
        kernels_name(&lock_file(path)),
        fs::read_to_string("/proc/locks"),
    ) else {
        return false;
    };
    is_locked(&locks, &file)
}

fn is_locked(locks: &str, file: &str) -> bool {
    let is_it = |line: &str| {
        let mut words = line.split_whitespace();
        words.any(|word| word == "FLOCK") && words.any(|word| word == file)
    };
    locks.lines().any(is_it)
}

/// What the kernel's list calls a file: its device, and its inode, which is one of another file on
/// another device. The device is its mount's, from which the file's own differs on btrfs.
fn kernels_name(path: &Path) -> Option<String> {
    let about = statx(
        CWD,
        path,
        AtFlags::empty(),
        StatxFlags::INO | StatxFlags::MNT_ID,
    )
    .ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let (major, minor) =
        device(&mounts, about.stx_mnt_id).unwrap_or((about.stx_dev_major, about.stx_dev_minor));
    Some(format!("{major:02x}:{minor:02x}:{}", about.stx_ino))
}

/// Major and minor number of a mount's device; none from a kernel that does not number the mounts.
fn device(mounts: &str, id: u64) -> Option<(u32, u32)> {
    let id = id.to_string();
    let mut mounts = mounts.lines().map(|line| line.split(' '));
    let mut mount = mounts.find_map(|mut words| (words.next()? == id).then_some(words))?;
    let (major, minor) = mount.nth(1)?.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

async fn providers(config: &Config) -> Vec<Check> {
    if config.accounts.is_empty() {
        let says = "none is configured, so every request will end as invalid: unknown_provider";
        return vec![Check::good("providers", says)];
    }
    join_all(config.accounts.values().map(provider)).await
}

/// Nobody carries on what is open at an account that was taken out. Of a ledger that cannot be read the check of
/// the ledger tells.
async fn without_account(config: &Config) -> Vec<Check> {
    let Ok(ledger) = super::ledger(config).await else {
        return Vec::new();
    };
    let Ok(stats) = ledger.stats().await else {
        return Vec::new();
    };
    let check = |(name, open): (&str, u64)| {
        let says = format!(
            "not configured, and has open requests ({open}) that nobody carries on; configure it under this name until they have ended"
        );
        Check::bad(&format!("providers.{name}"), Exit::Found, says)
    };
    let gone = stats.unconfigured(|name| config.accounts.contains_key(name));
    gone.into_iter().map(check).collect()
}

async fn provider(account: &AccountConfig) -> Check {
    let subject = format!("providers.{}", account.account.name);
    let base = &account.account.base_url;
    let unreachable =
        |why: String| Check::bad(&subject, Exit::Unreachable, format!("{base}: {why}"));
    if let Some(Err(why)) = account.ca_file.as_deref().map(call::authorities) {
        return Check::bad(&subject, Exit::Usage, why.to_string());
    }
    let url = Url::parse(base).ok();
    let Some((host, port)) = url.as_ref().and_then(address) else {
        return unreachable("no address can be read".into());
    };
    match timeout(REACH, TcpStream::connect((host.as_str(), port))).await {
        Ok(Ok(_)) if account.max_in_flight == 0 => {
            let says = "takes connections; but max_in_flight is 0, so no call begins";
            Check::good(&subject, format!("{base} {says}"))
        }
        Ok(Ok(_)) => Check::good(&subject, format!("{base} takes connections")),
        Ok(Err(error)) => unreachable(error.to_string()),
        Err(_) => unreachable(format!("no answer within {} s", REACH.as_secs())),
    }
}

/// Host and port; an IPv6 address without its brackets.
fn address(url: &Url) -> Option<(String, u16)> {
    let host = url.host_str()?.trim_matches(['[', ']']);
    Some((host.to_owned(), url.port_or_known_default()?))
}

fn document(loaded: &Loaded, checks: &[Check]) -> serde_json::Value {
    let values = loaded.effective.iter().map(|value| {
        serde_json::json!({
            "path": value.path, "value": value.value, "origin": value.origin.to_string(),
        })
    });
    serde_json::json!({
        "ok": checks.iter().all(|check| check.ok),
        "file": loaded.file,
        "configuration": values.collect::<Vec<_>>(),
        "checks": checks,
    })
}

fn print(loaded: &Loaded, checks: &[Check], screen: Screen) -> std::io::Result<()> {
    let values = loaded.effective.iter();
    let rows: Vec<_> = values
        .map(|value| {
            let origin = value.origin.to_string();
            let plain = [value.path.as_str(), value.value.as_str()].map(Into::into);
            plain
                .into_iter()
                .chain([text::Cell::styled(origin, Style::Dim)])
                .collect()
        })
        .collect();
    screen.table(&["setting", "value", "from"], &rows)?;
    screen.line("")?;
    let file = match &loaded.file {
        Some(file) => file.display().to_string(),
        None => "no file; defaults and environment".into(),
    };
    let first = Check::good("configuration", file);
    for check in std::iter::once(&first).chain(checks) {
        let mark = if check.ok {
            screen.paint(Style::Good, "✓")
        } else {
            screen.paint(Style::Bad, "✗")
        };
        let says = text::printable(&check.says);
        screen.line(&format!("{mark} {:<20} {says}", check.subject))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_says_the_worst() {
        let good = || Check::good("ledger", "");
        let bad = |exit| Check::bad("broker", exit, "");
        assert_eq!(verdict(&[good()]), Exit::Done);
        assert_eq!(verdict(&[good(), bad(Exit::Found)]), Exit::Found);
        assert_eq!(
            verdict(&[bad(Exit::Found), bad(Exit::Unreachable)]),
            Exit::Unreachable
        );
    }

    #[test]
    fn addresses_have_the_port_of_their_scheme() {
        let of = |text: &str| address(&Url::parse(text).unwrap());
        assert_eq!(
            of("https://api.example.com/v2"),
            Some(("api.example.com".into(), 443))
        );
        assert_eq!(of("http://[::1]:9/x"), Some(("::1".into(), 9)));
    }

    #[test]
    fn a_ledger_that_is_not_there_is_created_if_its_folder_is() {
        let dir = tempfile::tempdir().unwrap();
        assert!(new_ledger(&dir.path().join("rescind.db")).ok);
        assert!(!new_ledger(&dir.path().join("no/rescind.db")).ok);
        let here = std::path::absolute("new.db").unwrap();
        let check = file(Path::new("new.db"));
        let says = format!("{} will be created by the worker", here.display());
        assert_eq!((check.ok, check.says), (true, says));
    }

    /// `rescind check` stands between a new binary and its first start.
    #[test]
    fn a_ledger_of_an_older_version_is_well_and_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        fs::write(&path, "").unwrap();
        let check = file(&path);
        assert!(check.ok, "{check:?}");
        assert!(
            check
                .says
                .contains("has schema 0; the worker brings it to "),
            "{check:?}"
        );
    }

    /// As where its folder is closed to this user, which it never is to root.
    #[test]
    fn a_ledger_that_cannot_be_looked_at_is_not_called_new() {
        let dir = tempfile::tempdir().unwrap();
        let no_folder = dir.path().join("file");
        fs::write(&no_folder, "").unwrap();
        let check = file(&no_folder.join("rescind.db"));
        assert_eq!((check.ok, check.exit), (false, Exit::Unreachable));
        for says in ["file/rescind.db cannot be accessed", "the worker's user"] {
            assert!(check.says.contains(says), "{check:?}");
        }
    }

    #[test]
    fn a_lock_that_is_held_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        assert!(!in_use(&path));
        let file = fs::File::create(dir.path().join("rescind.db.lock")).unwrap();
        assert!(!in_use(&path));
        file.try_lock().unwrap();
        assert!(in_use(&path));
    }

    #[test]
    fn a_lock_on_another_device_is_another_files() {
        let locks = "1: POSIX  ADVISORY  READ 7 fe:00:11 128 128\n\
                     2: FLOCK  ADVISORY  WRITE 7 00:1b:12 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 8 00:1b:12 0 EOF\n";
        assert!(is_locked(locks, "00:1b:12"));
        for other in ["fe:00:12", "00:1b:1", "fe:00:11"] {
            assert!(!is_locked(locks, other), "{other}");
        }
    }

    #[test]
    fn the_device_of_a_file_is_its_mounts() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                      30 25 0:27 / /dev/shm rw,relatime - tmpfs tmpfs rw\n";
        assert_eq!(device(mounts, 30), Some((0, 27)));
        assert_eq!(device(mounts, 27), Some((254, 0)));
        assert_eq!(device(mounts, 0), None);
    }
}
