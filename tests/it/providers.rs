//! Every adapter against its provider's documented tables, and laws over all of them. The form of a
//! table is in `providers/table.rs`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a broken expectation is a failed test"
)]

mod table;
mod tried;
mod walks;

use std::collections::BTreeSet;

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value};

use rescind::outcome::{Operation, Verdict};
use rescind::providers::{ALL, Account, Ask, DoubtPolicy, Learned, Login, Provider, Response};

use table::*;
use tried::*;

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
    if found == expected {
        Ok(())
    } else {
        Err(format!("expected {expected}\n    found {found}"))
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
        presumed: answer.presumed,
        accepted: answer.accepted,
        ..ask(&line.account, &job, &line.learned)
    };
    let response = Response {
        status: answer.status,
        retry_after: answer.retry_after,
        body: answer.body.as_bytes(),
    };
    let reading = read(provider, &ask, answer.operation, &response);
    let mut verdict = render(&reading.verdict);
    if provider.kind() == "bento"
        && let Some(amount) = &reading.evidence.amount
    {
        verdict.push_str(&format!(":amount={amount}"));
    }
    same(&verdict, &answer.verdict)?;
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
