//! What only the ledger on PostgreSQL promises: several workers on one database, leases,
//! commits of unknown outcome, and schemas side by side.

use std::sync::Arc;
use std::time::Duration;

use rescind::config::TlsFiles;
use rescind::ledger::postgres::{Postgres, Settings};
use rescind::ledger::{
    Accepted, Closed, Committed, Ledger, LedgerError, Reopen, Resolution, Which,
};
use rescind::lifecycle::Hindrance;
use rescind::outcome::State;

use super::desk::{
    Desk, GIVEN_UP, Opener, VOIDED, arriving, at, at_once, by, finish, reopens, request, sends,
    wait,
};
use crate::rig::database::holding;
use crate::rig::{Database, until};

mod crowd;
mod cut;
mod group;
mod hosts;
mod lease;
mod locked;
mod many;
mod schema;
mod standby;
mod tls;
mod trouble;

fn settings(url: &str) -> Settings {
    Settings {
        url: url.into(),
        files: TlsFiles::default(),
    }
}

async fn open(url: &str) -> Postgres {
    Postgres::open(&settings(url), |_, _| ()).await.unwrap()
}

/// A worker's desk at a database.
pub(super) async fn desk(url: &str) -> Desk {
    let url = url.to_owned();
    Desk::new(Box::new(move || {
        let url = url.clone();
        Box::pin(async move {
            let ledger: Arc<dyn Ledger> = Arc::new(open(&url).await);
            ledger
        })
    }))
    .await
}

/// The leases of all workers run out.
fn expire(url: &str) {
    let now = "UPDATE workers SET alive_until = clock_timestamp()";
    Database::shared().sql_in(url, now);
}

/// Until a worker waits for somebody else's lock.
async fn until_it_waits(url: &str) {
    let waits = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waits = || Database::shared().sql_in(url, waits) == "1";
    until("it waits for a lock", Duration::from_secs(10), waits).await;
}

/// A new database, for the suite of every backend. Opened again, the lease of the worker
/// before has run out.
pub(super) fn fresh() -> Opener {
    let url = Database::shared().create();
    Box::new(move || {
        let url = url.clone();
        Box::pin(async move {
            let opened: Arc<dyn Ledger> = Arc::new(open(&url).await);
            expire(&url);
            opened
        })
    })
}

#[tokio::test]
async fn work_of_a_worker_whose_lease_ran_out_is_taken_over_and_it_writes_no_more() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    let claim = one.begin("a", "p").await;
    let recover = async || two.recover(at(7), at_once()).await.unwrap();
    assert_eq!(recover().await, 0, "its lease is good");
    assert!(two.claimed_ids(9, at(7)).await.is_empty());
    expire(&url);
    assert_eq!(recover().await, 1);
    let seen = two.seen("a").await.progress;
    assert_eq!((seen.state, seen.due_at), (State::InDoubt, Some(at(7))));
    let late = one.settle(finish(&claim, VOIDED, at(8))).await;
    assert_eq!(late, Committed::Lost);
    // It goes on under a new lease.
    assert_eq!(one.claimed_ids(9, at(8)).await, ["a"]);
    assert_eq!(recover().await, 0);
}

/// As for a ledger on several hosts. Readers say of themselves that they are read-only.
#[tokio::test]
async fn an_address_that_asks_for_a_server_that_can_be_written_to_serves_readers_too() {
    let url = Database::shared().create();
    let address = format!("{url}?target_session_attrs=read-write");
    let desk = desk(&address).await;
    desk.begin("a", "p").await;
    assert_eq!(desk.seen("a").await.progress.state, State::Calling);
}

/// A standby that takes over without the last commits knows nothing of a request, and gives its row to
/// another one.
#[tokio::test]
async fn a_row_that_is_given_out_again_is_not_written_by_whoever_had_it() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    let lost = desk.begin("a", "p").await;
    let forget = "DELETE FROM calls; DELETE FROM requests;
        SELECT setval(pg_get_serial_sequence('requests', 'seq'), 1, false)";
    Database::shared().sql_in(&url, forget);
    let other = desk.begin("b", "q").await;
    assert_eq!(lost.id.seq, other.id.seq);
    let late = desk.settle(finish(&lost, VOIDED, at(1))).await;
    assert_eq!(late, Committed::Lost);
    let own = desk.settle(finish(&other, GIVEN_UP, at(2))).await;
    assert_eq!(own, Committed::Done);
}

#[tokio::test]
async fn a_message_is_published_by_one_worker() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    one.end("a", "p", VOIDED, at(1)).await;
    two.begin("b", "q").await;
    assert_eq!((one.outbox().await.len(), two.outbox().await.len()), (1, 0));
    one.publish_all(at(2)).await;
    // Whoever a repeat comes to publishes again.
    assert_eq!(two.take_in(request("a", "p")).await, Accepted::Repeated);
    assert_eq!((one.outbox().await.len(), two.outbox().await.len()), (0, 1));
    expire(&url);
    assert_eq!(one.outbox().await.len(), 1, "nobody else is there to do it");
    assert_eq!(one.recover(at(3), at_once()).await.unwrap(), 1, "b");
    assert_eq!((one.outbox().await.len(), two.outbox().await.len()), (1, 0));
}

/// Or else a dispatcher would sleep although something is due, or never sleep at all.
#[tokio::test]
async fn what_another_worker_is_just_taking_up_is_looked_at_again_soon() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.take_in(arriving("a", "p", at(10))).await;
    let taken = "SELECT 1 FROM requests FOR UPDATE";
    let other = holding(&url, taken).await;
    for now in [10, 900] {
        let passed_by = desk.claims(9, at(now)).await;
        assert!(passed_by.claims.is_empty());
        let next = passed_by.next_due.unwrap();
        assert!(next > at(now) && next < at(now + 100), "{next}");
    }
    other.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(desk.claimed_ids(9, at(900)).await, ["a"]);
}

#[tokio::test]
async fn what_a_person_has_to_correct_is_told_at_once() {
    let server = Database::shared();
    let refused = async |url: &str| match Postgres::open(&settings(url), |_, _| ()).await {
        Err(LedgerError::Refused { why, .. }) => why,
        other => panic!("{url}: {:?}", other.err()),
    };
    let nowhere = server.address("there_is_no_such_database");
    assert!(refused(&nowhere).await.contains("does not exist"));
    let wrong = server.url().replace("rescind@", "guarded:wrong@");
    let why = refused(&wrong).await;
    assert!(why.contains("password authentication failed"), "{why}");
    let right = server.url().replace("rescind@", "guarded:guarded@");
    let missing = Postgres::open_to_read(&settings(&right)).await.err();
    assert!(matches!(missing, Some(LedgerError::Missing { .. })));
    let why = refused(&format!("{}?sslmode=prefer", server.url())).await;
    assert!(why.contains("verify-full"), "{why}");
}

/// A machine that is stopped, or a balancer before one that is gone, takes connections and is silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_says_nothing_is_told_as_such() {
    let mute = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = mute.local_addr().unwrap();
    let url = format!("postgres://rescind@{address}/r?sslmode=disable");
    let silent = Postgres::open_to_read(&settings(&url)).await.err();
    let why = silent.expect("nobody is there").to_string();
    let expected = format!("{address}/r cannot be reached: no answer within 5 s");
    assert!(why.contains(&expected), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_killed_and_started_again_is_waited_for() {
    let server = Database::start();
    let url = server.create();
    let desk = desk(&url).await;
    let before = desk.begin("before", "p").await;
    desk.take_in(request("waiting", "q")).await;
    server.kill9();
    let failed = desk
        .claim("migo", Which::due(9), at(1), sends())
        .await
        .err();
    assert!(matches!(failed, Some(LedgerError::Failed(_))), "{failed:?}");
    assert!(desk.stats().await.is_err());
    // A ledger that is opened meanwhile waits as well.
    let late = self::desk(&url).await;
    server.start_again();
    assert_eq!(desk.settle(wait(&before, at(5))).await, Committed::Done);
    assert_eq!(desk.claimed_ids(9, at(1)).await, ["waiting"]);
    assert_eq!(late.claimed_ids(9, at(5)).await, ["before"]);
    server.restart();
    assert_eq!(desk.stats().await.unwrap().outbox, 0);
    assert_eq!(
        desk.take_in(request("after", "r")).await,
        Accepted::New(None)
    );
}

#[tokio::test]
async fn settings_under_which_a_commit_can_be_lost_are_told() {
    let server = Database::start_with("fsync = off\nsynchronous_commit = off\n");
    let url = server.create();
    drop(open(&url).await);
    let ledger = Postgres::open_to_read(&settings(&url)).await.unwrap();
    assert_eq!(
        ledger.risks().await.unwrap(),
        ["fsync is off", "synchronous_commit is off"]
    );
    server.sql("ALTER SYSTEM SET fsync = on");
    for (commit, standby, risks) in [
        ("local", "", &[][..]),
        ("local", "b", &["synchronous_commit is local"]),
        ("on", "b", &[]),
    ] {
        server.sql(&format!("ALTER SYSTEM SET synchronous_commit = '{commit}'"));
        server.sql(&format!(
            "ALTER SYSTEM SET synchronous_standby_names = '{standby}'"
        ));
        server.sql("SELECT pg_reload_conf()");
        let shown = format!("{commit}|{standby}");
        let shown = || {
            server.sql("SELECT current_setting('synchronous_commit'), current_setting('synchronous_standby_names')") == shown
        };
        until("it is set", Duration::from_secs(10), shown).await;
        let ledger = Postgres::open_to_read(&settings(&url)).await.unwrap();
        assert_eq!(ledger.risks().await.unwrap(), risks);
    }
    let good = Database::shared().create();
    let ledger = open(&good).await;
    assert!(ledger.risks().await.unwrap().is_empty());
}

/// A person's lease holds nothing: what it has done stays, and nobody takes it over.
#[tokio::test]
async fn a_person_writes_beside_workers_and_leaves_nothing_to_take_over() {
    let url = Database::shared().create();
    let missing = Postgres::open_to_operate(&settings(&url)).await.err();
    assert!(
        matches!(missing, Some(LedgerError::Missing { .. })),
        "{missing:?}"
    );
    let worker = desk(&url).await;
    worker.done("a", GIVEN_UP, at(1)).await;
    let person = Postgres::open_to_operate(&settings(&url)).await.unwrap();
    let letter = worker.letters().await.remove(0).id;
    let replay = by("ana", Resolution::Replay(reopens(at(5))), at(5));
    assert_eq!(person.close(&letter, replay).await.unwrap(), Closed::Done);
    drop(person);
    expire(&url);
    let other = desk(&url).await;
    assert_eq!(other.recover(at(6), at_once()).await.unwrap(), 0);
    assert_eq!(other.claimed_ids(9, at(6)).await, ["a"]);
}

/// Replays and arrivals on one payment, at once: one works on it, the other waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_replay_and_an_arrival_at_once_have_their_turns() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    for round in 0..20 {
        let (id, other) = (format!("a{round}"), format!("b{round}"));
        one.done(&id, GIVEN_UP, at(1)).await;
        let letter = one.letter_of(&id).await.unwrap().id;
        let replay = by("ana", Resolution::Replay(reopens(at(5))), at(5));
        let (closed, taken) = tokio::join!(
            one.close(&letter, replay),
            two.take_in(request(&other, &id)),
        );
        assert_eq!(
            (closed.unwrap(), taken),
            (Closed::Done, Accepted::New(None))
        );
        let parked = [one.seen(&id).await.parked, one.seen(&other).await.parked];
        assert!(parked[0] != parked[1], "{parked:?}");
        for turn in 0..2 {
            let claim = one.only_claim(at(8), sends()).await;
            let change = match claim.outcome {
                Some(_) => super::desk::finish_again(&claim, VOIDED, at(7)),
                None => finish(&claim, VOIDED, at(7)),
            };
            let expected = [Committed::Freed, Committed::Done][turn];
            assert_eq!(one.settle(change).await, expected);
        }
    }
}

/// One that came and was carried out while the replay was on its way to the database, and not only one that
/// was there before.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_told_of_a_request_that_came_in_the_middle_of_it() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    one.done("a", GIVEN_UP, at(1)).await;
    let letter = one.letter_of("a").await.unwrap().id;
    let gate = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
          PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
        CREATE TRIGGER gate BEFORE UPDATE ON requests FOR EACH ROW WHEN (NEW.request_id = 'a') EXECUTE FUNCTION gate()";
    Database::shared().sql_in(&url, gate);
    let gate = holding(&url, "SELECT pg_advisory_xact_lock(1)").await;
    let again = reopens(at(5));
    let reopen: Reopen = Arc::new(move |stored, progress, outcome, overtaken| {
        if overtaken {
            return Err(Hindrance::NewerRequest);
        }
        again(stored, progress, outcome, overtaken)
    });
    let ledger = one.shared();
    let replay = by("ana", Resolution::Replay(reopen), at(5));
    let closed = tokio::spawn(async move { ledger.close(&letter, replay).await });
    until_it_waits(&url).await;
    let claim = two.begin("b", "a").await;
    assert_eq!(
        two.settle(finish(&claim, VOIDED, at(6))).await,
        Committed::Done
    );
    gate.batch_execute("COMMIT").await.unwrap();
    assert_eq!(
        closed.await.unwrap().unwrap(),
        Closed::Hindered(Hindrance::NewerRequest)
    );
}
