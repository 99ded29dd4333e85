//! Every adapter against its provider's documented tables, and laws over all of them.
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
//! shows {"code":"200","learned":{…}}    the evidence of the line above holds at least this
//! ```
//! A situation is `-`, `exposed`, `accepted` or `exposed,accepted`; `429+7s` is an answer with
//! `Retry-After: 7`; a verdict with a wait ends in `+7s`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken expectation is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

use rescind::job::{Amount, Currency, Job};
use rescind::outcome::{Operation, Verdict};
use rescind::providers::{
    ALL, Abilities, Account, Ask, Asked, DoubtPolicy, Learned, Login, Method, Provider, Reading,
    Request, Response,
};

/// A key as the worker makes them: a UUID of 36 characters.
const KEY: &str = "5f0c7d2e-6f8a-5b1c-9d3e-0123456789ab";

// --- the tables ---------------------------------------------------------------------------

/// A table as read: its first account and its lines, each with what applies to it.
struct Table {
    account: Account,
    lines: Vec<Line>,
}

/// One line that claims something.
struct Line {
    number: usize,
    account: Account,
    job: Value,
    learned: Learned,
    claim: Claim,
}

/// What a line claims.
enum Claim {
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
struct Answer {
    operation: Operation,
    exposed: bool,
    accepted: bool,
    status: u16,
    retry_after: Option<Duration>,
    verdict: String,
    body: String,
    shows: Option<Value>,
}

fn folder(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Names of the files in a folder that end so, without the ending, sorted.
fn stems(path: &str, ending: &str) -> BTreeSet<String> {
    std::fs::read_dir(folder(path))
        .expect(path)
        .map(|entry| entry.expect(path).file_name())
        .filter_map(|name| Some(name.to_str()?.strip_suffix(ending)?.to_owned()))
        .collect()
}

fn table(kind: &str) -> Table {
    let path = folder("tests/it/providers").join(format!("{kind}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{kind}.txt: {e}"));
    parse(kind, &text)
}

fn parse(kind: &str, text: &str) -> Table {
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

fn json(kind: &str, number: usize, text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{kind}.txt:{number}: {e}"))
}

fn claim(word: &str, rest: &str) -> Option<Claim> {
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

fn operation(name: &str) -> Option<Operation> {
    Operation::ALL.iter().copied().find(|o| o.as_str() == name)
}

fn answer(operation: Operation, rest: &str) -> Option<Answer> {
    let mut parts = rest.splitn(4, ' ');
    let situation = parts.next()?;
    let known = ["-", "exposed", "accepted", "exposed,accepted"];
    let http = parts.next()?;
    let (status, after) = http
        .split_once('+')
        .map_or((http, None), |(s, a)| (s, Some(a)));
    let seconds = after.map(|a| a.strip_suffix('s').unwrap_or("?").parse());
    Some(Answer {
        operation,
        exposed: known
            .contains(&situation)
            .then(|| situation.contains("exposed"))?,
        accepted: situation.contains("accepted"),
        status: status.parse().ok()?,
        retry_after: seconds.transpose().ok()?.map(Duration::from_secs),
        verdict: parts.next()?.to_owned(),
        body: parts.next().unwrap_or("").to_owned(),
        shows: None,
    })
}

// --- an account, a job, an ask ------------------------------------------------------------

/// The demo account of a kind: the settings its table gives.
fn demo_account(provider: &dyn Provider) -> Account {
    table(provider.kind()).account
}

/// The account of a `settings` line: each setting as the adapter declares it.
fn account(kind: &str, settings: Value) -> Account {
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
fn job(provider: &dyn Provider, given: &Value) -> Result<Job, String> {
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
fn default_job(provider: &dyn Provider, table: &Table) -> Value {
    let first = table.lines.iter().find(|l| !l.job.is_null());
    let first = first.unwrap_or_else(|| panic!("{}.txt has no job", provider.kind()));
    first.job.clone()
}

/// What an adapter says to one answer, asked in one situation.
fn read(
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

// --- how things are written in a table ----------------------------------------------------

fn render(verdict: &Verdict) -> String {
    let wait = |after: &Option<Duration>| {
        after.map_or_else(String::new, |after| format!("+{}s", after.as_secs()))
    };
    let name = verdict.as_str();
    match verdict {
        Verdict::Cancelled {
            reason,
            already,
            amount,
        } => {
            let already = if *already { ":already" } else { "" };
            let amount = amount.map_or_else(String::new, |a| format!(":amount={a}"));
            format!("{name}:{}{already}{amount}", reason.as_str())
        }
        Verdict::NothingToCancel(reason) => format!("{name}:{}", reason.as_str()),
        Verdict::Refused(reason) => format!("{name}:{}", reason.as_str()),
        Verdict::Again { after, cause } => format!("{name}:{}{}", cause.as_str(), wait(after)),
        Verdict::NotYet { after } => format!("{name}{}", wait(after)),
        Verdict::Misconfigured(why) => format!("{name}:{}", why.as_str()),
        Verdict::Unresolved(reason) => format!("{name}:{}", reason.as_str()),
        Verdict::Accepted
        | Verdict::Doubt
        | Verdict::StillOpen
        | Verdict::NotFound
        | Verdict::Unauthorized => name.to_owned(),
    }
}

fn render_abilities(abilities: &Abilities) -> String {
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

fn render_request(request: &Request) -> String {
    let method = match request.method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
    };
    let mut text = format!("{method} {}", request.path);
    for (name, value) in &request.headers {
        text.push_str(&format!(" [{name}: {value}]"));
    }
    if let Some(body) = &request.body {
        text.push_str(&format!(" {body}"));
    }
    text
}

fn render_login(login: &Login) -> String {
    use secrecy::ExposeSecret;
    match login {
        Login::Static(authorization) => format!("static {}", authorization.expose_secret()),
        Login::Minted(token) => format!("minted {}s", token.life.as_secs()),
        Login::Fetch(request) => format!("fetch {}", render_request(request)),
    }
}

/// True where every field of `part` is in `whole` with the same value. Nothing holds only
/// nothing: `"learned":{}` says that nothing was learned.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) if part.is_empty() => whole.is_empty(),
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, value)| whole.get(key).is_some_and(|w| holds(w, value))),
        _ => whole == part,
    }
}

fn evidence(reading: &Reading) -> Value {
    let mut shown = serde_json::to_value(&reading.evidence).expect("evidence");
    let learned = serde_json::to_value(&reading.learned).expect("learned");
    if let Some(fields) = shown.as_object_mut() {
        fields.insert("learned".to_owned(), learned);
    }
    shown
}

// --- the examples -------------------------------------------------------------------------

#[test]
fn every_example_means_what_its_table_says() {
    let mut wrong = Vec::new();
    for provider in ALL.iter().copied() {
        let table = table(provider.kind());
        for line in &table.lines {
            if let Err(message) = check(provider, line) {
                wrong.push(format!(
                    "{}.txt:{}: {message}",
                    provider.kind(),
                    line.number
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

fn same(found: &str, expected: &str) -> Result<(), String> {
    match found == expected {
        true => Ok(()),
        false => Err(format!("expected {expected}\n    found {found}")),
    }
}

fn check(provider: &dyn Provider, line: &Line) -> Result<(), String> {
    let account = &line.account;
    match &line.claim {
        Claim::Title(expected) => same(provider.title(), expected),
        Claim::Headers(expected) => {
            let names = provider.notification_headers();
            let none = if names.is_empty() { "none" } else { "" };
            same(&format!("{none}{}", names.join(" ")), expected)
        }
        Claim::Account(expected) => match provider.check(account) {
            Err(message) if message.contains(expected) => Ok(()),
            Err(message) => same(&message, expected),
            Ok(()) => same("usable", expected),
        },
        Claim::Abilities(expected) => {
            let job = job(provider, &line.job)?;
            same(
                &render_abilities(&provider.abilities(account, &job)),
                expected,
            )
        }
        Claim::Invalid(asked, part) => match job(provider, asked) {
            Ok(job) => Err(format!("valid: {}", job.payment.key)),
            Err(message) if message.contains(part) => Ok(()),
            Err(message) => same(&message, part),
        },
        Claim::Login(expected) => {
            let login = provider.login(account, Timestamp::UNIX_EPOCH, "nonce");
            same(
                &login.map_or_else(|why| why, |login| render_login(&login)),
                expected,
            )
        }
        Claim::Token(status, expected, body) => {
            let token = provider.read_login(&Response {
                status: *status,
                retry_after: None,
                body: body.as_bytes(),
            });
            let life = token.map(|t| format!("{}s", t.life.as_secs()));
            same(&life.unwrap_or_else(|_| "error".to_owned()), expected)
        }
        Claim::Key(expected) => same(&job(provider, &line.job)?.payment.key, expected),
        Claim::Request(operation, expected) => {
            let job = job(provider, &line.job)?;
            let ask = ask(account, &job, &line.learned);
            same(
                &render_request(&request(provider, &ask, *operation)),
                expected,
            )
        }
        Claim::Answer(answer) => check_answer(provider, line, answer),
    }
}

fn check_answer(provider: &dyn Provider, line: &Line, answer: &Answer) -> Result<(), String> {
    let job = job(provider, &line.job)?;
    let ask = Ask {
        exposed: answer.exposed,
        accepted: answer.accepted,
        ..ask(&line.account, &job, &line.learned)
    };
    let response = Response {
        status: answer.status,
        retry_after: answer.retry_after,
        body: answer.body.as_bytes(),
    };
    let reading = read(provider, &ask, answer.operation, &response);
    same(&render(&reading.verdict), &answer.verdict)?;
    if reading.evidence.http_status != Some(answer.status) {
        return Err("the evidence lacks the HTTP status".to_owned());
    }
    match &answer.shows {
        Some(part) if !holds(&evidence(&reading), part) => {
            Err(format!("expected {part}\n    found {}", evidence(&reading)))
        }
        _ => Ok(()),
    }
}

fn ask<'a>(account: &'a Account, job: &'a Job, learned: &'a Learned) -> Ask<'a> {
    Ask {
        account,
        job,
        key: KEY,
        learned,
        exposed: false,
        accepted: false,
    }
}

fn request(provider: &dyn Provider, ask: &Ask<'_>, operation: Operation) -> Request {
    match operation {
        Operation::Cancel => provider.cancel(ask),
        Operation::Lookup => provider.lookup(ask),
    }
}

// --- the list -----------------------------------------------------------------------------

#[test]
fn the_list_the_files_and_the_tables_agree() {
    let listed: Vec<String> = ALL.iter().map(|p| p.kind().to_owned()).collect();
    assert!(listed.is_sorted(), "alphabetical: {listed:?}");
    let kinds: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(kinds.len(), listed.len(), "a kind is listed twice");
    let mut files = stems("src/providers", ".rs");
    files.remove("mod");
    assert_eq!(files, kinds, "files in src/providers and providers::ALL");
    assert_eq!(stems("tests/it/providers", ".txt"), kinds, "tables and ALL");
}

#[test]
fn every_table_shows_each_kind_of_verdict() {
    for provider in ALL {
        let table = table(provider.kind());
        let seen: BTreeSet<&str> = answers(&table)
            .filter_map(|a| a.verdict.split([':', '+']).next())
            .collect();
        let shown = |names: &[&str]| names.iter().any(|name| seen.contains(name));
        for names in [
            &["cancelled"][..],
            &["refused"],
            &["again", "not_yet"],
            &["doubt"],
        ] {
            assert!(shown(names), "{}.txt shows no {names:?}", provider.kind());
        }
        let asks = answers(&table).any(|a| a.operation == Operation::Lookup);
        let can_ask = abilities(*provider, &table).lookup;
        assert_eq!(asks, can_ask, "{}.txt: look-ups", provider.kind());
    }
}

fn answers(table: &Table) -> impl Iterator<Item = &Answer> {
    table.lines.iter().filter_map(|line| match &line.claim {
        Claim::Answer(answer) => Some(answer),
        _ => None,
    })
}

#[test]
fn every_demo_account_passes_its_own_check() {
    for provider in ALL.iter().copied() {
        let account = demo_account(provider);
        assert_eq!(provider.check(&account), Ok(()), "{}", provider.kind());
        for setting in provider.settings().iter().filter(|s| s.required) {
            let given = account.plain(setting.key).or(account.secret(setting.key));
            assert!(given.is_some(), "{}: {}", provider.kind(), setting.key);
        }
    }
}

#[test]
fn no_secret_is_shown_by_debug() {
    for provider in ALL.iter().copied() {
        let table = table(provider.kind());
        let job = job(provider, &default_job(provider, &table)).expect("the default job");
        let none = Learned::new();
        let ask = ask(&table.account, &job, &none);
        let mut shown = format!("{:?} {:?}", table.account, provider.cancel(&ask));
        if abilities(provider, &table).lookup {
            shown.push_str(&format!("{:?}", provider.lookup(&ask)));
        }
        if let Ok(Login::Fetch(request)) =
            provider.login(&table.account, Timestamp::UNIX_EPOCH, "nonce")
        {
            shown.push_str(&format!("{request:?}"));
        }
        for key in table.account.secrets.keys() {
            let secret = table.account.secret(key).expect("a secret");
            assert!(!shown.contains(secret), "{} shows {key}", provider.kind());
        }
    }
}

// --- what the laws are tried with ---------------------------------------------------------

/// Bodies that occur in any table: an adapter is also shown the answers of the others.
fn example_bodies() -> Vec<String> {
    let bodies: BTreeSet<String> = ALL
        .iter()
        .flat_map(|p| {
            answers(&table(p.kind()))
                .map(|a| a.body.clone())
                .collect::<Vec<_>>()
        })
        .chain([
            "{}".to_owned(),
            "OK".to_owned(),
            "<html>502</html>".to_owned(),
        ])
        .collect();
    bodies.into_iter().collect()
}

/// Field names and plain values that occur in any table.
fn words() -> (Vec<String>, Vec<Value>) {
    let (mut keys, mut values) = (BTreeSet::new(), BTreeMap::new());
    for body in example_bodies() {
        if let Ok(body) = serde_json::from_str(&body) {
            gather(&body, &mut keys, &mut values);
        }
    }
    for odd in [
        Value::Null,
        true.into(),
        "..".into(),
        (-1).into(),
        "".into(),
    ] {
        values.insert(odd.to_string(), odd);
    }
    keys.insert("status".to_owned());
    (keys.into_iter().collect(), values.into_values().collect())
}

fn gather(value: &Value, keys: &mut BTreeSet<String>, values: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                keys.insert(key.clone());
                gather(value, keys, values);
            }
        }
        Value::Array(items) => items.iter().for_each(|v| gather(v, keys, values)),
        plain => {
            values.insert(plain.to_string(), plain.clone());
        }
    }
}

/// Small JSON made of the words of the tables.
fn worded() -> impl Strategy<Value = Vec<u8>> {
    let (keys, values) = words();
    let json = select(values).prop_recursive(3, 16, 5, move |inner| {
        let field = (select(keys.clone()), inner.clone());
        prop_oneof![
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
            4 => prop::collection::vec(field, 0..6).prop_map(|f| Value::Object(f.into_iter().collect())),
        ]
    });
    json.prop_map(|json| json.to_string().into_bytes())
}

/// An example with one plain value replaced by another: nearly an answer of the provider's.
fn altered() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<Value> = example_bodies()
        .iter()
        .filter_map(|body| serde_json::from_str(body).ok())
        .collect();
    (select(examples), any::<Index>(), select(words().1)).prop_map(|(mut body, at, value)| {
        let mut places = Vec::new();
        plain_values(&mut body, &mut places);
        if !places.is_empty() {
            *places.swap_remove(at.index(places.len())) = value;
        }
        body.to_string().into_bytes()
    })
}

fn plain_values<'a>(value: &'a mut Value, places: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|v| plain_values(v, places)),
        Value::Array(items) => items.iter_mut().for_each(|v| plain_values(v, places)),
        plain => places.push(plain),
    }
}

/// An example with one byte changed, or cut short.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    (
        select(example_bodies()),
        any::<Index>(),
        any::<Option<u8>>(),
    )
        .prop_map(|(body, at, byte)| {
            let mut bytes = body.into_bytes();
            let at = at.index(bytes.len().max(1));
            match byte {
                Some(byte) if at < bytes.len() => bytes[at] = byte,
                _ => bytes.truncate(at),
            }
            bytes
        })
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        2 => select(example_bodies()).prop_map(String::into_bytes),
        2 => damaged(),
        3 => altered(),
        3 => worded(),
    ]
}

/// A body that no provider can have meant.
fn unwritten_body() -> impl Strategy<Value = Vec<u8>> {
    any_body().prop_map(|mut body| {
        if is_written(&body) {
            body.insert(0, b'<');
        }
        body
    })
}

/// The statuses that adapters tell apart, and any other.
fn any_status() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => 200u16..210,
        1 => 300u16..310,
        4 => 400u16..432,
        3 => 500u16..512,
        1 => any::<u16>(),
    ]
}

/// An id of printable characters, with those that mean something in a URL in the foreground.
fn any_id() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "/", "..", ".", "?", "#", "%2e", "%2F", "\\", ";", "&", " ", "@", ":", "é", "😀",
    ]);
    let letter = any::<char>().prop_filter("printable", |c| !c.is_control());
    let part = prop_oneof![3 => odd.prop_map(str::to_owned), 2 => letter.prop_map(String::from)];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

/// True for a body that can be the provider's own writing: a JSON object, or Migo's `OK`.
fn is_written(body: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(body).is_ok() || body.trim_ascii() == b"OK"
}

/// Every adapter, every operation it offers: what it says to this answer.
fn readings(
    status: u16,
    body: &[u8],
    (exposed, accepted): (bool, bool),
) -> Vec<(String, Operation, Reading)> {
    let response = Response {
        status,
        retry_after: Some(Duration::from_secs(7)),
        body,
    };
    let mut found = Vec::new();
    for (provider, table) in tables() {
        let job = job(*provider, &default_job(*provider, table)).expect("the default job");
        let none = Learned::new();
        let ask = Ask {
            exposed,
            accepted,
            ..ask(&table.account, &job, &none)
        };
        for operation in operations(*provider, table) {
            let name = format!("{} {}", provider.kind(), operation.as_str());
            let reading = read(*provider, &ask, operation, &response);
            assert_eq!(
                reading,
                read(*provider, &ask, operation, &response),
                "{name}"
            );
            found.push((name, operation, reading));
        }
    }
    found
}

/// Each adapter with its table, read once.
fn tables() -> &'static [(&'static dyn Provider, Table)] {
    static TABLES: std::sync::OnceLock<Vec<(&'static dyn Provider, Table)>> =
        std::sync::OnceLock::new();
    TABLES.get_or_init(|| ALL.iter().map(|p| (*p, table(p.kind()))).collect())
}

/// For the first request of its table.
fn abilities(provider: &dyn Provider, table: &Table) -> Abilities {
    let job = job(provider, &default_job(provider, table)).expect("the default job");
    provider.abilities(&table.account, &job)
}

fn operations(provider: &dyn Provider, table: &Table) -> Vec<Operation> {
    match abilities(provider, table).lookup {
        true => vec![Operation::Cancel, Operation::Lookup],
        false => vec![Operation::Cancel],
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2048,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

// --- the laws -----------------------------------------------------------------------------

proptest! {
    #![proptest_config(config())]

    /// A gateway's 5xx is no word of the provider's: nothing final rests on it.
    #[test]
    fn a_server_error_decides_nothing(
        status in 500u16..600, body in any_body(), situation in any::<(bool, bool)>(),
    ) {
        for (name, operation, reading) in readings(status, &body, situation) {
            let verdict = reading.verdict.as_str();
            let unprocessed = verdict == "again" && operation == Operation::Cancel
                && (status == 503 || is_written(&body));
            // A refused token in the provider's own words is one, whatever HTTP says.
            let token = verdict == "unauthorized" && is_written(&body);
            prop_assert!(
                ["doubt", "not_yet"].contains(&verdict) || unprocessed || token,
                "{name}: {status} is {verdict}"
            );
        }
    }

    /// A redirect, and a status that HTTP does not know, say nothing of the payment.
    #[test]
    fn a_redirect_decides_nothing(
        status in prop_oneof![100u16..200, 300u16..400, 600u16..1000], body in any_body(),
        situation in any::<(bool, bool)>(),
    ) {
        for (name, _, reading) in readings(status, &body, situation) {
            let verdict = reading.verdict.as_str();
            let token = verdict == "unauthorized" && is_written(&body);
            prop_assert!(
                ["doubt", "not_yet"].contains(&verdict) || token,
                "{name}: {status} is {verdict}"
            );
        }
    }

    /// A 2xx that nobody can read may be a success or a proxy's page.
    #[test]
    fn an_unreadable_success_is_doubt(
        status in 200u16..300, body in unwritten_body(), situation in any::<(bool, bool)>(),
    ) {
        for (name, operation, reading) in readings(status, &body, situation) {
            let verdict = reading.verdict.as_str();
            let asked = operation == Operation::Lookup && verdict == "not_yet";
            prop_assert!(verdict == "doubt" || asked, "{name}: {status} is {verdict}");
        }
    }

    /// 429 was not processed, and its wait is kept.
    #[test]
    fn too_many_requests_waits(body in unwritten_body()) {
        for (name, operation, reading) in readings(429, &body, (false, false)) {
            let expected = match operation {
                Operation::Cancel => "again:rate_limited+7s",
                Operation::Lookup => "not_yet+7s",
            };
            prop_assert_eq!(render(&reading.verdict), expected, "{}", name);
        }
    }

    /// Whatever comes back, an adapter answers, says which HTTP status it saw, and stays
    /// within what its operation can mean.
    #[test]
    fn any_answer_is_read(
        status in any_status(), body in any_body(), situation in any::<(bool, bool)>(),
    ) {
        for (name, operation, reading) in readings(status, &body, situation) {
            prop_assert_eq!(reading.evidence.http_status, Some(status), "{}", &name);
            if let Verdict::Cancelled { already, .. } = reading.verdict {
                prop_assert!((200..300).contains(&status) || is_written(&body), "{name}");
                prop_assert!(already || operation == Operation::Cancel, "{name}");
            }
            if let Some(message) = &reading.evidence.message {
                prop_assert!(message.chars().count() <= 300, "{name}");
            }
        }
        for (provider, _) in tables() {
            let response = Response { status, retry_after: None, body: &body };
            if provider.read_login(&response).is_ok() {
                prop_assert!(response.is_success(), "{}: a token in a {status}", provider.kind());
            }
        }
    }

    /// No id, neither the publisher's nor one the provider taught, can change the path.
    #[test]
    fn an_id_stays_one_segment(ids in prop::collection::vec(any_id(), 4)) {
        for (provider, table) in tables() {
            let plain = default_job(*provider, table);
            let odd = match job(*provider, &with_ids(&plain, &ids)) {
                Ok(odd) => odd,
                // The contract takes every printable id; only these two no URL can carry.
                Err(why) => {
                    prop_assert!(ids.iter().any(|id| id == "." || id == ".."), "{}", why);
                    continue;
                }
            };
            let plain = job(*provider, &plain).expect("the default job");
            let none = Learned::new();
            for operation in operations(*provider, table) {
                let expected = request(*provider, &ask(&table.account, &plain, &none), operation);
                let found = request(*provider, &ask(&table.account, &odd, &none), operation);
                prop_assert_eq!(
                    shape(&table.account, &found.path), shape(&table.account, &expected.path),
                    "{}: {}", provider.kind(), found.path
                );
            }
        }
    }

    /// What an answer taught cannot change the path either.
    #[test]
    fn a_learned_id_stays_one_segment(status in any_status(), body in any_body()) {
        for (provider, table) in tables() {
            let job = job(*provider, &default_job(*provider, table)).expect("the default job");
            let none = Learned::new();
            let before = ask(&table.account, &job, &none);
            let response = Response { status, retry_after: None, body: &body };
            for operation in operations(*provider, table) {
                let learned = read(*provider, &before, operation, &response).learned;
                let after = ask(&table.account, &job, &learned);
                let lost = request(*provider, &before, Operation::Cancel).path.matches('/').count()
                    > request(*provider, &after, Operation::Cancel).path.matches('/').count();
                prop_assert!(!lost, "{}: a shorter path", provider.kind());
                for next in operations(*provider, table) {
                    let path = request(*provider, &after, next).path;
                    let (whole, raw) = shape(&table.account, &path);
                    prop_assert_eq!(whole, raw, "{}: {}", provider.kind(), path);
                }
            }
        }
    }

    /// The same question gives the same bytes: a repeat is a repeat.
    #[test]
    fn the_same_ask_gives_the_same_request(ids in prop::collection::vec(any_id(), 4)) {
        for (provider, table) in tables() {
            let given = with_ids(&default_job(*provider, table), &ids);
            let Ok(first) = job(*provider, &given) else { continue };
            let second = job(*provider, &given).expect("valid before");
            prop_assert_eq!(&first.payment, &second.payment);
            let none = Learned::new();
            for operation in operations(*provider, table) {
                prop_assert_eq!(
                    request(*provider, &ask(&table.account, &first, &none), operation),
                    request(*provider, &ask(&table.account, &second, &none), operation)
                );
            }
        }
    }

    /// Two payments never share a name.
    #[test]
    fn other_ids_are_another_payment(
        one in prop::collection::vec(any_id(), 4), other in prop::collection::vec(any_id(), 4),
    ) {
        for (provider, table) in tables() {
            let plain = default_job(*provider, table);
            let (one, other) = (with_ids(&plain, &one), with_ids(&plain, &other));
            if one == other {
                continue;
            }
            if let (Ok(one), Ok(other)) = (job(*provider, &one), job(*provider, &other)) {
                prop_assert_ne!(one.payment.key, other.payment.key, "{}", provider.kind());
            }
        }
    }
}

/// The same job with other text in each id that is text.
fn with_ids(job: &Value, ids: &[String]) -> Value {
    let mut job = job.clone();
    let payment = job.get_mut("payment").and_then(Value::as_object_mut);
    let texts = payment
        .into_iter()
        .flat_map(Map::values_mut)
        .filter(|v| v.is_string());
    for (value, id) in texts.zip(ids) {
        *value = Value::String(id.clone());
    }
    job
}

/// Segments of the whole URL as a client resolves it, and as they were written.
fn shape(account: &Account, path: &str) -> (usize, usize) {
    let written = format!("{}{path}", account.base_url);
    let url = url::Url::parse(&written).expect("a URL");
    assert!(
        url.query().is_none() && url.fragment().is_none(),
        "{written}"
    );
    let resolved = url.path_segments().map_or(0, Iterator::count);
    (resolved, written.matches('/').count() - 2)
}

/// A provider that deduplicates by our key has to be given it.
#[test]
fn a_key_that_protects_is_sent() {
    for (provider, table) in tables() {
        if !matches!(
            abilities(*provider, table).doubt,
            DoubtPolicy::SameKey { .. }
        ) {
            continue;
        }
        let job = job(*provider, &default_job(*provider, table)).expect("the default job");
        let none = Learned::new();
        let sent = render_request(&provider.cancel(&ask(&table.account, &job, &none)));
        assert!(sent.contains(KEY), "{}: {sent}", provider.kind());
    }
}
