//! The worker as a whole: one provider's trouble is its own, what is counted, what is logged.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{PATIENCE, kinds};
use crate::contract::lines;
use crate::rig::checker::{all_money, endings, id};
use crate::rig::client::persistent_json;
use crate::rig::recorder::Recorder;
use crate::rig::stage::{Stage, request};
use crate::rig::terminal::Terminal;
use crate::rig::{Broker, Worker, http, until};
use crate::spans::{exporting_to, spans};

/// A decision without a call gives its place on at once, not at the next scan of the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn decisions_without_a_call_do_not_wait_for_each_other() {
    let mut stage = Stage::new("decisions");
    stage.set("providers.midtrans.max_in_flight", 1);
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let late: Vec<Value> = (0..20)
        .map(|_| {
            let mut request = request("midtrans", "success");
            request["deadline"] = json!("2020-01-01T00:00:00Z");
            request
        })
        .collect();
    client.confirm_all(&stage.names, &late).await;
    // Twenty scans would be a hundred seconds.
    for ending in endings(&stage, &mut results, &late, PATIENCE).await {
        assert_eq!(ending.result["reason"], "deadline_passed");
    }
}

/// Without certificates of the system, as in a small image, plain addresses still work.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_certificates_can_use_plain_addresses() {
    let stage = Stage::new("certificates");
    let none = [
        ("SSL_CERT_FILE", "/dev/null"),
        ("SSL_CERT_DIR", "/nonexistent"),
    ];
    let _worker = stage.worker_with(&none);
    let mut results = stage.results().await;
    let request = request("migo", "success");
    stage.client().await.publish(&stage.names, &request).await;
    let ended = endings(&stage, &mut results, &[request], PATIENCE).await;
    assert_eq!(ended[0].result["outcome"], "cancelled");
}

/// All kinds of logins and calls, and none by the way that the environment of a machine names.
#[tokio::test(flavor = "multi_thread")]
async fn proxies_of_the_environment_are_not_used() {
    let stage = Stage::new("proxies");
    let proxy = Recorder::answering("{}");
    let url = proxy.url();
    let names = ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
    let mut environment = names.map(|name| (name, url.as_str())).to_vec();
    environment.extend(["NO_PROXY", "no_proxy"].map(|name| (name, "")));
    let _worker = stage.worker_with(&environment);
    let mut results = stage.results().await;
    let all: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    stage.client().await.confirm_all(&stage.names, &all).await;
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    }
    assert!(proxy.arrived().is_empty(), "{:?}", proxy.arrived());
}

/// Longer than SQLite itself waits for a lock: storing fails, and what was delivered stays
/// unacknowledged until it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_written_costs_no_request() {
    let stage = Stage::new("unwritable");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let held = rusqlite::Connection::open(stage.ledger()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let all: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    client.confirm_all(&stage.names, &all).await;
    until("storing has failed", PATIENCE, || {
        worker.log().contains("cannot store requests; trying again")
    })
    .await;
    let answers = || worker.metric("rescind_ledger_answers", &[]);
    until("it is told", PATIENCE, || {
        !worker.ready() && answers() == 0.0
    })
    .await;
    held.execute_batch("ROLLBACK").unwrap();
    for ending in endings(&stage, &mut results, &all, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
    until("it is well again", PATIENCE, || {
        worker.ready() && answers() == 1.0
    })
    .await;
}

/// At night nothing arrives that could not be stored, and reading works.
#[tokio::test(flavor = "multi_thread")]
async fn an_outcome_that_cannot_be_written_is_a_ledger_that_does_not_answer() {
    let stage = Stage::new("uncommitted");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let file = rusqlite::Connection::open(stage.ledger()).unwrap();
    file.execute_batch(
        "CREATE TRIGGER full BEFORE UPDATE OF outcome ON requests
         BEGIN SELECT RAISE(ABORT, 'a trap'); END",
    )
    .unwrap();
    let one = request("midtrans", "success");
    stage.client().await.publish(&stage.names, &one).await;
    let answers = || worker.metric("rescind_ledger_answers", &[]);
    until("it is told", PATIENCE, || {
        answers() == 0.0 && !worker.ready()
    })
    .await;
    file.execute_batch("DROP TRIGGER full").unwrap();
    let ended = endings(&stage, &mut results, &[one], PATIENCE).await;
    assert_eq!(ended[0].money.cancel_calls, 1);
    until("it is over", PATIENCE, || {
        answers() == 1.0 && worker.ready()
    })
    .await;
}

/// A full disk would make a flood of them otherwise, for as long as it is full.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_marked_as_published_is_not_published_over_and_over() {
    let stage = Stage::new("unmarkable");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let file = rusqlite::Connection::open(stage.ledger()).unwrap();
    file.execute_batch(
        "CREATE TRIGGER unmarkable BEFORE UPDATE OF published_at ON messages
         BEGIN SELECT RAISE(ABORT, 'a trap'); END",
    )
    .unwrap();
    let first = request("midtrans", "success");
    client.publish(&stage.names, &first).await;
    results.one(&id(&first), PATIENCE).await;
    // A second apart, as rounds through the outbox are.
    until("marking has failed several times", PATIENCE, || {
        worker.log().matches("cannot mark messages").count() >= 4
    })
    .await;
    file.execute_batch("DROP TRIGGER unmarkable").unwrap();
    until("it is marked", PATIENCE, || {
        worker.metric("rescind_outbox_pending", &[]) == 0.0
    })
    .await;
    // A later one comes after whatever else there was.
    let later = request("midtrans", "success");
    client.publish(&stage.names, &later).await;
    results.one(&id(&later), PATIENCE).await;
    assert_eq!(results.counts()[&id(&first)], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_hangs_keeps_nobody_else_waiting() {
    let mut stage = Stage::new("hang");
    stage.set("providers.midtrans.max_in_flight", 2);
    // Longer than this test: not one of the hanging calls ends meanwhile.
    stage.set("providers.midtrans.timeout", "5m");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let hanging: Vec<Value> = (0..10).map(|_| request("midtrans", "hang")).collect();
    client.confirm_all(&stage.names, &hanging).await;
    let in_flight = || worker.metric("rescind_in_flight", &[("provider", "midtrans")]);
    until("both places are taken", PATIENCE, || in_flight() == 2.0).await;

    let others: Vec<Value> = kinds()
        .filter(|kind| *kind != "midtrans")
        .flat_map(|kind| (0..10).map(move |_| request(kind, "success")))
        .collect();
    client.confirm_all(&stage.names, &others).await;
    for ending in endings(&stage, &mut results, &others, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled");
    }
    let arrived: u64 = all_money(&stage)
        .iter()
        .filter(|((provider, _), _)| provider == "midtrans")
        .map(|(_, money)| money.cancel_calls)
        .sum();
    assert_eq!(arrived, 2, "as many calls as the account may have at once");
    assert_eq!(in_flight(), 2.0, "and they still hang");
    let open = |state: &str| {
        let labels = [("provider", "midtrans"), ("state", state)];
        worker.metric("rescind_open", &labels)
    };
    assert_eq!((open("calling"), open("due")), (2.0, 8.0));
    // Conservation, with some still open.
    let total = |name: &str, labels: &[(&str, &str)]| worker.metric(name, labels);
    assert_eq!(
        total("rescind_requests_received_total", &[("kind", "new")]),
        total("rescind_cancellations_total", &[]) + total("rescind_open", &[])
    );
}

/// Not how often somebody looked whether it is still open.
#[tokio::test(flavor = "multi_thread")]
async fn an_opening_of_the_breaker_counts_once_whatever_it_puts_off() {
    let mut stage = Stage::new("opened");
    stage.set("providers.midtrans.breaker.failures", 3);
    stage.set("providers.midtrans.breaker.open_for", "5m");
    stage.set("providers.midtrans.timeout", "1s");
    let worker = stage.worker();
    let client = stage.client().await;
    stage.simulator.freeze();
    let first: Vec<Value> = (0..3).map(|_| request("midtrans", "success")).collect();
    client.confirm_all(&stage.names, &first).await;
    let midtrans = [("provider", "midtrans")];
    until("the breaker opens", PATIENCE, || {
        worker.metric("rescind_breaker_open", &midtrans) == 1.0
    })
    .await;
    for _ in 0..20 {
        client
            .publish(&stage.names, &request("midtrans", "success"))
            .await;
    }
    until("all wait", PATIENCE, || {
        worker.metric("rescind_open", &midtrans) == 23.0
    })
    .await;
    let labels = [("provider", "midtrans"), ("cause", "breaker_open")];
    let opened = worker.metric("rescind_retries_scheduled_total", &labels);
    assert_eq!(opened, 1.0);
    // Whoever reads the log only is told too, once, and why.
    let log = worker.log();
    let told: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("all calls are stopped"))
        .collect();
    assert_eq!(told.len(), 1, "{log}");
    assert!(told[0].contains("no answer within 1000 ms"), "{log}");
}

/// Who waits behind the others is not told an hour late that nothing was sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_what_waits_behind_an_open_breaker() {
    let mut stage = Stage::new("overdue");
    stage.set("providers.midtrans.breaker.failures", 1);
    stage.set("providers.midtrans.breaker.open_for", "5m");
    stage.set("providers.midtrans.base_url", "http://127.0.0.1:1");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let patient: Vec<Value> = (0..3).map(|_| request("midtrans", "success")).collect();
    client.publish(&stage.names, &patient[0]).await;
    let midtrans = [("provider", "midtrans")];
    until("the breaker opens", PATIENCE, || {
        worker.metric("rescind_breaker_open", &midtrans) == 1.0
    })
    .await;
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    // More than are claimed at once.
    let urgent: Vec<Value> = (0..300)
        .map(|_| {
            let mut request = request("midtrans", "success");
            request["deadline"] = json!(soon.to_string());
            request
        })
        .collect();
    client.confirm_all(&stage.names, &patient[1..]).await;
    client.confirm_all(&stage.names, &urgent).await;
    for request in &urgent {
        let result = results.one(&id(request), PATIENCE).await.json();
        assert_eq!(result["outcome"], "failed", "{result}");
        assert_eq!(result["reason"], "deadline_passed", "{result}");
        assert_eq!(result["attempts"], 0, "{result}");
    }
    assert_eq!(worker.metric("rescind_open", &midtrans), 3.0);
    assert_eq!(worker.metric("rescind_in_flight", &midtrans), 0.0);
}

/// Each call that tries a provider which hangs would put one more request in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_hangs_is_tried_with_questions_too() {
    let mut stage = Stage::new("asks-first");
    stage.set("providers.midtrans.breaker.failures", 1);
    stage.set("providers.midtrans.breaker.open_for", "300ms");
    stage.set("providers.midtrans.timeout", "300ms");
    stage.set("providers.midtrans.max_in_flight", 1);
    let worker = stage.worker();
    let client = stage.client().await;
    let requests: Vec<Value> = (0..30).map(|_| request("midtrans", "hang")).collect();
    client.confirm_all(&stage.names, &requests).await;
    let calls = |operation: &str| {
        let labels = [("provider", "midtrans"), ("operation", operation)];
        worker.metric("rescind_provider_calls_total", &labels)
    };
    until("it is asked", PATIENCE, || calls("lookup") > 0.0).await;
    let sent = calls("cancel");
    assert!(
        sent < 6.0,
        "{sent} requests may have been carried out before one was asked about"
    );
}

/// A kill would put all of them in doubt, and where nobody can be asked a person has to look at each.
#[tokio::test(flavor = "multi_thread")]
async fn while_outcomes_cannot_be_stored_calls_do_not_go_on() {
    let mut stage = Stage::new("unwritten");
    stage.set("providers.migo.max_in_flight", 4);
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let ledger = rusqlite::Connection::open(stage.ledger()).unwrap();
    ledger.busy_timeout(PATIENCE).unwrap();
    let refuse =
        "CREATE TRIGGER refuse BEFORE INSERT ON messages BEGIN SELECT RAISE(ABORT, 'no'); END";
    ledger.execute_batch(refuse).unwrap();
    let requests: Vec<Value> = (0..150).map(|_| request("migo", "success")).collect();
    client.confirm_all(&stage.names, &requests).await;
    let migo = [("provider", "migo")];
    let sent = [("provider", "migo"), ("operation", "cancel")];
    let calls = || worker.metric("rescind_provider_calls_total", &sent);
    until("all are taken in, and no more are called", PATIENCE, || {
        worker.metric("rescind_open", &migo) == 150.0
            && calls() >= 32.0
            && worker.metric("rescind_in_flight", &migo) == 0.0
    })
    .await;
    let calls = calls();
    assert!(calls < 40.0, "{calls}");
    ledger.execute_batch("DROP TRIGGER refuse").unwrap();
    for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
        assert_eq!(ending.outcome(), "cancelled/dismissed");
        assert_eq!(ending.money.cancel_calls, 1, "{ending:#?}");
    }
}

/// For days, where an account has little to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_that_stops_nobody_any_more_is_not_shown_as_open() {
    let mut stage = Stage::new("idle");
    stage.set("providers.midtrans.base_url", "http://127.0.0.1:1");
    stage.set("providers.midtrans.breaker.failures", 1);
    stage.set("defaults.retry.give_up_after", "2s");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let request = request("midtrans", "success");
    stage.client().await.publish(&stage.names, &request).await;
    let open = || worker.metric("rescind_breaker_open", &[("provider", "midtrans")]);
    until("the breaker opens", PATIENCE, || open() == 1.0).await;
    let result = results.one(&id(&request), PATIENCE).await;
    assert_eq!(result.json()["outcome"], "failed");
    until("it stops nobody", PATIENCE, || open() == 0.0).await;
}

const METRICS: &str = include_str!("../contract/metrics.txt");

/// Values and buckets of labels are compared in `contract/names.rs`; this is what a worker serves.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_every_metric_of_the_contract_from_the_start_and_no_other() {
    let stage = Stage::new("metrics");
    let worker = stage.worker();
    let metrics = worker.metrics();
    let mut known = BTreeSet::new();
    for line in lines(METRICS) {
        let (name, labels) = (line[0], &line[2..]);
        let name = match line[1] {
            "histogram" => format!("{name}_count"),
            _ => name.to_owned(),
        };
        let accounts: Vec<&str> = if labels.contains(&"provider") {
            kinds().collect()
        } else {
            Vec::new()
        };
        for &account in &accounts {
            let of_it = |has: &BTreeMap<_, _>| has.get("provider").is_some_and(|p| p == account);
            let is_there = metrics.iter().any(|(n, has, _)| n == name && of_it(has));
            assert!(is_there, "{name} of {account} is missing");
        }
        let expected = match &*name {
            "rescind_in_flight_limit" => 64.0 * accounts.len() as f64,
            "rescind_broker_connected" | "rescind_ledger_answers" | "rescind_build_info" => 1.0,
            // The worker has looked into its ledger.
            "rescind_ledger_commit_seconds_count" | "rescind_ledger_batch_operations_count" => {
                metrics.sum(&name, &[])
            }
            _ => 0.0,
        };
        assert_eq!(metrics.sum(&name, &[]), expected, "{name}");
        known.insert(line[0]);
    }
    for (name, ..) in metrics.iter() {
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end).filter(|base| known.contains(base)));
        let is_known = name.starts_with("process_") || known.contains(base.unwrap_or(name));
        assert!(is_known, "{name} is not in the contract");
    }
}

/// Planted where a secret is configured, sent or echoed; none may come out in a log, a span or
/// a metric.
const CANARIES: &[&str] = &[
    "canary-metadata",
    CARD,
    "canary-migo-token",
    "canary-server-key",
    "canary-client-secret",
    "canary-url-password",
    "SB-Mid-server-demo",
    "demo-migo-token",
    "demo-pismo-secret",
    "demo-bento-secret",
    "demo-tingg-secret",
    "Bearer ",
    "Basic ",
    "PRIVATE KEY",
    "eyJ",
];

/// A card number that providers accept in their sandboxes.
const CARD: &str = "4811111111111114";

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_payload_is_ever_logged() {
    let broker = Broker::ours();
    let mut stage = Stage::on(broker, "canary");
    let user = format!("canary-{}", crate::rig::unique());
    let url = broker.add_user(&user, "canary-url-password");
    stage.set("amqp.url", url.clone());
    let mut providers = stage.simulator.providers().clone();
    // Beside the accounts that work, some whose credentials are refused.
    for (kind, key, value) in [
        ("migo", "token", "canary-migo-token"),
        ("midtrans", "server_key", "canary-server-key"),
        ("pismo", "client_secret", "canary-client-secret"),
    ] {
        let mut table = providers[kind].as_table().unwrap().clone();
        table.insert(key.to_owned(), value.into());
        providers.insert(format!("bad-{kind}"), table.into());
    }
    stage.set("providers", providers);
    let collector = Recorder::answering("{}");
    let endpoint = collector.url();
    let mut environment = exporting_to(&endpoint).to_vec();
    environment.push(("RUST_LOG", "trace"));
    let mut worker = stage.worker_with(&environment);
    let mut results = stage.results().await;
    let client = stage.client().await;
    let behaviours = [
        "success",
        "wrong-token",
        "forbidden",
        "garbage",
        "error-before-effect",
    ];
    let mut requests: Vec<Value> = kinds()
        .flat_map(|kind| behaviours.map(|behaviour| request(kind, behaviour)))
        .collect();
    for kind in ["migo", "midtrans", "pismo"] {
        let mut request = request(kind, "success");
        request["provider"] = json!(format!("bad-{kind}"));
        requests.push(request);
    }
    for request in &mut requests {
        request["metadata"] = json!({ "card": "canary-metadata", "number": CARD });
        let properties = persistent_json();
        client.publish_with(&stage.names, request, properties).await;
    }
    let broken = br#"{"request_id":"broken","metadata":{"x":"canary-metadata"},"provider":3}"#;
    client.publish_raw(&stage.names, "cancel.x", broken).await;
    let mut ids: Vec<String> = requests.iter().map(id).collect();
    ids.push("broken".to_owned());
    results.about(ids, PATIENCE).await;
    let metrics = http::get(worker.address(), "/metrics").unwrap().1;
    assert!(
        metrics.contains("rescind_requests_received_total"),
        "much was counted"
    );
    worker.sigterm();
    assert!(worker.wait(PATIENCE).success());
    let told = format!("{:?}", spans(&collector));
    for name in ["process ", "POST cancel", "publish "] {
        assert!(told.contains(name), "much was told");
    }
    assert_each_line_is_an_object(&worker);
    let log = worker.log();
    assert!(
        log.contains("finished") && log.contains("call ended"),
        "much was logged"
    );
    stage.set("amqp.url", url.replace(&user, "nobody"));
    let log = log + &refused_by_the_broker(&stage).await;
    for canary in CANARIES {
        assert!(!metrics.contains(canary), "{canary} is in the metrics");
        assert!(!told.contains(canary), "{canary} is in a span");
        // As text, or as a list of bytes.
        let bytes = format!("{:?}", canary.as_bytes());
        let bytes = bytes.trim_matches(['[', ']']);
        let line = log
            .lines()
            .find(|line| line.contains(canary) || line.contains(bytes));
        assert_eq!(line, None, "{canary} is in the log");
    }
}

/// What a worker says that the broker knows nothing of.
async fn refused_by_the_broker(stage: &Stage) -> String {
    let worker = Worker::spawn(&stage.config(), &[("RUST_LOG", "trace")]);
    until("it is refused", PATIENCE, || {
        worker.log().contains("ACCESS_REFUSED")
    })
    .await;
    worker.log()
}

/// Programs read the log.
fn assert_each_line_is_an_object(worker: &Worker) {
    let text = worker.stdout();
    assert!(text.lines().count() > 100, "{text}");
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line.get(key).is_some(), "{key}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ended_before_the_retention_is_removed_and_its_id_is_free_again() {
    let mut stage = Stage::new("retention");
    stage.set("ledger.retention", "1s");
    let worker = stage.worker();
    // A slip for a longer one may be repeated at a cost.
    let warned = || worker.log().contains("ledger.retention is shorter than");
    assert!(warned(), "{}", worker.log());
    Terminal::new(worker.config(), &["check"])
        .spawn_and_wait()
        .exits(0)
        .says("but ledger.retention is 1.0 s");
    let mut results = stage.results().await;
    let client = stage.client().await;
    let all: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    client.confirm_all(&stage.names, &all).await;
    endings(&stage, &mut results, &all, PATIENCE).await;
    let file = rusqlite::Connection::open(stage.ledger()).unwrap();
    let rows = |table: &str| -> i64 {
        let count = format!("SELECT count(*) FROM {table}");
        file.query_row(&count, [], |row| row.get(0)).unwrap()
    };
    until("they are removed", PATIENCE, || rows("requests") == 0).await;
    for table in ["calls", "messages"] {
        assert_eq!(rows(table), 0, "{table}");
    }
    until("it says so", PATIENCE, || {
        worker.log().contains("removed finished requests")
    })
    .await;
    client.confirm_all(&stage.names, &all[..1]).await;
    let new = [("kind", "new")];
    until("it is new", PATIENCE, || {
        worker.metric("rescind_requests_received_total", &new) == all.len() as f64 + 1.0
    })
    .await;
}

/// It is nobody's to wait for, least of all for the whole of a drain.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_does_not_wait_for_a_request_that_never_comes_to_its_end() {
    use std::io::Write as _;
    let mut stage = Stage::new("unfinished");
    stage.set("shutdown.drain", "5m");
    let mut worker = stage.worker();
    let mut caller = std::net::TcpStream::connect(worker.address()).unwrap();
    caller.write_all(b"GET /livez HTTP/1.1\r\nhost:").unwrap();
    worker.sigterm();
    let status = worker.wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", worker.log());
}

/// One connection is one request at a time; with HTTP/2, 512 connections are 100,000.
#[tokio::test(flavor = "multi_thread")]
async fn the_endpoints_speak_http_1_and_nothing_else() {
    use std::io::{Read as _, Write as _};
    let stage = Stage::new("preface");
    let worker = stage.worker();
    let mut caller = std::net::TcpStream::connect(worker.address()).unwrap();
    caller.set_read_timeout(Some(PATIENCE)).unwrap();
    caller
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .unwrap();
    let mut answer = Vec::new();
    drop(caller.read_to_end(&mut answer));
    let answer = String::from_utf8_lossy(&answer);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
        "{answer:?}"
    );
}

/// Nobody reads the log of a service on a terminal.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_text_has_no_colour_in_a_file_and_levels_that_cannot_be_read_are_told() {
    let stage = Stage::new("text");
    let text = ("RESCIND_LOG__FORMAT", "text");
    let worker = stage.worker_with(&[text, ("RUST_LOG", "")]);
    let log = worker.log();
    assert!(
        log.contains("consuming") && !log.contains('\u{1b}'),
        "{log}"
    );
    assert!(!log.contains("RUST_LOG"), "an empty one is none: {log}");
    assert_eq!(worker.stdout(), "", "people read stderr");
    drop(worker);
    let worker = stage.worker_with(&[("RUST_LOG", "rescind=debg")]);
    let log = worker.log();
    assert!(log.contains("RUST_LOG cannot be understood"), "{log}");
    assert!(log.contains("consuming"), "{log}");
}
