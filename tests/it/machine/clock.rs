//! A wall clock that is set by an hour, back and forth, under a worker that runs.

use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::requests;
use crate::flow::{PATIENCE, assert_contract};
use crate::notices::worker::gr4vy;
use crate::rig::checker::endings;
use crate::rig::stage::{Stage, request};
use crate::rig::{Worker, until};

/// Where Debian and others put the library.
fn libfaketime() -> PathBuf {
    let places = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(Path::new);
    let below = places.iter().filter_map(|place| place.read_dir().ok());
    let folders = below.flatten().flatten().map(|entry| entry.path());
    let mut found = places
        .iter()
        .map(|place| place.to_path_buf())
        .chain(folders)
        .map(|folder| folder.join("faketime/libfaketimeMT.so.1"));
    found
        .find(|library| library.is_file())
        .expect("libfaketime; deploy/package faketime faketime")
}

/// The clock of one worker, as far from everybody else's as its file says. Its steady clock
/// goes on as it does: that is what setting a clock is like.
struct Clock(PathBuf);

impl Clock {
    fn of(stage: &Stage) -> Self {
        let clock = Self(stage.dir().join("clock"));
        clock.set("+0");
        clock
    }

    /// At once and as a whole.
    fn set(&self, offset: &str) {
        let next = self.0.with_extension("next");
        std::fs::write(&next, offset).unwrap();
        std::fs::rename(&next, &self.0).unwrap();
    }

    fn worker(&self, stage: &Stage) -> Worker {
        let (library, file) = (libfaketime(), self.0.display().to_string());
        stage.worker_with(&[
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ])
    }
}

/// Half an hour is what it has.
fn urgent() -> Value {
    let soon = Timestamp::now() + SignedDuration::from_mins(30);
    let mut urgent = request("migo", "success");
    urgent["deadline"] = json!(soon.to_string());
    urgent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_set_by_an_hour_back_and_forth_ends_nothing_and_delays_nothing() {
    let mut stage = Stage::new("clock");
    for schedule in ["retry", "poll"] {
        stage.set(&format!("defaults.{schedule}.give_up_after"), "24h");
    }
    let clock = Clock::of(&stage);
    let worker = clock.worker(&stage);
    let mut results = stage.results().await;
    let client = stage.client().await;
    // Logins are made now; a token that is signed under a wrong clock is rightly refused.
    let first = requests(6, "success");
    client.confirm_all(&stage.names, &first).await;
    endings(&stage, &mut results, &first, PATIENCE).await;

    for (round, offset) in ["+1h", "+0", "-1h", "+0"].into_iter().enumerate() {
        stage.simulator.kill9();
        let mut all = requests(12, "success");
        if offset != "+0" {
            all.push(urgent());
        }
        client.confirm_all(&stage.names, &all).await;
        let waiting = [("state", "waiting_retry")];
        until("all wait for their time", PATIENCE, || {
            worker.metric("rescind_open", &waiting) == all.len() as f64
        })
        .await;
        clock.set(offset);
        until("it is noticed", PATIENCE, || {
            worker.log().matches("the wall clock was set").count() >= 6 * (round + 1)
        })
        .await;
        stage.simulator.restart();
        for ending in endings(&stage, &mut results, &all, PATIENCE).await {
            assert_contract(&ending.messages[0], &ending.request);
            let passed = offset == "+1h" && ending.request.get("deadline").is_some();
            let expected = if passed { "failed" } else { "cancelled" };
            assert_eq!(ending.result["outcome"], expected, "{offset}: {ending:#?}");
            let attempts = if passed { 0 } else { 1 };
            assert_eq!(ending.result["attempts"], attempts, "{offset}: {ending:#?}");
        }
        // Signed now, which is an hour ago or ahead by the worker's clock.
        let believed = gr4vy(&worker, &format!("t-{round}"), "authorization_voided");
        let expected = if offset == "+0" { 200 } else { 401 };
        assert_eq!(believed, expected, "{offset}: {}", worker.log());
    }
    assert_eq!(worker.metric("rescind_open", &[]), 0.0);
}

/// Two answers that say "still open" count as two only when some time is between them. A
/// clock that is set forward is no time.
#[tokio::test(flavor = "multi_thread")]
async fn an_hour_that_did_not_pass_makes_no_second_witness() {
    let mut stage = Stage::new("witness");
    // Each cancel is carried out a second after it was sent; until then it looks open.
    stage.set("defaults.timeout", "200ms");
    stage.set("defaults.poll.first", "1500ms");
    stage.set("defaults.poll.max", "3s");
    stage.set("defaults.poll.give_up_after", "24h");
    let clock = Clock::of(&stage);
    let worker = clock.worker(&stage);
    let mut results = stage.results().await;
    let all: Vec<_> = (0..40)
        .map(|_| request("midtrans", "late-effect"))
        .collect();
    let client = stage.client().await;
    client.confirm_all(&stage.names, &all).await;
    let open = [("operation", "lookup"), ("verdict", "still_open")];
    until("some look open", PATIENCE, || {
        worker.metric("rescind_provider_calls_total", &open) >= 3.0
    })
    .await;
    clock.set("+1h");
    // A request that is too late makes the account's dispatcher look at what is due: all of it.
    let mut late = request("midtrans", "success");
    late["deadline"] = json!("2020-01-01T00:00:00Z");
    client.publish(&stage.names, &late).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
}
