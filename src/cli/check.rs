//! `rescind check`: configuration, broker, topology, ledger and providers on one screen.

use std::time::Duration;

use futures_util::future::join_all;
use lapin::Connection;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use super::text::{self, Cell, Screen, Style};
use super::{Exit, connect};
use crate::amqp::{self, ACCESS_REFUSED, AmqpError, Difference, NOT_FOUND, Topology};
use crate::call;
use crate::config::{AccountConfig, Amqp, Config, Effective, Loaded, TopologyMode};
use crate::{consume, publish};

mod ledger;
mod lock;

/// How long a provider's address may take to answer.
const REACH: Duration = Duration::from_secs(3);
/// What the broker's alarm means, and where it is explained.
const ALARM: &str = "has an alarm, of memory or of disk, and takes nothing that is published until it is over, results neither; what this user may do was not tried. `rabbitmqctl status` names it";

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
    checks.extend(ledger::all(&loaded.config).await);
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
    let topology = topology(&connection, settings).await;
    let mut checks = vec![Check::good("broker", "takes our connection")];
    checks.extend(missing_rights(&connection, settings).await);
    amqp::close(&connection).await;
    checks.extend(topology.unwrap_or_else(|error| {
        let says = error.to_string();
        vec![Check::bad("topology", Exit::Unreachable, says)]
    }));
    checks
}

async fn topology(connection: &Connection, settings: &Amqp) -> Result<Vec<Check>, AmqpError> {
    let topology = Topology::of(settings);
    let found = amqp::verify(connection, &topology).await?;
    let barred = match settings.topology {
        TopologyMode::Declare => amqp::undeclarable(connection, &topology, &found).await?,
        TopologyMode::Verify => Vec::new(),
    };
    Ok(match (found.differences.is_empty(), barred.is_empty()) {
        (true, true) => vec![Check::good("topology", found.sentence())],
        (_, true) => differing(settings, &found.differences),
        _ => {
            let bad = |line| Check::bad("topology", Exit::Found, line);
            let differences = found.differences.iter().map(ToString::to_string);
            let all = differences.chain([undeclarable(&barred)]);
            all.map(bad).collect()
        }
    })
}

/// Without the right to declare any one of them no worker starts.
fn undeclarable(barred: &[String]) -> String {
    format!(
        "this user may not declare {}, so no worker starts: give it the permission to configure, or set amqp.topology = \"verify\" and declare what is missing elsewhere",
        barred.join(", ")
    )
}

async fn missing_rights(connection: &Connection, settings: &Amqp) -> Vec<Check> {
    let mut checks = Vec::new();
    // Under keys of messages that every worker makes: rights may depend on the key.
    for (exchange, key) in [
        (&settings.results_exchange, "result.unknown.invalid"),
        (&settings.dead_exchange, "dead.unknown.not_json"),
    ] {
        let what = format!("publish to the exchange {exchange}");
        let remedy = "write; until then results or dead letters wait in the ledger";
        let tried = publish::probe(connection, exchange, key).await;
        let found = if connection.status().blocked() {
            Some(Check::bad("broker", Exit::Unreachable, ALARM))
        } else {
            missing_right(tried, &what, remedy)
        };
        checks.extend(found);
        if is_cut_short(&checks) {
            return checks;
        }
    }
    for queue in [
        &settings.requests_queue,
        &settings.dropped_queue,
        &settings.notifications_queue,
    ] {
        let what = format!("read the queue {queue}");
        let remedy = "read; until then nothing is taken from there";
        let tried = consume::probe(connection, queue).await;
        checks.extend(missing_right(tried, &what, remedy));
        if is_cut_short(&checks) {
            return checks;
        }
    }
    checks
}

/// Whatever else is tried at a broker that gives no answer would take its time, and have none either.
fn is_cut_short(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.exit == Exit::Unreachable)
}

/// That an exchange or a queue is missing is a difference of the topology, and told there.
fn missing_right(tried: Result<(), AmqpError>, what: &str, remedy: &str) -> Option<Check> {
    let error = tried.err()?;
    match error.refusal() {
        Some((NOT_FOUND, _)) => None,
        Some((ACCESS_REFUSED, why)) => {
            let says =
                format!("this user may not {what}: {why}. Give it the permission to {remedy}");
            Some(Check::bad("broker", Exit::Found, says))
        }
        _ => {
            let says = format!("cannot try to {what}: {error}");
            Some(Check::bad("broker", Exit::Unreachable, says))
        }
    }
}

fn differing(settings: &Amqp, differences: &[Difference]) -> Vec<Check> {
    let check = |difference: &Difference| match (settings.topology, difference) {
        (TopologyMode::Declare, Difference::Missing(_)) => {
            let says = format!("{difference}; the worker will declare it");
            Check::good("topology", says)
        }
        _ => Check::bad("topology", Exit::Found, difference.to_string()),
    };
    differences.iter().map(check).collect()
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
    let row = |value: &Effective| {
        vec![
            value.path.as_str().into(),
            value.value.as_str().into(),
            Cell::styled(value.origin.to_string(), Style::Dim),
        ]
    };
    let rows: Vec<_> = loaded.effective.iter().map(row).collect();
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

    /// Also an answer that says nothing of rights: from a node that is being stopped, or none.
    #[test]
    fn what_could_not_be_tried_is_not_well() {
        let late = AmqpError::Timeout("roll back", REACH);
        for error in [late, AmqpError::Lost] {
            let check = missing_right(Err(error), "publish to the exchange x", "").unwrap();
            assert_eq!((check.ok, check.exit), (false, Exit::Unreachable));
            let says = "cannot try to publish to the exchange x: ";
            assert!(check.says.starts_with(says), "{check:?}");
        }
        assert!(missing_right(Ok(()), "", "").is_none());
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
}
