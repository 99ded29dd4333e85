//! What a result looks like on the wire, field by field.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{PATIENCE, kinds};
use crate::contract::lines;
use crate::rig::client::persistent_json;
use crate::rig::stage::{Stage, request};
use crate::rig::{Message, until};

/// Each outcome, whether it has a dead letter, and its reasons.
const OUTCOMES: &str = include_str!("../contract/outcomes.txt");

/// Checks a result against `docs/schemas/result.schema.json` and the properties of the contract, for a
/// request that was published without properties of its own.
#[track_caller]
pub(crate) fn assert_contract(message: &Message, request: &Value) {
    let body = message.json();
    assert_form(&body);
    for key in ["request_id", "provider", "payment", "metadata"] {
        assert_eq!(body.get(key), request.get(key), "{key} is echoed: {body:#}");
    }
    let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
    assert_eq!(
        message.routing_key,
        format!("result.{}.{}", text("provider"), text("outcome"))
    );
    let properties = &message.properties;
    let property = |value: &Option<lapin::types::ShortString>| {
        value.as_ref().map(ToString::to_string).unwrap_or_default()
    };
    assert_eq!(property(properties.message_id()), text("result_id"));
    assert_eq!(property(properties.kind()), "cancellation.result");
    assert_eq!(property(properties.content_type()), "application/json");
    assert_eq!(property(properties.app_id()), "rescind");
    assert_eq!(*properties.delivery_mode(), Some(2));
    let completed: jiff::Timestamp = text("completed_at").parse().unwrap();
    let stamp = u64::try_from(completed.as_second()).unwrap();
    assert_eq!(*properties.timestamp(), Some(stamp));
    if request.get("correlation_id").is_none() {
        assert_eq!(message.correlation_id(), Some(text("request_id")));
    }
}

fn assert_form(body: &Value) {
    let known = [
        "result_id",
        "request_id",
        "provider",
        "payment",
        "outcome",
        "reason",
        "message",
        "already",
        "amount",
        "currency",
        "evidence",
        "attempts",
        "lookups",
        "received_at",
        "completed_at",
        "metadata",
    ];
    for key in body.as_object().expect("an object").keys() {
        assert!(
            known.contains(&key.as_str()),
            "{key} is not in the contract"
        );
    }
    let text = |key: &str| {
        let value = body[key].as_str();
        value.unwrap_or_else(|| panic!("{key} is no text: {body:#}"))
    };
    let optional = |key: &str| body.get(key).is_none_or(Value::is_string);
    assert!(Uuid::try_parse(text("result_id")).is_ok());
    assert!(!text("request_id").is_empty() && !text("provider").is_empty());
    let (outcome, reason) = (text("outcome"), text("reason"));
    let known = lines(OUTCOMES).any(|line| line[0] == outcome && line[2..].contains(&reason));
    assert!(known, "{outcome}/{reason} is not in the contract");
    let message = text("message");
    assert!(message.contains(' '), "a sentence: {message}");
    let already = body.get("already");
    match outcome {
        "cancelled" => assert!(already.is_some_and(Value::is_boolean), "{body:#}"),
        _ => assert_eq!(already, None, "{body:#}"),
    }
    assert!(optional("amount") && optional("currency"), "{body:#}");
    for key in ["attempts", "lookups"] {
        assert!(body[key].is_u64(), "{key}: {body:#}");
    }
    let time = |key: &str| {
        assert!(text(key).ends_with('Z'), "{key} is UTC");
        text(key).parse::<jiff::Timestamp>().expect("RFC 3339")
    };
    assert!(time("received_at") <= time("completed_at"), "{body:#}");
    for key in ["payment", "metadata"] {
        assert!(body.get(key).is_none_or(Value::is_object), "{body:#}");
    }
    assert_evidence(&body["evidence"]);
}

fn assert_evidence(evidence: &Value) {
    let fields = evidence.as_object().expect("evidence is an object");
    let source = evidence["source"].as_str().unwrap_or_default();
    assert!(
        ["response", "lookup", "notification", "worker"].contains(&source),
        "{evidence:#}"
    );
    for (key, value) in fields {
        let fits = match key.as_str() {
            "source" | "code" | "status" | "message" => value.is_string(),
            "http_status" => value.as_u64().is_some_and(|status| status >= 100),
            "reference" => value
                .as_object()
                .is_some_and(|ids| ids.values().all(Value::is_string)),
            _ => false,
        };
        assert!(fits, "evidence.{key}: {evidence:#}");
    }
    // The provider's word is never claimed without its answer.
    if matches!(source, "response" | "lookup") {
        assert!(fields.contains_key("http_status"), "{evidence:#}");
    }
}

fn header(name: &str, value: &str) -> FieldTable {
    let mut headers = FieldTable::default();
    headers.insert(name.into(), AMQPValue::LongString(value.into()));
    headers
}

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn with_everything() -> BasicProperties {
    let mut headers = header("traceparent", TRACE);
    headers.insert("tracestate".into(), AMQPValue::LongString("a=1,b=2".into()));
    headers.insert("other".into(), AMQPValue::LongString("stays here".into()));
    persistent_json()
        .with_correlation_id("order-4711".into())
        .with_headers(headers)
}

/// Whoever tries them has no payment of these ids: the simulator knows any.
#[tokio::test(flavor = "multi_thread")]
async fn the_examples_are_cancelled_at_the_simulator() {
    let stage = Stage::new("examples");
    let mut results = stage.results().await;
    let client = stage.client().await;
    let _worker = stage.worker();
    let [midtrans, _, tingg] = crate::contract::REQUESTS;
    let both = json!({"order_id": "o-1", "transaction_id": Uuid::new_v4()});
    let mut requests: Vec<Value> = [midtrans, tingg]
        .map(|text| serde_json::from_str(text).unwrap())
        .into();
    for (id, payment) in [
        ("uuid", json!({"order_id": Uuid::new_v4()})),
        ("both", both),
    ] {
        requests.push(json!({"request_id": id, "provider": "midtrans", "payment": payment}));
    }
    for request in &requests {
        client.publish(&stage.names, request).await;
        let id = request["request_id"].as_str().unwrap();
        let result = results.one(id, PATIENCE).await.json();
        assert_eq!(result["outcome"], "cancelled", "{result:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_metadata_and_trace_come_back_with_the_result() {
    let stage = Stage::new("echo");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let mut dead_letters = stage.dead_letters().await;
    let client = stage.client().await;
    for kind in kinds() {
        // The number has more digits than a float, the key order is not the alphabet's.
        let metadata = r#"{"z":"ü€","a":[1,null,{"deep":true}],"n":12345678901234567890.123}"#;
        for behaviour in ["success", "forbidden"] {
            let mut request = request(kind, behaviour);
            request["metadata"] = json!("here");
            let id = request["request_id"].as_str().unwrap().to_owned();
            let body = request.to_string().replace("\"here\"", metadata);
            client
                .send(crate::rig::client::Outgoing {
                    exchange: stage.names.requests_exchange.clone(),
                    key: format!("cancel.{kind}"),
                    body: body.clone().into_bytes(),
                    properties: with_everything(),
                })
                .await;
            let result = results.one(&id, PATIENCE).await;
            assert_form(&result.json());
            let text = String::from_utf8(result.body.clone()).unwrap();
            assert!(text.contains(metadata), "echoed byte by byte: {text}");
            assert_eq!(result.correlation_id().as_deref(), Some("order-4711"));
            let headers = result.headers();
            assert_eq!(headers.get("traceparent").map(String::as_str), Some(TRACE));
            assert_eq!(
                headers.get("tracestate").map(String::as_str),
                Some("a=1,b=2")
            );
            assert_eq!(headers.len(), 2, "{headers:?}");
            if behaviour == "forbidden" {
                let dead = dead_letters.one(&id, PATIENCE).await;
                assert_eq!(dead.body, body.as_bytes(), "as received");
                assert_eq!(dead.header("traceparent").as_deref(), Some(TRACE));
                assert_eq!(dead.routing_key, format!("dead.{kind}.credentials_refused"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_echoed_up_to_their_bound() {
    let stage = Stage::new("headers");
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    for (length, echoed) in [(2_048, true), (2_049, false)] {
        let request = request("migo", "success");
        let state = format!("a={}", "1".repeat(length - 2));
        let mut headers = header("traceparent", TRACE);
        headers.insert(
            "tracestate".into(),
            AMQPValue::LongString(state.clone().into()),
        );
        let properties = persistent_json().with_headers(headers);
        client
            .publish_with(&stage.names, &request, properties)
            .await;
        let id = request["request_id"].as_str().unwrap();
        let result = results.one(id, PATIENCE).await;
        assert_eq!(result.header("traceparent").as_deref(), Some(TRACE));
        let expected = echoed.then_some(state);
        assert_eq!(result.header("tracestate"), expected, "{length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_to_reply_to_where_it_is_enabled() {
    let mut stage = Stage::new("reply");
    stage.set("amqp.reply_to", true);
    let _worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let queue = format!("{}.replies", stage.names.results_exchange);
    // Bound to nothing that anybody publishes: only the default exchange leads here.
    let exchange = &stage.names.results_exchange;
    client
        .declare_queue(&queue, "classic", exchange, "nothing")
        .await;
    let mut replies = client.consume(&queue).await;

    let (wanted, gone) = (
        request("midtrans", "success"),
        request("midtrans", "settled"),
    );
    let to = |queue: &str| persistent_json().with_reply_to(queue.into());
    client
        .publish_with(&stage.names, &gone, to("no-such-queue"))
        .await;
    client.publish_with(&stage.names, &wanted, to(&queue)).await;

    let id = |request: &Value| request["request_id"].as_str().unwrap().to_owned();
    let copy = replies.one(&id(&wanted), PATIENCE).await;
    let result = results.one(&id(&wanted), PATIENCE).await;
    assert_eq!(copy.body, result.body);
    assert_eq!(copy.message_id(), result.message_id());
    // A place that does not exist takes the copy only.
    results.one(&id(&gone), PATIENCE).await;
    assert_eq!(replies.counts().len(), 1);
}

/// For a made-up place of a waiting caller RabbitMQ closes the whole connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_reply_to_ends_no_connection_that_anybody_needs() {
    let mut stage = Stage::new("made-up");
    stage.set("amqp.reply_to", true);
    let worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let made_up = "amq.rabbitmq.reply-to.g1h2AA5yZXBseUA1MTQ5MjQ0NgAAAAAAAAAAYQ==.garbage";
    let properties = || persistent_json().with_reply_to(made_up.into());
    let requests: Vec<Value> = (0..5).map(|_| request("midtrans", "success")).collect();
    for request in &requests {
        let sent = client.publish_with(&stage.names, request, properties());
        sent.await;
    }
    let ids = requests.iter().map(|r| r["request_id"].as_str().unwrap());
    results.about(ids, PATIENCE).await;
    let told = "the copy for reply_to was not delivered";
    until("a copy is refused", PATIENCE, || {
        worker.log().contains(told)
    })
    .await;
    assert!(results.counts().values().all(|count| *count == 1));
    let reconnects = worker.metric("rescind_broker_reconnects_total", &[]);
    assert_eq!(reconnects, 0.0, "{}", worker.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_copy_goes_to_reply_to_where_it_is_not_enabled() {
    let stage = Stage::new("no-reply");
    let mut worker = stage.worker();
    let mut results = stage.results().await;
    let client = stage.client().await;
    let queue = format!("{}.replies", stage.names.results_exchange);
    let exchange = &stage.names.results_exchange;
    client
        .declare_queue(&queue, "classic", exchange, "nothing")
        .await;
    let properties = persistent_json().with_reply_to(queue.as_str().into());
    let request = request("midtrans", "success");
    client
        .publish_with(&stage.names, &request, properties)
        .await;
    let id = request["request_id"].as_str().unwrap();
    results.one(id, PATIENCE).await;
    // Copies go by a way of their own; a worker that stops has sent its last one.
    worker.sigterm();
    assert!(worker.wait(PATIENCE).success(), "{}", worker.log());
    assert_eq!(client.queue_depth(&queue).await, Some(0));
}
