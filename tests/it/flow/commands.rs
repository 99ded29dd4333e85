//! Commands of a person beside a worker: what they print, for people and for programs, and how they end.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::slice::from_ref;

use lapin::types::AMQPValue;
use serde_json::{Value, json};

use super::{PATIENCE, kinds};
use crate::rig::checker::{endings, id};
use crate::rig::process::Process;
use crate::rig::stage::{Stage, request};
use crate::rig::terminal::{Done, Terminal};
use crate::rig::until;

/// The stage's configuration, as a person has it.
fn config(stage: &Stage) -> PathBuf {
    let path = stage.dir().join("person.toml");
    std::fs::write(&path, stage.config()).unwrap();
    path
}

/// Runs `rescind …` to its end.
fn rescind(stage: &Stage, arguments: &[&str]) -> Done {
    Terminal::new(&config(stage), arguments).spawn_and_wait()
}

/// A file with a line for each.
fn lines(stage: &Stage, name: &str, values: &[Value]) -> PathBuf {
    let path = stage.dir().join(name);
    let lines: Vec<String> = values.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

/// Results by their request.
fn by_request(results: Vec<Value>) -> BTreeMap<String, Value> {
    let number = results.len();
    let found: BTreeMap<_, _> = results.into_iter().map(|told| (id(&told), told)).collect();
    assert_eq!(found.len(), number, "one for each");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_submitted_is_followed_to_its_results() {
    let stage = Stage::new("submitted");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let mut all: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    all.push(request("midtrans", "settled"));
    let file = lines(&stage, "all.jsonl", &all);
    let summary = "7 requests: 6 cancelled, 1 refused";

    // Through a pipe, for a program.
    let arguments = ["submit", "-", "--json"];
    let submit = Terminal::new(&config(&stage), &arguments).given(&file);
    let done = submit.spawn_and_wait().exits(0).says(summary);
    let ended = endings(&stage, &mut results, &all, PATIENCE).await;
    let published = ended.into_iter().map(|ending| ending.result).collect();
    assert_eq!(by_request(done.objects()), by_request(published));

    // From a file, for a person. What is known gets the result that it has.
    let file = file.display().to_string();
    let shown = rescind(&stage, &["submit", &file]).exits(0).says(summary);
    assert_eq!(shown.stdout.lines().count(), 1 + all.len(), "{shown:#?}");
    for text in all.iter().map(id).chain(["outcome".to_owned()]) {
        assert!(shown.stdout.contains(&text), "{text}: {shown:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_tells_what_has_no_result_yet_and_what_will_have_none() {
    let mut stage = Stage::new("unfinished");
    // Longer than this test.
    stage.set("providers.midtrans.timeout", "5m");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let hanging = request("midtrans", "hang");
    let mut wrong = request("midtrans", "success");
    wrong["amount"] = json!(50);
    let all = [
        hanging.clone(),
        json!({ "provider": "migo" }),
        wrong.clone(),
    ];
    let file = lines(&stage, "all.jsonl", &all).display().to_string();
    rescind(&stage, &["submit", &file, "--timeout", "1s"])
        .exits(3)
        .says("(message 2)")
        .says("request_id is missing: dead-lettered, no result")
        .says(&format!(
            "{}: amount must be a string, not a number.",
            id(&wrong)
        ))
        .says("2 requests in 3 messages: 1 invalid, 1 without a result yet")
        .says(&format!("no result yet for {}", id(&hanging)));

    rescind(&stage, &["show", &id(&wrong)])
        .exits(1)
        .says("was invalid (schema)")
        .says(&format!("`rescind dead show {}` tells why", id(&wrong)));

    let next = request("migo", "success");
    let file = lines(&stage, "next.jsonl", from_ref(&next));
    let file = file.display().to_string();
    let done = rescind(&stage, &["submit", &file, "--no-wait"]).exits(0);
    assert_eq!(done.stdout, "");
    done.says("1 request published");
    results.one(&id(&next), PATIENCE).await;

    let nowhere = stage.dir().join("nowhere.jsonl").display().to_string();
    rescind(&stage, &["submit", &nowhere])
        .exits(2)
        .says(&nowhere);
}

#[tokio::test(flavor = "multi_thread")]
async fn results_are_printed_as_they_come_until_there_are_enough() {
    let stage = Stage::new("printed");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let config = config(&stage).display().to_string();
    let start = |name: &str, further: &[&str]| {
        let arguments = ["--config", &config, "results", "--limit", "6"];
        let arguments = [&arguments, further].concat();
        Process::start(stage.dir(), name, &arguments, &[])
    };
    let (mut people, mut programs) = (start("people", &[]), start("programs", &["--json"]));
    for process in [&people, &programs] {
        until("it listens", PATIENCE, || {
            process.log().contains("results are printed as they come")
        })
        .await;
    }
    let all: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    stage.client().await.confirm_all(&stage.names, &all).await;
    for process in [&mut people, &mut programs] {
        let status = process.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{}", process.log());
    }
    let ended = endings(&stage, &mut results, &all, PATIENCE).await;
    let published = ended.into_iter().map(|ending| ending.result).collect();
    let printed = programs.stdout();
    let printed = printed.lines().map(|l| serde_json::from_str(l).unwrap());
    assert_eq!(by_request(printed.collect()), by_request(published));
    let shown = people.stdout();
    assert_eq!(shown.lines().count(), 7, "{shown}");
    for text in all.iter().map(id).chain(["outcome".to_owned()]) {
        assert!(shown.contains(&text), "{text}: {shown}");
    }
}

/// The broker would call them delivered, and their consumers never get them.
#[tokio::test(flavor = "multi_thread")]
async fn results_that_wait_for_their_queue_are_taken_by_no_command() {
    let mut stage = Stage::new("untaken");
    stage.set("amqp.results_queue", "");
    let worker = stage.worker();
    let waiting = request("midtrans", "success");
    let client = stage.client().await;
    client.publish(&stage.names, &waiting).await;
    let published = |status: &str| {
        let labels = [("kind", "result"), ("status", status)];
        worker.metric("rescind_publishes_total", &labels)
    };
    until("it comes back", PATIENCE, || published("returned") >= 1.0).await;
    let a_minute_ago = "UPDATE messages SET created_at = created_at - 60000";
    let ledger = rusqlite::Connection::open(stage.ledger()).unwrap();
    ledger.busy_timeout(PATIENCE).unwrap();
    assert_eq!(ledger.execute(a_minute_ago, []).unwrap(), 1);

    let other = lines(&stage, "other", &[request("migo", "success")]);
    let other = other.to_string_lossy();
    for arguments in [&["results", "--limit", "1"][..], &["submit", &other]] {
        let done = rescind(&stage, arguments).exits(1);
        let told = done.stderr.contains("results have been waiting");
        assert!(told, "{done:?}");
    }
    assert_eq!(published("confirmed"), 0.0);
    let mut results = stage.results().await;
    results.one(&id(&waiting), PATIENCE).await;
    until("it is marked", PATIENCE, || published("confirmed") == 1.0).await;
    let seen: Vec<String> = results.counts().into_keys().collect();
    assert_eq!(seen, [id(&waiting)], "nothing was submitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_listed_by_state_account_and_age_the_oldest_first() {
    let mut stage = Stage::new("listed");
    // Longer than this test.
    stage.set("providers.migo.timeout", "5m");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let all = [
        ("midtrans", "success"),
        ("midtrans", "settled"),
        ("gr4vy", "success"),
        ("migo", "hang"),
    ];
    let all = all.map(|(provider, behaviour)| request(provider, behaviour));
    for request in &all[..3] {
        client.publish(&stage.names, request).await;
        results.one(&id(request), PATIENCE).await;
    }
    client.publish(&stage.names, &all[3]).await;
    until("it hangs", PATIENCE, || {
        worker.metric("rescind_in_flight", &[("provider", "migo")]) == 1.0
    })
    .await;

    let order = |request: &Value| request["payment"]["order_id"].as_str().unwrap().to_owned();
    let settled = order(&all[1]);
    let list = |filter: &[&str]| rescind(&stage, &[&["list"], filter].concat()).exits(0);
    let objects = |filter: &[&str]| list(&[filter, &["--json"]].concat()).objects();
    let listed = |filter: &[&str]| -> Vec<String> { objects(filter).iter().map(id).collect() };
    let these =
        |numbers: &[usize]| -> Vec<String> { numbers.iter().map(|n| id(&all[*n])).collect() };
    for (filter, numbers) in [
        (&[][..], &[0, 1, 2, 3][..]),
        (&["--state", "finished"], &[0, 1, 2]),
        (&["--state", "cancelled"], &[0, 2]),
        (&["--state", "refused"], &[1]),
        (&["--state", "calling"], &[3]),
        (&["--state", "open"], &[3]),
        (&["--state", "open", "--provider", "midtrans"], &[]),
        (&["--provider", "midtrans"], &[0, 1]),
        (&["--provider", "midtrans", "--state", "refused"], &[1]),
        (&["--older-than", "0s"], &[0, 1, 2, 3]),
        (&["--older-than", "1h"], &[]),
        (&["--newer-than", "1h"], &[0, 1, 2, 3]),
        (&["--newer-than", "0s"], &[]),
        (&["--limit", "2"], &[0, 1]),
        (&["--containing", &settled], &[1]),
        (&["--containing", &settled, "--state", "cancelled"], &[]),
        (&["--containing", "no order of anybody's"], &[]),
    ] {
        assert_eq!(listed(filter), these(numbers), "{filter:?}");
    }
    let (refused, hanging) = (&objects(&[])[1], &objects(&[])[3]);
    let said = ["state", "outcome", "reason", "attempts"].map(|key| &refused[key]);
    assert_eq!(json!(said), json!(["finished", "refused", "settled", 1]));
    assert_eq!(hanging["outcome"], Value::Null, "{hanging}");

    let shown = list(&["--limit", "2"]).says("these are the oldest 2; --limit shows more");
    assert_eq!(shown.stdout.lines().count(), 3, "{shown:#?}");
    for text in ["request", "reason", "settled", &id(&all[0]), &id(&all[1])] {
        assert!(shown.stdout.contains(text), "{text}: {shown:#?}");
    }
    let none = list(&["--older-than", "1h"]).says("no such requests");
    assert_eq!(none.stdout, "");
    let none = rescind(&stage, &["list", "--provider", "nobody"]).exits(0);
    assert_eq!(none.stdout, "");
    // It may be misspelt.
    none.says("no account is configured under that name")
        .says("the accounts are bento, gr4vy");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topology_is_declared_and_verified_and_what_differs_is_told() {
    let stage = Stage::new("topology");
    let names = &stage.names;
    let topology = |arguments: &[&str]| rescind(&stage, &[&["topology"], arguments].concat());
    let differences = |done: &Done| {
        let told: Value = serde_json::from_str(&done.stdout).unwrap();
        told["differences"].as_array().unwrap().clone()
    };
    let missing = format!("queue {} is missing", names.requests_queue);
    topology(&["verify"]).exits(8).says(&missing);
    let told = differences(&topology(&["verify", "--json"]).exits(8));
    assert!(told.contains(&json!(missing)), "{told:?}");

    topology(&["declare"])
        .exits(0)
        .says(&format!("exchange {} (topic)", names.requests_exchange))
        .says(&format!(
            "queue {} (bound to {} ",
            names.requests_queue, names.requests_exchange
        ))
        .says("all of it is at the broker");
    assert_eq!(topology(&["verify"]).exits(0).stdout, "");
    assert!(differences(&topology(&["verify", "--json"]).exits(0)).is_empty());

    let client = stage.client().await;
    client.delete_queue(&names.dropped_queue).await;
    let classic = AMQPValue::LongString("classic".into());
    let arguments = [("x-queue-type", classic)];
    client
        .declare_queue_with(&names.dropped_queue, &arguments)
        .await;
    for arguments in [&["verify"][..], &["verify", "--json"], &["declare"]] {
        topology(arguments)
            .exits(8)
            .says(&names.dropped_queue)
            .says("arg 'x-queue-type'");
    }
    topology(&["declare"])
        .exits(8)
        .says("Correct the object at the broker");
}

/// The settings that every configuration has.
const SETTINGS: &str = include_str!("../contract/defaults.txt");

#[tokio::test(flavor = "multi_thread")]
async fn a_check_tells_every_setting_with_its_value_and_where_that_is_from() {
    let stage = Stage::new("checked");
    let _worker = stage.worker();
    let file = config(&stage);
    let sets = ["--set", "shutdown.drain=9s", "--set", "log.format=text"];
    let words = [&sets[..], &["check", "--json"]].concat();
    let check = Terminal::new(&file, &words)
        .with("RESCIND_SHUTDOWN__DRAIN", "7s")
        .with("RESCIND_HTTP__LISTEN", "127.0.0.1:17");
    let done = check.spawn_and_wait().exits(0);
    let told: Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((&told["ok"], &told["file"]), (&json!(true), &json!(file)));

    let settings = told["configuration"].as_array().unwrap().iter();
    let settings: BTreeMap<&str, [&Value; 2]> = settings
        .map(|setting| {
            let path = setting["path"].as_str().unwrap();
            (path, [&setting["value"], &setting["origin"]])
        })
        .collect();
    for line in SETTINGS.lines() {
        let path = line.split(" = ").next().unwrap();
        assert!(settings.contains_key(path), "{path}");
    }
    let file = file.display().to_string();
    for (path, value, origin) in [
        ("shutdown.drain", "9s", "command line"),
        ("log.format", "text", "command line"),
        ("http.listen", "127.0.0.1:17", "RESCIND_HTTP__LISTEN"),
        ("defaults.timeout", "10s", &file),
        ("providers.midtrans.timeout", "10s", "[defaults]"),
        ("providers.midtrans.server_key", "***", &file),
        ("amqp.requests_queue", &stage.names.requests_queue, &file),
        ("amqp.prefetch", "256", "default"),
    ] {
        assert_eq!(settings[path], [value, origin], "{path}");
    }
    assert!(!done.stdout.contains("SB-Mid-server-demo"));
    Terminal::new(
        std::path::Path::new(&file),
        &["--set", "amqp.prefech=5", "check"],
    )
    .spawn_and_wait()
    .exits(2)
    .says("did you mean amqp.prefetch");
    Terminal::new(
        std::path::Path::new(&file),
        &["--set", "amqp.prefetch", "check"],
    )
    .spawn_and_wait()
    .exits(2)
    .says("as in amqp.prefetch=512");

    let checks = told["checks"].as_array().unwrap().iter();
    let subjects: Vec<&str> = checks.map(|c| c["subject"].as_str().unwrap()).collect();
    let providers = kinds().map(|kind| format!("providers.{kind}"));
    let wanted = ["broker", "topology", "ledger"].map(str::to_owned);
    for subject in wanted.into_iter().chain(providers) {
        assert!(subjects.contains(&subject.as_str()), "{subject}");
    }
}

#[test]
fn completions_are_a_script_of_the_shell_that_knows_every_command() {
    let stage = Stage::new("completions");
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = rescind(&stage, &["completions", shell]).exits(0).stdout;
        for word in ["worker", "submit", "topology", "replay", "--older-than"] {
            let word = word.trim_start_matches("--");
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
    let bash = stage.dir().join("completions.bash");
    std::fs::write(&bash, rescind(&stage, &["completions", "bash"]).stdout).unwrap();
    let read = std::process::Command::new("bash")
        .arg("-n")
        .arg(&bash)
        .output();
    let read = read.expect("bash runs");
    assert!(read.status.success() && read.stderr.is_empty(), "{read:?}");
    rescind(&stage, &["completions", "ksh"]).exits(2);
}
