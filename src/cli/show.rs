//! `rescind show`: everything that is known of one request, on one screen.

use anyhow::bail;

use super::history::Page;
use super::text::Screen;
use super::{Exit, ledger};
use crate::config::Config;
use crate::run::now;

/// Show one request: state, every call, evidence, result.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The publisher's id
    request_id: String,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

/// Prints the request; an error if there is none.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    let id = &args.request_id;
    let Some(history) = ledger(config).await?.history(id).await? else {
        bail!(
            "there is no request {id:?} in the ledger; is the id right? A message that was invalid has no history, `rescind dead list` shows it"
        );
    };
    let page = Page::of(history, config, now());
    if args.json {
        screen.document(&page)?
    } else {
        for line in page.lines(screen, now()) {
            screen.line(&line)?;
        }
    }
    Ok(Exit::Done)
}
