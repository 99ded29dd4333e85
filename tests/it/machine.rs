//! What a machine does to a worker: a disk that fails, one that is full, too few files.

mod clock;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rescind::providers;
use serde_json::Value;

use crate::flow::PATIENCE;
use crate::rig::checker::{Ending, endings};
use crate::rig::stage::{Stage, request};
use crate::rig::{NO_MOUNT, Worker, mounts_are_left_out, until};

fn requests(count: usize, behaviour: &str) -> Vec<Value> {
    let kinds = providers::ALL.iter().map(|provider| provider.kind());
    let all = kinds.cycle().map(|kind| request(kind, behaviour));
    all.take(count).collect()
}

/// Cancelled once; where nobody can be asked what became of a call, a person is told.
fn assert_cancelled_once(ending: &Ending, killed: bool) {
    let migo = ending.request["provider"] == "migo";
    match ending.result["outcome"].as_str() {
        Some("cancelled") => assert_eq!(ending.money.effects.len(), 1, "{ending:#?}"),
        Some("unresolved") if migo && killed => {}
        _ => panic!("{ending:#?}"),
    }
}

/// Queues and a ledger that are there, and requests in them for the next worker.
async fn stage_with_work(name: &str, work: &[Value]) -> Stage {
    let mut stage = Stage::new(name);
    // What a worker that ended may still have sent is waited for as long.
    stage.set("defaults.timeout", "1s");
    drop(stage.worker());
    stage.client().await.confirm_all(&stage.names, work).await;
    stage
}

/// `fdatasync` fails from some call on, as on a disk that is dying. A worker that tried again
/// would be told that all is well: the system has forgotten what it could not write.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_disk_fails_ends_at_once_and_loses_nothing() {
    // The log's syncs, in between and at first; then those of the file into which it is copied.
    for (from, copies) in [(1, false), (12, false), (25, false), (1, true)] {
        let stage = stage_with_work("dying", &[]).await;
        let client = stage.client().await;
        let mut results = stage.results().await;
        let fault = format!("inject=fsync,fdatasync:error=EIO:when={from}+");
        let trace = stage.dir().join("syscalls").display().to_string();
        let mut words = vec!["strace", "-D", "-f", "-q", "-o", &trace];
        words.extend(["-e", "trace=fsync,fdatasync", "-e", &fault]);
        let file = stage.dir().join("rescind.db").display().to_string();
        if copies {
            words.extend(["-P", &file]);
        }
        let mut worker = Worker::spawn_under(&words, &stage.config());
        // One by one, so that there are commits enough.
        let mut all = Vec::new();
        let began = Instant::now();
        while worker.ended().is_none() {
            let next = requests(6, "success").swap_remove(all.len() % 6);
            client.publish(&stage.names, &next).await;
            all.push(next);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(
                began.elapsed() < PATIENCE,
                "it does not end: {}",
                worker.log()
            );
        }
        let status = worker.wait(PATIENCE);
        assert_eq!(status.code(), Some(74), "{}", worker.log());
        let log = worker.log();
        assert_eq!(log.matches("the disk failed").count(), 1, "{log}");

        worker.bare();
        worker.restart();
        for ending in endings(&stage, &mut results, &all, PATIENCE).await {
            assert_cancelled_once(&ending, true);
        }
        assert_eq!(worker.metric("rescind_open", &[]), 0.0);
    }
}

/// An open file that was removed takes all that is stored, and goes with the worker; where the log alone was, what is in
/// it is copied before. Without the lock a second worker could start. The first start is on an empty file, which is no
/// ledger that was there before; the last one is on none, where the lock says that there was one.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_files_are_removed_or_replaced_ends_at_once() {
    let stage = Stage::new("removed");
    let file = |ending: &str| PathBuf::from(format!("{}{ending}", stage.ledger().display()));
    fs::write(file(""), "").unwrap();
    let mut worker = stage.worker();
    assert!(worker.log().contains("no ledger found"), "{}", worker.log());
    let mut results = stage.results().await;
    let all = requests(6, "success");
    stage.client().await.confirm_all(&stage.names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
    let stored = || {
        let ledger = rusqlite::Connection::open(file("")).unwrap();
        let question = "SELECT count(*) FROM requests WHERE outcome IS NOT NULL";
        ledger.query_row(question, [], |row| row.get::<_, usize>(0))
    };
    type Meddle = fn(&Path);
    let remove: Meddle = |path| fs::remove_file(path).unwrap();
    let replace: Meddle = |path| {
        let copy = path.with_extension("copy");
        fs::copy(path, &copy).unwrap();
        fs::rename(copy, path).unwrap();
    };
    for (ending, meddle, says) in [
        (".lock", remove, "the lock of the ledger was removed"),
        ("-wal", remove, "the log of the ledger was removed"),
        ("", replace, "a file of the ledger was removed"),
        ("", remove, "a file of the ledger was removed"),
    ] {
        if ending != ".lock" {
            worker.restart();
        }
        meddle(&file(ending));
        let status = worker.wait(PATIENCE);
        assert_eq!(status.code(), Some(74), "{ending}: {}", worker.log());
        assert!(worker.log().contains(says), "{ending}: {}", worker.log());
        if ending == "-wal" {
            assert_eq!(stored(), Ok(all.len()), "{}", worker.log());
        }
    }
    // As a container does at once.
    worker.respawn();
    assert_eq!(worker.wait(PATIENCE).code(), Some(7), "{}", worker.log());
    assert!(worker.log().contains("a ledger was there"));
    assert!(!file("").exists(), "no new one was made");
    // As a command leaves it that was to back it up.
    fs::write(file(""), "").unwrap();
    worker.respawn();
    assert_eq!(worker.wait(PATIENCE).code(), Some(7), "{}", worker.log());
}

/// The system repeats what was written and not acknowledged, also of a socket that was closed. By then the
/// look-ups may have said that nothing was cancelled.
#[tokio::test(flavor = "multi_thread")]
async fn the_system_sends_no_call_for_longer_than_its_answer_is_waited_for() {
    let mut stage = Stage::new("unacknowledged");
    stage.set("defaults.timeout", "4s");
    let mut results = stage.results().await;
    let trace = stage.dir().join("syscalls");
    let path = trace.display().to_string();
    let words = ["strace", "-D", "-f", "-q", "-o", &path];
    let words = [&words[..], &["-e", "trace=setsockopt"]].concat();
    let mut worker = Worker::spawn_under(&words, &stage.config());
    worker.become_ready(PATIENCE).expect("a worker");
    let all = [request("midtrans", "success")];
    stage.client().await.confirm_all(&stage.names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
    let calls = fs::read_to_string(trace).unwrap();
    assert!(calls.contains("TCP_USER_TIMEOUT, [2000]"), "{calls}");
    assert!(!calls.contains("TCP_USER_TIMEOUT, [30000]"), "{calls}");
}

/// A disk of 8 MiB that only the worker sees, room for the log of all that is asked here, and its
/// folder as the test sees it.
fn small_disk(stage: &mut Stage) -> (PathBuf, Vec<String>) {
    let folder = stage.dir().join("small");
    fs::create_dir(&folder).unwrap();
    let ledger = format!("sqlite:{}", folder.join("rescind.db").display());
    stage.set("ledger.url", ledger);
    let mount = "mount -t tmpfs -o size=8m none \"$0\" && exec \"$@\"";
    let mut words = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount]
        .map(str::to_owned)
        .to_vec();
    words.push(folder.display().to_string());
    (folder, words)
}

/// Takes all the room there is; gives it back when the file is removed.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [64 * 1024, 1024, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_intake_says_so_and_is_over_once_there_is_room() {
    if mounts_are_left_out() {
        return;
    }
    let mut stage = Stage::new("full");
    let (folder, words) = small_disk(&mut stage);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut worker = Worker::spawn_under(&words, &stage.config());
    worker.become_ready(PATIENCE).expect(NO_MOUNT);
    let mut results = stage.results().await;
    let client = stage.client().await;
    let before = requests(12, "success");
    client.confirm_all(&stage.names, &before).await;
    endings(&stage, &mut results, &before, PATIENCE).await;

    // Through the worker's own view of the file system.
    let inside = format!("/proc/{}/root{}", worker.id(), folder.display());
    let ballast = Path::new(&inside).join("ballast");
    fill(&ballast);
    // Larger than what room the ledger's log may have left.
    let mut during = requests(60, "success");
    for request in &mut during {
        request["metadata"] = serde_json::json!({ "note": "x".repeat(4000) });
    }
    client.confirm_all(&stage.names, &during).await;
    until("it says that it cannot store", PATIENCE, || {
        worker.log().contains("cannot store requests") && !worker.ready()
    })
    .await;
    assert_eq!(worker.ended(), None, "a full disk is no broken one");

    fs::remove_file(&ballast).unwrap();
    for ending in endings(&stage, &mut results, &during, PATIENCE).await {
        assert_cancelled_once(&ending, false);
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    until("it is ready again", PATIENCE, || worker.ready()).await;
}

/// Where nothing can be written a worker cannot work, whatever can be read there.
#[test]
fn a_check_says_if_the_disk_is_full_or_read_only() {
    if mounts_are_left_out() {
        return;
    }
    for (meddle, says, code) in [
        ("true", "will be created by the worker", 0),
        (
            "mount -o remount,ro none \"$0\"",
            "small cannot be written",
            8,
        ),
        (
            "cat /dev/zero > \"$0/ballast\" 2> /dev/null || true",
            "is full",
            8,
        ),
    ] {
        let mut stage = Stage::new("check-disk");
        let (_, words) = small_disk(&mut stage);
        let mount = words[5].replace("&& exec", &format!("&& {{ {meddle}; }} && exec"));
        let config = stage.dir().join("person.toml");
        fs::write(&config, stage.config()).unwrap();
        let mut command = std::process::Command::new(&words[0]);
        command.args(&words[1..5]).arg(mount).args(&words[6..]);
        command.args([env!("CARGO_BIN_EXE_rescind"), "check", "--config"]);
        let done = command.arg(config).output().expect(NO_MOUNT);
        let told = String::from_utf8_lossy(&done.stdout);
        assert!(told.contains(says), "{says}: {told}");
        assert_eq!(done.status.code(), Some(code), "{says}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_with_too_few_files_is_slow_and_right() {
    // One account: the connections that others keep open for later would be a matter of their
    // own, for up to a minute.
    let all: Vec<Value> = (0..60).map(|_| request("midtrans", "slow")).collect();
    let mut stage = stage_with_work("files", &all).await;
    // A slow answer takes a second.
    stage.set("defaults.timeout", "5s");
    stage.set("defaults.retry.give_up_after", "2m");
    let mut results = stage.results().await;
    let few = ["prlimit", "--nofile=48"];
    let mut worker = Worker::spawn_under(&few, &stage.config());
    // Its endpoints come back with the files, which idle connections may keep for up to a minute.
    worker.become_ready(3 * PATIENCE).unwrap();
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_cancelled_once(&ending, false);
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    let calls = rusqlite::Connection::open(stage.ledger()).unwrap();
    let question = "SELECT count(*) FROM calls WHERE verdict = 'not_sent'";
    let not_sent: i64 = calls.query_row(question, [], |row| row.get(0)).unwrap();
    assert!(not_sent > 0, "no call was short of a file");
    assert_eq!(worker.ended(), None);
}
