//! Every metric, declared once; names and labels are a public contract.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::job::UNKNOWN_PROVIDER;
use crate::ledger::{Action, Stats};
use crate::outcome::{Cause, Outcome};
use crate::wire::{Kind, Receipt};

mod gate;
mod labels;
mod ledger;

pub use gate::GateGauges;
pub use labels::{Notified, Received};
use labels::{operations, verdicts};
use ledger::LedgerMetrics;

const CALL_BUCKETS: &[f64] = &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
const END_TO_END_BUCKETS: &[f64] = &[
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 3600.0, 14400.0, 86400.0,
];
const COMMIT_BUCKETS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
];
const BATCH_BUCKETS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// All metrics of a worker.
pub struct Metrics {
    registry: Registry,
    providers: Vec<String>,
    received: IntCounterVec,
    cancellations: IntCounterVec,
    corrections: IntCounterVec,
    calls: IntCounterVec,
    call_seconds: HistogramVec,
    end_to_end_seconds: HistogramVec,
    retries_scheduled: IntCounterVec,
    notifications: IntCounterVec,
    ledger: LedgerMetrics,
    publishes: IntCounterVec,
    breaker_open: IntGaugeVec,
    in_flight: IntGaugeVec,
    in_flight_limit: IntGaugeVec,
    broker_connected: IntGauge,
    broker_reconnects: IntCounter,
    ledger_commit_seconds: Histogram,
    ledger_batch_operations: Histogram,
    held: IntGauge,
    draining: IntGauge,
}

/// Registers what it builds.
struct Builder(Registry);

impl Builder {
    fn add<C: Collector + Clone + 'static>(
        &self,
        made: prometheus::Result<C>,
    ) -> prometheus::Result<C> {
        let collector = made?;
        self.0.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.add(IntGauge::new(name, help))
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
        buckets: &[f64],
    ) -> prometheus::Result<HistogramVec> {
        self.add(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
            labels,
        ))
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> prometheus::Result<Histogram> {
        self.add(Histogram::with_opts(
            HistogramOpts::new(name, help).buckets(buckets.to_vec()),
        ))
    }
}

impl Metrics {
    /// Declares everything; every series of a configured provider exists at 0, since an
    /// alert on an increase would miss the first event otherwise.
    pub fn new(providers: &[String], revision: &str) -> prometheus::Result<Self> {
        let b = Builder(Registry::new());
        let build = b.gauges(
            "rescind_build_info",
            "Version of the binary.",
            &["version", "revision"],
        )?;
        build
            .with_label_values(&[env!("CARGO_PKG_VERSION"), revision])
            .set(1);
        b.0.register(Box::new(ProcessCollector::for_self()))?;
        let metrics = Self {
            received: b.counters(
                "rescind_requests_received_total",
                "Messages taken in.",
                &["kind"],
            )?,
            cancellations: b.counters(
                "rescind_cancellations_total",
                "Results, once per request.",
                &["provider", "outcome"],
            )?,
            corrections: b.counters(
                "rescind_corrections_total",
                "Findings that contradict a published result.",
                &["provider", "outcome"],
            )?,
            calls: b.counters(
                "rescind_provider_calls_total",
                "Calls to providers, sent or not; one repeated with a new token counts once.",
                &["provider", "operation", "verdict"],
            )?,
            call_seconds: b.histograms(
                "rescind_provider_call_seconds",
                "Duration of calls to providers.",
                &["provider", "operation"],
                CALL_BUCKETS,
            )?,
            end_to_end_seconds: b.histograms(
                "rescind_end_to_end_seconds",
                "From a request taken in to its result confirmed by the broker.",
                &["provider", "outcome"],
                END_TO_END_BUCKETS,
            )?,
            retries_scheduled: b.counters(
                "rescind_retries_scheduled_total",
                "Calls put off to a later time, by cause; breaker_open: openings of the breaker, each of which puts off all calls.",
                &["provider", "cause"],
            )?,
            notifications: b.counters(
                "rescind_notifications_total",
                "Provider notifications, by what became of them.",
                &["provider", "verdict"],
            )?,
            ledger: LedgerMetrics::new(&b)?,
            publishes: b.counters(
                "rescind_publishes_total",
                "Publications.",
                &["kind", "status"],
            )?,
            breaker_open: b.gauges(
                "rescind_breaker_open",
                "1 while the circuit breaker is open.",
                &["provider"],
            )?,
            in_flight: b.gauges("rescind_in_flight", "Calls in flight.", &["provider"])?,
            in_flight_limit: b.gauges(
                "rescind_in_flight_limit",
                "Most calls in flight.",
                &["provider"],
            )?,
            broker_connected: b.gauge("rescind_broker_connected", "1: consumes and publishes.")?,
            broker_reconnects: b.add(IntCounter::new(
                "rescind_broker_reconnects_total",
                "Connections to the broker made again.",
            ))?,
            ledger_commit_seconds: b.histogram(
                "rescind_ledger_commit_seconds",
                "Duration of commits of the ledger.",
                COMMIT_BUCKETS,
            )?,
            ledger_batch_operations: b.histogram(
                "rescind_ledger_batch_operations",
                "Operations in one commit of the ledger.",
                BATCH_BUCKETS,
            )?,
            held: b.gauge(
                "rescind_held",
                "1 while too much waits for the broker, so that nothing is taken in or begun.",
            )?,
            draining: b.gauge("rescind_draining", "1 while the worker is stopping.")?,
            providers: providers.to_vec(),
            registry: b.0,
        };
        metrics.start_at_zero();
        Ok(metrics)
    }

    fn start_at_zero(&self) {
        for kind in Received::ALL {
            self.received.with_label_values(&[kind.as_str()]);
        }
        for (kind, status) in Kind::ALL
            .iter()
            .flat_map(|kind| Receipt::ALL.iter().map(move |status| (kind, status)))
        {
            self.publishes
                .with_label_values(&[kind.as_str(), status.as_str()]);
        }
        for action in Action::CLOSING {
            self.ledger.closed(action.as_str(), 0);
        }
        self.cancellations
            .with_label_values(&[UNKNOWN_PROVIDER, "invalid"]);
        self.providers
            .iter()
            .for_each(|provider| self.start_provider(provider));
        self.stats(&Stats::default());
    }

    fn start_provider(&self, provider: &str) {
        for outcome in Outcome::NAMES {
            self.cancellations.with_label_values(&[provider, outcome]);
            self.corrections.with_label_values(&[provider, outcome]);
            self.end_to_end_seconds
                .with_label_values(&[provider, outcome]);
        }
        for operation in operations() {
            self.call_seconds.with_label_values(&[provider, operation]);
            for verdict in verdicts() {
                self.calls
                    .with_label_values(&[provider, operation, verdict]);
            }
        }
        for cause in Cause::ALL {
            self.retries_scheduled
                .with_label_values(&[provider, cause.as_str()]);
        }
        for verdict in Notified::ALL {
            self.notifications
                .with_label_values(&[provider, verdict.as_str()]);
        }
        self.breaker_open.with_label_values(&[provider]);
        self.in_flight.with_label_values(&[provider]);
        self.in_flight_limit.with_label_values(&[provider]);
    }

    /// The provider's label: only configured accounts have one, so that no publisher can
    /// make series.
    fn label<'a>(&self, provider: &'a str) -> &'a str {
        if self.providers.iter().any(|known| known == provider) {
            provider
        } else {
            UNKNOWN_PROVIDER
        }
    }

    /// A message was taken in.
    pub fn received(&self, kind: Received) {
        self.received.with_label_values(&[kind.as_str()]).inc();
    }

    /// A request has its result.
    pub fn finished(&self, provider: &str, outcome: Outcome) {
        self.cancellations
            .with_label_values(&[self.label(provider), outcome.as_str()])
            .inc();
    }

    /// A finding contradicts what was published.
    pub fn corrected(&self, provider: &str, outcome: Outcome) {
        self.corrections
            .with_label_values(&[self.label(provider), outcome.as_str()])
            .inc();
    }

    /// What became of a notification.
    pub fn notified(&self, provider: &str, verdict: Notified) {
        self.notifications
            .with_label_values(&[self.label(provider), verdict.as_str()])
            .inc();
    }

    /// A call ended, or was not sent.
    pub fn called(&self, provider: &str, operation: &str, verdict: &str, took: Duration) {
        self.calls
            .with_label_values(&[provider, operation, verdict])
            .inc();
        self.call_seconds
            .with_label_values(&[provider, operation])
            .observe(took.as_secs_f64());
    }

    /// A call was put off.
    pub fn scheduled(&self, provider: &str, cause: Cause) {
        self.retries_scheduled
            .with_label_values(&[provider, cause.as_str()])
            .inc();
    }

    /// A publication ended.
    pub fn publication(&self, kind: Kind, status: Receipt) {
        self.publishes
            .with_label_values(&[kind.as_str(), status.as_str()])
            .inc();
    }

    /// A result is in its queue for the first time.
    pub fn end_to_end(&self, provider: &str, outcome: &str, took: Duration) {
        let labels = [self.label(provider), outcome];
        self.end_to_end_seconds
            .with_label_values(&labels)
            .observe(took.as_secs_f64());
    }

    /// A commit of the ledger.
    pub fn committed(&self, seconds: f64, operations: usize) {
        self.ledger_commit_seconds.observe(seconds);
        self.ledger_batch_operations
            .observe(u32::try_from(operations).unwrap_or(u32::MAX).into());
    }

    /// Requests can be consumed and results published, or not.
    pub fn broker_connected(&self, connected: bool) {
        self.broker_connected.set(connected.into());
    }

    /// A connection is being made again.
    pub fn broker_reconnect(&self) {
        self.broker_reconnects.inc();
    }

    /// Too much waits for the broker, or not.
    pub fn held(&self, held: bool) {
        self.held.set(held.into());
    }

    /// The worker is stopping.
    pub fn draining(&self) {
        self.draining.set(1);
    }

    /// The text that Prometheus reads.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}
