//! Rows that somebody has locked and forgotten, in a `psql` that was left open, say: they hold up what needs
//! them, and nothing beside them.

use std::time::Duration;

use super::super::desk::{VOIDED, at, at_once};
use super::{Database, desk, expire, holding};

/// Longer than a transaction waits for a lock.
const IN_TIME: Duration = Duration::from_secs(5);

/// Both were under way at a worker that is gone.
#[tokio::test]
async fn a_locked_row_of_a_worker_that_is_gone_leaves_no_other_one_stuck() {
    let url = Database::shared().create();
    let (gone, other) = (desk(&url).await, desk(&url).await);
    for id in ["locked", "free"] {
        gone.begin(id, id).await;
    }
    gone.end("told", "t", VOIDED, at(1)).await;
    gone.end("locked too", "l", VOIDED, at(1)).await;
    expire(&url);
    let row = "SELECT 1 FROM requests WHERE request_id = 'locked' FOR UPDATE";
    let result = "SELECT 1 FROM messages WHERE seq = (SELECT max(seq) FROM messages) FOR UPDATE";
    let holder = holding(&url, &format!("{row}; {result}")).await;
    assert_eq!(other.recover(at(7), at_once()).await.unwrap(), 1);
    assert_eq!(other.claimed_ids(9, at(7)).await, ["free"]);
    let owner = "SELECT count(*) FROM workers w JOIN messages m ON m.owner = w.id
        WHERE w.alive_until <= clock_timestamp()";
    let left = || Database::shared().sql_in(&url, owner);
    assert_eq!(left(), "1", "it is not forgotten while it owns something");
    holder.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(other.recover(at(8), at_once()).await.unwrap(), 1);
    assert_eq!(other.claimed_ids(9, at(8)).await, ["locked"]);
    assert_eq!(left(), "0", "and then it is");
}

#[tokio::test]
async fn a_locked_message_keeps_no_other_one_from_being_marked() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    for id in ["a", "b", "c"] {
        desk.end(id, id, VOIDED, at(1)).await;
    }
    let rows: Vec<_> = desk.outbox().await.iter().map(|m| m.delivered()).collect();
    let lock = format!(
        "SELECT 1 FROM messages WHERE seq = {} FOR UPDATE",
        rows[1].seq
    );
    let holder = holding(&url, &lock).await;
    let marked = tokio::time::timeout(IN_TIME, desk.published(rows.clone(), at(2))).await;
    let left = marked.expect("an answer in time").unwrap();
    assert_eq!(left, [rows[1].seq]);
    let outbox = || async {
        desk.outbox()
            .await
            .iter()
            .map(|m| m.seq)
            .collect::<Vec<_>>()
    };
    assert_eq!(outbox().await, [rows[1].seq]);
    holder.batch_execute("ROLLBACK").await.unwrap();
    let left = desk.published(rows, at(3)).await.unwrap();
    assert!(left.is_empty() && outbox().await.is_empty());
}
