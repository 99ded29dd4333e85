//! The history of one request, as `show` and `dead show` print it.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use super::advice::advice;
use super::mask::{masked, masked_text};
use super::text::{self, Screen, Style};
use crate::backoff::elapsed;
use crate::config::{AccountConfig, Config};
use crate::ledger::{ActionRecord, CallRecord, DeadRecord, History, MessageRecord};
use crate::outcome::{Operation, State};

/// What is due for longer is held up.
pub(super) const LATE: Duration = Duration::from_secs(5);

/// The page, for programs under stable names.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    request_id: String,
    provider: String,
    state: &'static str,
    /// The state as a sentence.
    says: String,
    outcome: Option<String>,
    reason: Option<String>,
    message: Option<String>,
    /// Outcome and reason of the last correction.
    corrected: Option<(String, String)>,
    advice: Option<String>,
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
    /// Why nothing happens although something is due, as far as the ledger and the configuration tell.
    held_up: Option<String>,
    calls: Vec<CallRecord>,
    messages: Vec<MessageRecord>,
    dead_letters: Vec<Letter>,
    actions: Vec<ActionRecord>,
    /// The last later request on the same payment that may have moved money, or may still.
    newer_request: Option<String>,
    /// Messages with its id that were invalid, which their publisher may take for it.
    invalid_messages: Vec<Letter>,
}

impl Page {
    pub(super) fn of(history: History, config: &Config, now: Timestamp) -> Self {
        let request: Value =
            serde_json::from_slice(&history.stored.envelope.body).unwrap_or_default();
        let text = |key: &str| request[key].as_str().map(str::to_owned);
        let (outcome, reason) = history.outcome.clone().unzip();
        let corrected = history.progress.hints.corrected.as_ref();
        let corrected = corrected.map(|(outcome, _)| outcome.as_str());
        Self {
            state: history.progress.state.as_str(),
            says: in_words(&history),
            message: message(&history).as_deref().map(masked_text),
            corrected: history.progress.hints.corrected.clone(),
            advice: advice(&history.letters, corrected, history.newer.as_deref()),
            outcome,
            reason,
            payment: masked(&request["payment"]),
            amount: text("amount"),
            currency: text("currency"),
            deadline: text("deadline"),
            received_at: history.stored.envelope.received_at,
            finished_at: history.finished_at,
            attempts: history.progress.attempts,
            lookups: history.progress.lookups,
            due_at: history.progress.due_at,
            gives_up_at: gives_up_at(&history, config),
            held_up: held_up(&history, config, now),
            dead_letters: history.letters.iter().map(Letter::of).collect(),
            request_id: history.stored.request_id,
            provider: history.stored.provider,
            calls: history.calls.into_iter().map(masked_call).collect(),
            messages: history.messages,
            actions: history.actions,
            newer_request: history.newer,
            invalid_messages: Vec::new(),
        }
    }

    /// What a person is to do about its open dead letter.
    pub(super) fn advice(&self) -> Option<String> {
        self.advice.clone()
    }

    /// With those of the dead letters that are of no request.
    pub(super) fn beside(mut self, letters: &[DeadRecord]) -> Self {
        let others = letters.iter().filter(|letter| !letter.is_request);
        self.invalid_messages = others.map(Letter::of).collect();
        self
    }

    pub(super) fn lines(&self, screen: Screen, now: Timestamp) -> Vec<String> {
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
        add("newer request", self.newer_request.clone());
        add("to do", self.advice.clone());
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
        add("held up", self.held_up.clone());
        let calls = format!("{}, {}", self.attempts, self.lookups);
        add("attempts, look-ups", Some(calls));
        lines.extend((1..).zip(&self.calls).map(|(n, call)| call_line(n, call)));
        lines.extend(self.messages.iter().map(|m| message_line(m, now)));
        lines.extend(self.actions.iter().map(|a| action_line(a, now)));
        let invalid = self.invalid_messages.iter();
        lines.extend(invalid.map(|letter| invalid_line(letter, now)));
        lines
    }
}

pub(super) fn field(name: &str, value: &str) -> String {
    format!("  {name:<18}  {value}")
}

/// `2026-11-20 11:27:03.056Z, 4 min ago`
pub(super) fn dated(time: Timestamp, now: Timestamp) -> String {
    let distance = text::span(elapsed(time, now).max(elapsed(now, time)));
    if time > now {
        format!("{}, in {distance}", text::moment(time))
    } else {
        format!("{}, {distance} ago", text::moment(time))
    }
}

/// The provider's words may hold whatever the payment holds.
fn masked_call(mut call: CallRecord) -> CallRecord {
    let evidence = &mut call.evidence;
    for words in [
        &mut evidence.code,
        &mut evidence.status,
        &mut evidence.message,
    ] {
        *words = words.as_deref().map(masked_text);
    }
    call
}

fn call_line(number: usize, call: &CallRecord) -> String {
    let took = call.finished_at.map_or_else(
        || "no end on record".to_owned(),
        |end| text::span(elapsed(call.started_at, end)),
    );
    let status = call.evidence.http_status.map(|s| format!("HTTP {s}"));
    let words: Vec<&str> = status
        .as_deref()
        .into_iter()
        .chain(call.evidence.words())
        .collect();
    let line = format!(
        "{number:>3} {:<6}  {}  {took:<9} {:<17} {}",
        call.operation,
        text::moment(call.started_at),
        call.verdict.as_deref().unwrap_or("-"),
        words.join(" · ")
    );
    text::printable(line.trim_end())
}

fn message_line(message: &MessageRecord, now: Timestamp) -> String {
    let confirmed = match message.published_at {
        Some(at) => format!("confirmed {}", dated(at, now)),
        None => "not confirmed by the broker yet; it is tried again".into(),
    };
    let kind = message.kind.replace('_', " ");
    field(&kind, &format!("{}  {confirmed}", message.id))
}

pub(super) fn action_line(action: &ActionRecord, now: Timestamp) -> String {
    let why = if action.why.is_empty() {
        String::new()
    } else {
        format!(": {}", action.why)
    };
    let line = format!("by {}, {}{why}", action.who, dated(action.at, now));
    field(&action.action.replace('_', " "), &text::printable(&line))
}

fn invalid_line(letter: &Letter, now: Timestamp) -> String {
    let told = format!(
        "{}  {}, {}",
        letter.id,
        letter.reason,
        dated(letter.dead_at, now)
    );
    field("invalid message", &told)
}

#[derive(Debug, Serialize)]
struct Letter {
    id: String,
    outcome: String,
    reason: String,
    dead_at: Timestamp,
    closed_at: Option<Timestamp>,
}

impl Letter {
    fn of(record: &DeadRecord) -> Self {
        Self {
            id: record.id.clone(),
            outcome: record.outcome.clone(),
            reason: record.reason.clone(),
            dead_at: record.dead_at,
            closed_at: record.closed_at,
        }
    }
}

/// The sentence of its result.
fn message(history: &History) -> Option<String> {
    let result = history.messages.iter().find(|m| m.kind == "result")?;
    let body: Value = serde_json::from_slice(&result.body).ok()?;
    body["message"].as_str().map(str::to_owned)
}

fn in_words(history: &History) -> String {
    let state = history.progress.state;
    let corrected = match &history.progress.hints.corrected {
        Some((outcome, reason)) => format!("; corrected to {outcome}: {reason}"),
        None => String::new(),
    };
    match &history.outcome {
        Some((outcome, reason)) if state == State::Finished => {
            format!("{outcome}: {reason}{corrected}")
        }
        Some((outcome, reason)) => {
            let now = open_in_words(history);
            format!("{outcome}: {reason}{corrected}; it is replayed: {now}")
        }
        None => open_in_words(history),
    }
}

fn open_in_words(history: &History) -> String {
    let what = match history.progress.operation {
        Some(Operation::Lookup) => "a look-up",
        _ => "a cancel call",
    };
    match history.progress.state {
        _ if history.parked => {
            "waits until another request on the same payment has its result".into()
        }
        State::Due => "waits for its first call".into(),
        State::Calling => format!("{what} is on the wire"),
        State::WaitingRetry => "not applied by the provider; it is sent again".into(),
        State::WaitingProvider => {
            "accepted by the provider and not finished; the provider is asked again".into()
        }
        State::InDoubt => {
            "in doubt: a call may have been applied; the provider is asked before anything is sent"
                .into()
        }
        State::Finished => "finished".into(),
    }
}

/// What an account's gate and worker know is in no ledger: it is named with the place that tells it.
fn held_up(history: &History, config: &Config, now: Timestamp) -> Option<String> {
    let state = history.progress.state;
    if state == State::Finished {
        return None;
    }
    let name = &history.stored.provider;
    let Some(account) = config.accounts.get(name) else {
        return Some(format!(
            "no account {name} is configured, so nobody carries it on: configure it again, under this name, and restart the worker"
        ));
    };
    if account.max_in_flight == 0 {
        return Some("the account is stopped: its max_in_flight is 0".into());
    }
    let is_past = |since: Option<Timestamp>, allowed| {
        since.is_some_and(|since| elapsed(since, now) > allowed)
    };
    if state == State::Calling {
        // A login may come before it.
        let began = history.calls.last().map(|call| call.started_at);
        return is_past(began, 2 * account.timeout + LATE).then(|| {
            "its call has no end on record, so the worker that made it is gone: does one run? `rescind health`. It is in doubt as soon as one does".into()
        });
    }
    (!history.parked && is_past(history.progress.due_at, LATE)).then(|| not_begun(account, config))
}

fn not_begun(account: &AccountConfig, config: &Config) -> String {
    let rate = match account.rate_per_second {
        0.0 => String::new(),
        rate => format!("rate_per_second = {rate} or "),
    };
    format!(
        "due, and not begun: no worker runs or it is not ready (`rescind health`), the account's breaker is open (rescind_breaker_open at http://{}/metrics), or {rate}max_in_flight = {} is used up (rescind_in_flight)",
        config.listen, account.max_in_flight
    )
}

/// When the request's present schedule ends, by the account's present settings.
fn gives_up_at(history: &History, config: &Config) -> Option<Timestamp> {
    let account = config.accounts.get(&history.stored.provider)?;
    let progress = &history.progress;
    let (since, schedule) = match progress.state {
        State::WaitingRetry => (progress.retrying_since, account.retry),
        State::WaitingProvider | State::InDoubt => (progress.waiting_since, account.poll),
        _ => return None,
    };
    Some(schedule.end(since?))
}

#[cfg(test)]
mod tests {
    use super::super::dead::tests::letter;
    use super::*;
    use crate::providers::Evidence;

    /// It is on the wire.
    fn call() -> CallRecord {
        CallRecord {
            operation: "cancel".into(),
            started_at: Timestamp::UNIX_EPOCH,
            finished_at: None,
            verdict: None,
            evidence: Evidence::default(),
        }
    }

    #[test]
    fn a_call_is_one_line() {
        let call = CallRecord {
            finished_at: Timestamp::from_millisecond(12).ok(),
            verdict: Some("doubt".into()),
            evidence: Evidence {
                http_status: Some(500),
                message: Some("oh\nno".into()),
                ..Evidence::default()
            },
            ..call()
        };
        let line = call_line(1, &call);
        let words: Vec<&str> = line.split_whitespace().collect();
        let wanted = "1 cancel 1970-01-01 00:00:00.000Z 12 ms doubt HTTP 500 · oh\u{fffd}no";
        assert_eq!(words.join(" "), wanted);
    }

    fn open(state: State, due_at: Option<Timestamp>) -> History {
        History {
            stored: crate::ledger::Stored {
                request_id: "a".into(),
                provider: "shop".into(),
                envelope: crate::wire::Envelope::default(),
            },
            progress: crate::lifecycle::Progress {
                state,
                due_at,
                ..Default::default()
            },
            parked: false,
            outcome: None,
            finished_at: None,
            calls: vec![call()],
            messages: Vec::new(),
            letters: Vec::new(),
            actions: Vec::new(),
            newer: None,
        }
    }

    fn config() -> Config {
        let settings = [
            ("providers.shop.kind", "midtrans"),
            ("providers.shop.base_url", "https://x.test"),
            ("providers.shop.server_key", "k"),
            ("providers.shop.timeout", "3s"),
            ("providers.shop.rate_per_second", "0.5"),
        ];
        let sources = crate::config::Sources {
            flags: settings
                .map(|(path, value)| (path.into(), value.into()))
                .into(),
            ..Default::default()
        };
        let loaded = crate::config::load(&sources, crate::providers::ALL);
        loaded.unwrap().config
    }

    /// Its publisher got two results under one id.
    #[test]
    fn an_invalid_message_with_the_id_of_a_request_is_on_its_page() {
        let conflict = DeadRecord {
            is_request: false,
            reason: "request_id_conflict".into(),
            ..letter()
        };
        let letters = [letter(), conflict];
        let now = Timestamp::UNIX_EPOCH;
        let page = Page::of(open(State::Calling, None), &config(), now).beside(&letters);
        let lines = page.lines(Screen::new(Some("1"), None), now);
        let found = lines.iter().filter(|line| line.contains("invalid message"));
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{lines:#?}");
        assert!(
            found[0].contains("the-letter  request_id_conflict"),
            "{found:?}"
        );
    }

    #[test]
    fn what_is_due_and_not_begun_says_what_may_hold_it_up() {
        let config = config();
        let says = |history: &History, second| {
            held_up(history, &config, Timestamp::from_second(second).unwrap()).unwrap_or_default()
        };

        let due = open(State::WaitingRetry, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(says(&due, 4), "", "a busy worker is no reason to worry");
        let told = says(&due, 6);
        for part in [
            "rescind health",
            "rescind_breaker_open at http://127.0.0.1:8620/metrics",
            "rate_per_second = 0.5",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        let mut parked = open(State::Due, None);
        parked.parked = true;
        assert_eq!(says(&parked, 99), "", "its state says what it waits for");

        let calling = open(State::Calling, None);
        assert_eq!(says(&calling, 11), "", "a login may take a timeout, too");
        assert!(says(&calling, 12).contains("no end on record"));
        assert_eq!(says(&open(State::Finished, None), 99), "");
        let mut gone = open(State::Due, None);
        gone.stored.provider = "shoq".into();
        assert!(says(&gone, 0).contains("no account shoq is configured"));
    }

    #[test]
    fn a_card_number_in_the_providers_words_is_masked() {
        let mut call = call();
        call.evidence.message = Some("card 4111111111111111 is lost".into());
        let message = masked_call(call).evidence.message;
        assert_eq!(message.unwrap(), "card 411111******1111 is lost");
    }
}
