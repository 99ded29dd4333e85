//! How commands and a worker end where nothing can be done, or where a person ends them.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};

use super::PATIENCE;
use crate::rig::checker::{endings, id};
use crate::rig::process::{Process, forget_environment, free_address};
use crate::rig::stage::{Stage, request};
use crate::rig::terminal::{Done, Terminal};
use crate::rig::{Database, Worker, until};

/// The stage's configuration, as a person has it.
fn config(stage: &Stage) -> PathBuf {
    let path = stage.dir().join("rescind.toml");
    std::fs::write(&path, stage.config()).unwrap();
    path
}

/// A file with one request.
fn one(stage: &Stage, request: &Value) -> String {
    let path = stage.dir().join("one.jsonl");
    std::fs::write(&path, request.to_string()).unwrap();
    path.display().to_string()
}

fn rescind(stage: &Stage, arguments: &[&str]) -> Done {
    Terminal::new(&config(stage), arguments).spawn_and_wait()
}

#[test]
fn a_command_without_a_broker_ends_with_7_and_says_which() {
    let mut stage = Stage::new("no-broker");
    let nobody = free_address();
    stage.set("amqp.url", format!("amqp://guest:guest@{nobody}/%2f"));
    let file = one(&stage, &request("migo", "success"));
    for arguments in [
        &["check"][..],
        &["submit", &file],
        &["results"],
        &["topology", "declare"],
        &["topology", "verify"],
    ] {
        let done = rescind(&stage, arguments).exits(7);
        done.says(&nobody.to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_at_a_provider_or_at_the_broker_ends_a_command_with_7() {
    let mut stage = Stage::new("no-provider");
    let client = stage.client().await;
    client
        .declare_exchange(&stage.names.requests_exchange)
        .await;
    let _results = stage.results().await;
    let file = one(&stage, &request("migo", "success"));
    rescind(&stage, &["submit", &file])
        .exits(7)
        .says("has no queue for requests");
    rescind(&stage, &["check"]).exits(0);
    let nobody = format!("http://{}", free_address());
    stage.set("providers.migo.base_url", nobody);
    rescind(&stage, &["check"]).exits(7).says("migo");
}

/// A server that answers is not one that is not there. Of a full disk [`crate::machine`] tells.
#[test]
fn a_check_of_a_ledger_that_answers_and_cannot_be_used_ends_with_8() {
    let mut stage = Stage::new("found");
    let url = Database::shared().create();
    let name = url.rsplit('/').next().unwrap().split('?').next().unwrap();
    let read_only = format!("ALTER DATABASE {name} SET default_transaction_read_only = on");
    Database::shared().sql(&read_only);
    stage.set("ledger.url", url.clone());
    rescind(&stage, &["check"])
        .exits(8)
        .says("no worker can write to");

    let file = stage.dir().join("newer.db");
    let newer = rusqlite::Connection::open(&file).unwrap();
    newer
        .execute_batch("CREATE TABLE requests (payment_key); PRAGMA user_version = 1000")
        .unwrap();
    stage.set("ledger.url", format!("sqlite:{}", file.display()));
    rescind(&stage, &["check"])
        .exits(8)
        .says("run the newer version");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_what_follows_results_with_130_and_drains_a_worker() {
    let stage = Stage::new("interrupted");
    let mut worker = stage.worker();
    let config = config(&stage).display().to_string();
    let start = |name: &str, arguments: &[&str]| {
        let arguments = [&["--config", config.as_str()], arguments].concat();
        Process::start(stage.dir(), name, &arguments, &[])
    };
    let mut results = start("results", &["results"]);
    until("they are printed", PATIENCE, || {
        results.log().contains("as they come")
    })
    .await;
    let client = stage.client().await;
    let first = request("migo", "success");
    client.publish(&stage.names, &first).await;
    until("one is printed", PATIENCE, || {
        results.stdout().contains(&id(&first))
    })
    .await;
    let file = one(&stage, &request("midtrans", "hang"));
    let mut submit = start("submit", &["submit", &file]);
    let in_flight = || worker.metric("rescind_in_flight", &[]);
    until("it is called", PATIENCE, || in_flight() == 1.0).await;
    for command in [&mut results, &mut submit] {
        command.signal(Signal::INT);
        let status = command.wait(PATIENCE);
        assert_eq!(status.code(), Some(130), "{}", command.log());
    }
    worker.sigint();
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert!(worker.log().contains("draining"), "{}", worker.log());
}

/// The first process of a container is sent no signal that it has not asked for: it asks before it does anything
/// that may last. That it does not end by the signal shows that it has.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_a_worker_starts_ends_it_at_once_with_0() {
    let mut stage = Stage::new("stopped-early");
    let mut worker = stage.worker();
    worker.reconcile();
    worker.respawn();
    until("it waits", PATIENCE, || {
        worker.log().contains("--reconcile: waiting")
    })
    .await;
    worker.sigint();
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{status}: {}", worker.log());
    // It has begun nothing that would have to end.
    assert!(!worker.log().contains("\"draining\""), "{}", worker.log());

    // Who connects waits for an answer, and nothing goes on before.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    stage.set("amqp.url", format!("amqp://guest:guest@{address}/%2f"));
    let mut worker = Worker::spawn(&stage.config(), &[]);
    let connected = tokio::time::timeout(PATIENCE, silent.accept()).await;
    let _connection = connected.expect("it connects").unwrap();
    worker.sigterm();
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{status}: {}", worker.log());
    assert!(!worker.log().contains("\"starting\""), "{}", worker.log());
}

/// A terminal, as a person sits at one: util-linux's `script` has it.
fn at_a_terminal(stage: &Stage, arguments: &str, answer: &str, variables: &[(&str, &str)]) -> Done {
    let words = format!(
        "{} --config {} {arguments}",
        env!("CARGO_BIN_EXE_rescind"),
        config(stage).display()
    );
    let typed = stage.dir().join("typed");
    std::fs::write(&typed, answer).unwrap();
    let mut script = Command::new("script");
    forget_environment(&mut script);
    script.args(["--quiet", "--return", "--command", &words, "/dev/null"]);
    script.env("TERM", "xterm").env("LOGNAME", "ana");
    script.envs(variables.iter().copied());
    script.stdin(std::fs::File::open(typed).unwrap());
    let output = script
        .stderr(Stdio::null())
        .output()
        .expect("script runs; it is Debian's package bsdutils");
    Done {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_there_is_colour_and_what_is_done_to_all_is_asked_for() {
    let stage = Stage::new("terminal");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let refused = [request("midtrans", "forbidden")];
    stage
        .client()
        .await
        .confirm_all(&stage.names, &refused)
        .await;
    endings(&stage, &mut results, &refused, PATIENCE).await;
    let list = |variables: &[(&str, &str)]| at_a_terminal(&stage, "list", "", variables).exits(0);
    assert!(list(&[]).stdout.contains("\u{1b}[31mfailed"));
    assert!(!list(&[("NO_COLOR", "1")]).stdout.contains('\u{1b}'));

    let discard = "dead discard --all --reason 'refunded by hand'";
    let letters = || rescind(&stage, &["dead", "list", "--json"]).objects().len();
    let asked = at_a_terminal(&stage, discard, "no\n", &[]).exits(130);
    asked.says("1 dead letter will be discarded");
    assert_eq!(letters(), 1);
    at_a_terminal(&stage, discard, "yes\n", &[]).exits(0);
    assert_eq!(letters(), 0);
    let undo = "dead discard --all --undo --yes";
    let undone = at_a_terminal(&stage, undo, "", &[]).exits(0);
    assert!(!undone.stdout.contains("Type yes"), "{undone:#?}");
    assert_eq!(letters(), 1);
}

/// `--config`, then RESCIND_CONFIG, then the file in the folder.
#[test]
fn the_configuration_is_the_one_that_is_named_or_else_that_of_the_folder() {
    let stage = Stage::new("named");
    let name = |name: &str| {
        let path = stage.dir().join(name);
        std::fs::write(&path, stage.config()).unwrap();
        path.display().to_string()
    };
    name("rescind.toml");
    let (variable, flag) = (name("variable.toml"), name("flag.toml"));
    let by_variable = [("RESCIND_CONFIG".to_owned(), variable.clone())];
    for (n, (arguments, environment, file)) in [
        (&["check", "--json"][..], &[][..], "rescind.toml"),
        (&["check", "--json"], &by_variable, &variable),
        (&["check", "--json", "--config", &flag], &by_variable, &flag),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("check-{n}");
        let mut check = Process::start(stage.dir(), &name, arguments, environment);
        assert_eq!(check.wait(PATIENCE).code(), Some(0), "{}", check.log());
        let told: Value = serde_json::from_str(&check.stdout()).unwrap();
        assert_eq!(told["file"], json!(file));
    }
}
