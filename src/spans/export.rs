//! The way to the collector: OTLP over HTTP with protobuf, through the worker's own client.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::runtime::Handle;
use tracing::{info, warn};

/// Longest exchange with the collector; OTLP's own default.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Largest answer of a collector that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why no spans are exported.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("{0}")]
    Client(#[from] reqwest::Error),
    #[error("{0}")]
    Exporter(#[from] ExporterBuildError),
    #[error(
        "OTEL_EXPORTER_OTLP_PROTOCOL = {0:?}; only http/protobuf is spoken, mostly on port 4318"
    )]
    Protocol(String),
}

fn variable<'e>(environment: &'e [(String, String)], name: &str) -> Option<&'e str> {
    let found = environment.iter().find(|(key, _)| key == name);
    found
        .map(|(_, value)| value.as_str())
        .filter(|v| !v.is_empty())
}

/// The collector that OpenTelemetry's variables name.
pub(super) fn endpoint(environment: &[(String, String)]) -> Option<&str> {
    let is = |name, value: &str| {
        variable(environment, name).is_some_and(|found| found.eq_ignore_ascii_case(value))
    };
    if is("OTEL_SDK_DISABLED", "true") || is("OTEL_TRACES_EXPORTER", "none") {
        return None;
    }
    variable(environment, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
        .or_else(|| variable(environment, "OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// Queue, thread and exporter. Further variables (headers, sampler, sizes) the library reads.
pub(super) fn provider(
    environment: &[(String, String)],
    endpoint: &str,
) -> Result<SdkTracerProvider, Unusable> {
    let protocol = variable(environment, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        .or_else(|| variable(environment, "OTEL_EXPORTER_OTLP_PROTOCOL"));
    if let Some(other) = protocol.filter(|protocol| *protocol != "http/protobuf") {
        return Err(Unusable::Protocol(other.to_owned()));
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Sender::new(endpoint)?)
        .build()?;
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource(environment))
        .build())
}

/// The service is called `rescind`, unless the variables name it.
fn resource(environment: &[(String, String)]) -> Resource {
    let named = variable(environment, "OTEL_SERVICE_NAME").is_some()
        || variable(environment, "OTEL_RESOURCE_ATTRIBUTES")
            .is_some_and(|attributes| attributes.contains("service.name="));
    let resource = Resource::builder();
    if named {
        resource.build()
    } else {
        resource.with_service_name("rescind").build()
    }
}

/// The exporter's thread has no runtime of its own: its requests run on the worker's.
#[derive(Debug)]
struct Sender {
    client: reqwest::Client,
    runtime: Handle,
    failing: AtomicBool,
}

impl Sender {
    fn new(endpoint: &str) -> Result<Self, reqwest::Error> {
        let mut builder = reqwest::Client::builder();
        if endpoint.starts_with("http://") {
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            client: builder
                .timeout(TIMEOUT)
                .redirect(reqwest::redirect::Policy::none())
                .no_proxy()
                .build()?,
            runtime: Handle::current(),
            failing: AtomicBool::new(false),
        })
    }

    /// Logs once that the export fails, and once that it works again.
    fn tell(&self, sent: &Result<Response<Bytes>, HttpError>) {
        let trouble = match sent {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("HTTP {}", answer.status())),
            Err(error) => Some(error.to_string()),
        };
        let failed = self.failing.swap(trouble.is_some(), Ordering::AcqRel);
        match trouble {
            Some(error) if !failed => {
                warn!(
                    error,
                    "the collector does not take spans; the worker goes on without"
                );
            }
            None if failed => info!("the collector takes spans again"),
            _ => {}
        }
    }
}

/// The signature that `async_trait` generates.
type Sending<'f> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>;

impl HttpClient for Sender {
    fn send_bytes<'s, 'f>(&'s self, request: Request<Bytes>) -> Sending<'f>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(async move {
            let client = self.client.clone();
            let sending = self
                .runtime
                .spawn(async move { send(client, request).await });
            let sent = match sending.await {
                Ok(sent) => sent,
                Err(stopped) => Err(stopped.into()),
            };
            self.tell(&sent);
            sent
        })
    }
}

async fn send(
    client: reqwest::Client,
    request: Request<Bytes>,
) -> Result<Response<Bytes>, HttpError> {
    let request = reqwest::Request::try_from(request).map_err(reqwest::Error::without_url)?;
    let sent = client.execute(request).await;
    let mut answer = sent.map_err(reqwest::Error::without_url)?;
    let status = answer.status().as_u16();
    let mut body = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err("the collector's answer is too large".into());
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Response::builder().status(status).body(body.into())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_an_endpoint_nothing_is_told() {
        let given = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
            endpoint(&pairs.collect::<Vec<_>>()).map(str::to_owned)
        };
        let there = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert_eq!(given(&[]), None);
        assert_eq!(given(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]), None);
        assert_eq!(given(&[there]).as_deref(), Some("http://collector:4318"));
        assert_eq!(given(&[there, ("OTEL_SDK_DISABLED", "TRUE")]), None);
        assert_eq!(given(&[there, ("OTEL_TRACES_EXPORTER", "none")]), None);
    }

    #[test]
    fn a_protocol_that_is_not_spoken_is_named() {
        let asked = [("OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(), "grpc".to_owned())];
        let refused = provider(&asked, "http://collector:4317").unwrap_err();
        assert!(refused.to_string().contains("\"grpc\""), "{refused}");
    }
}
