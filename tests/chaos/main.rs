//! The fault suite: real parts, faults on every hop, and a judge over what they left behind.
//!
//! `cargo test` runs a short one with a fixed seed. `make chaos MINUTES=n SEED=s LEDGER=both` runs
//! a long one. docs/chaos.md says what is injected, what is asserted and how to read the report.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::string_slice,
    clippy::disallowed_methods,
    reason = "a suite that cannot go on stops, and lives by the clock"
)]

mod disk;
mod exchange;
mod figures;
mod history;
mod hop;
mod judge;
mod judge_checks;
mod load;
mod plan;
mod report;
#[path = "../it/rig/mod.rs"]
mod rig;
mod run;
mod scene;
mod tally;
mod traffic;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use clap::Parser;

use self::plan::Kind;
use self::run::Settings;

/// Says to a child that it has a mount namespace of its own.
const APART: &str = "RESCIND_CHAOS_APART";

#[derive(Debug, Parser)]
struct Arguments {
    /// The word that tells a run of our own from arguments meant for all tests.
    #[arg(value_parser = ["run"])]
    _run: String,
    /// How long faults are injected, over all ledgers.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Decides load and faults.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the ledger is.
    #[arg(long, value_parser = ["sqlite", "postgres", "both"], default_value = "both")]
    ledger: String,
    /// Requests a second.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Exchanges with a provider that meet a fault, of a thousand.
    #[arg(long, default_value_t = 200)]
    faults: u32,
    /// Where the report is written, too.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let Some(settings) = settings(&given) else {
        return ExitCode::SUCCESS;
    };
    if std::env::var_os(APART).is_none() {
        apart(&given);
    }
    let checks = judge_checks::run();
    println!("the judge finds each of {checks} planted faults");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(4)
        .enable_all()
        .build()
        .expect("a runtime");
    if runtime.block_on(run::run(&settings)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// `None`: these arguments ask for other tests.
fn settings(given: &[String]) -> Option<Settings> {
    if given.first().is_some_and(|first| first == "run") {
        let arguments =
            Arguments::parse_from(std::iter::once("chaos".to_owned()).chain(given.iter().cloned()));
        let kinds = match arguments.ledger.as_str() {
            "sqlite" => vec![Kind::Sqlite],
            "postgres" => vec![Kind::Postgres],
            _ => vec![Kind::Sqlite, Kind::Postgres],
        };
        return Some(Settings {
            seconds: arguments.minutes * 60.0,
            seed: arguments.seed,
            rate: arguments.rate,
            per_mille: arguments.faults,
            report: arguments.report,
            short: false,
            kinds,
        });
    }
    let listing = given.iter().any(|word| word == "--list");
    let mut filters = given
        .iter()
        .filter(|word| !word.starts_with('-'))
        .peekable();
    let others = filters.peek().is_some() && !filters.any(|word| "chaos".contains(word.as_str()));
    (!listing && !others).then(Settings::short)
}

/// Starts this program again where it may mount a small disk that nobody else sees. Where that is
/// not possible it goes on here, without a full disk.
fn apart(given: &[String]) {
    let this = std::env::current_exe().expect("this program");
    // Root stays root: PostgreSQL is started as another user, who has to exist in there.
    let root = rustix::process::getuid().is_root();
    let ways: &[&[&str]] = if root {
        &[&["--mount"]]
    } else {
        &[&["--map-root-user", "--mount"]]
    };
    for way in ways {
        let works = Command::new("unshare").args(*way).arg("true").output();
        if works.is_ok_and(|output| output.status.success()) {
            let error = Command::new("unshare")
                .args(*way)
                .arg(this)
                .args(given)
                .env(APART, "yes")
                .exec();
            panic!("cannot start again: {error}");
        }
    }
}
