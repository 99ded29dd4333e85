//! Spans for OpenTelemetry: each step of a request, told to a collector if one is named.
//!
//! The names are those of the messaging and HTTP conventions. No address with its path and
//! nothing of a body, a header or a provider's answer goes into a span. Telling never holds
//! anybody up: spans wait in a queue of limited length, and what does not fit is dropped.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span};
use tracing::{info, warn};

use crate::outcome::Operation;
use crate::providers::Method;
use crate::wire::{self, Envelope, Header, Outgoing};

mod export;

/// Longest wait for the last spans when the worker ends.
const CLOSE: Duration = Duration::from_secs(2);

/// Tells a collector, or nobody.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<Exporting>);

#[derive(Debug, Clone)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A step under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Step(Option<Box<Span>>);

/// A call to a provider, as far as a span may know it.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Account.
    pub provider: &'a str,
    /// What for.
    pub operation: Operation,
    /// How.
    pub method: Method,
    /// Where to; of it only scheme, host and port are told.
    pub base_url: &'a str,
    /// How many cancels there were, this one included.
    pub attempt: u32,
}

impl Spans {
    /// Reads OpenTelemetry's own variables. Without an endpoint nothing is told; with one that
    /// cannot be used that is said, and the worker goes on.
    pub fn start(environment: &[(String, String)]) -> Self {
        let Some(endpoint) = export::endpoint(environment) else {
            return Self(None);
        };
        match export::provider(environment, endpoint) {
            Ok(provider) => {
                info!("spans are exported");
                let tracer = provider.tracer("rescind");
                Self(Some(Exporting { provider, tracer }))
            }
            Err(error) => {
                warn!(%error, "spans are not exported: OTEL_EXPORTER_OTLP_ENDPOINT or what stands beside it cannot be used");
                Self(None)
            }
        }
    }

    /// A request is taken in. What follows of it is below this step: its context replaces the
    /// publisher's in the envelope, which is stored with the request.
    pub fn intake(&self, queue: &str, envelope: &mut Envelope) -> Step {
        let Some(exporting) = &self.0 else {
            return Step(None);
        };
        let span = exporting.begin(
            SpanKind::Consumer,
            format!("process {queue}"),
            parent(
                envelope.traceparent.as_deref(),
                envelope.tracestate.as_deref(),
            ),
            vec![
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.operation.name", "process"),
                KeyValue::new("messaging.operation.type", "process"),
                KeyValue::new("messaging.destination.name", queue.to_owned()),
                KeyValue::new("messaging.message.body.size", size(&envelope.body)),
            ],
        );
        envelope.traceparent = Some(traceparent(&span));
        Step(Some(Box::new(span)))
    }

    /// A call to a provider, below what the request's envelope says.
    pub fn call(&self, envelope: &Envelope, call: &Call<'_>) -> Step {
        let Some(exporting) = &self.0 else {
            return Step(None);
        };
        let method = method(call.method);
        let operation = call.operation.as_str();
        let mut attributes = vec![
            KeyValue::new("http.request.method", method),
            KeyValue::new("rescind.provider", call.provider.to_owned()),
            KeyValue::new("rescind.operation", operation),
            KeyValue::new("rescind.attempt", i64::from(call.attempt)),
        ];
        if let Ok(url) = url::Url::parse(call.base_url) {
            let host = url.host_str().unwrap_or_default().to_owned();
            let port = url.port_or_known_default().unwrap_or_default();
            attributes.push(KeyValue::new("url.scheme", url.scheme().to_owned()));
            attributes.push(KeyValue::new("server.address", host));
            attributes.push(KeyValue::new("server.port", i64::from(port)));
        }
        let parent = parent(
            envelope.traceparent.as_deref(),
            envelope.tracestate.as_deref(),
        );
        let name = format!("{method} {operation}");
        let span = exporting.begin(SpanKind::Client, name, parent, attributes);
        Step(Some(Box::new(span)))
    }

    /// One publication of a message of ours.
    pub fn publication(&self, exchange: &str, message: &Outgoing) -> Step {
        let Some(exporting) = &self.0 else {
            return Step(None);
        };
        let header = |name: &str| match message.properties.headers.get(name) {
            Some(Header::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let span = exporting.begin(
            SpanKind::Producer,
            format!("publish {exchange}"),
            parent(header("traceparent"), header("tracestate")),
            vec![
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.operation.name", "publish"),
                KeyValue::new("messaging.operation.type", "send"),
                KeyValue::new("messaging.destination.name", exchange.to_owned()),
                KeyValue::new(
                    "messaging.rabbitmq.destination.routing_key",
                    message.routing_key.clone(),
                ),
                KeyValue::new("messaging.message.id", message.id.to_string()),
                KeyValue::new("messaging.message.body.size", size(&message.body)),
            ],
        );
        Step(Some(Box::new(span)))
    }

    /// Sends what is left, but not for long.
    pub async fn close(&self) {
        let Some(exporting) = &self.0 else { return };
        let provider = exporting.provider.clone();
        let closing = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(CLOSE));
        drop(tokio::time::timeout(CLOSE, closing).await);
    }
}

impl Exporting {
    fn begin(
        &self,
        kind: SpanKind,
        name: String,
        parent: Context,
        attributes: Vec<KeyValue>,
    ) -> Span {
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_attributes(attributes);
        self.tracer.build_with_context(builder, &parent)
    }
}

impl Step {
    /// The W3C header for whatever this step calls; without a collector there is no step, and
    /// the request's own context is passed on as it came.
    pub fn traceparent(&self, envelope: &Envelope) -> Option<String> {
        match &self.0 {
            Some(span) => Some(traceparent(span)),
            None => envelope
                .traceparent
                .clone()
                .filter(|text| wire::is_traceparent(text)),
        }
    }

    /// Adds what became known: a word of ours, or a number.
    pub fn says(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Adds a name or an id.
    pub fn names(&mut self, key: &'static str, text: &str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, text.to_owned()));
        }
    }

    /// The step did not come to what it was for; `why` is one of a few words.
    pub fn failed(&mut self, why: &'static str) {
        self.says("error.type", why);
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(why));
        }
    }
}

fn parent(traceparent: Option<&str>, tracestate: Option<&str>) -> Context {
    let headers = [("traceparent", traceparent), ("tracestate", tracestate)];
    let headers: HashMap<String, String> = headers
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    TraceContextPropagator::new().extract_with_context(&Context::new(), &headers)
}

fn traceparent(span: &Span) -> String {
    let context = span.span_context();
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "GET",
        Method::Post => "POST",
        Method::Put => "PUT",
    }
}

fn size(body: &[u8]) -> i64 {
    i64::try_from(body.len()).unwrap_or(i64::MAX)
}
