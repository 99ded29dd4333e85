//! What changes very many rows does it some at a time.

use super::super::desk::{ACCOUNT, at, request};
use super::{Database, desk};

/// Two transactions' worth, and some.
const MORE: u64 = 11_000;

#[tokio::test]
async fn all_are_reconciled_and_hastened_however_many_they_are() {
    let url = Database::shared().create();
    let desk = desk(&url).await;
    desk.take_in(request("first", "first")).await;
    let copies = format!(
        "INSERT INTO requests OVERRIDING SYSTEM VALUE SELECT (jsonb_populate_record(r, jsonb_build_object(
           'seq', 100 + n, 'request_id', 'r' || n, 'payment_key', 'p' || n))).*
         FROM requests r, generate_series(1, {MORE}) n"
    );
    let sql = |statement: &str| Database::shared().sql_in(&url, statement);
    sql(&copies);
    assert_eq!(desk.reconcile(at(7)).await.unwrap(), MORE + 1);
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
