//! `rescind submit` as a part of a pipe, and with one id for two contents.

use std::io::Read as _;

use serde_json::{Value, json};

use super::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::stage::{Stage, request};
use crate::rig::terminal::Terminal;

/// Enough for several windows, of which the first results come before the last request is out.
const REQUESTS: usize = 3_000;

/// As before `head`: who has seen enough of the results has not changed the mind about the requests.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_was_given_is_published_also_if_nobody_reads_the_results() {
    let stage = Stage::new("submit");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let requests: Vec<Value> = (0..REQUESTS).map(|_| request("migo", "success")).collect();
    let lines: Vec<String> = requests.iter().map(Value::to_string).collect();
    let (config, file) = (
        stage.dir().join("submit.toml"),
        stage.dir().join("all.jsonl"),
    );
    std::fs::write(&config, stage.config()).unwrap();
    std::fs::write(&file, lines.join("\n")).unwrap();

    let file = file.display().to_string();
    let (mut submit, _guard) = Terminal::new(&config, &["submit", &file]).spawn();
    let mut shown = submit.stdout.take().unwrap();
    shown.read_exact(&mut [0; 80]).unwrap();
    drop(shown);
    let done = tokio::task::spawn_blocking(move || submit.wait_with_output().unwrap());
    let done = done.await.unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(0), "{said}");
    let ended = endings(&stage, &mut results, &requests, PATIENCE).await;
    assert_eq!(ended.len(), REQUESTS);
}

/// The conflict is told at once, and the cancellation takes its time.
#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_not_taken_for_the_end_of_the_request_that_it_conflicts_with() {
    let stage = Stage::new("submitconflict");
    let _worker = stage.worker();
    let slow = request("gr4vy", "slow");
    let mut conflicting = slow.clone();
    conflicting["reason"] = json!("another one");
    let lines = [&slow, &conflicting, &slow].map(Value::to_string);
    let (config, file) = (
        stage.dir().join("submit.toml"),
        stage.dir().join("three.jsonl"),
    );
    std::fs::write(&config, stage.config()).unwrap();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let file = file.display().to_string();
    Terminal::new(&config, &["submit", &file])
        .spawn_and_wait()
        .exits(0)
        .says("1 request in 3 messages: 1 cancelled, 1 invalid");
}
