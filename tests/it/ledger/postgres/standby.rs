//! A synchronous standby that is away: commits take as long as it is.

use std::time::Duration;

use rescind::ledger::{Accepted, Arrival, Which};

use super::super::desk::{ACCOUNT, admitted, at, sends};
use super::{Database, desk};
use crate::rig::until;

/// Longer than a commit is waited for, and then asked about.
const LONG: Duration = Duration::from_secs(50);

/// How many connections wait for it.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";

fn send_away(server: &Database) {
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'");
    server.sql("SELECT pg_reload_conf()");
}

/// It used to be given up and tried again, on one connection more at the server each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_standby_is_waited_for_and_nothing_else_is_begun() {
    let server = Database::start();
    let url = server.create();
    let worker = desk(&url).await;
    worker.claims(9, at(1)).await;
    send_away(&server);
    let ledger = worker.shared();
    let arrivals = vec![Arrival::Request(Box::new(admitted("a", "p")))];
    let accepting = tokio::spawn(async move { ledger.accept(arrivals.into()).await });
    tokio::time::sleep(LONG).await;
    assert_eq!(server.sql_in(&url, WAITING), "1");
    assert!(!accepting.is_finished());

    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    let accepted = accepting.await.unwrap().unwrap();
    assert!(matches!(accepted[..], [Accepted::New(Some(_))]));
    let lease = "SELECT count(*), bool_and(alive_until > clock_timestamp()) FROM workers";
    assert_eq!(server.sql_in(&url, lease), "1|t", "it is the same one");
}

/// By the task that commits or by the one that keeps it: each try would leave a connection behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_taken_without_a_standby() {
    let server = Database::start();
    let url = server.create();
    let worker = desk(&url).await;
    worker.claims(9, at(1)).await;
    let leases = async |count: &str| {
        let alive = "SELECT count(*) FROM workers WHERE alive_until > clock_timestamp()";
        let taken = || server.sql_in(&url, alive) == count;
        until("it has a lease", Duration::from_secs(30), taken).await;
    };
    leases("1").await;
    send_away(&server);
    let expire =
        "SET synchronous_commit = local; UPDATE workers SET alive_until = clock_timestamp()";
    server.sql_in(&url, expire);
    leases("1").await;
    assert_eq!(server.sql_in(&url, WAITING), "0");

    let other = desk(&url).await.shared();
    let claiming =
        tokio::spawn(async move { other.claim(ACCOUNT, Which::due(9), at(1), sends()).await });
    leases("2").await;
    let waits = || server.sql_in(&url, WAITING) == "1";
    until("its commit waits", Duration::from_secs(10), waits).await;
    claiming.abort();
}
