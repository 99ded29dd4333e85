//! The gauges of an account's gate: looked up once, since they are set at every call.

use prometheus::IntGauge;

use super::Metrics;

/// Calls in flight and the breaker of one account.
pub struct GateGauges {
    in_flight: IntGauge,
    breaker_open: IntGauge,
}

impl GateGauges {
    /// A call begins.
    pub fn begun(&self) {
        self.in_flight.inc();
    }

    /// It is over.
    pub fn ended(&self) {
        self.in_flight.dec();
    }

    /// The breaker as it is now.
    pub fn breaker(&self, open: bool) {
        self.breaker_open.set(open.into());
    }
}

impl Metrics {
    /// The gauges of one account's gate; sets its limit.
    pub fn gate(&self, provider: &str, limit: u32) -> GateGauges {
        self.in_flight_limit
            .with_label_values(&[provider])
            .set(limit.into());
        GateGauges {
            in_flight: self.in_flight.with_label_values(&[provider]),
            breaker_open: self.breaker_open.with_label_values(&[provider]),
        }
    }
}
