//! The command line: one file for each command.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::config::{self, Config, ConfigError, Loaded, Sources};
use crate::{failpoint, providers, run, simulate, trace};

/// Carries out payment cancellations: no request is lost, nothing is cancelled twice, and
/// nothing is called cancelled without the provider's evidence.
#[derive(Parser)]
#[command(name = "rescind", version, propagate_version = true)]
pub struct Cli {
    /// Configuration file [default: rescind.toml, then /etc/rescind/rescind.toml]
    #[arg(long, global = true, env = "RESCIND_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Consume, dispatch, publish; serves /metrics and the health endpoints
    Worker,
    /// Serve the six providers' APIs on loopback, with scripted behaviour
    Simulate(simulate::Args),
}

/// Runs a command. `environment` is the process's.
pub fn main(environment: Vec<(String, String)>) -> ExitCode {
    let cli = Cli::parse();
    let levels = variable(&environment, "RUST_LOG").map(str::to_owned);
    failpoint::arm(variable(&environment, "RESCIND_FAIL_POINT"));
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start")),
    };
    let done = runtime.block_on(async {
        match cli.command {
            Command::Worker => {
                let loaded = load(cli.config, environment)?;
                trace::start(loaded.config.log.format, levels.as_deref(), run::now);
                run::worker(
                    loaded.config,
                    option_env!("RESCIND_REVISION").unwrap_or("unknown"),
                )
                .await
            }
            Command::Simulate(args) => simulate::run(args).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn variable<'a>(environment: &'a [(String, String)], name: &str) -> Option<&'a str> {
    environment
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Loads the configuration that a worker would have.
pub fn load(file: Option<PathBuf>, environment: Vec<(String, String)>) -> anyhow::Result<Loaded> {
    let sources = Sources {
        file,
        default_files: vec!["rescind.toml".into(), "/etc/rescind/rescind.toml".into()],
        environment,
        flags: Vec::new(),
    };
    config::load(&sources, providers::ALL).context("the configuration cannot be used")
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("rescind: {error:#}");
    let code = match error.chain().any(|cause| cause.is::<ConfigError>()) {
        true => 2,
        false => 1,
    };
    ExitCode::from(code)
}

/// Keeps the type in one place for the commands.
pub type Settings = Config;
