//! What only the ledger on a file promises: one worker, any number of readers, and nothing
//! half-written when the disk is full or the process is killed.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rescind::ledger::sqlite::Sqlite;
use rescind::ledger::{
    Accepted, Arrival, Closed, Committed, Filter, Ledger, LedgerError, Resolution, Which,
};
use rescind::outcome::State;
use rusqlite::Connection;
use tempfile::TempDir;

use super::desk::{
    ACCOUNT, Desk, GIVEN_UP, Opener, VOIDED, admitted, at, at_once, by, finish, held, outcomes,
    reopens, request, sends,
};

fn open(path: &Path) -> Result<Sqlite, LedgerError> {
    Sqlite::open(path, |_, _| ())
}

/// A process that another test forks holds a copy of every open file until it executes its
/// program, the ledger's lock among them: a moment in which a closed ledger is still in use.
fn open_again(path: &Path) -> Sqlite {
    for _ in 0..200 {
        match open(path) {
            Err(LedgerError::InUse { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened.unwrap(),
        }
    }
    open(path).unwrap()
}

fn at_path(path: &Path) -> Opener {
    let path = path.to_owned();
    Box::new(move || {
        let ledger: Arc<dyn Ledger> = Arc::new(open_again(&path));
        Box::pin(async { ledger })
    })
}

/// A new file, for the suite of every backend. The folder goes with the opener.
pub(super) fn fresh() -> Opener {
    let folder = crate::rig::folder("ledger");
    let open = at_path(&folder.path().join("rescind.db"));
    Box::new(move || {
        let _kept: &TempDir = &folder;
        open()
    })
}

/// A folder and the path of a ledger in it that is not there yet.
fn nowhere() -> (TempDir, std::path::PathBuf) {
    let folder = crate::rig::folder("ledger");
    let path = folder.path().join("rescind.db");
    (folder, path)
}

fn is_failed<T: std::fmt::Debug>(answer: Result<T, LedgerError>) -> bool {
    matches!(answer, Err(LedgerError::Failed(_)))
}

#[test]
fn one_file_has_one_worker() {
    let (_folder, path) = nowhere();
    let first = open(&path).unwrap();
    assert!(matches!(open(&path).err(), Some(LedgerError::InUse { .. })));
    drop(first);
    open_again(&path);
}

#[test]
fn a_link_to_a_file_is_that_file() {
    let (folder, path) = nowhere();
    drop(open(&path).unwrap());
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let _first = open(&link).unwrap();
    assert!(matches!(open(&path).err(), Some(LedgerError::InUse { .. })));
}

/// A volume's first start: the link is there and the file is not.
#[test]
fn a_link_to_a_file_that_is_still_to_be_made_is_that_file() {
    let (folder, path) = nowhere();
    let [one, two] = ["one.db", "two.db"].map(|name| folder.path().join(name));
    std::os::unix::fs::symlink(&path, &one).unwrap();
    std::os::unix::fs::symlink("one.db", &two).unwrap();
    let _first = open(&two).unwrap();
    for name in [&one, &two, &path] {
        assert!(matches!(open(name).err(), Some(LedgerError::InUse { .. })));
    }
}

#[test]
fn a_reader_does_not_make_a_ledger() {
    let (folder, path) = nowhere();
    let missing = Sqlite::open_to_read(&path).err();
    assert!(matches!(missing, Some(LedgerError::Missing { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_reader_sees_what_the_worker_commits_and_changes_nothing() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    let claim = desk.begin("a", "p").await;
    let reader = Sqlite::open_to_read(&path).unwrap();
    let seen = reader.history("a").await.unwrap().unwrap();
    assert_eq!(seen.progress.state, State::Calling);
    desk.settle(finish(&claim, VOIDED, at(1))).await;
    let seen = reader.history("a").await.unwrap().unwrap();
    assert_eq!(seen.progress.state, State::Finished);

    desk.take_in(request("b", "q")).await;
    let before = desk.everything().await;
    let arrival = Arrival::Request(Box::new(request("c", "r")));
    assert!(is_failed(reader.accept(vec![arrival].into()).await));
    assert!(is_failed(
        reader.claim(ACCOUNT, Which::due(9), at(9), sends()).await
    ));
    assert!(is_failed(
        reader
            .commit(vec![finish(&claim, VOIDED, at(2))].into())
            .await
    ));
    assert!(is_failed(reader.published(Vec::new(), at(2)).await));
    assert!(is_failed(reader.reconcile(at(2), at_once()).await));
    assert!(is_failed(reader.purge(at(2), 9).await));
    assert_eq!(desk.everything().await, before);
}

#[test]
fn a_ledger_of_a_newer_version_is_left_alone() {
    let (_folder, path) = nowhere();
    drop(open(&path).unwrap());
    let file = Connection::open(&path).unwrap();
    file.pragma_update(None, "user_version", 1_000).unwrap();
    for refused in [open(&path).err(), Sqlite::open_to_read(&path).err()] {
        assert!(
            matches!(refused, Some(LedgerError::TooNew { found: 1_000, .. })),
            "{refused:?}"
        );
    }
}

#[tokio::test]
async fn a_ledger_of_an_older_version_is_migrated_by_the_worker_alone() {
    let (_folder, path) = nowhere();
    Connection::open(&path)
        .unwrap()
        .execute_batch("VACUUM")
        .unwrap();
    for old in [
        Sqlite::open_to_read(&path).err(),
        Sqlite::open_to_operate(&path).err(),
    ] {
        assert!(
            matches!(old, Some(LedgerError::TooOld { found: 0, .. })),
            "{old:?}"
        );
    }
    let desk = Desk::new(at_path(&path)).await;
    desk.begin("a", "p").await;
    let reader = Sqlite::open_to_read(&path).unwrap();
    assert!(reader.history("a").await.unwrap().is_some());
}

#[test]
fn a_file_that_is_no_ledger_is_refused_and_kept() {
    let (_folder, path) = nowhere();
    let text = "my diary, dear to me\n".repeat(100);
    std::fs::write(&path, &text).unwrap();
    for refused in [
        open(&path).err(),
        Sqlite::open_to_read(&path).err(),
        Sqlite::open_to_operate(&path).err(),
    ] {
        let damaged = matches!(refused, Some(LedgerError::Damaged(_)));
        assert!(damaged, "{refused:?}");
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

/// By its name alone `ledger.url` can lead to any database, and the number of its schema is any program's.
#[test]
fn a_database_of_another_program_is_refused_and_kept() {
    for (tables, version) in [
        ("CREATE TABLE users (name)", 0),
        ("CREATE TABLE users (name)", 3),
        ("CREATE TABLE requests (url)", 9),
        ("CREATE TABLE requests (url)", 77),
        ("", 3),
    ] {
        let (_folder, path) = nowhere();
        let file = Connection::open(&path).unwrap();
        file.execute_batch(tables).unwrap();
        file.pragma_update(None, "user_version", version).unwrap();
        drop(file);
        let before = std::fs::read(&path).unwrap();
        for refused in [
            open(&path).err(),
            Sqlite::open_to_read(&path).err(),
            Sqlite::open_to_operate(&path).err(),
        ] {
            let foreign = matches!(refused, Some(LedgerError::Foreign { .. }));
            assert!(foreign, "{tables} {version}: {refused:?}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
}

/// As of one that went through `.dump`, which does not write the number down. It is no other program's, and moving
/// `ledger.url` elsewhere would make a new one.
#[test]
fn a_ledger_that_lost_the_number_of_its_schema_is_still_ours() {
    let (_folder, path) = nowhere();
    drop(open(&path).unwrap());
    let file = Connection::open(&path).unwrap();
    let known: i64 = file
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    file.pragma_update(None, "user_version", 0).unwrap();
    drop(file);
    for refused in [
        open(&path).err(),
        Sqlite::open_to_read(&path).err(),
        Sqlite::open_to_operate(&path).err(),
    ] {
        let says = refused.unwrap().to_string();
        let remedy = format!("PRAGMA user_version = {known}");
        assert!(says.contains(&remedy), "{says}");
        assert!(!says.contains("ledger.url"), "{says}");
    }
}

/// A lock that was there before says so once a ledger was made beside it. An empty one is of an older version, or of a
/// start that came to no ledger.
#[test]
fn where_a_ledger_was_no_new_one_is_made() {
    let (folder, path) = nowhere();
    let lock = folder.path().join("rescind.db.lock");
    std::fs::write(&lock, "").unwrap();
    drop(open(&path).unwrap());
    drop(open(&path).unwrap());
    for ending in ["", "-wal", "-shm"] {
        drop(std::fs::remove_file(format!("{}{ending}", path.display())));
    }
    for refused in [
        open(&path).err(),
        Sqlite::open_to_read(&path).err(),
        Sqlite::open_to_operate(&path).err(),
    ] {
        let says = refused.map(|error| error.to_string()).unwrap_or_default();
        assert!(says.contains("a ledger was there"), "{says}");
        assert!(says.contains(&lock.display().to_string()), "{says}");
    }
    assert!(!path.exists());
    // A command that was to read it makes an empty one.
    std::fs::write(&path, "").unwrap();
    assert!(matches!(open(&path).err(), Some(LedgerError::Gone { .. })));
    std::fs::remove_file(&lock).unwrap();
    drop(open(&path).unwrap());
}

/// What it was to change is not there.
#[test]
fn a_migration_that_fails_says_so_without_its_text() {
    let (_folder, path) = nowhere();
    drop(open(&path).unwrap());
    let file = Connection::open(&path).unwrap();
    file.pragma_update(None, "user_version", 1).unwrap();
    drop(file);
    let error = open(&path).err().unwrap().to_string();
    assert!(error.contains("from schema 1 to 2"), "{error}");
    assert!(!error.contains("TABLE"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// The full sync of a commit is a setting of the worker's own connection that nobody else
/// can ask for; `tidy` reads it in the source. This shows the rest.
#[tokio::test]
async fn the_file_is_in_wal_mode_under_a_library_without_the_wal_bug() {
    assert!(
        rusqlite::version_number() >= 3_051_003,
        "{}",
        rusqlite::version()
    );
    let (folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    desk.begin("a", "p").await;
    let beside = Connection::open(&path).unwrap();
    let mode = beside.pragma_query_value(None, "journal_mode", |row| row.get::<_, String>(0));
    assert_eq!(mode.unwrap(), "wal");
    let log = folder.path().join("rescind.db-wal").metadata().unwrap();
    assert!(log.len() > 0, "the commit is in the log");
}

#[tokio::test]
async fn a_purge_leaves_no_row_behind() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    desk.done("a", VOIDED, at(1)).await;
    desk.done("b", GIVEN_UP, at(1)).await;
    let beside = Connection::open(&path).unwrap();
    let rows = |table: &str| -> i64 {
        let question = format!("SELECT count(*) FROM {table}");
        beside.query_row(&question, [], |row| row.get(0)).unwrap()
    };
    let tables = ["requests", "calls", "messages", "dead_letters", "actions"];
    assert_eq!(tables.map(rows), [2, 2, 3, 1, 0]);
    assert_eq!(desk.purge(at(9), 9).await.unwrap(), 1);
    assert_eq!(tables.map(rows), [1, 1, 2, 1, 0], "its dead letter is open");
    desk.take_in_invalid(b"{", at(1)).await;
    desk.publish_all(at(1)).await;
    for letter in desk.letters().await {
        let done = desk
            .close(&letter.id, by("ana", Resolution::Discard, at(2)))
            .await;
        assert_eq!(done.unwrap(), Closed::Done);
    }
    assert_eq!(tables.map(rows), [1, 1, 4, 2, 2]);
    assert_eq!(desk.purge(at(9), 9).await.unwrap(), 4);
    assert_eq!(tables.map(rows), [0; 5]);
}

/// A person's commands write beside the worker, which has the lock.
#[tokio::test]
async fn an_operator_writes_beside_the_worker_and_makes_no_ledger() {
    let (folder, path) = nowhere();
    let missing = Sqlite::open_to_operate(&path).err();
    assert!(matches!(missing, Some(LedgerError::Missing { .. })));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let desk = Desk::new(at_path(&path)).await;
    desk.done("a", GIVEN_UP, at(1)).await;
    let operator = Sqlite::open_to_operate(&path).unwrap();
    let letter = desk.letters().await.remove(0).id;
    let replay = by("ana", Resolution::Replay(reopens(at(5))), at(5));
    assert_eq!(operator.close(&letter, replay).await.unwrap(), Closed::Done);
    assert_eq!(desk.claimed_ids(9, at(5)).await, ["a"]);
    assert_eq!(operator.recover(at(6), at_once()).await.unwrap(), 0);
    let reader = Sqlite::open_to_read(&path).unwrap();
    let discard = by("ana", Resolution::Discard, at(6));
    assert!(is_failed(reader.close(&letter, discard).await));
}

/// Both wait for each other; who waits in vain has done nothing, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_locked_for_long_is_busy_for_everybody() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    desk.done("a", GIVEN_UP, at(1)).await;
    let operator = Sqlite::open_to_operate(&path).unwrap();
    let letter = desk.letters().await.remove(0).id;
    let beside = Connection::open(&path).unwrap();
    beside.execute_batch("BEGIN IMMEDIATE").unwrap();
    let closing = || by("ana", Resolution::Discard, at(5));
    let (closed, claimed) = tokio::join!(
        operator.close(&letter, closing()),
        desk.claim(ACCOUNT, Which::due(9), at(5), sends()),
    );
    assert!(matches!(closed, Err(LedgerError::Busy)), "{closed:?}");
    assert!(matches!(claimed, Err(LedgerError::Busy)));
    let waiting = operator.close(&letter, closing());
    beside.execute_batch("ROLLBACK").unwrap();
    assert_eq!(waiting.await.unwrap(), Closed::Done);
    assert!(desk.claims(9, at(5)).await.claims.is_empty());
}

/// A flood of notifications about payments that are not ours has to keep the writer from nothing.
#[tokio::test]
async fn a_notification_about_nothing_of_ours_does_not_wait_for_the_writer() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    desk.done("a", VOIDED, at(1)).await;
    let beside = Connection::open(&path).unwrap();
    beside.execute_batch("BEGIN IMMEDIATE").unwrap();
    let heard = desk.hear(&["unknown", "another"], super::asks_nobody());
    assert_eq!(heard.await, []);
    beside.execute_batch("ROLLBACK").unwrap();
}

#[tokio::test]
async fn an_operation_that_fails_half_way_leaves_nothing_and_takes_no_other_with_it() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    let claim = desk.begin("a", "p").await;
    let other = desk.begin("b", "q").await;
    let before = desk.everything().await;
    // The last thing that is written for an end: all before it has to be undone.
    let beside = Connection::open(&path).unwrap();
    let trap = "CREATE TRIGGER trap BEFORE INSERT ON dead_letters
                BEGIN SELECT RAISE(FAIL, 'no room'); END";
    beside.execute_batch(trap).unwrap();
    let change = || finish(&claim, GIVEN_UP, at(3));
    assert!(is_failed(desk.commit(vec![change()].into()).await));
    assert_eq!(desk.everything().await, before);

    // Asked for at once, so that they are in one group.
    let (bad, good) = futures_util::future::join(
        desk.commit(vec![change()].into()),
        desk.commit(vec![finish(&other, VOIDED, at(3))].into()),
    )
    .await;
    assert!(is_failed(bad));
    assert_eq!(outcomes(&good.unwrap()), [Committed::Done]);
    assert_eq!(desk.seen("a").await.progress.state, State::Calling);

    beside.execute_batch("DROP TRIGGER trap").unwrap();
    assert_eq!(desk.settle(change()).await, Committed::Done);
    assert_eq!(desk.seen("a").await.messages.len(), 2);
}

/// The test binary once more, as a process that can be killed or be put into a room of its
/// own: its only test is `role`, which does nothing unless it finds its variable.
fn actor(role: &str) -> Vec<String> {
    let binary = std::env::current_exe().unwrap();
    let words = [binary.to_str().unwrap(), "--exact", role, "--nocapture"];
    words.map(str::to_owned).to_vec()
}

const KILLED: &str = "RESCIND_IT_KILLED";
const FULL: &str = "RESCIND_IT_FULL";

#[tokio::test]
async fn in_the_role_of_the_process_that_is_killed() {
    let Ok(path) = std::env::var(KILLED) else {
        return;
    };
    let desk = Arc::new(Desk::new(at_path(Path::new(&path))).await);
    let round = std::process::id();
    let clerks = (0..8).map(|clerk| {
        let desk = Arc::clone(&desk);
        tokio::spawn(async move {
            for n in 0.. {
                let id = format!("{round}-{clerk}-{n}");
                let claim = desk.begin(&id, &id).await;
                eprintln!("accepted {id}");
                desk.settle(finish(&claim, GIVEN_UP, at(n))).await;
                eprintln!("finished {id}");
            }
        })
    });
    for clerk in clerks.collect::<Vec<_>>() {
        clerk.await.unwrap();
    }
}

/// What a file takes on the disk, in kilobytes.
fn size(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |file| file.len() / 1024)
}

/// Beside the writer, before the log has grown so far that the writer does it itself; and not by
/// SQLite's own means, which would do it in a commit as soon as the log has 1,000 pages.
#[tokio::test]
async fn the_log_is_copied_into_the_file_while_it_is_short() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    let (before, log) = (size(&path), || size(&path.with_extension("db-wal")));
    write_bodies(&desk, 0..42).await;
    assert!((4050..4550).contains(&log()), "{} kB of log", log());
    assert!(size(&path) <= before + 4, "not copied yet");
    write_bodies(&desk, 42..60).await;
    crate::rig::until("it is copied", Duration::from_secs(10), || {
        size(&path) > before + 1024
    })
    .await;
    assert!((4650..8000).contains(&log()), "{} kB of log", log());
}

/// The writer sees to that, wherever the copies beside it are.
#[tokio::test]
async fn the_log_begins_anew_while_one_write_follows_the_other() {
    let (_folder, path) = nowhere();
    let desk = Desk::new(at_path(&path)).await;
    write_bodies(&desk, 0..1000).await;
    let (file, log) = (size(&path), size(&path.with_extension("db-wal")));
    assert!(file > 48 * 1024, "{file} kB in the file");
    assert!(log < 24 * 1024, "{log} kB of log");
}

/// Takes in requests of 64 kB each.
async fn write_bodies(desk: &Desk, numbers: std::ops::Range<usize>) {
    for n in numbers {
        let mut request = admitted(&format!("r{n}"), &format!("p{n}"));
        request.envelope.body = vec![b'x'; 64 * 1024];
        desk.take_in(request).await;
    }
}

/// Shows that no answer outlives its commit. That the commit outlives a power cut is for
/// the disk to show: a killed process leaves the system's cache behind.
#[tokio::test]
async fn every_answer_before_a_kill_is_in_the_ledger_after_it() {
    let (_folder, path) = nowhere();
    for lines in [1, 60, 400] {
        let words = actor("ledger::sqlite::in_the_role_of_the_process_that_is_killed");
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .env(KILLED, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let mut answers = Vec::new();
        let mut line = String::new();
        while said.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            answers.push(std::mem::take(&mut line));
            if answers.len() == lines {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(answers.len() >= lines, "{answers:?}");

        let desk = Desk::new(at_path(&path)).await;
        for answer in &answers {
            let (what, id) = answer.trim().split_once(' ').unwrap();
            let seen = desk.seen(id).await;
            assert_eq!(seen.calls.len(), 1);
            assert!(what == "accepted" || seen.outcome.is_some(), "{answer}");
        }
        let all = Filter {
            most: 100_000,
            ..Filter::default()
        };
        for summary in desk.list(all).await.unwrap() {
            let seen = desk.seen(&summary.request_id).await;
            let whole = match seen.outcome {
                Some(_) => seen.messages.len() == 2 && seen.calls[0].finished_at.is_some(),
                None => seen.messages.is_empty() && seen.calls[0].finished_at.is_none(),
            };
            assert!(whole, "{} is half-written", summary.request_id);
        }
        let file = Connection::open(&path).unwrap();
        let checked =
            file.pragma_query_value(None, "integrity_check", |row| row.get::<_, String>(0));
        assert_eq!(checked.unwrap(), "ok");
    }
}

#[tokio::test]
async fn in_the_role_of_the_process_on_a_full_disk() {
    let Ok(folder) = std::env::var(FULL) else {
        return;
    };
    let ballast = Path::new(&folder).join("ballast");
    std::fs::write(&ballast, vec![1; 512 * 1024]).unwrap();
    let desk = Desk::new(at_path(&Path::new(&folder).join("rescind.db"))).await;
    let large = |n: usize| {
        let mut request = admitted(&format!("r{n}"), &format!("p{n}"));
        request.envelope.body = vec![b'x'; 48 * 1024];
        request
    };
    let take_in = async |n: usize| {
        let arrival = Arrival::Request(Box::new(large(n)));
        desk.accept(vec![arrival].into())
            .await
            .map(|mut answers| answers.remove(0))
    };
    let mut held_claims = Vec::new();
    let (refused_id, refused) = loop {
        let n = held_claims.len();
        match take_in(n).await {
            Ok(Accepted::New(Some(claim))) => held_claims.push(held(&large(n), claim)),
            Err(LedgerError::Failed(why)) => break (format!("r{n}"), why),
            other => panic!("{other:?}"),
        }
        assert!(n < 1000, "the disk is not full");
    };
    assert!(
        refused.contains("full") || refused.contains("disk"),
        "{refused}"
    );
    // Ends are larger than what room is left, dead letter and all.
    let full = loop {
        let Some(claim) = held_claims.last() else {
            panic!("there was room for every end");
        };
        match desk
            .commit(vec![finish(claim, GIVEN_UP, at(1))].into())
            .await
        {
            Ok(_) => held_claims.pop(),
            Err(_) => break finish(claim, GIVEN_UP, at(1)),
        };
    };
    assert!(
        !desk.is_known(&refused_id).await,
        "what was refused is not there"
    );
    for claim in &held_claims {
        let seen = desk.seen(&claim.stored.request_id).await;
        assert_eq!(
            (seen.progress.state, seen.messages.len()),
            (State::Calling, 0)
        );
    }
    // What is asked before a message that the broker gave up on is taken: with a page at a time it ends soon.
    let mut asked = 0..100;
    while desk.accept(Arc::from([])).await.is_ok() {
        asked
            .next()
            .expect("it is not told that nothing can be stored");
    }
    std::fs::remove_file(&ballast).unwrap();
    desk.accept(Arc::from([])).await.unwrap();
    assert_eq!(desk.settle(full).await, Committed::Done);
    assert!(matches!(take_in(5000).await, Ok(Accepted::New(Some(_)))));
    eprintln!("the disk was full");
}

#[test]
fn a_full_disk_refuses_whole_operations_and_all_is_well_once_there_is_room() {
    if crate::rig::mounts_are_left_out() {
        return;
    }
    let folder = crate::rig::folder("ledger");
    let words = actor("ledger::sqlite::in_the_role_of_the_process_on_a_full_disk");
    // A small disk that only this child sees.
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c"])
        .arg("mount -t tmpfs -o size=2m none \"$RESCIND_IT_FULL\" && exec \"$@\"")
        .arg("sh")
        .args(&words)
        .env(FULL, folder.path())
        .output();
    let output = output.expect(crate::rig::NO_MOUNT);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", crate::rig::NO_MOUNT);
    assert!(said.contains("the disk was full"), "{said}");
}

/// There may have been a flood of them.
#[test]
fn messages_about_no_request_are_not_all_read_to_find_the_old_ones() {
    let (_folder, path) = nowhere();
    drop(open(&path).unwrap());
    let file = Connection::open(&path).unwrap();
    let plan: String = file
        .query_row(
            "EXPLAIN QUERY PLAN SELECT seq FROM messages WHERE request IS NULL AND published_at < 1 LIMIT 1",
            [],
            |row| row.get("detail"),
        )
        .unwrap();
    assert!(
        plan.contains("published_about_no_request (published_at<?)"),
        "{plan}"
    );
}
