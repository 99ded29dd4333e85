//! The rig: a private RabbitMQ and PostgreSQL, the real binary, the simulated providers and an AMQP client.
//!
//! Processes are driven with blocking calls, AMQP with async ones. A blocking call stops whatever
//! else lives on a test's own thread, lapin's connections included: a test that needs something
//! of its own to go on meanwhile (a fault proxy, a consumer) is a
//! `#[tokio::test(flavor = "multi_thread")]`.

#![allow(dead_code, reason = "no single subject uses every part of the rig")]

pub(crate) mod broker;
pub(crate) mod checker;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod cutter;
pub(crate) mod database;
pub(crate) mod http;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod raw;
pub(crate) mod recorder;
mod script;
pub(crate) mod simulator;
pub(crate) mod stage;
pub(crate) mod terminal;
mod watchdog;
pub(crate) mod worker;

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, Instant};

#[allow(unused_imports, reason = "the short names, for the subjects")]
pub(crate) use self::{
    broker::{Broker, Names},
    client::{Client, Message, Messages, Published},
    database::Database,
    simulator::{Money, Simulator},
    stage::Stage,
    worker::Worker,
};

/// Polls until the condition holds; panics with the name of what was waited for.
pub(crate) async fn until(what: impl Display, within: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {within:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The same for a test without a runtime.
#[track_caller]
pub(crate) fn until_blocking(what: &str, within: Duration, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + within;
    while !holds() {
        assert!(Instant::now() < end, "{what}: not within {within:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A folder that goes with its owner, below that of this run.
pub(crate) fn folder(name: &str) -> tempfile::TempDir {
    tempfile::Builder::new()
        .prefix(&format!("{name}-"))
        .tempdir_in(scratch())
        .expect("a temporary folder")
}

/// This run's folder; somebody may have cleaned it meanwhile. What all tests share is dropped by nobody:
/// the next run removes it.
pub(crate) fn scratch() -> PathBuf {
    static OTHERS: Once = Once::new();
    watchdog::watch();
    let all = Path::new(env!("CARGO_TARGET_TMPDIR"));
    OTHERS.call_once(|| remove_ended_runs(all));
    let path = all.join(format!("{RUN}{}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a folder for this run");
    path
}

/// Before the id of its process.
const RUN: &str = "run-";

fn remove_ended_runs(all: &Path) {
    for entry in std::fs::read_dir(all).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_prefix(RUN));
        if id.is_some_and(|id| !Path::new("/proc").join(id).exists()) {
            // Who watched over it may be at it, too.
            drop(std::fs::remove_dir_all(entry.path()));
        }
    }
}

/// Whether to leave out what needs a disk of its own. It is asked for: where nobody noticed, what a full
/// disk does would be tested nowhere.
pub(crate) fn mounts_are_left_out() -> bool {
    std::env::var_os("RESCIND_IT_NO_MOUNT").is_some()
}

/// What to do where that fails.
pub(crate) const NO_MOUNT: &str =
    "no small disk; where nobody may mount one, RESCIND_IT_NO_MOUNT=1 leaves out what needs it";

/// A file of the project.
pub(crate) fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A short text that no other test uses, now or in another run on the same broker.
pub(crate) fn unique() -> String {
    let mut text = uuid::Uuid::new_v4().simple().to_string();
    text.truncate(12);
    text
}
