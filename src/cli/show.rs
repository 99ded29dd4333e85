//! `rescind show`: all that is known of one request, on one screen.

use anyhow::bail;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::text::{self, Screen, Style};
use super::{Exit, ledger};
use crate::config::Config;
use crate::ledger::{CallRecord, History};
use crate::outcome::{Operation, State};
use crate::providers::Evidence;
use crate::run::now;

/// Show one request: state, every call, evidence, result.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The publisher's id
    request_id: String,
    /// One document
    #[arg(long)]
    json: bool,
}

/// Prints the request, or says that there is none.
pub(super) async fn run(args: Args, config: &Config, screen: Screen) -> anyhow::Result<Exit> {
    let id = &args.request_id;
    let Some(history) = ledger(config).await?.history(id).await? else {
        bail!(
            "there is no request {id:?} in the ledger; is the id right? A message that was invalid has no history, `rescind dead list` shows it"
        );
    };
    let page = Page::of(&history, config);
    match args.json {
        true => screen.document(&page)?,
        false => {
            for line in page.lines(screen, now()) {
                screen.line(&line)?;
            }
        }
    }
    Ok(Exit::Done)
}

/// The page, for programs under stable names.
#[derive(Debug, Serialize)]
struct Page {
    request_id: String,
    provider: String,
    state: &'static str,
    /// The state in words.
    says: String,
    outcome: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    advice: Option<&'static str>,
    payment: Value,
    amount: Option<String>,
    currency: Option<String>,
    deadline: Option<String>,
    received_at: Timestamp,
    finished_at: Option<Timestamp>,
    attempts: u32,
    lookups: u32,
    due_at: Option<Timestamp>,
    gives_up_at: Option<Timestamp>,
    calls: Vec<Call>,
    messages: Vec<Message>,
}

#[derive(Debug, Serialize)]
struct Call {
    operation: String,
    started_at: Timestamp,
    finished_at: Option<Timestamp>,
    verdict: Option<String>,
    #[serde(flatten)]
    evidence: Evidence,
}

#[derive(Debug, Serialize)]
struct Message {
    id: String,
    kind: String,
    routing_key: String,
    confirmed_at: Option<Timestamp>,
}

impl Page {
    fn of(history: &History, config: &Config) -> Self {
        let request: Value =
            serde_json::from_slice(&history.stored.envelope.body).unwrap_or_default();
        let text = |key: &str| request[key].as_str().map(str::to_owned);
        let (outcome, reason, finished_at) = match history.end.clone() {
            Some((outcome, reason, at)) => (Some(outcome), Some(reason), Some(at)),
            None => (None, None, None),
        };
        Self {
            request_id: history.stored.request_id.clone(),
            provider: history.stored.provider.clone(),
            state: history.progress.state.as_str(),
            says: in_words(history),
            message: message(history),
            advice: outcome.as_deref().and_then(advice),
            outcome,
            reason,
            payment: masked(&request["payment"]),
            amount: text("amount"),
            currency: text("currency"),
            deadline: text("deadline"),
            received_at: history.stored.envelope.received_at,
            finished_at,
            attempts: history.progress.attempts,
            lookups: history.progress.lookups,
            due_at: history.progress.due_at,
            gives_up_at: gives_up_at(history, config),
            calls: history.calls.iter().map(Call::of).collect(),
            messages: messages(history),
        }
    }

    fn lines(&self, screen: Screen, now: Timestamp) -> Vec<String> {
        let style = Style::of_outcome(self.outcome.as_deref().unwrap_or_default());
        let mut lines = vec![
            screen.paint(
                Style::Bold,
                &format!("{}  {}", self.request_id, self.provider),
            ),
            field("state", &screen.paint(style, &text::printable(&self.says))),
        ];
        let mut add = |name, value: Option<String>| {
            lines.extend(value.map(|value| field(name, &text::printable(&value))));
        };
        add("message", self.message.clone());
        add("to do", self.advice.map(str::to_owned));
        add("payment", Some(self.payment.to_string()));
        let currency = self.currency.as_deref().unwrap_or_default();
        let amount = self.amount.as_ref();
        add(
            "amount",
            amount.map(|amount| format!("{amount} {currency}")),
        );
        add("deadline", self.deadline.clone());
        add("received", Some(dated(self.received_at, now)));
        add("finished", self.finished_at.map(|at| dated(at, now)));
        add("next", self.due_at.map(|at| dated(at, now)));
        add("gives up", self.gives_up_at.map(|at| dated(at, now)));
        let calls = format!("{}, {}", self.attempts, self.lookups);
        add("attempts, look-ups", Some(calls));
        lines.extend(
            self.calls
                .iter()
                .enumerate()
                .map(|(at, call)| call.line(at)),
        );
        lines.extend(self.messages.iter().map(|message| message.line(now)));
        lines
    }
}

fn field(name: &str, value: &str) -> String {
    format!("  {name:<18}  {value}")
}

/// `2026-11-20 11:27:03.056Z, 4 min ago`
fn dated(time: Timestamp, now: Timestamp) -> String {
    let distance = text::span(text::between(time, now).max(text::between(now, time)));
    match time > now {
        true => format!("{}, in {distance}", text::moment(time)),
        false => format!("{}, {distance} ago", text::moment(time)),
    }
}

impl Call {
    fn of(record: &CallRecord) -> Self {
        Self {
            operation: record.operation.clone(),
            started_at: record.started_at,
            finished_at: record.finished_at,
            verdict: record.verdict.clone(),
            evidence: record.evidence.clone(),
        }
    }

    fn line(&self, at: usize) -> String {
        let took = self.finished_at.map_or_else(
            || "no end on record".to_owned(),
            |end| text::span(text::between(self.started_at, end)),
        );
        let evidence = &self.evidence;
        let status = evidence.http_status.map(|status| format!("HTTP {status}"));
        let words = [&evidence.code, &evidence.status, &evidence.message];
        let words: Vec<String> = status
            .into_iter()
            .chain(words.into_iter().flatten().cloned())
            .collect();
        let line = format!(
            "{:>3} {:<6}  {}  {:<9} {:<17} {}",
            at + 1,
            self.operation,
            text::moment(self.started_at),
            took,
            self.verdict.as_deref().unwrap_or("-"),
            words.join(" · ")
        );
        text::printable(line.trim_end())
    }
}

impl Message {
    fn line(&self, now: Timestamp) -> String {
        let confirmed = match self.confirmed_at {
            Some(at) => format!("confirmed {}", dated(at, now)),
            None => "not confirmed by the broker yet; it is tried again".into(),
        };
        field(
            &self.kind.replace('_', " "),
            &format!("{}  {confirmed}", self.id),
        )
    }
}

fn messages(history: &History) -> Vec<Message> {
    let records = history.messages.iter().map(|record| Message {
        id: record.id.clone(),
        kind: record.kind.clone(),
        routing_key: record.routing_key.clone(),
        confirmed_at: record.published_at,
    });
    records.collect()
}

/// The sentence of its result.
fn message(history: &History) -> Option<String> {
    let result = history.messages.iter().find(|m| m.kind == "result")?;
    let body: Value = serde_json::from_slice(&result.body).ok()?;
    body["message"].as_str().map(str::to_owned)
}

fn in_words(history: &History) -> String {
    let what = match history.progress.operation {
        Some(Operation::Lookup) => "a look-up",
        _ => "a cancel call",
    };
    match (&history.end, history.progress.state) {
        (Some((outcome, reason, _)), _) => format!("{outcome}: {reason}"),
        (None, _) if history.parked => {
            "waits until another request on the same payment has its result".into()
        }
        (None, State::Due) => "waits for its first call".into(),
        (None, State::Calling) => format!("{what} is on the wire"),
        (None, State::WaitingRetry) => "not applied by the provider; it is sent again".into(),
        (None, State::WaitingProvider) => {
            "accepted by the provider and not finished; the provider is asked again".into()
        }
        (None, State::InDoubt) => {
            "in doubt: a call may have been applied; the provider is asked before anything is sent"
                .into()
        }
        (None, State::Finished) => "finished".into(),
    }
}

fn advice(outcome: &str) -> Option<&'static str> {
    match outcome {
        "failed" => Some("Nothing was cancelled: correct the cause and replay it, that is safe."),
        "unresolved" => Some(
            "It may or may not be cancelled: look at the payment at the provider before anything else.",
        ),
        "invalid" => Some("Correct the publisher and publish it again under a new request_id."),
        _ => None,
    }
}

/// When the schedule that it is in ends, with the account's settings of today.
fn gives_up_at(history: &History, config: &Config) -> Option<Timestamp> {
    let account = config.accounts.get(&history.stored.provider)?;
    let progress = &history.progress;
    let (since, schedule) = match progress.state {
        State::WaitingRetry => (progress.retrying_since, account.retry),
        State::WaitingProvider | State::InDoubt => (progress.waiting_since, account.poll),
        _ => return None,
    };
    let length = jiff::SignedDuration::try_from(schedule.give_up_after).ok()?;
    since?.checked_add(length).ok()
}

/// Nothing that looks like a card number is shown as a whole.
fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => mask_card(text).map_or_else(|| value.clone(), Value::String),
        Value::Number(number) => {
            mask_card(&number.to_string()).map_or_else(|| value.clone(), Value::String)
        }
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(fields) => {
            let fields = fields
                .iter()
                .map(|(key, value)| (key.clone(), masked(value)));
            Value::Object(fields.collect())
        }
        _ => value.clone(),
    }
}

/// The first six and the last four digits, if it has the form and the check digit of a card.
fn mask_card(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let form = (13..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !form || !has_check_digit(&digits) {
        return None;
    }
    let (first, rest) = digits.split_at_checked(6)?;
    let (hidden, last) = rest.split_at_checked(rest.len() - 4)?;
    Some(format!("{first}{}{last}", "*".repeat(hidden.len())))
}

/// Luhn's.
fn has_check_digit(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, byte)| match (at % 2, u32::from(byte - b'0')) {
            (1, digit) if digit > 4 => digit * 2 - 9,
            (1, digit) => digit * 2,
            (_, digit) => digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn card_numbers_are_masked_and_other_numbers_are_not() {
        let card = |text: &str| mask_card(text).unwrap_or_default();
        assert_eq!(card("4111111111111111"), "411111******1111");
        assert_eq!(card("4111 1111-1111 1111"), "411111******1111");
        assert_eq!(card("4222222222222"), "422222***2222");
        for other in [
            "4111111111111112",
            "411111111111",
            "order-4111111111111111",
            "",
        ] {
            assert_eq!(mask_card(other), None, "{other}");
        }
    }

    #[test]
    fn masking_reaches_every_value() {
        let payment =
            json!({"a": 4_111_111_111_111_111_u64, "b": [{"c": "4111111111111111"}], "d": "x"});
        let hidden = "411111******1111";
        assert_eq!(
            masked(&payment),
            json!({"a": hidden, "b": [{"c": hidden}], "d": "x"})
        );
    }

    #[test]
    fn a_call_is_one_line() {
        let call = Call {
            operation: "cancel".into(),
            started_at: Timestamp::from_second(0).unwrap(),
            finished_at: Timestamp::from_millisecond(12).ok(),
            verdict: Some("doubt".into()),
            evidence: Evidence {
                http_status: Some(500),
                message: Some("oh\nno".into()),
                ..Evidence::default()
            },
        };
        let words: Vec<String> = call.line(0).split_whitespace().map(str::to_owned).collect();
        let wanted = "1 cancel 1970-01-01 00:00:00.000Z 12 ms doubt HTTP 500 · oh\u{fffd}no";
        assert_eq!(words.join(" "), wanted);
    }

    #[test]
    fn every_dead_lettered_outcome_says_what_to_do() {
        for outcome in ["failed", "unresolved", "invalid"] {
            assert!(advice(outcome).is_some(), "{outcome}");
        }
        assert_eq!(advice("cancelled"), None);
    }
}
