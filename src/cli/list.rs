//! `rescind list`: requests by state, provider and age.

use std::time::Duration;

use clap::builder::{NonEmptyStringValueParser, PossibleValuesParser};
use jiff::Timestamp;

use super::history::LATE;
use super::text::{self, Cell, Screen, Style};
use super::{Exit, known_provider, ledger};
use crate::backoff::elapsed;
use crate::config::Config;
use crate::ledger::{Filter, Summary};
use crate::outcome::{Outcome, State};
use crate::run::now;

/// The ledger's word for every state but `finished`.
const OPEN: &str = "open";

/// List requests, oldest first.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A state or an outcome; `open`: every state but finished, replays too
    #[arg(long, value_parser = states())]
    state: Option<String>,
    /// Account name
    #[arg(long)]
    provider: Option<String>,
    /// Received at least this long ago, as in 90s, 1h or 7d
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    older_than: Option<Duration>,
    /// Received less than this long ago
    #[arg(long, value_name = "DURATION", value_parser = text::duration)]
    newer_than: Option<Duration>,
    /// With this text in the message, as it was received: an order's number, an id of the provider's. Every
    /// message is read for it
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    containing: Option<String>,
    /// List at most this many
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
}

fn states() -> PossibleValuesParser {
    let states = State::ALL.iter().map(|state| state.as_str());
    // Invalid messages are not requests: `rescind dead list --outcome invalid` has them.
    let outcomes = Outcome::NAMES.into_iter().filter(|name| *name != "invalid");
    PossibleValuesParser::new([OPEN].into_iter().chain(states).chain(outcomes))
}

/// Prints the ledger's requests.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    text::expect_between(args.older_than, args.newer_than)?;
    let now = now();
    let most = args.limit.saturating_add(1);
    let filter = Filter {
        state: args.state,
        provider: args.provider.clone(),
        received_before: args.older_than.map(|age| text::before(now, age)),
        received_after: args.newer_than.map(|age| text::before(now, age)),
        containing: args.containing,
        most,
    };
    let mut found = ledger(config).await?.list(filter).await?;
    if found.is_empty() {
        known_provider(args.provider.as_deref(), "request", config)?;
    }
    let more = found.len() > args.limit;
    found.truncate(args.limit);
    if args.json {
        found
            .iter()
            .try_for_each(|summary| screen.json(&object(summary)))?
    } else {
        print(&found, now, screen)?
    }
    if more {
        text::say(&format!(
            "these are the oldest {}; --limit shows more",
            args.limit
        ));
    }
    Ok(Exit::Done)
}

fn print(found: &[Summary], now: Timestamp, screen: Screen) -> anyhow::Result<()> {
    if found.is_empty() {
        text::say("no such requests");
        return Ok(());
    }
    let rows: Vec<Vec<Cell>> = found.iter().map(|summary| row(summary, now)).collect();
    let titles = [
        "request", "provider", "state", "reason", "attempts", "look-ups", "age", "next",
    ];
    Ok(screen.table(&titles, &rows)?)
}

fn row(summary: &Summary, now: Timestamp) -> Vec<Cell> {
    let finished = summary.state == State::Finished.as_str();
    let (state, reason) = match (&summary.outcome, &summary.corrected) {
        // Who reads the first half alone would refund what is cancelled.
        (Some(said), Some(found)) if finished => (
            format!("{} → {}", said.0, found.0),
            format!("{} → {}", said.1, found.1),
        ),
        (Some((outcome, reason)), _) if finished => (outcome.clone(), reason.clone()),
        (Some((outcome, _)), _) => (summary.state.clone(), format!("replay of {outcome}")),
        (None, _) => (summary.state.clone(), String::new()),
    };
    let stands = summary.corrected.as_ref().filter(|_| finished);
    let style = Style::of_outcome(stands.map_or(&state, |(outcome, _)| outcome));
    vec![
        summary.request_id.as_str().into(),
        summary.provider.as_str().into(),
        Cell::styled(state, style),
        reason.into(),
        summary.attempts.to_string().into(),
        summary.lookups.to_string().into(),
        text::span(elapsed(summary.received_at, now)).into(),
        next(summary, now).into(),
    ]
}

fn next(summary: &Summary, now: Timestamp) -> String {
    match summary.due_at {
        Some(due) if due > now => format!("in {}", text::span(elapsed(now, due))),
        Some(due) if elapsed(due, now) > LATE => {
            format!("{} late", text::span(elapsed(due, now)))
        }
        Some(_) => "now".into(),
        None => String::new(),
    }
}

fn object(summary: &Summary) -> serde_json::Value {
    let end = summary.outcome.as_ref();
    serde_json::json!({
        "request_id": summary.request_id,
        "provider": summary.provider,
        "state": summary.state,
        "outcome": end.map(|(outcome, _)| outcome),
        "reason": end.map(|(_, reason)| reason),
        // As `rescind show` has it.
        "corrected": summary.corrected,
        "attempts": summary.attempts,
        "lookups": summary.lookups,
        "received_at": summary.received_at,
        "due_at": summary.due_at,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(outcome: Option<(String, String)>) -> Summary {
        Summary {
            request_id: "a".into(),
            provider: "migo".into(),
            state: if outcome.is_some() {
                "finished"
            } else {
                "in_doubt"
            }
            .into(),
            outcome,
            corrected: None,
            attempts: 1,
            lookups: 2,
            received_at: Timestamp::from_second(1_000).unwrap(),
            due_at: Timestamp::from_second(1_100).ok(),
        }
    }

    #[test]
    fn a_finished_request_shows_its_outcome_and_an_open_one_what_is_next() {
        let now = Timestamp::from_second(1_060).unwrap();
        let screen = Screen::new(Some("1"), None);
        let show = |summary| {
            let rows = [row(&summary, now)];
            text::Table::fitting(&["", "", "", "", "", "", "", ""], &rows).row(screen, &rows[0])
        };
        assert!(show(summary(None)).ends_with("1 min  in 40.0 s"));
        let mut due = summary(None);
        due.due_at = Timestamp::from_second(1_055).ok();
        assert!(show(due.clone()).ends_with("now"));
        due.due_at = Timestamp::from_second(1_010).ok();
        assert!(show(due).ends_with("50.0 s late"));
        let end = Some(("refused".to_owned(), "settled".to_owned()));
        assert!(show(summary(end)).contains("refused  settled"));
        let end = Some(("failed".to_owned(), "retries_exhausted".to_owned()));
        let mut replayed = summary(end);
        replayed.corrected = Some(("cancelled".to_owned(), "voided".to_owned()));
        let corrected = "failed → cancelled  retries_exhausted → voided";
        assert!(show(replayed.clone()).contains(corrected));
        replayed.state = "in_doubt".into();
        assert!(show(replayed).contains("in_doubt  replay of failed"));
    }

    #[test]
    fn an_object_has_every_key_always() {
        let object = object(&summary(None));
        assert_eq!(object["outcome"], serde_json::Value::Null);
        assert_eq!(object["due_at"], "1970-01-01T00:18:20Z");
        assert_eq!(object["corrected"], serde_json::Value::Null);
        assert_eq!(object.as_object().unwrap().len(), 10);
    }
}
