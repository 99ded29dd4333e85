//! Requests from end to end: a real broker, the real binary, every provider, every behaviour.

pub(crate) mod accounts;
mod broken;
mod charged_again;
mod commands;
mod contract;
mod counting;
mod exits;
pub(crate) mod intake;
mod logins;
mod others;
mod submit;
mod worker;

use std::time::Duration;

use rescind::providers;
use serde_json::{Value, json};

use crate::rig::checker::{Ending, all_money, endings};
use crate::rig::stage::{Stage, request};
use crate::rig::{Worker, until};

pub(crate) use self::contract::assert_contract;

/// For things that take a second or two on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Behaviours that end by themselves.
const ENDING: [&str; 22] = [
    "success",
    "already-cancelled",
    "settled",
    "expired",
    "denied",
    "not-found",
    "refunded",
    "accepted-then-done",
    "refund-failed",
    "retryable-twice",
    "nonretryable",
    "rate-limited",
    "error-after-effect",
    "error-before-effect",
    "timeout-after-effect",
    "timeout-before-effect",
    "reset-after-effect",
    "late-effect",
    "garbage",
    "wrong-token",
    "forbidden",
    "slow",
];

/// Behaviours that only the worker's own schedule ends.
const ENDLESS: [&str; 2] = ["accepted-forever", "retryable-forever"];
/// The same, and each call takes as long as a call may.
const HANGING: [&str; 1] = ["hang"];

/// Further stages of a payment, by provider.
const STAGES: [(&str, &str); 8] = [
    ("bento", "captured"),
    ("bento", "captured-timeout-after-effect"),
    ("gr4vy", "pending"),
    ("gr4vy", "captured"),
    ("midtrans", "captured"),
    ("midtrans", "pending"),
    ("migo", "pending"),
    ("tingg", "partial"),
];

/// Parts of a payment: provider, behaviour, amount, currency.
const PARTS: [(&str, &str, &str, &str); 12] = [
    ("bento", "captured", "12.34", "USD"),
    ("bento", "captured-jpy", "50", "JPY"),
    ("bento", "captured-kwd", "1.005", "KWD"),
    ("bento", "captured", "100.01", "USD"),
    ("bento", "captured-parts", "12.34", "USD"),
    ("bento", "captured-parts-accepted-then-done", "12.34", "USD"),
    (
        "bento",
        "captured-parts-timeout-after-effect",
        "12.34",
        "USD",
    ),
    ("pismo", "success", "100.00", "BRL"),
    ("pismo", "success", "0.01", "BRL"),
    ("pismo", "success", "100.01", "BRL"),
    ("pismo", "kwd", "1.005", "KWD"),
    ("pismo", "timeout-after-effect-jpy", "50", "JPY"),
];

/// One line of the table, before it is known how it ends.
struct Case {
    provider: &'static str,
    behaviour: &'static str,
    part: String,
    request: Value,
}

impl Case {
    fn whole(provider: &'static str, behaviour: &'static str) -> Self {
        Self {
            provider,
            behaviour,
            part: String::new(),
            request: request(provider, behaviour),
        }
    }

    fn part(provider: &'static str, behaviour: &'static str, amount: &str, currency: &str) -> Self {
        let mut case = Self::whole(provider, behaviour);
        case.part = format!("{amount} {currency}");
        case.request["amount"] = json!(amount);
        case.request["currency"] = json!(currency);
        case
    }

    fn line(&self, ending: &Ending) -> String {
        let name = format!("{} {} {}", self.provider, self.behaviour, self.part);
        let already = match ending.result["already"] {
            Value::Bool(true) => "already",
            _ => "",
        };
        let endless = [&ENDLESS[..], &HANGING].concat();
        let source = if endless.contains(&self.behaviour) {
            ""
        } else {
            ending.result["evidence"]["source"].as_str().unwrap_or("?")
        };
        let text = |effect: &Value, key: &str| effect[key].as_str().unwrap_or("?").to_owned();
        let money: Vec<String> = ending
            .money
            .effects
            .iter()
            .map(|effect| {
                let [operation, amount, currency] =
                    ["operation", "amount", "currency"].map(|key| text(effect, key));
                format!("{operation} {amount} {currency}")
            })
            .collect();
        format!(
            "{:<46} | {:<32} | {already:<7} | {source:<8} | {}",
            name.trim_end(),
            ending.outcome(),
            money.join(", ")
        )
        .trim_end()
        .to_owned()
    }
}

fn kinds() -> impl Iterator<Item = &'static str> {
    providers::ALL.iter().map(|provider| provider.kind())
}

fn cases(behaviours: &'static [&'static str]) -> Vec<Case> {
    kinds()
        .flat_map(|kind| behaviours.iter().map(move |word| Case::whole(kind, word)))
        .collect()
}

/// All cases at once to one worker.
async fn table_of(stage: &Stage, cases: &[Case]) -> Vec<String> {
    let worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    let requests: Vec<Value> = cases.iter().map(|case| case.request.clone()).collect();
    client.confirm_all(&stage.names, &requests).await;
    let ended = endings(stage, &mut results, &requests, PATIENCE).await;

    let to_a_person = ended.iter().filter(|ending| {
        let outcome = ending.result["outcome"].as_str();
        matches!(outcome, Some("failed" | "unresolved" | "invalid"))
    });
    let to_a_person: Vec<String> = to_a_person
        .map(|ending| ending.request["request_id"].as_str().unwrap().to_owned())
        .collect();
    let dead = dead_letters.about(to_a_person.clone(), PATIENCE).await;
    assert_eq!(
        dead_letters.counts().len(),
        dead.len(),
        "nobody else is dead-lettered"
    );

    for ending in &ended {
        assert_contract(&ending.messages[0], &ending.request);
        assert_calls_are_counted(ending);
    }
    until("all is counted", PATIENCE, || is_counted(&worker, &ended)).await;
    for (behaviour, cause) in CAUSES {
        if cases.iter().any(|case| case.behaviour == behaviour) {
            let scheduled = worker.metric("rescind_retries_scheduled_total", &[("cause", cause)]);
            assert!(scheduled > 0.0, "{behaviour}: {cause}");
        }
    }
    until_logged(&worker, &ended).await;
    cases
        .iter()
        .zip(&ended)
        .map(|(case, ending)| case.line(ending))
        .collect()
}

/// Behaviours that put calls off, and why.
const CAUSES: [(&str, &str); 7] = [
    ("retryable-twice", "retryable"),
    ("rate-limited", "rate_limited"),
    ("accepted-then-done", "accepted"),
    ("timeout-before-effect", "unknown"),
    ("retryable-forever", "retryable"),
    ("accepted-forever", "accepted"),
    ("hang", "unknown"),
];

/// One page of metrics says what the results say.
fn is_counted(worker: &Worker, ended: &[Ending]) -> bool {
    let metrics = worker.metrics();
    let total = ended.len() as f64;
    let told = |key: &str| -> f64 {
        let numbers = ended.iter().map(|ending| ending.result[key].as_u64());
        numbers.map(|number| number.unwrap() as f64).sum()
    };
    let of = |name, labels: &[(&str, &str)]| metrics.sum(name, labels);
    let ended_in: f64 = ended.iter().map(seconds).sum();
    let all_called = [("cancel", "attempts"), ("lookup", "lookups")];
    of("rescind_requests_received_total", &[("kind", "new")]) == total
        && of("rescind_cancellations_total", &[]) == total
        && of("rescind_end_to_end_seconds_count", &[]) == total
        // Published once they have ended; their times are told to the millisecond.
        && of("rescind_end_to_end_seconds_sum", &[]) >= ended_in - 0.001 * total
        && of("rescind_open", &[]) == 0.0
        && all_called.iter().all(|(operation, key)| {
            let labels = [("operation", *operation), ("verdict", "not_sent")];
            let calls = of("rescind_provider_calls_total", &labels[..1]);
            let sent = calls - of("rescind_provider_calls_total", &labels);
            let timed = of("rescind_provider_call_seconds_count", &labels[..1]);
            (sent, timed) == (told(key), calls)
        })
}

/// One line for each, that programs can read.
async fn until_logged(worker: &Worker, ended: &[Ending]) {
    let finished = |line: &Value| line["message"] == "finished";
    let lines = || worker.log_lines().into_iter().filter(finished);
    until("all is logged", PATIENCE, || lines().count() == ended.len()).await;
    let lines: Vec<Value> = lines().collect();
    for ending in ended {
        let result = &ending.result;
        let mut lines = lines.iter();
        let line = lines.find(|line| line["request_id"] == result["request_id"]);
        let line = line.unwrap_or_else(|| panic!("no line: {result:#}"));
        for key in ["provider", "outcome", "reason"] {
            assert_eq!(line[key], result[key], "{key}: {line}");
        }
        // One that was not sent after all is none in the end.
        assert!(line["attempt"].as_u64() >= result["attempts"].as_u64());
        let took = seconds(ending);
        let told = line["duration_s"].as_f64().expect("a number of seconds");
        assert!((told - took).abs() < 0.01, "{line}: {took} s");
    }
}

/// From the arrival of a request to its end.
fn seconds(ending: &Ending) -> f64 {
    let text = |key: &str| ending.result[key].as_str().unwrap();
    let at = |key| -> jiff::Timestamp { text(key).parse().unwrap() };
    at("completed_at")
        .duration_since(at("received_at"))
        .as_secs_f64()
}

/// What arrived at the provider is what the result says was sent: nothing in between sends again.
fn assert_calls_are_counted(ending: &Ending) {
    let count = |key: &str| ending.result[key].as_u64().unwrap();
    if ending.money.refused_logins == 0 {
        assert_eq!(count("attempts"), ending.money.cancel_calls, "{ending:#?}");
        assert_eq!(count("lookups"), ending.money.lookup_calls, "{ending:#?}");
    }
}

/// A stage whose schedules end soon.
fn given_up(name: &str, timeout: &str) -> Stage {
    let mut stage = Stage::new(name);
    stage.set("defaults.timeout", timeout);
    stage.set("defaults.retry.give_up_after", "2s");
    stage.set("defaults.poll.give_up_after", "2s");
    stage
}

#[tokio::test(flavor = "multi_thread")]
async fn every_behaviour_of_every_provider_ends_as_reviewed() {
    let mut ending = Stage::new("table");
    // A slow answer is no lost one, and a lost one does not end the schedule.
    ending.set("defaults.timeout", "8s");
    ending.set("defaults.retry.give_up_after", "30s");
    ending.set("defaults.poll.give_up_after", "30s");
    let mut ending_cases = cases(&ENDING);
    ending_cases.extend(cases(&["stale-lookup"]));
    ending_cases.extend(STAGES.map(|(kind, word)| Case::whole(kind, word)));
    ending_cases
        .extend(PARTS.map(|(kind, word, amount, code)| Case::part(kind, word, amount, code)));

    let (endless, endless_cases) = (given_up("endless", "500ms"), cases(&ENDLESS));
    let (hanging, hanging_cases) = (given_up("hanging", "3s"), cases(&HANGING));

    let (lines, further, last) = tokio::join!(
        table_of(&ending, &ending_cases),
        table_of(&endless, &endless_cases),
        table_of(&hanging, &hanging_cases)
    );
    let mut lines = [lines, further, last].concat();
    lines.sort();
    reviewed(&lines);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_effect_that_comes_after_the_questions_is_still_one_effect() {
    let mut stage = Stage::new("late");
    // The call is carried out a second after it was sent; until then the answers say "open".
    stage.set("defaults.timeout", "200ms");
    stage.set("defaults.poll.first", "50ms");
    stage.set("defaults.poll.max", "100ms");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let words = ["late-effect", "late-effect-captured", "late-effect-pending"];
    let requests: Vec<Value> = kinds()
        .flat_map(|kind| words.map(|word| request(kind, word)))
        .collect();
    client.confirm_all(&stage.names, &requests).await;
    for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
        match ending.request["provider"].as_str() {
            // Nobody to ask: the repeat comes before the first call's effect and cancels, or after it and its
            // answer is no evidence.
            Some("migo") => {
                let cancelled = ending.result["outcome"] == "cancelled";
                assert!(
                    cancelled || ending.outcome() == "unresolved/no_lookup",
                    "{ending:#?}"
                );
            }
            // A captured payment cannot be voided there: nothing was begun.
            Some("gr4vy") if ending.money.cancel_calls == 0 => {
                assert_eq!(ending.outcome(), "refused/settled");
            }
            _ => assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}"),
        }
    }
    // Whatever was still under way has ended by now: no payment has moved twice.
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (payment, money) in all_money(&stage) {
        assert!(money.effects.len() <= 1, "{payment:?}: {money:#?}");
    }
}

/// Every line is in the reviewed table, and the other way round.
fn reviewed(lines: &[String]) {
    let path = crate::rig::project("tests/it/flow.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let was: Vec<&str> = text.lines().collect();
    let new: Vec<_> = lines
        .iter()
        .filter(|line| !was.contains(&line.as_str()))
        .collect();
    let gone: Vec<_> = was
        .iter()
        .filter(|line| !lines.iter().any(|l| l == *line))
        .collect();
    assert!(
        new.is_empty() && gone.is_empty(),
        "review and run with UPDATE=1\nis: {new:#?}\nwas: {gone:#?}"
    );
}
