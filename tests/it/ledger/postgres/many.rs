//! Very many rows: what changes them does it some at a time, what only looks does not read them all.

use std::time::Duration;

use rescind::ledger::Filter;

use super::super::desk::{ACCOUNT, GIVEN_UP, VOIDED, at, at_once, finish, request};
use super::{Database, desk, expire, holding, until_it_waits};
use crate::rig::until;

/// Two transactions' worth, and some.
const MORE: u64 = 11_000;

/// Copies of the one row that there is, with these columns instead of its.
fn copies(table: &str, columns: &str) -> String {
    format!(
        "INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(t, jsonb_build_object(
           'seq', 100 + n, {columns}))).*
         FROM {table} t, generate_series(1, {MORE}) n"
    )
}

#[tokio::test]
async fn all_are_reconciled_and_hastened_however_many_they_are() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.take_in(request("first", "first")).await;
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    sql(&copies(
        "requests",
        "'request_id', 'r' || n, 'payment_key', 'p' || n",
    ));
    assert_eq!(desk.reconcile(at(7), at_once()).await.unwrap(), MORE + 1);
    let doubtful = "SELECT count(*) FROM requests WHERE state = 'in_doubt'";
    assert_eq!(sql(doubtful), (MORE + 1).to_string());

    sql(&format!(
        "UPDATE requests SET due_at = {}",
        at(9_000).as_millisecond()
    ));
    let hastened = desk.hasten(ACCOUNT, at(900), at(8)).await;
    assert_eq!(hastened.unwrap(), MORE + 1);
    let due = format!(
        "SELECT count(*) FROM requests WHERE due_at = {}",
        at(8).as_millisecond()
    );
    assert_eq!(sql(&due), (MORE + 1).to_string());
    assert_eq!(desk.hasten(ACCOUNT, at(900), at(8)).await.unwrap(), 0);
}

/// A worker that wrote them while the broker was away, and died.
#[tokio::test]
async fn what_a_worker_that_is_gone_was_to_publish_is_inherited_some_at_a_time() {
    let url = Database::shared().create();
    let (one, two) = (desk(&url).await, desk(&url).await);
    let claim = one.begin("a", "p").await;
    one.begin("b", "q").await;
    one.settle(finish(&claim, VOIDED, at(1))).await;
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    sql(&copies("messages", "'message_id', gen_random_uuid()"));
    two.claims(9, at(1)).await;
    expire(&url);
    two.claims(9, at(1)).await;
    let left =
        "SELECT count(DISTINCT w.id), count(*) FROM messages m JOIN workers w ON w.id = m.owner
        WHERE w.alive_until <= clock_timestamp()";
    for (in_doubt, expected) in [(1, "1|6001"), (0, "1|1001"), (0, "0|0")] {
        assert_eq!(two.recover(at(2), at_once()).await.unwrap(), in_doubt);
        assert_eq!(sql(left), expected);
    }
    assert_eq!(
        sql("SELECT count(*) FROM workers WHERE alive_until <= clock_timestamp()"),
        "0"
    );
    assert_eq!(two.unpublished(MORE * 2).await.unwrap(), MORE + 1);
}

/// Each takes a reader, and what asks for them asks again and again.
#[tokio::test(flavor = "multi_thread")]
async fn counts_that_take_long_are_made_once_for_all_who_wait() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.stats().await.unwrap();
    let slow = holding(&url, "LOCK TABLE requests").await;
    let counting = (0..9).map(|_| {
        let ledger = desk.shared();
        tokio::spawn(async move { ledger.stats().await.map(|stats| stats.outbox) })
    });
    let counting: Vec<_> = counting.collect();
    // Nobody waits for the answer of this one.
    drop(tokio::time::timeout(Duration::from_millis(300), desk.stats()).await);
    until_it_waits(&url).await;
    assert_eq!(desk.unpublished(9).await.unwrap(), 0, "a reader is free");
    until_it_waits(&url).await;
    slow.batch_execute("ROLLBACK").await.unwrap();
    for counted in counting {
        assert_eq!(counted.await.unwrap().unwrap(), 0);
    }
    // What was asked later counts what came meanwhile.
    desk.take_in_invalid(b"x", at(1)).await;
    assert!(desk.stats().await.unwrap().outbox > 0);
}

/// Retention leaves weeks of it.
#[tokio::test]
async fn what_has_ended_as_usual_is_not_read_to_tell_of_the_rest() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.done("ended", VOIDED, at(1)).await;
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    sql(&copies(
        "requests",
        "'request_id', 'r' || n, 'payment_key', 'p' || n",
    ));
    sql("VACUUM ANALYZE requests");
    desk.take_in(request("open", "open")).await;
    desk.done("unusual", GIVEN_UP, at(2)).await;
    let seen = "SELECT coalesce(sum(seq_tup_read + idx_tup_fetch), 0) FROM pg_stat_user_tables WHERE relname = 'requests'";
    let told = "SELECT count(*) = 3 AND bool_and(idx_scan > 0) FROM pg_stat_user_indexes
        WHERE indexrelname IN ('open_requests', 'replayed_requests', 'unusual_ends')";
    let rows = || sql(seen).parse::<u64>().unwrap();
    let before = rows();
    desk.stats().await.unwrap();
    for (state, id) in [("due", "open"), ("failed", "unusual")] {
        let filter = Filter {
            state: Some(state.to_owned()),
            most: 9,
            ..Filter::default()
        };
        let found = desk.list(filter).await.unwrap();
        let found: Vec<_> = found.iter().map(|found| &found.request_id).collect();
        assert_eq!(found, [id]);
    }
    until("it is told", Duration::from_secs(30), || sql(told) == "t").await;
    assert!(rows() - before < MORE);
}

/// As after a flood of them, which are kept as long as everything else.
#[tokio::test]
async fn messages_about_no_request_are_not_all_read_to_find_the_old_ones() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.take_in_invalid(b"x", at(1)).await;
    desk.publish_all(at(2)).await;
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    sql("DELETE FROM messages WHERE seq > (SELECT min(seq) FROM messages)");
    sql(&copies("messages", "'message_id', 'm' || n"));
    sql("VACUUM ANALYZE messages");
    desk.purge(at(1), 100).await.unwrap();
    let used = "SELECT idx_scan > 0 FROM pg_stat_user_indexes WHERE indexrelname = 'published_about_no_request'";
    until("it is told", Duration::from_secs(30), || sql(used) == "t").await;
}
