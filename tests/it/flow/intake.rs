//! What is made of messages that are repeated, contradictory, broken, late or side by side.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};

use super::{PATIENCE, assert_contract, kinds};
use crate::rig::checker::{endings, id};
use crate::rig::client::{Outgoing, Published};
use crate::rig::stage::{Stage, payment_id, request};
use crate::rig::{Message, Worker, until};

/// Every message about a request so far is one and the same.
fn only(messages: &[Message]) -> &Message {
    let first = &messages[0];
    for other in messages {
        assert_eq!(other.body, first.body);
        assert_eq!(other.properties, first.properties);
    }
    first
}

async fn until_received(worker: &Worker, kind: &str, count: f64) {
    until(&format!("{count} {kind}"), PATIENCE, || {
        worker.metric("rescind_requests_received_total", &[("kind", kind)]) >= count
    })
    .await;
    let received = worker.metric("rescind_requests_received_total", &[("kind", kind)]);
    assert_eq!(received, count, "{kind}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_gets_the_stored_result_and_moves_nothing() {
    let stage = Stage::new("repeats");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    // Before the result (the answer takes a second), and so many copies of each.
    let requests: Vec<Value> = kinds()
        .map(|kind| request(kind, "accepted-then-done"))
        .collect();
    let copies = [2, 3, 5, 10, 20, 50];
    let mut messages = Vec::new();
    for (request, copies) in requests.iter().zip(copies) {
        messages.extend((0..copies).map(|_| Outgoing::request(&stage.names, request)));
    }
    let total = messages.len();
    for fate in client.publish_all(messages).await {
        assert_eq!(fate, Ok(Published::Confirmed));
    }
    endings(&stage, &mut results, &requests, PATIENCE).await;
    until_received(&worker, "repeated", (total - requests.len()) as f64).await;
    until_received(&worker, "new", requests.len() as f64).await;

    // After it, serialised another way: other bytes, the same content.
    let before = results.counts();
    for request in &requests {
        let body = serde_json::to_vec_pretty(request).unwrap();
        let key = format!("cancel.{}", request["provider"].as_str().unwrap());
        client.publish_raw(&stage.names, &key, &body).await;
    }
    for request in &requests {
        let (id, has) = (id(request), before[&id(request)]);
        while results.counts()[&id] <= has {
            results.next(PATIENCE).await.expect("the result once more");
        }
    }
    let ended = endings(&stage, &mut results, &requests, PATIENCE).await;
    for ending in &ended {
        assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
        let attempts = ending.result["attempts"].as_u64();
        assert_eq!(attempts, Some(ending.money.cancel_calls), "{ending:#?}");
    }
    assert_eq!(
        worker.metric("rescind_cancellations_total", &[]),
        requests.len() as f64
    );
}

/// What is not acknowledged comes again before anything that was published later.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_acknowledged_also_if_nothing_more_comes() {
    let stage = Stage::new("acknowledged");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    // It is in the ledger a second before it has its result.
    let (slow, next) = (request("tingg", "slow"), request("migo", "success"));
    client.publish(&stage.names, &slow).await;
    results.one(&id(&slow), PATIENCE).await;
    worker.kill9();
    worker.respawn();
    client.publish(&stage.names, &next).await;
    results.one(&id(&next), PATIENCE).await;
    let received = |kind| worker.metric("rescind_requests_received_total", &[("kind", kind)]);
    assert_eq!((received("new"), received("repeated")), (1.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_is_answered_also_while_others_keep_coming() {
    let stage = Stage::new("repeat-beside");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let first = request("midtrans", "success");
    client.publish(&stage.names, &first).await;
    results.one(&id(&first), PATIENCE).await;
    // The outbox is never without something new for long, and what is invalid it reads from the
    // ledger: the stored result is behind it then.
    let wrong = || {
        let mut request = request("migo", "success");
        request["payment"] = json!({});
        request
    };
    let invalid = wrong();
    client.publish(&stage.names, &invalid).await;
    results.one(&id(&invalid), PATIENCE).await;
    client.publish(&stage.names, &first).await;
    let beside = async {
        while results.counts()[&id(&first)] < 2 {
            for other in [request("migo", "success"), wrong()] {
                client.publish(&stage.names, &other).await;
                results.one(&id(&other), PATIENCE).await;
            }
        }
    };
    let answered = tokio::time::timeout(PATIENCE, beside).await;
    answered.expect("the stored result once more");
}

/// A place that a repeat had for as long as it took to see that it is one is a place for others.
#[tokio::test(flavor = "multi_thread")]
async fn what_became_due_behind_a_repeat_begins_once_that_is_known_for_one() {
    let mut stage = Stage::new("behind");
    stage.set("providers.midtrans.max_in_flight", 1);
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let first = request("midtrans", "success");
    client.publish(&stage.names, &first).await;
    results.one(&id(&first), PATIENCE).await;
    // Again after a second.
    let limited = request("midtrans", "rate-limited");
    client.publish(&stage.names, &limited).await;
    let waiting = [("provider", "midtrans"), ("state", "waiting_retry")];
    until("it waits", PATIENCE, || {
        worker.metric("rescind_open", &waiting) == 1.0
    })
    .await;
    // The dispatcher has looked for more to do by then, for which there is no event: in that look it would
    // wait for the ledger, too, and find what becomes due without being told.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let held = rusqlite::Connection::open(stage.ledger()).unwrap();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let state = "SELECT state FROM requests WHERE request_id = ?1";
    let state: String = held
        .query_one(state, [id(&limited)], |row| row.get(0))
        .unwrap();
    assert_eq!(state, "waiting_retry", "it is not due yet");
    client.publish(&stage.names, &first).await;
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    held.execute_batch("ROLLBACK").unwrap();
    // Before anybody would look by himself, 5 s after the last time.
    let result = results.one(&id(&limited), Duration::from_secs(3)).await;
    assert_eq!(result.json()["outcome"], "cancelled");
}

/// A publisher that contradicts itself holds up nobody: a commit for each would.
#[tokio::test(flavor = "multi_thread")]
async fn contradictions_that_come_together_are_stored_together() {
    const MANY: usize = 100;
    let stage = Stage::new("contradictions");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let first = request("midtrans", "success");
    client.publish(&stage.names, &first).await;
    results.one(&id(&first), PATIENCE).await;
    worker.kill9();
    let other = |n: usize| {
        let mut other = first.clone();
        other["metadata"] = json!({ "n": n.to_string() });
        other
    };
    let mut all: Vec<Value> = (0..MANY).map(other).collect();
    all.push(request("migo", "success"));
    client.confirm_all(&stage.names, &all).await;
    worker.restart();
    results.one(&id(&all[MANY]), PATIENCE).await;
    until_received(&worker, "conflicting", MANY as f64).await;
    let invalid = [("outcome", "invalid"), ("provider", "midtrans")];
    until("all are stored", PATIENCE, || {
        worker.metric("rescind_cancellations_total", &invalid) == MANY as f64
    })
    .await;
    let commits = worker.metric("rescind_ledger_commit_seconds_count", &[]);
    assert!(commits < MANY as f64 / 2.0, "{commits} commits");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_under_a_known_id_is_refused_and_the_first_stays() {
    let stage = Stage::new("conflict");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    let first = request("midtrans", "success");
    let mut second = request("bento", "success");
    second["request_id"] = first["request_id"].clone();
    client.publish(&stage.names, &first).await;
    let result = results.one(&id(&first), PATIENCE).await;
    assert_contract(&result, &first);

    // Twice: the contradiction is one finding, too.
    client.publish(&stage.names, &second).await;
    client.publish(&stage.names, &second).await;
    until_received(&worker, "conflicting", 2.0).await;
    let dead = dead_letters.about([id(&first)], PATIENCE).await;
    let dead = only(&dead[&id(&first)]);
    assert_eq!(dead.body, second.to_string().into_bytes());
    assert_eq!(dead.routing_key, "dead.bento.request_id_conflict");

    client.publish(&stage.names, &first).await;
    until_received(&worker, "repeated", 1.0).await;
    let counted = [("provider", "bento"), ("outcome", "invalid")];
    let counted = worker.metric("rescind_cancellations_total", &counted);
    assert_eq!(counted, 1.0, "one finding");
    let told = |m: &Message| m.json()["outcome"].as_str().unwrap().to_owned();
    while results
        .seen()
        .iter()
        .filter(|m| told(m) == "cancelled")
        .count()
        < 2
        || results.seen().iter().all(|m| told(m) == "cancelled")
    {
        results.next(PATIENCE).await.expect("both results");
    }
    let (cancelled, invalid): (Vec<Message>, Vec<Message>) = results
        .seen()
        .iter()
        .cloned()
        .partition(|message| told(message) == "cancelled");
    assert_eq!(only(&cancelled).body, result.body, "the first result stays");
    let invalid = only(&invalid);
    assert_contract(invalid, &second);
    assert_eq!(invalid.json()["reason"], "request_id_conflict");
    assert_ne!(invalid.message_id(), result.message_id());
    assert!(
        stage
            .simulator
            .money("bento", &payment_id(&second))
            .effects
            .is_empty()
    );
    assert_eq!(
        stage
            .simulator
            .money("midtrans", &payment_id(&first))
            .cancel_calls,
        1
    );
}

/// A body that is not understood, and what becomes of it.
pub(crate) struct Broken {
    pub(crate) what: &'static str,
    pub(crate) body: Vec<u8>,
    request_id: Option<String>,
    provider: &'static str,
    pub(crate) reason: &'static str,
}

pub(crate) fn broken() -> Vec<Broken> {
    let mut list = Vec::new();
    let mut add = |what, body: Vec<u8>, request_id: Option<&Value>, provider, reason| {
        list.push(Broken {
            what,
            body,
            request_id: request_id.map(|id| id.as_str().unwrap().to_owned()),
            provider,
            reason,
        });
    };
    add("empty", vec![], None, "unknown", "not_json");
    add("text", b"cancel it".to_vec(), None, "unknown", "not_json");
    let whole = request("migo", "success").to_string().into_bytes();
    add(
        "cut",
        whole[..whole.len() - 1].to_vec(),
        None,
        "unknown",
        "not_json",
    );
    add(
        "UTF-8",
        b"{\"request_id\":\"\xff\xfe\"}".to_vec(),
        None,
        "unknown",
        "not_json",
    );
    add("a list", b"[]".to_vec(), None, "unknown", "schema");
    // What nobody reads is to be text all the same, and an account that stands twice hides no id.
    let mut more = request("migo", "success");
    let its_id = more["request_id"].clone();
    more["more"] = json!("?");
    let mut latin = more.to_string().into_bytes();
    let at = latin.windows(3).position(|part| part == b"\"?\"").unwrap();
    latin[at + 1] = 0xe9;
    add("Latin-1", latin, Some(&its_id), "migo", "not_json");
    let its_id = json!(format!("twice-{}", crate::rig::unique()));
    let twice = format!(
        r#"{{"request_id":{its_id},"provider":"migo","provider":"tingg","payment":{{"transaction_id":"t"}}}}"#
    );
    add(
        "an account twice",
        twice.into(),
        Some(&its_id),
        "unknown",
        "schema",
    );
    // A reader by position would see a whole request in it.
    let by_position = json!(["by-position", "migo", { "transaction_id": "t-success" }]);
    let by_position = by_position.to_string().into_bytes();
    add("a full list", by_position, None, "unknown", "schema");
    let mut change = |what, provider: &'static str, edit: &dyn Fn(&mut Value), reads, reason| {
        let mut request = request(
            if provider == "unknown" {
                "migo"
            } else {
                provider
            },
            "success",
        );
        edit(&mut request);
        let body = request.to_string().into_bytes();
        let id = Some(&request["request_id"]).filter(|_| reads);
        add(what, body, id, provider, reason);
    };
    let set = |key: &'static str, value: Value| move |r: &mut Value| r[key] = value.clone();
    let without =
        |key: &'static str| move |r: &mut Value| drop(r.as_object_mut().unwrap().remove(key));
    change("no payment", "migo", &without("payment"), true, "schema");
    change(
        "empty payment",
        "migo",
        &set("payment", json!({})),
        true,
        "schema",
    );
    change(
        "empty id",
        "migo",
        &set("payment", json!({"transaction_id": ""})),
        true,
        "schema",
    );
    change(
        "bad amount",
        "bento",
        &set("amount", json!("1,50")),
        true,
        "schema",
    );
    change(
        "number",
        "bento",
        &set("amount", json!(1.5)),
        true,
        "schema",
    );
    change(
        "amount at Migo",
        "migo",
        &set("amount", json!("1.50")),
        true,
        "schema",
    );
    // Six times as long where they are quoted, and a frame of the protocol holds all headers.
    let long = || json!("\u{7f}".repeat(30_000));
    for field in ["payment", "amount", "currency", "deadline"] {
        change("long words", "bento", &set(field, long()), true, "schema");
    }
    change("none at Pismo", "pismo", &without("amount"), true, "schema");
    // An amount that was lost on the way is not the whole payment.
    for field in ["amount", "currency", "reason", "deadline", "metadata"] {
        change("null", "bento", &set(field, Value::Null), true, "schema");
    }
    for deadline in ["2099-11-29", "2099-11-29T18Z", "2099-13-29T18:00:00Z"] {
        let edit = set("deadline", json!(deadline));
        change("no time", "migo", &edit, true, "schema");
    }
    change(
        "metadata",
        "migo",
        &set("metadata", json!("text")),
        true,
        "schema",
    );
    change(
        "deadline",
        "migo",
        &set("deadline", json!("tomorrow")),
        true,
        "schema",
    );
    change(
        "reason",
        "migo",
        &set("reason", json!("x".repeat(256))),
        true,
        "schema",
    );
    change(
        "a bad request_id",
        "migo",
        &set("request_id", json!("a b")),
        false,
        "schema",
    );
    change(
        "no request_id",
        "migo",
        &without("request_id"),
        false,
        "schema",
    );
    change(
        "no provider",
        "unknown",
        &without("provider"),
        true,
        "schema",
    );
    let nobody = set("provider", json!("nobody"));
    change(
        "unknown provider",
        "unknown",
        &nobody,
        true,
        "unknown_provider",
    );
    list.last_mut().unwrap().provider = "nobody";
    list.extend(
        [(64 << 10, 1, true), (1 << 20, 1, false)].map(|(limit, over, reads)| {
            let mut request = request("migo", "success");
            let rest = limit + over - request.to_string().len() - r#","padding":"""#.len();
            request["padding"] = json!("x".repeat(rest));
            let body = request.to_string().into_bytes();
            assert_eq!(body.len(), limit + over);
            Broken {
                what: "too large",
                body,
                request_id: reads.then(|| id(&request)),
                provider: if reads { "migo" } else { "unknown" },
                reason: "too_large",
            }
        }),
    );
    list
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_understood_is_told_and_kept_as_it_came() {
    let stage = Stage::new("broken");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    let list = broken();
    for broken in &list {
        let fate = client
            .publish_raw(&stage.names, "cancel.any", &broken.body)
            .await;
        assert_eq!(fate, Published::Confirmed, "{}", broken.what);
    }
    while dead_letters.seen().len() < list.len() {
        dead_letters
            .next(PATIENCE)
            .await
            .expect("a dead letter for each");
    }
    let with_id = list.iter().filter_map(|broken| broken.request_id.clone());
    let told = results.about(with_id, PATIENCE).await;
    for broken in &list {
        let dead = dead_letters
            .seen()
            .iter()
            .find(|dead| dead.body == broken.body);
        let dead = dead.unwrap_or_else(|| panic!("{}: its bytes are not kept", broken.what));
        assert_dead_letter(dead, broken);
        let Some(request_id) = &broken.request_id else {
            continue;
        };
        let result = only(&told[request_id]).json();
        assert_eq!(result["outcome"], "invalid", "{}: {result:#}", broken.what);
        assert_eq!(
            result["reason"], broken.reason,
            "{}: {result:#}",
            broken.what
        );
        assert_eq!(result["provider"], broken.provider, "{}", broken.what);
        assert_eq!(
            (&result["attempts"], &result["lookups"]),
            (&json!(0), &json!(0))
        );
    }
    assert_eq!(
        results.counts().len(),
        told.len(),
        "an id that cannot be read has no result"
    );
    until_received(&worker, "invalid", list.len() as f64).await;
    until_received(&worker, "new", 0.0).await;
    assert_eq!(stage.simulator.all_money()["payments"], json!([]));
    // One that is just small enough is carried out.
    let mut request = request("migo", "success");
    let rest = (64 << 10) - request.to_string().len() - r#","padding":"""#.len();
    request["padding"] = json!("x".repeat(rest));
    client.publish(&stage.names, &request).await;
    endings(&stage, &mut results, &[request], PATIENCE).await;
}

fn assert_dead_letter(dead: &Message, broken: &Broken) {
    let what = broken.what;
    let (provider, reason) = (broken.provider, broken.reason);
    assert_eq!(
        dead.routing_key,
        format!("dead.{provider}.{reason}"),
        "{what}"
    );
    assert_dead_letter_headers(dead);
    let header = |name: &str| {
        dead.header(name)
            .unwrap_or_else(|| panic!("{what}: no {name}"))
    };
    assert_eq!(header("rescind-outcome"), "invalid", "{what}");
    assert_eq!(header("rescind-reason"), reason, "{what}");
    assert_eq!(header("rescind-provider"), provider, "{what}");
    let id = broken.request_id.clone().unwrap_or_default();
    assert_eq!(header("rescind-request-id"), id, "{what}");
    assert_eq!(header("rescind-attempts"), "0", "{what}");
    assert_eq!(header("rescind-lookups"), "0", "{what}");
}

/// All of the contract's headers are there, flat, and in their form.
fn assert_dead_letter_headers(dead: &Message) {
    let headers = dead.headers();
    let names: BTreeSet<&str> = headers.keys().map(String::as_str).collect();
    let wanted = [
        "rescind-attempts",
        "rescind-dead-at",
        "rescind-detail",
        "rescind-lookups",
        "rescind-outcome",
        "rescind-provider",
        "rescind-reason",
        "rescind-received-at",
        "rescind-request-id",
    ];
    assert_eq!(names, BTreeSet::from(wanted));
    let time = |name: &str| headers[name].parse::<jiff::Timestamp>().expect("RFC 3339");
    assert!(time("rescind-received-at") <= time("rescind-dead-at"));
    assert!(!headers["rescind-detail"].is_empty());
    assert_eq!(*dead.properties.delivery_mode(), Some(2));
    assert!(dead.message_id().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_deadline_nothing_is_sent() {
    let stage = Stage::new("deadline");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    let requests: Vec<Value> = kinds()
        .map(|kind| {
            let mut request = request(kind, "success");
            request["deadline"] = json!("2020-01-01T00:00:00Z");
            request
        })
        .collect();
    client.confirm_all(&stage.names, &requests).await;
    for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
        assert_eq!(ending.outcome(), "failed/deadline_passed");
        assert_eq!(ending.money.cancel_calls, 0, "{ending:#?}");
        assert_eq!(ending.result["evidence"]["source"], "worker");
        assert_contract(&ending.messages[0], &ending.request);
        let dead = dead_letters.one(&id(&ending.request), PATIENCE).await;
        assert_dead_letter_headers(&dead);
        assert_eq!(dead.body, ending.request.to_string().into_bytes());
    }
    // One that lies ahead changes nothing, and one that comes ends the retries.
    let mut ahead = request("midtrans", "success");
    ahead["deadline"] = json!("2100-01-01T00:00:00+07:00");
    let mut near = request("migo", "retryable-forever");
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(2);
    near["deadline"] = json!(soon.to_string());
    let requests = [ahead, near];
    client.confirm_all(&stage.names, &requests).await;
    let ended = endings(&stage, &mut results, &requests, PATIENCE).await;
    assert_eq!(ended[0].outcome(), "cancelled/voided");
    assert_eq!(ended[1].outcome(), "failed/deadline_passed");
}

/// The login of Tingg takes longer than the request has.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_during_the_login_ends_it_too() {
    let mut stage = Stage::new("slow-login");
    stage.set("defaults.timeout", "5m");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let mut late = request("tingg", "success");
    // Sooner than the 5 s after which nothing is sent for another reason.
    let deadline = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    late["deadline"] = json!(deadline.to_string());
    stage.simulator.freeze();
    client.publish(&stage.names, &late).await;
    until("it logs in", PATIENCE, || {
        worker.metric("rescind_in_flight", &[("provider", "tingg")]) == 1.0
    })
    .await;
    until("it is late", PATIENCE, || jiff::Timestamp::now() > deadline).await;
    stage.simulator.thaw();
    let ended = endings(&stage, &mut results, &[late], PATIENCE).await;
    assert_eq!(ended[0].outcome(), "failed/deadline_passed");
    assert_eq!(ended[0].money.cancel_calls, 0, "{ended:#?}");
    assert_eq!(ended[0].result["attempts"], 0, "{ended:#?}");
    let login = [("operation", "token"), ("verdict", "issued")];
    assert_eq!(worker.metric("rescind_provider_calls_total", &login), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_on_one_payment_are_never_carried_out_at_once() {
    let mut stage = Stage::new("serial");
    stage.set("defaults.timeout", "5s");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    // Each answer takes a second after its effect.
    let twins = |kind: &str| {
        let first = request(kind, "slow");
        let mut second = first.clone();
        second["request_id"] = json!(format!("{}-again", id(&first)));
        [first, second]
    };
    let (pismo, midtrans) = (twins("pismo"), twins("midtrans"));
    let all = [pismo.clone(), midtrans.clone()].concat();
    client.confirm_all(&stage.names, &all).await;
    let found = results.about(all.iter().map(id), PATIENCE).await;
    let result = |request: &Value| only(&found[&id(request)]).json();

    // Two parts of 50 of a payment of 100.
    for request in &pismo {
        assert_eq!(result(request)["outcome"], "cancelled");
    }
    let money = stage.simulator.money("pismo", &payment_id(&pismo[0]));
    let at = |n: usize| -> jiff::Timestamp {
        let at = money.effects[n]["at"].as_str().unwrap();
        at.parse().unwrap()
    };
    assert_eq!(money.effects.len(), 2, "{money:#?}");
    assert_ne!(money.effects[0]["key"], money.effects[1]["key"]);
    let between = Duration::try_from(at(1).duration_since(at(0))).unwrap();
    assert!(
        between >= Duration::from_secs(1),
        "the second one began before the first was answered: {money:#?}"
    );

    // The whole payment twice: one of them did it, and the other one knows.
    let money = stage.simulator.money("midtrans", &payment_id(&midtrans[0]));
    assert_eq!(money.effects.len(), 1, "{money:#?}");
    let mut already: Vec<_> = midtrans
        .iter()
        .map(|r| result(r)["already"].clone())
        .collect();
    already.sort_by_key(Value::to_string);
    assert_eq!(already, [json!(false), json!(true)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gave_up_on_is_carried_out_like_any_other() {
    let stage = Stage::new("dropped");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let requests: Vec<Value> = kinds().map(|kind| request(kind, "success")).collect();
    for request in &requests {
        let mut message = Outgoing::request(&stage.names, request);
        message.exchange.clone_from(&stage.names.dropped_exchange);
        assert_eq!(client.send(message).await, Published::Confirmed);
    }
    for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
        assert_eq!(ending.result["outcome"], "cancelled");
        assert_contract(&ending.messages[0], &ending.request);
    }
    until_received(&worker, "dropped", requests.len() as f64).await;
    until_received(&worker, "new", requests.len() as f64).await;
}
