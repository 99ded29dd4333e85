//! `rescind dead show`: one dead letter on one screen.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::advice::advice_on;
use super::super::history::{Page, action_line, dated, field};
use super::super::mask::{masked, masked_text};
use super::super::text::{self, Screen, Style};
use super::super::{Exit, ledger};
use super::list::letter_object;
use super::{by_id, meant, page_of};
use crate::config::Config;
use crate::ledger::{DeadFilter, DeadRecord, Ledger};
use crate::run::now;

/// Lines of a body on a screen.
const LINES_MAX: usize = 60;

/// Show one dead letter: its message as received, its request, its calls, what to do. Card
/// numbers, tokens and keys are masked.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Id of a dead letter, or of its request
    id: String,
    /// Print one JSON document; of several letters, one object a line
    #[arg(long)]
    json: bool,
}

/// Prints the dead letters that the id means.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    let ledger = ledger(config).await?;
    let letters = meant(by_id(&*ledger, &args.id).await?, &args.id);
    let several = letters.len() > 1;
    for letter in letters {
        let letter = with_message(&*ledger, letter).await?;
        let page = page_of(&*ledger, &letter, config).await?;
        match (args.json, several) {
            (true, true) => screen.json(&document(&letter, page.as_ref()))?,
            (true, false) => screen.document(&document(&letter, page.as_ref()))?,
            (false, _) => print(&letter, page.as_ref(), screen, now())?,
        }
    }
    Ok(Exit::Done)
}

/// One at a time, for a message may be large; as it was where retention has removed it meanwhile.
async fn with_message(ledger: &dyn Ledger, letter: DeadRecord) -> anyhow::Result<DeadRecord> {
    let filter = DeadFilter {
        with_body: true,
        most: 1,
        ..DeadFilter::with_id(&letter.id)
    };
    let read = ledger.dead(filter).await?.pop();
    Ok(read.filter(|read| read.id == letter.id).unwrap_or(letter))
}

fn document(letter: &DeadRecord, page: Option<&Page>) -> Value {
    let mut document = letter_object(letter);
    let of_request = page.filter(|_| letter.is_request).and_then(Page::advice);
    let to_do = || of_request.unwrap_or_else(|| advice_on(letter));
    document["to_do"] = json!(letter.closed_at.is_none().then(to_do));
    document["received"] = received(letter);
    document["request"] = json!(page);
    document
}

/// The message as received, masked.
fn received(letter: &DeadRecord) -> Value {
    match serde_json::from_slice::<Value>(&letter.body) {
        Ok(value) => masked(&value),
        Err(_) => Value::String(masked_text(&String::from_utf8_lossy(&letter.body))),
    }
}

fn print(
    letter: &DeadRecord,
    page: Option<&Page>,
    screen: Screen,
    now: Timestamp,
) -> std::io::Result<()> {
    let mut lines = vec![
        screen.paint(Style::Bold, &format!("dead letter {}", letter.id)),
        field("given up", &dated(letter.dead_at, now)),
        field("because", &text::printable(&masked_text(&letter.detail))),
    ];
    match page {
        Some(page) => lines.extend(page.lines(screen, now)),
        None => lines.extend(alone(letter, screen, now)),
    }
    lines.push(screen.paint(Style::Bold, "as received, card numbers and secrets masked"));
    lines.extend(received_lines(letter));
    lines.iter().try_for_each(|line| screen.line(line))
}

fn received_lines(letter: &DeadRecord) -> Vec<String> {
    let text = match received(letter) {
        Value::String(text) => text,
        value => format!("{value:#}"),
    };
    let shown = text.lines().take(LINES_MAX);
    let mut lines: Vec<_> = shown
        .map(|line| format!("  {}", text::printable(line)))
        .collect();
    let hidden = text.lines().count().saturating_sub(LINES_MAX);
    if hidden > 0 {
        lines.push(format!(
            "  … and {hidden} more lines; `rescind dead export` has all of it"
        ));
    }
    lines
}

/// The lines about a message that is not a request.
fn alone(letter: &DeadRecord, screen: Screen, now: Timestamp) -> Vec<String> {
    let id = letter.request_id.as_deref().unwrap_or("no request_id");
    let state = format!("{}: {}", letter.outcome, letter.reason);
    let mut lines = vec![
        screen.paint(Style::Bold, &format!("{id}  {}", letter.provider)),
        field(
            "state",
            &screen.paint(Style::of_outcome(&letter.outcome), &state),
        ),
    ];
    if letter.closed_at.is_none() {
        lines.push(field("to do", &advice_on(letter)));
    }
    lines.push(field("received", &dated(letter.received_at, now)));
    lines.extend(letter.last.as_ref().map(|last| action_line(last, now)));
    lines
}
