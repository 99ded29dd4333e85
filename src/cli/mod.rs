//! The command line: one file for each command.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::amqp::{self, ACCESS_REFUSED, AmqpError, Link, PRECONDITION_FAILED};
use crate::call::ClientError;
use crate::config::{self, Config, ConfigError, Loaded, Sources};
use crate::job::{UNKNOWN_PROVIDER, is_account_name};
use crate::ledger::{Ledger, LedgerError};
use crate::spans::Spans;
use crate::systemd::Systemd;
use crate::{failpoint, log, providers, run, simulate};

mod advice;
mod check;
mod completions;
mod dead;
mod health;
mod history;
mod list;
mod mask;
mod results;
mod show;
mod submit;
mod text;
mod topology;

use text::Screen;

/// Carries out payment cancellations: no request is lost, nothing is cancelled twice, and
/// nothing is called cancelled without the provider's evidence.
#[derive(Parser)]
#[command(name = "rescind", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    /// Configuration file [default: rescind.toml, then /etc/rescind/rescind.toml]
    #[arg(long, global = true, env = "RESCIND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one setting of environment and file; goes before the command, as in
    /// rescind --set log.format=text worker. Not for secrets: every user of this machine can read it
    #[arg(long, value_name = "PATH=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
    #[command(subcommand)]
    command: Command,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let written = text.split_once('=').filter(|(path, _)| !path.is_empty());
    let (path, value) = written.ok_or("write it as in amqp.prefetch=512")?;
    Ok((path.to_owned(), value.to_owned()))
}

const EXIT_CODES: &str = "\
Exit codes: 0 done (an empty list is success), 1 failed, 2 usage or invalid configuration, \
3 partly done, 6 state changed meanwhile, 7 broker, ledger or provider unreachable, \
8 a check found something, 74 the disk failed under a worker's ledger, 130 interrupted.";

#[derive(Subcommand)]
enum Command {
    /// Consume, dispatch, publish; serves /metrics and the health endpoints
    Worker {
        /// Ask the providers about every open request before sending anything: for a ledger
        /// that was restored from a copy which may lack the latest calls
        #[arg(long)]
        reconcile: bool,
    },
    Simulate(simulate::Args),
    Check(check::Args),
    Topology(topology::Args),
    Submit(submit::Args),
    Results(results::Args),
    Show(show::Args),
    List(list::Args),
    Dead(dead::Args),
    Health(health::Args),
    Completions(completions::Args),
}

/// How a command ended; the numbers are a public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done; an empty list is success.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// Usage or invalid configuration.
    Usage = 2,
    /// Part of the work is done.
    Partly = 3,
    /// The state changed meanwhile.
    Changed = 6,
    /// Broker, ledger or provider cannot be reached.
    Unreachable = 7,
    /// A check found something.
    Found = 8,
    /// A person interrupted it.
    Interrupted = 130,
}

/// An error of the command line's own, and the code that it ends with.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct CommandError {
    exit: Exit,
    what: String,
}

impl CommandError {
    /// The command's input or configuration cannot be used.
    pub fn usage(what: impl Into<String>) -> Self {
        let (exit, what) = (Exit::Usage, what.into());
        Self { exit, what }
    }

    /// Broker, ledger or provider cannot be reached.
    pub fn unreachable(what: impl Into<String>) -> Self {
        let (exit, what) = (Exit::Unreachable, what.into());
        Self { exit, what }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The code for an error: the first cause that has one decides.
    pub fn of(error: &anyhow::Error) -> Self {
        error
            .chain()
            .find_map(Self::of_cause)
            .unwrap_or(Self::Failed)
    }

    fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Self> {
        if let Some(command) = cause.downcast_ref::<CommandError>() {
            return Some(command.exit);
        }
        if cause.is::<ConfigError>() || cause.is::<ClientError>() {
            return Some(Self::Usage);
        }
        if cause.is::<LedgerError>() {
            return Some(Self::Unreachable);
        }
        cause.downcast_ref::<AmqpError>().map(Self::of_broker)
    }

    fn of_broker(error: &AmqpError) -> Self {
        match error {
            AmqpError::Settings(_) => Self::Usage,
            AmqpError::Topology(_) => Self::Found,
            _ => match error.refusal() {
                // An exchange or queue exists that was declared in another way.
                Some((PRECONDITION_FAILED, _)) => Self::Found,
                _ => Self::Unreachable,
            },
        }
    }
}

/// Runs a command. `environment` is the process's.
pub fn main(environment: Vec<(String, String)>) -> ExitCode {
    let cli = Cli::parse();
    failpoint::arm(variable(&environment, "RESCIND_FAIL_POINT"));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let done = runtime.block_on(command(cli, environment));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match done {
        Ok(exit) => exit.into(),
        Err(error) => fail(&error),
    }
}

/// Half of the cores: tasks are short, and the threads of the ledger and of the broker's
/// connections need cores too.
fn threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).max(1)
}

async fn command(cli: Cli, environment: Vec<(String, String)>) -> anyhow::Result<Exit> {
    let screen = Screen::new(
        variable(&environment, "NO_COLOR"),
        variable(&environment, "TERM"),
    );
    let load = || load(cli.config, environment.clone(), cli.set);
    match cli.command {
        Command::Worker { reconcile } => worker(load()?.config, &environment, reconcile).await,
        Command::Simulate(args) => {
            let wrong = |error: anyhow::Error| CommandError::usage(format!("{error:#}"));
            let scenario = args.check().map_err(wrong)?;
            simulate::run(args, scenario).await.map(|()| Exit::Done)
        }
        Command::Check(args) => check::run(args, &load()?, screen).await,
        Command::Topology(args) => topology::run(args, &load()?, screen).await,
        Command::Submit(args) => submit::run(args, &load()?, screen).await,
        Command::Results(args) => results::run(args, &load()?, screen).await,
        Command::Show(args) => show::run(args, &load()?.config, screen).await,
        Command::List(args) => list::run(args, &load()?.config, screen).await,
        Command::Dead(args) => dead::run(args, &load()?.config, &login(&environment), screen).await,
        Command::Health(args) => health::run(args, &load()?.config, screen).await,
        Command::Completions(args) => completions::run(&args, screen),
    }
}

async fn worker(
    config: Config,
    environment: &[(String, String)],
    reconcile: bool,
) -> anyhow::Result<Exit> {
    let variable = |name| variable(environment, name);
    let may_have_colour = text::may_have_colour(variable("NO_COLOR"), variable("TERM"));
    let look = log::Look {
        format: config.log_format,
        colour: may_have_colour && io::stderr().is_terminal(),
    };
    log::start(look, variable("RUST_LOG"), run::now);
    let start = run::Start {
        revision: option_env!("RESCIND_REVISION").unwrap_or("unknown"),
        reconcile,
        spans: Spans::start(environment),
        systemd: Systemd::new(variable("NOTIFY_SOCKET"), variable("WATCHDOG_USEC")),
    };
    Ok(match run::worker(config, start).await? {
        run::Stopped::Drained => Exit::Done,
        run::Stopped::Interrupted => Exit::Interrupted,
    })
}

/// The name of the person at the terminal: the one behind `sudo`, if there is one. Without any of these, as in a
/// plain container, the system's list of users has it.
fn login(environment: &[(String, String)]) -> String {
    let names = ["SUDO_USER", "LOGNAME", "USER"].iter();
    let named = names.filter_map(|name| variable(environment, name));
    let named = named.map(str::trim).find(|name| !name.is_empty());
    if let Some(name) = named {
        return name.to_owned();
    }
    let uid = rustix::process::getuid().as_raw();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    user(&users, uid).map_or_else(|| format!("uid {uid}"), str::to_owned)
}

/// The name of a user in the form of passwd(5).
fn user(users: &str, uid: u32) -> Option<&str> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    })
}

fn variable<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Loads the configuration that a worker would have.
pub fn load(
    file: Option<PathBuf>,
    environment: Vec<(String, String)>,
    flags: Vec<(String, String)>,
) -> anyhow::Result<Loaded> {
    let sources = Sources {
        file,
        default_files: vec!["rescind.toml".into(), "/etc/rescind/rescind.toml".into()],
        environment,
        flags,
    };
    config::load(&sources, providers::ALL).context("the configuration cannot be used")
}

/// Connects to the configured broker, or says which one cannot be reached.
async fn connect(loaded: &Loaded, name: &str) -> anyhow::Result<Link> {
    let connected = amqp::connect(&loaded.config.amqp, name).await;
    connected.map_err(|error| {
        let url = shown(loaded, "amqp.url");
        let what = match error.refusal() {
            Some(_) => format!(
                "the broker refuses; are user, password and vhost in amqp.url = {url} right?"
            ),
            None => format!("the broker cannot be used; does it run at amqp.url = {url}?"),
        };
        anyhow::Error::new(error).context(what)
    })
}

/// Opens the configured ledger beside the worker that writes it.
async fn ledger(config: &Config) -> anyhow::Result<Arc<dyn Ledger>> {
    Ok(run::location(config).open_to_read().await?)
}

/// Where nothing matches a filter, the account's name may be wrong; or all is well, with an account that was
/// removed, or in a configuration that has the ledger only. `what` names the records.
fn known_provider(name: Option<&str>, what: &str, config: &Config) -> Result<(), CommandError> {
    let Some(name) = name else { return Ok(()) };
    if config.accounts.contains_key(name) {
        return Ok(());
    }
    if name == UNKNOWN_PROVIDER {
        text::say(
            "`unknown` selects messages whose provider could not be read. For accounts no longer configured (also `unknown` in the metrics), omit --provider",
        );
        return Ok(());
    }
    let names: Vec<&str> = config.accounts.keys().map(String::as_str).collect();
    let names = names.join(", ");
    if !is_account_name(name) {
        return Err(CommandError::usage(format!(
            "--provider {name}: no account can have that name, which must match ^[a-z0-9_-]{{1,64}}$; the accounts are {names}"
        )));
    }
    text::say(&if names.is_empty() {
        format!(
            "no {what} is about {name}; no account is configured here, so the name may be wrong"
        )
    } else {
        format!(
            "no {what} is about {name}, and no account is configured under that name; the accounts are {names}"
        )
    });
    Ok(())
}

/// The right that this user lacks, if the broker refused access. The broker names an exchange or a
/// queue; its older versions do not say which right is missing.
fn forbidden(error: &AmqpError, about_exchange: &str) -> Option<String> {
    let (_, text) = error
        .refusal()
        .filter(|(code, _)| *code == ACCESS_REFUSED)?;
    let what = if text.contains(" exchange '") {
        about_exchange
    } else {
        "configure and use a queue of its own"
    };
    Some(format!(
        "this user may not {what}; use another amqp.url, e.g. by RESCIND_AMQP__URL"
    ))
}

/// A setting as it may be shown.
fn shown<'a>(loaded: &'a Loaded, path: &str) -> &'a str {
    let found = loaded.effective.iter().find(|value| value.path == path);
    found.map_or("", |value| value.value.as_str())
}

/// Whether the error is that the reader of the output has closed it.
fn is_unread(error: &anyhow::Error) -> bool {
    let closed = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(closed))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    if is_unread(error) {
        // The reader of the output has seen enough.
        return Exit::Done.into();
    }
    text::say(&format!("rescind: {error:#}"));
    Exit::of(error).into()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use lapin::protocol::{AMQPError, AMQPSoftError};

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_person_is_who_became_another_user() {
        let named = |variables: &[(&str, &str)]| {
            let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            login(&variables.iter().map(own).collect::<Vec<_>>())
        };
        let all = [("USER", "c"), ("LOGNAME", "b"), ("SUDO_USER", "a")];
        assert_eq!(named(&all), "a");
        assert_eq!(named(&all[..2]), "b");
        assert_eq!(named(&[("SUDO_USER", " "), ("USER", "c")]), "c");
        let users = "root:x:0:0:root:/root:/bin/sh\n\nodd\n:x:7::\nrescind:x:65532:65532::/:/sbin/nologin\n";
        assert_eq!(user(users, 65532), Some("rescind"));
        assert_eq!(user(users, 0), Some("root"));
        assert_eq!(user(users, 7), None);
        assert!(!named(&[]).is_empty());
    }

    #[test]
    fn the_help_names_every_code() {
        let own = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::Partly,
            Exit::Changed,
            Exit::Unreachable,
            Exit::Found,
            Exit::Interrupted,
        ];
        // 74 is the ledger's, which ends the process itself.
        for code in own.map(|exit| exit as u8).into_iter().chain([74]) {
            let words = || EXIT_CODES.split([' ', ',']);
            assert!(words().any(|word| word == code.to_string()), "{code}");
        }
    }

    #[test]
    fn a_right_that_is_missing_is_named_and_where_to_get_another_user() {
        let refused = |text: &str| {
            let error = AMQPError::new(AMQPSoftError::ACCESSREFUSED.into(), text.into());
            let cause = lapin::ErrorKind::ProtocolError(error).into();
            forbidden(&AmqpError::Protocol("a step", cause), "read it").unwrap()
        };
        let queue = refused("ACCESS_REFUSED - access to queue 'amq.gen-x' in vhost '/' refused");
        assert!(queue.starts_with("this user may not configure"), "{queue}");
        assert!(queue.contains("RESCIND_AMQP__URL"), "{queue}");
        let exchange = refused("ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused");
        assert!(exchange.starts_with("this user may not read it;"));
        assert_eq!(forbidden(&AmqpError::Lost, "read it"), None);
    }

    #[test]
    fn every_error_has_the_code_of_the_contract() {
        let code = |error: anyhow::Error| Exit::of(&error.context("while trying")) as u8;
        let problems = Vec::new();
        assert_eq!(code(anyhow::anyhow!("something")), 1);
        assert_eq!(code(ConfigError { problems }.into()), 2);
        assert_eq!(code(CommandError::usage("that").into()), 2);
        assert_eq!(code(CommandError::unreachable("that").into()), 7);
        assert_eq!(code(AmqpError::Settings("that".into()).into()), 2);
        assert_eq!(code(AmqpError::Lost.into()), 7);
        assert_eq!(code(AmqpError::Timeout("connect", amqp::STEP).into()), 7);
        assert_eq!(code(LedgerError::Failed("disk".into()).into()), 7);
        assert_eq!(code(AmqpError::Topology(vec!["differs".into()]).into()), 8);
    }
}
