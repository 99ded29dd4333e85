//! Spans for OpenTelemetry: each step of a request, exported to a collector if one is configured.
//!
//! The names are those of the messaging and HTTP conventions. No address with its path and
//! nothing of a body, a header or a provider's answer goes into a span. The export never delays a
//! request: spans wait in a queue of limited length, and those that do not fit are dropped.

use std::collections::HashMap;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    Span as _, SpanBuilder, SpanKind, Status, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, Span as SdkSpan};
use tracing::{info, warn};

use crate::asking::Method;
use crate::outcome::Operation;
use crate::wire::{self, Envelope, Header, Outgoing};

mod export;

/// Longest wait for the last spans when the worker ends.
const CLOSE: Duration = Duration::from_secs(2);

/// Exports spans to a collector, or nowhere.
#[derive(Debug, Clone, Default)]
pub struct Spans(Option<Exporting>);

#[derive(Debug, Clone)]
struct Exporting {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A span, if a collector is told; it ends when this is dropped.
#[derive(Debug)]
pub struct Span(Option<Box<SdkSpan>>);

/// The facts about a call to a provider that a span may hold.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Account.
    pub provider: &'a str,
    /// What for.
    pub operation: Operation,
    /// How.
    pub method: Method,
    /// Where to; only its scheme, host and port are exported.
    pub base_url: &'a str,
    /// How many cancels there were, this one included.
    pub attempt: u32,
}

impl Spans {
    /// Reads OpenTelemetry's own variables. Without an endpoint nothing is exported; one that cannot be
    /// used is logged, and the worker goes on.
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

    /// A request is taken in. The later spans of the request are below this one: its context replaces
    /// the publisher's in the envelope, which is stored with the request.
    pub fn intake(&self, queue: &str, envelope: &mut Envelope) -> Span {
        let Some(exporting) = &self.0 else {
            return Span(None);
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
        Span(Some(Box::new(span)))
    }

    /// A call to a provider, below the context in the request's envelope.
    pub fn call(&self, envelope: &Envelope, call: &Call<'_>) -> Span {
        let Some(exporting) = &self.0 else {
            return Span(None);
        };
        let method = call.method.as_str();
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
        Span(Some(Box::new(span)))
    }

    /// One publication of a message of ours.
    pub fn publication(&self, exchange: &str, message: &Outgoing) -> Span {
        let Some(exporting) = &self.0 else {
            return Span(None);
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
        Span(Some(Box::new(span)))
    }

    /// Sends the spans that are left, but not for long.
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
    ) -> SdkSpan {
        let builder = SpanBuilder::from_name(name)
            .with_kind(kind)
            .with_attributes(attributes);
        self.tracer.build_with_context(builder, &parent)
    }
}

impl Span {
    /// The W3C header for a call within this span. Without a collector there is no span, and the
    /// request's own context is passed on as it came.
    pub fn traceparent(&self, envelope: &Envelope) -> Option<String> {
        match &self.0 {
            Some(span) => Some(traceparent(span)),
            None => envelope
                .traceparent
                .clone()
                .filter(|text| wire::is_traceparent(text)),
        }
    }

    /// Adds an attribute: a word of ours, or a number.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, value));
        }
    }

    /// Adds a name or an id.
    pub fn set_text(&mut self, key: &'static str, text: &str) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(key, text.to_owned()));
        }
    }

    /// The span's purpose was not achieved; `why` is one of a few words.
    pub fn fail(&mut self, why: &'static str) {
        self.set("error.type", why);
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

fn traceparent(span: &SdkSpan) -> String {
    let context = span.span_context();
    format!(
        "00-{}-{}-{:02x}",
        context.trace_id(),
        context.span_id(),
        context.trace_flags().to_u8()
    )
}

fn size(body: &[u8]) -> i64 {
    i64::try_from(body.len()).unwrap_or(i64::MAX)
}
