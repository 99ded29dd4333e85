//! The tables of the adapters as they are read, and what is compared with them.
//!
//! `providers/<kind>.txt` is the table of one adapter, made to be read by people. A line is
//! ```text
//! # a comment: the row of the provider's page that follows
//! title <name>                          what people read
//! headers <none|name ...>               of a notification, published with it
//! settings {"token":"demo"}             the account for the lines that follow, the first one for
//!                                       all laws; a list gives several values
//! account <usable|part of the message>  what its own check says of it
//! abilities <policy> [look-up] [first]  what is offered for the job
//! job {"payment":{…},"amount":"1.00"}   the request for the lines that follow
//! learned {"transaction_id":"…"}        what earlier answers taught, for the lines that follow
//! key <text>                            the canonical name of the job's payment
//! request <cancel|lookup> => <METHOD> <path> [<header>: <value>] <body>
//! invalid {"payment":{…}} => <part of the message to the publisher>
//! login static <authorization>          or: login minted <life>
//! login fetch <METHOD> <path> <body>
//! token <http> <life|error> <body>      the answer to login fetch
//! <cancel|lookup> <situation> <http> <verdict> <body to the end of the line>
//! shows {"code":"200","learned":{…}}    the evidence of the line above holds at least this; null: it is not there
//! ```
//! A situation is `-`, `exposed`, `accepted`, `exposed,accepted` or `forgotten`, which is exposed without a call on
//! record, as after a restore; the request was received when the year 2026 began; `429+7s` is an answer with
//! `Retry-After: 7`; a verdict with a wait ends in `+7s`. Bento's amounts decide what its `Refunded` means, so
//! there a verdict ends in the amount of the evidence, if it has one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Map, Value};

use rescind::job::{Amount, Currency, Job};
use rescind::outcome::{Operation, Verdict};
use rescind::providers::{
    Abilities, Account, Ask, Asked, DoubtPolicy, Learned, Login, Provider, Reading, Request,
    Response,
};

/// When the request was received, in all lines: 2026-01-01T00:00:00Z.
const RECEIVED_AT: Timestamp = Timestamp::constant(1_767_225_600, 0);

/// A key as the worker makes them: a UUID of 36 characters.
pub(super) const KEY: &str = "5f0c7d2e-6f8a-5b1c-9d3e-0123456789ab";

/// A table as read: its first account and its lines, each with what applies to it.
pub(super) struct Table {
    pub(super) account: Account,
    pub(super) lines: Vec<Line>,
}

/// One line that claims something.
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) account: Account,
    pub(super) job: Value,
    pub(super) learned: Learned,
    pub(super) claim: Claim,
}

/// What a line claims.
pub(super) enum Claim {
    Title(String),
    Headers(String),
    Account(String),
    Abilities(String),
    Key(String),
    Request(Operation, String),
    Invalid(Value, String),
    Login(String),
    Token(u16, String, String),
    Answer(Answer),
}

/// An answer and what it means.
#[derive(Clone)]
pub(super) struct Answer {
    pub(super) operation: Operation,
    pub(super) exposed: bool,
    pub(super) presumed: bool,
    pub(super) accepted: bool,
    pub(super) status: u16,
    pub(super) retry_after: Option<Duration>,
    pub(super) verdict: String,
    pub(super) body: String,
    pub(super) shows: Option<Value>,
}

pub(super) fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Names of the files in a folder that end so, without the ending, sorted.
pub(super) fn stems(path: &str, ending: &str) -> BTreeSet<String> {
    std::fs::read_dir(folder(path))
        .expect(path)
        .map(|entry| entry.expect(path).file_name())
        .filter_map(|name| Some(name.to_str()?.strip_suffix(ending)?.to_owned()))
        .collect()
}

pub(super) fn table(kind: &str) -> Table {
    let path = folder("tests/it/providers").join(format!("{kind}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{kind}.txt: {e}"));
    parse(kind, &text)
}

pub(super) fn parse(kind: &str, text: &str) -> Table {
    let mut accounts: Vec<Account> = Vec::new();
    let (mut job, mut learned) = (Value::Null, Learned::new());
    let mut lines: Vec<Line> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let number = index + 1;
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let claim = match word {
            "" | "#" => continue,
            "settings" => {
                accounts.push(account(kind, json(kind, number, rest)));
                continue;
            }
            "job" => {
                job = json(kind, number, rest);
                learned.clear();
                continue;
            }
            "learned" => {
                learned = serde_json::from_str(rest)
                    .unwrap_or_else(|e| panic!("{kind}.txt:{number}: {e}"));
                continue;
            }
            "shows" => {
                let Some(Claim::Answer(answer)) = lines.last_mut().map(|l| &mut l.claim) else {
                    panic!("{kind}.txt:{number}: shows follows an answer");
                };
                answer.shows = Some(json(kind, number, rest));
                continue;
            }
            _ => claim(word, rest).unwrap_or_else(|| panic!("{kind}.txt:{number}: {line}")),
        };
        lines.push(Line {
            number,
            account: accounts.last().cloned().unwrap_or_default(),
            job: job.clone(),
            learned: learned.clone(),
            claim,
        });
    }
    let account = accounts.into_iter().next();
    Table {
        account: account.unwrap_or_else(|| panic!("{kind}.txt has no settings")),
        lines,
    }
}

pub(super) fn json(kind: &str, number: usize, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{kind}.txt:{number}: {e}"))
}

pub(super) fn claim(word: &str, rest: &str) -> Option<Claim> {
    Some(match word {
        "title" => Claim::Title(rest.to_owned()),
        "headers" => Claim::Headers(rest.to_owned()),
        "account" => Claim::Account(rest.to_owned()),
        "abilities" => Claim::Abilities(rest.to_owned()),
        "key" => Claim::Key(rest.to_owned()),
        "login" => Claim::Login(rest.to_owned()),
        "request" => {
            let (name, expected) = rest.split_once(" => ")?;
            Claim::Request(operation(name)?, expected.to_owned())
        }
        "invalid" => {
            let (asked, message) = rest.rsplit_once(" => ")?;
            Claim::Invalid(serde_json::from_str(asked).ok()?, message.to_owned())
        }
        "token" => {
            let mut parts = rest.splitn(3, ' ');
            let status = parts.next()?.parse().ok()?;
            let life = parts.next()?.to_owned();
            Claim::Token(status, life, parts.next().unwrap_or("").to_owned())
        }
        _ => Claim::Answer(answer(operation(word)?, rest)?),
    })
}

pub(super) fn operation(name: &str) -> Option<Operation> {
    Operation::ALL.iter().copied().find(|o| o.as_str() == name)
}

pub(super) fn answer(operation: Operation, rest: &str) -> Option<Answer> {
    let mut parts = rest.splitn(4, ' ');
    let situation = parts.next()?;
    let known = ["-", "exposed", "accepted", "exposed,accepted", "forgotten"];
    let http = parts.next()?;
    let (status, after) = http
        .split_once('+')
        .map_or((http, None), |(s, a)| (s, Some(a)));
    let seconds = after.map(|a| a.strip_suffix('s').unwrap_or("?").parse());
    Some(Answer {
        operation,
        exposed: known
            .contains(&situation)
            .then(|| situation.contains("exposed") || situation == "forgotten")?,
        presumed: situation == "forgotten",
        accepted: situation.contains("accepted"),
        status: status.parse().ok()?,
        retry_after: seconds.transpose().ok()?.map(Duration::from_secs),
        verdict: parts.next()?.to_owned(),
        body: parts.next().unwrap_or("").to_owned(),
        shows: None,
    })
}

/// The demo account of a kind: the settings its table gives.
pub(super) fn demo_account(provider: &dyn Provider) -> Account {
    table(provider.kind()).account
}

/// The account of a `settings` line: each setting as the adapter declares it.
pub(super) fn account(kind: &str, settings: Value) -> Account {
    let provider = rescind::providers::by_kind(kind).expect("a listed kind");
    let mut settings: Map<String, Value> = serde_json::from_value(settings).expect("settings");
    let base_url = settings.remove("base_url");
    let base_url = base_url.as_ref().and_then(Value::as_str);
    let mut account = Account {
        name: kind.to_owned(),
        base_url: base_url
            .unwrap_or("https://provider.example/base")
            .to_owned(),
        ..Account::default()
    };
    for (key, value) in settings {
        let setting = provider.settings().iter().find(|s| s.key == key);
        let setting = setting.unwrap_or_else(|| panic!("{kind} has no setting {key}"));
        let values: Vec<String> = match value {
            Value::Array(many) => many
                .iter()
                .map(|v| v.as_str().expect("text").into())
                .collect(),
            one => vec![one.as_str().expect("text").to_owned()],
        };
        assert!(setting.many || values.len() == 1, "{kind}: one {key}");
        if setting.secret {
            let values = values.into_iter().map(Into::into).collect();
            account.secrets.insert(key, values);
        } else {
            account.plain.insert(key, values.concat());
        }
    }
    account
}

/// The job of a `job` line, or the adapter's message to its publisher.
pub(super) fn job(provider: &dyn Provider, given: &Value) -> Result<Job, String> {
    let text = |name: &str| given.get(name).and_then(Value::as_str);
    let amount = text("amount").map(|a| Amount::parse(a).expect(a));
    let currency = text("currency").map(|c| Currency::parse(c).expect(c));
    let none = Map::new();
    let payment = given.get("payment").and_then(Value::as_object);
    let payment = provider.payment(&Asked {
        payment: payment.unwrap_or(&none),
        amount,
        currency,
    })?;
    Ok(Job {
        request_id: "request-1".to_owned(),
        provider: provider.kind().to_owned(),
        payment,
        amount,
        currency,
        reason: text("reason").map(str::to_owned),
        deadline: None,
    })
}

/// The first job of a table: its default.
pub(super) fn default_job(provider: &dyn Provider, table: &Table) -> Value {
    let first = table.lines.iter().find(|l| !l.job.is_null());
    let first = first.unwrap_or_else(|| panic!("{}.txt has no job", provider.kind()));
    first.job.clone()
}

/// What an adapter says to one answer, asked in one situation.
pub(super) fn read(
    provider: &dyn Provider,
    ask: &Ask<'_>,
    operation: Operation,
    response: &Response<'_>,
) -> Reading {
    match operation {
        Operation::Cancel => provider.read_cancel(ask, response),
        Operation::Lookup => provider.read_lookup(ask, response),
    }
}

pub(super) fn render(verdict: &Verdict) -> String {
    let wait = |after: &Option<Duration>| {
        after.map_or_else(String::new, |after| format!("+{}s", after.as_secs()))
    };
    let name = verdict.as_str();
    match verdict {
        Verdict::Cancelled { reason, already } => {
            let already = if *already { ":already" } else { "" };
            format!("{name}:{}{already}", reason.as_str())
        }
        Verdict::NothingToCancel(reason) => format!("{name}:{}", reason.as_str()),
        Verdict::Refused(reason) => format!("{name}:{}", reason.as_str()),
        Verdict::Again { after, cause } => format!("{name}:{}{}", cause.as_str(), wait(after)),
        Verdict::NotYet { after } => format!("{name}{}", wait(after)),
        Verdict::Misconfigured(why) => format!("{name}:{}", why.as_str()),
        Verdict::Barred(why) => format!("barred:{}", why.as_str()),
        Verdict::Unresolved(reason) => format!("{name}:{}", reason.as_str()),
        Verdict::Accepted
        | Verdict::Doubt
        | Verdict::StillOpen
        | Verdict::NotFound
        | Verdict::Unauthorized => name.to_owned(),
    }
}

pub(super) fn render_abilities(abilities: &Abilities) -> String {
    let mut text = match abilities.doubt {
        DoubtPolicy::LookUp => "look_up".to_owned(),
        DoubtPolicy::SameKey { key_life } => format!("same_key+{}s", key_life.as_secs()),
        DoubtPolicy::AskOnceMore => "ask_once_more".to_owned(),
        DoubtPolicy::Person => "person".to_owned(),
    };
    for (has, word) in [
        (abilities.lookup, " look-up"),
        (abilities.look_first, " first"),
    ] {
        text.push_str(if has { word } else { "" });
    }
    text
}

pub(super) fn render_request(request: &Request) -> String {
    let mut text = format!("{} {}", request.method.as_str(), request.path);
    for (name, value) in &request.headers {
        text.push_str(&format!(" [{name}: {value}]"));
    }
    if let Some(body) = &request.body {
        text.push_str(&format!(" {body}"));
    }
    text
}

pub(super) fn render_login(login: &Login) -> String {
    use secrecy::ExposeSecret;
    match login {
        Login::Static(authorization) => format!("static {}", authorization.expose_secret()),
        Login::Minted(token) => format!("minted {}s", token.life.as_secs()),
        Login::Fetch(request) => format!("fetch {}", render_request(request)),
    }
}

/// True where every field of `part` is in `whole` with the same value. Nothing holds only
/// nothing: `"learned":{}` says that nothing was learned.
pub(super) fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) if part.is_empty() => whole.is_empty(),
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| match whole.get(key) {
                Some(whole) => holds(whole, value),
                None => value.is_null(),
            })
        }
        _ => whole == part,
    }
}

pub(super) fn evidence(reading: &Reading) -> Value {
    let mut shown = serde_json::to_value(&reading.evidence).expect("evidence");
    let learned = serde_json::to_value(&reading.learned).expect("learned");
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("learned".to_owned(), learned);
    }
    shown
}

pub(super) fn ask<'a>(account: &'a Account, job: &'a Job, learned: &'a Learned) -> Ask<'a> {
    Ask {
        account,
        job,
        key: KEY,
        learned,
        exposed: false,
        presumed: false,
        accepted: false,
        received_at: RECEIVED_AT,
    }
}

pub(super) fn request(provider: &dyn Provider, ask: &Ask<'_>, operation: Operation) -> Request {
    match operation {
        Operation::Cancel => provider.cancel(ask),
        Operation::Lookup => provider.lookup(ask),
    }
}

pub(super) fn answers(table: &Table) -> impl Iterator<Item = &Answer> {
    table.lines.iter().filter_map(|line| match &line.claim {
        Claim::Answer(answer) => Some(answer),
        _ => None,
    })
}
