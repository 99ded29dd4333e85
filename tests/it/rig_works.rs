//! The rig itself: a node starts, crashes, comes back and is gone afterwards.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::rig::broker::Names;
use crate::rig::client::{Outgoing, Published, persistent_json};
use crate::rig::{Broker, Client, Database, folder, project, until, until_blocking};

const PATIENCE: Duration = Duration::from_secs(20);

fn message(exchange: &str, key: &str, body: &str) -> Outgoing {
    Outgoing {
        exchange: exchange.to_owned(),
        key: key.to_owned(),
        body: body.as_bytes().to_vec(),
        properties: persistent_json(),
    }
}

#[tokio::test]
async fn an_unroutable_message_is_reported_as_returned() {
    let names = Names::unique();
    let client = Client::connect(Broker::shared().url()).await;
    client.declare_exchange(&names.requests_exchange).await;
    client
        .declare_queue(
            &names.requests_queue,
            "quorum",
            &names.requests_exchange,
            "cancel.#",
        )
        .await;

    let request = serde_json::json!({ "request_id": "r", "provider": "migo" });
    assert_eq!(client.publish(&names, &request).await, Published::Confirmed);
    assert_eq!(
        client.publish_raw(&names, "elsewhere", b"{}").await,
        Published::Returned
    );
    client.until_depth(&names.requests_queue, 1, PATIENCE).await;
    assert_eq!(client.queue_depth("no-such-queue").await, None);
    assert!(client.connected());
}

#[tokio::test]
async fn in_a_full_window_every_return_is_given_to_its_own_message() {
    let names = Names::unique();
    let client = Client::connect(Broker::shared().url()).await;
    let mut results = client.results(&names).await;
    // Bound to everything: what is not to arrive goes to an exchange without a queue.
    client.declare_exchange(&names.dead_exchange).await;

    let messages = (0..500).map(|n| {
        let exchange = if n % 7 == 0 {
            &names.dead_exchange
        } else {
            &names.results_exchange
        };
        message(
            exchange,
            "result.migo.cancelled",
            &format!(r#"{{"request_id":"{n}"}}"#),
        )
    });
    let fates = client.publish_all(messages.collect()).await;
    for (n, fate) in fates.iter().enumerate() {
        let expected = if n % 7 == 0 {
            Published::Returned
        } else {
            Published::Confirmed
        };
        assert_eq!(fate.as_ref(), Ok(&expected), "message {n}");
    }

    let ids = (0..500).filter(|n| n % 7 != 0).map(|n| n.to_string());
    let found = results.about(ids, PATIENCE).await;
    assert!(found.values().all(|messages| messages.len() == 1));
    assert_eq!(results.seen()[0].routing_key, "result.migo.cancelled");
}

#[tokio::test]
async fn a_confirmed_message_survives_a_crash_and_consumers_come_back() {
    let broker = Broker::start();
    let names = Names::unique();
    let client = Client::connect(broker.url()).await;
    let mut results = client.results(&names).await;
    client.declare_exchange(&names.requests_exchange).await;
    client
        .declare_queue(
            &names.requests_queue,
            "quorum",
            &names.requests_exchange,
            "cancel.#",
        )
        .await;
    broker.settle();
    let request = serde_json::json!({ "request_id": "kept", "provider": "migo" });
    assert_eq!(client.publish(&names, &request).await, Published::Confirmed);

    broker.kill9();
    until("the client sees the crash", PATIENCE, || {
        !client.connected()
    })
    .await;
    broker.start_again();

    let client = Client::connect(broker.url()).await;
    let mut requests = client.consume(&names.requests_queue).await;
    let kept = requests.one("kept", PATIENCE).await;
    assert_eq!(kept.json(), request);

    let result = message(
        &names.results_exchange,
        "result.migo.cancelled",
        r#"{"request_id":"kept"}"#,
    );
    assert_eq!(client.send(result).await, Published::Confirmed);
    results.one("kept", PATIENCE).await;
}

#[test]
fn a_dropped_broker_leaves_no_process_and_no_folder() {
    let broker = Broker::start();
    let dir = broker.dir().to_owned();
    assert!(!processes_of(&dir).is_empty());
    drop(broker);
    assert!(!dir.exists());
    // The watchdog looks around a few times a second.
    until_blocking("all its processes end", PATIENCE, || {
        processes_of(&dir).is_empty()
    });
}

/// On a busy machine a process can be met before it has made the session that it is to lead.
#[test]
fn a_broker_whose_watchdog_is_slow_to_become_one_is_stopped_all_the_same() {
    let folder = folder("slow");
    let slow = folder.path().join("setsid");
    let path = std::env::var("PATH").unwrap();
    let text = format!("#!/bin/sh\nsleep 0.5\nPATH='{path}' exec setsid \"$@\"\n");
    std::fs::write(&slow, text).unwrap();
    std::fs::set_permissions(&slow, Permissions::from_mode(0o755)).unwrap();
    let dir = folder.path().join("node");
    let parent = std::process::id().to_string();
    let run = |arguments: &[&str]| {
        let path = format!("{}:{path}", folder.path().display());
        let mut script = Command::new("timeout");
        script.arg("60").arg(project("deploy/broker"));
        script.arg(arguments[0]).arg(&dir).args(&arguments[1..]);
        let done = script.env("PATH", path).env_remove("AMQP_URL").output();
        assert!(done.unwrap().status.success(), "{arguments:?}");
    };
    run(&["start", "--with-parent", &parent]);
    run(&["stop"]);
    assert_eq!(processes_of(&dir), [""; 0]);
}

/// Every process that `deploy/broker` started for a folder carries it in its environment.
fn processes_of(dir: &Path) -> Vec<String> {
    let mark = format!("RESCIND_BROKER_DIR={}", dir.display());
    let processes = std::fs::read_dir("/proc").expect("/proc");
    processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let environment = std::fs::read(entry.path().join("environ")).ok()?;
            environment
                .split(|&byte| byte == 0)
                .any(|line| line == mark.as_bytes())
                .then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect()
}

#[test]
fn a_killed_database_comes_back_with_what_was_committed() {
    let database = Database::start();
    let url = database.create();
    database.sql_in(&url, "CREATE TABLE t (n int); INSERT INTO t VALUES (7)");
    database.kill9();
    database.start_again();
    assert_eq!(database.sql_in(&url, "SELECT n FROM t"), "7");
    database.restart();
    assert_eq!(database.sql_in(&url, "SELECT n FROM t"), "7");
    let dir = database.dir().to_owned();
    drop(database);
    assert!(!dir.exists(), "its data are gone with it");
}
