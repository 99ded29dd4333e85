//! A synchronous standby that is away: commits take as long as it is.

use std::time::Duration;

use rescind::ledger::{Accepted, Arrival};

use super::super::desk::{admitted, at};
use super::{Database, desk};

/// Longer than a commit is waited for, and then asked about.
const LONG: Duration = Duration::from_secs(50);

/// It used to be given up and tried again, on one connection more at the server each time.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_standby_is_waited_for_and_nothing_else_is_begun() {
    let server = Database::start();
    let url = server.create();
    let worker = desk(&url).await;
    worker.claims(9, at(1)).await;
    server.sql("ALTER SYSTEM SET synchronous_standby_names = 'away'");
    server.sql("SELECT pg_reload_conf()");
    let ledger = worker.shared();
    let arrivals = vec![Arrival::Request(Box::new(admitted("a", "p")))];
    let accepting = tokio::spawn(async move { ledger.accept(arrivals.into()).await });
    tokio::time::sleep(LONG).await;
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    assert_eq!(server.sql_in(&url, waiting), "1");
    assert!(!accepting.is_finished());

    server.sql("ALTER SYSTEM RESET synchronous_standby_names");
    server.sql("SELECT pg_reload_conf()");
    let accepted = accepting.await.unwrap().unwrap();
    assert!(matches!(accepted[..], [Accepted::New(Some(_))]));
    let lease = "SELECT count(*), bool_and(alive_until > clock_timestamp()) FROM workers";
    assert_eq!(server.sql_in(&url, lease), "1|t", "it is the same one");
}
