//! `rescind completions`: prints a completion script for a shell.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::text::Screen;
use super::{Cli, Exit};

/// Print a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which shell
    shell: Shell,
}

/// Prints the script.
pub(super) fn run(args: &Args, screen: Screen) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "rescind", &mut script);
    screen.line(String::from_utf8_lossy(&script).trim_end())?;
    Ok(Exit::Done)
}
