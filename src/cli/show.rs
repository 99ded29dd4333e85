//! `rescind show`: everything that is known of one request, on one screen.

use anyhow::anyhow;

use super::history::Page;
use super::text::Screen;
use super::{Exit, ledger};
use crate::config::Config;
use crate::ledger::{DeadFilter, DeadRecord};
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
    let ledger = ledger(config).await?;
    let letters = ledger.dead(DeadFilter::with_id(id)).await?;
    let Some(history) = ledger.history(id).await? else {
        return Err(no_request(id, letters.first()));
    };
    let page = Page::of(history, config, now()).beside(&letters);
    if args.json {
        screen.document(&page)?
    } else {
        let lines = page.lines(screen, now());
        lines.iter().try_for_each(|line| screen.line(line))?;
    }
    Ok(Exit::Done)
}

/// A message that was invalid is no request, but its publisher knows it by the same id; and a dead letter has an id, too.
fn no_request(id: &str, letter: Option<&DeadRecord>) -> anyhow::Error {
    match letter {
        Some(letter) if letter.is_request => anyhow!(
            "{id:?} is the id of a dead letter: `rescind dead show {id}` shows it with its request"
        ),
        Some(letter) => anyhow!(
            "the message with {id:?} was invalid ({}), so there is no request: `rescind dead show {id}` tells why",
            letter.reason
        ),
        None => anyhow!("there is no request {id:?} in the ledger; is the id right?"),
    }
}
