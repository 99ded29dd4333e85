//! Traces: what a collector is told of a request, and that none is needed.

use std::net::TcpListener;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use serde_json::Value;

use crate::flow::PATIENCE;
use crate::rig::client::{Outgoing, persistent_json};
use crate::rig::recorder::{Arrived, Recorder};
use crate::rig::stage::{Stage, request};
use crate::rig::{Published, Worker, until};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PUBLISHER: &str = "00f067aa0ba902b7";
/// A provider at which every cancel succeeds.
const CANCELLED: &str = r#"{"status_code":"200","transaction_status":"cancel"}"#;

/// Spans arrive soon instead of after five seconds.
pub(crate) fn exporting_to(endpoint: &str) -> [(&str, &str); 2] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
    ]
}

/// All spans that a collector was sent.
pub(crate) fn spans(collector: &Recorder) -> Vec<Span> {
    let decoded = collector.arrived().into_iter().flat_map(|arrived| {
        assert_eq!(arrived.line, "POST /v1/traces HTTP/1.1");
        let kind = arrived.header("content-type").expect("a content type");
        assert_eq!(kind, "application/x-protobuf");
        let sent = ExportTraceServiceRequest::decode(arrived.body.as_slice());
        sent.expect("OTLP").resource_spans
    });
    let scopes = decoded.flat_map(|resource| resource.scope_spans);
    scopes.flat_map(|scope| scope.spans).collect()
}

fn attribute(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|pair| pair.key == key);
    match found.and_then(|pair| pair.value.clone()?.value) {
        Some(Any::StringValue(text)) => text,
        Some(Any::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:?}"),
    }
}

/// A stage with one account, at a provider that keeps what it is sent.
fn stage_at(provider: &Recorder, name: &str) -> Stage {
    let mut stage = Stage::new(name);
    let mut account = toml::Table::new();
    account.insert("kind".into(), "midtrans".into());
    account.insert("base_url".into(), provider.url().into());
    account.insert("server_key".into(), "SB-Mid-server-demo".into());
    let mut accounts = toml::Table::new();
    accounts.insert("midtrans".into(), account.into());
    stage.set("providers", accounts);
    stage
}

/// A request with a `traceparent`, as a traced publisher sends it.
async fn publish_traced(stage: &Stage, request: &Value, traceparent: &str) {
    let mut headers = lapin::types::FieldTable::default();
    let value = lapin::types::AMQPValue::LongString(traceparent.into());
    headers.insert("traceparent".into(), value);
    let message = Outgoing {
        properties: persistent_json().with_headers(headers),
        ..Outgoing::request(&stage.names, request)
    };
    let fate = stage.client().await.send(message).await;
    assert_eq!(fate, Published::Confirmed);
}

fn cancel_call(provider: &Recorder) -> Arrived {
    let calls = provider.arrived();
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls[0].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_trace_from_its_publisher_to_its_result() {
    let (collector, provider) = (Recorder::answering("{}"), Recorder::answering(CANCELLED));
    let stage = stage_at(&provider, "traced");
    let _worker = stage.worker_with(&exporting_to(&collector.url()));
    let mut results = stage.results().await;
    let request = request("midtrans", "success");
    publish_traced(&stage, &request, &format!("00-{TRACE}-{PUBLISHER}-01")).await;
    let id = request["request_id"].as_str().unwrap();
    let result = results.one(id, PATIENCE).await;
    let ours = || {
        let all = spans(&collector);
        let ours = all
            .into_iter()
            .filter(|span| hex::encode(&span.trace_id) == TRACE);
        ours.collect::<Vec<Span>>()
    };
    until("three steps are told", PATIENCE, || ours().len() >= 3).await;
    let ours = ours();
    let named = |name: &str| {
        let found = ours.iter().find(|span| span.name == name);
        found.unwrap_or_else(|| panic!("no {name} in {ours:?}"))
    };

    let intake = named(&format!("process {}", stage.names.requests_queue));
    assert_eq!(
        (intake.kind, hex::encode(&intake.parent_span_id)),
        (5, PUBLISHER.into())
    );
    assert_eq!(attribute(intake, "messaging.system"), "rabbitmq");
    assert_eq!(attribute(intake, "rescind.request_id"), id);
    assert_eq!(attribute(intake, "rescind.intake"), "new");

    let call = named("POST cancel");
    assert_eq!((call.kind, &call.parent_span_id), (3, &intake.span_id));
    assert_eq!(attribute(call, "http.request.method"), "POST");
    assert_eq!(attribute(call, "http.response.status_code"), "200");
    assert_eq!(attribute(call, "server.address"), "127.0.0.1");
    assert_eq!(attribute(call, "rescind.provider"), "midtrans");
    assert_eq!(attribute(call, "rescind.verdict"), "cancelled");
    assert_eq!(attribute(call, "rescind.attempt"), "1");

    let publication = named(&format!("publish {}", stage.names.results_exchange));
    assert_eq!(
        (publication.kind, &publication.parent_span_id),
        (4, &intake.span_id)
    );
    let message_id = result.message_id().unwrap();
    assert_eq!(attribute(publication, "messaging.message.id"), message_id);
    assert_eq!(attribute(publication, "messaging.operation.type"), "send");

    let passed = cancel_call(&provider);
    let expected = format!("00-{TRACE}-{}-01", hex::encode(&call.span_id));
    assert_eq!(passed.header("traceparent"), Some(expected.as_str()));
    let told = result.header("traceparent").expect("a traceparent");
    assert_eq!(
        told,
        format!("00-{TRACE}-{}-01", hex::encode(&intake.span_id))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_the_publishers_context_is_passed_on_as_it_came() {
    let provider = Recorder::answering(CANCELLED);
    let stage = stage_at(&provider, "untold");
    let worker = stage.worker();
    let mut results = stage.results().await;
    let request = request("midtrans", "success");
    let traceparent = format!("00-{TRACE}-{PUBLISHER}-00");
    publish_traced(&stage, &request, &traceparent).await;
    let id = request["request_id"].as_str().unwrap();
    let result = results.one(id, PATIENCE).await;
    assert_eq!(result.header("traceparent"), Some(traceparent.clone()));
    let passed = cancel_call(&provider);
    assert_eq!(passed.header("traceparent"), Some(traceparent.as_str()));
    let finished = worker
        .log_lines()
        .into_iter()
        .find(|l| l["message"] == "finished");
    let finished = finished.expect("it is logged");
    assert_eq!(finished["trace_id"], TRACE);
    assert_eq!(finished["request_id"], id);
    assert_eq!(finished["outcome"], "cancelled");
}

async fn carries_out(stage: &Stage, worker: &Worker) {
    let mut results = stage.results().await;
    let all: Vec<Value> = (0..50).map(|_| request("midtrans", "success")).collect();
    stage.client().await.confirm_all(&stage.names, &all).await;
    let ids = all.iter().map(crate::rig::checker::id);
    let found = results.about(ids, PATIENCE).await;
    assert_eq!(found.len(), all.len(), "{}", worker.log());
}

/// A collector that is not there, and one that takes connections and never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_fails_holds_nobody_up() {
    let closed = crate::rig::process::free_address();
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    for address in [closed, mute.local_addr().unwrap()] {
        let stage = Stage::new("mute");
        let endpoint = format!("http://{address}");
        let mut worker = stage.worker_with(&exporting_to(&endpoint));
        carries_out(&stage, &worker).await;
        let failed = "the collector does not take spans";
        if address == closed {
            until("it is said", PATIENCE, || worker.log().contains(failed)).await;
            // What comes later fails, too.
            carries_out(&stage, &worker).await;
        }
        worker.sigterm();
        // The stage's drain, and two seconds for the last spans.
        let ended = worker.wait(Duration::from_secs(5 + 2 + 3));
        let log = worker.log();
        assert!(ended.success(), "{ended}: {log}");
        assert!(log.matches(failed).count() <= 1, "said once: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_cannot_be_used_is_said_and_not_an_end() {
    let stage = Stage::new("grpc");
    let mut environment = exporting_to("http://127.0.0.1:4317").to_vec();
    environment.push(("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"));
    let worker = stage.worker_with(&environment);
    carries_out(&stage, &worker).await;
    assert!(
        worker.log().contains("only http/protobuf is spoken"),
        "{}",
        worker.log()
    );
}
