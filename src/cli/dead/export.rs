//! `rescind dead export`: dead letters as JSON lines, for programs and for keeping.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::super::history::Page;
use super::super::text::{self, Screen};
use super::super::{Exit, known_provider, ledger};
use super::list::letter_object;
use super::{Filters, next_page, page_of, reasons};
use crate::config::Config;
use crate::ledger::{DeadFilter, DeadRecord};

/// Print dead letters as JSON lines, the messages exactly as received.
///
/// `body` is the text as received, `body_base64` the bytes where they are not text. They hold
/// whatever the publisher sent, unmasked: treat the file like the payments' own data.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// Only those given up for this reason
    #[arg(long, value_name = "REASON", visible_alias = "dead-reason", value_parser = reasons())]
    reason: Option<String>,
    /// Export closed ones instead
    #[arg(long)]
    closed: bool,
    /// Print one JSON object a line, as without this flag
    #[arg(long)]
    json: bool,
}

/// Prints every matching dead letter, oldest first.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    let ledger = ledger(config).await?;
    let mut filter = DeadFilter {
        with_body: true,
        ..args.filters.filter(args.reason, !args.closed)?
    };
    let mut exported = 0;
    while let Some(page) = next_page(&*ledger, &mut filter).await? {
        for letter in &page {
            let request = page_of(&*ledger, letter, config).await?;
            screen.json(&line(letter, request.as_ref()))?;
        }
        exported += page.len();
    }
    if exported == 0 {
        known_provider(filter.provider.as_deref(), "dead letter", config)?;
    }
    text::say(&format!(
        "{} exported",
        text::count(exported, "dead letter")
    ));
    Ok(Exit::Done)
}

fn line(letter: &DeadRecord, request: Option<&Page>) -> Value {
    let mut line = letter_object(letter);
    match std::str::from_utf8(&letter.body) {
        Ok(text) => line["body"] = json!(text),
        Err(_) => line["body_base64"] = json!(STANDARD.encode(&letter.body)),
    }
    line["request"] = json!(request);
    line
}
