//! `rescind dead list`: dead letters one by one, or in groups.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::super::mask::masked_text;
use super::super::text::{self, Cell, Screen, Style};
use super::super::{Exit, known_provider, ledger};
use super::group::{Group, groups, message};
use super::{Filters, all, reasons};
use crate::backoff::elapsed;
use crate::config::Config;
use crate::ledger::{DeadFilter, DeadRecord};
use crate::run::now;

/// Characters of a message in a table.
const MESSAGE_MAX: usize = 60;

/// List dead letters, oldest first; or groups of them.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// Only those given up for this reason
    #[arg(long, value_name = "REASON", visible_alias = "dead-reason", value_parser = reasons())]
    reason: Option<String>,
    /// List closed ones instead, with who closed them and why
    #[arg(long, conflicts_with = "group")]
    closed: bool,
    /// List groups that failed in the same way, the largest first
    #[arg(long)]
    group: bool,
    /// List at most this many; of groups, all are listed
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        conflicts_with = "group"
    )]
    limit: usize,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

/// Prints the ledger's dead letters.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    let filter = args.filters.filter(args.reason, !args.closed)?;
    let ledger = ledger(config).await?;
    let now = now();
    if args.group {
        let groups = groups(&all(&*ledger, filter, config).await?);
        print_groups(&groups, args.json, screen, now)?;
        return Ok(Exit::Done);
    }
    let most = args.limit.saturating_add(1);
    let mut found = ledger.dead(DeadFilter { most, ..filter }).await?;
    if found.is_empty() {
        known_provider(args.filters.provider.as_deref(), "dead letter", config)?;
    }
    let more = found.len() > args.limit;
    found.truncate(args.limit);
    print_letters(&found, args.json, screen, now)?;
    if more {
        let limit = args.limit;
        text::say(&format!(
            "these are the oldest {limit}; --limit shows more, --group less"
        ));
    }
    Ok(Exit::Done)
}

const TITLES: [&str; 6] = ["id", "provider", "outcome", "reason", "age", "message"];
const GROUP_TITLES: [&str; 7] = [
    "number", "provider", "outcome", "reason", "oldest", "newest", "message",
];

fn print_letters(
    letters: &[DeadRecord],
    json: bool,
    screen: Screen,
    now: Timestamp,
) -> anyhow::Result<()> {
    if json {
        let mut objects = letters.iter().map(letter_object);
        return objects.try_for_each(|object| screen.json(&object));
    }
    let rows: Vec<_> = letters.iter().map(|l| letter_row(l, now)).collect();
    Ok(table(&TITLES, &rows, screen)?)
}

fn print_groups(
    groups: &[Group],
    json: bool,
    screen: Screen,
    now: Timestamp,
) -> anyhow::Result<()> {
    if json {
        return groups
            .iter()
            .try_for_each(|group| screen.json(&json!(group)));
    }
    let rows: Vec<_> = groups.iter().map(|g| group_row(g, now)).collect();
    Ok(table(&GROUP_TITLES, &rows, screen)?)
}

fn table(titles: &[&'static str], rows: &[Vec<Cell>], screen: Screen) -> std::io::Result<()> {
    if rows.is_empty() {
        text::say("no such dead letters");
        return Ok(());
    }
    screen.table(titles, rows)
}

fn letter_row(letter: &DeadRecord, now: Timestamp) -> Vec<Cell> {
    let id = letter.request_id.as_ref().filter(|_| letter.is_request);
    let age = text::span(elapsed(letter.dead_at, now));
    let last = letter.last.as_ref().filter(|_| letter.closed_at.is_some());
    let says = match (last, &letter.request_id) {
        (Some(last), _) => format!("{} by {}: {}", last.action, last.who, last.why),
        // Its publisher asks with this id.
        (None, Some(named)) if !letter.is_request => format!("{named}: {}", message(letter)),
        (None, _) => message(letter),
    };
    vec![
        id.unwrap_or(&letter.id).as_str().into(),
        letter.provider.as_str().into(),
        Cell::styled(letter.outcome.as_str(), Style::of_outcome(&letter.outcome)),
        letter.reason.as_str().into(),
        age.into(),
        short(&says).into(),
    ]
}

fn group_row(group: &Group, now: Timestamp) -> Vec<Cell> {
    let age = |at| text::span(elapsed(at, now));
    vec![
        group.number.to_string().into(),
        group.provider.as_str().into(),
        Cell::styled(group.outcome.as_str(), Style::of_outcome(&group.outcome)),
        group.reason.as_str().into(),
        age(group.oldest).into(),
        age(group.newest).into(),
        short(&group.message).into(),
    ]
}

fn short(message: &str) -> String {
    let message = masked_text(message);
    if message.chars().count() > MESSAGE_MAX {
        message.chars().take(MESSAGE_MAX - 1).chain(['…']).collect()
    } else {
        message
    }
}

/// A dead letter for programs, without its bytes.
pub(super) fn letter_object(letter: &DeadRecord) -> Value {
    let last = letter.last.as_ref();
    json!({
        "dead_letter": letter.id,
        "request_id": letter.request_id,
        "is_request": letter.is_request,
        "provider": letter.provider,
        "outcome": letter.outcome,
        "reason": letter.reason,
        "message": masked_text(&letter.detail),
        "provider_message": letter.evidence.as_ref().map(|_| masked_text(&message(letter))),
        "received_at": letter.received_at,
        "dead_at": letter.dead_at,
        "closed_at": letter.closed_at,
        "action": last.map(|last| &last.action),
        "who": last.map(|last| &last.who),
        "why": last.map(|last| &last.why),
        "at": last.map(|last| last.at),
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::letter;
    use super::*;

    #[test]
    fn an_invalid_message_is_listed_under_its_letter_and_tells_the_id_that_its_publisher_knows() {
        let letter = DeadRecord {
            request_id: Some("order-7".into()),
            is_request: false,
            detail: "payment is missing".into(),
            ..letter()
        };
        let row = letter_row(&letter, Timestamp::UNIX_EPOCH);
        let screen = Screen::new(Some("1"), None);
        let line = text::Table::fitting(&TITLES, std::slice::from_ref(&row)).row(screen, &row);
        assert!(line.starts_with("the-letter "), "{line}");
        assert!(line.ends_with("order-7: payment is missing"), "{line}");
    }
}
