//! The benchmark: the real worker beside a bare relay that keeps nothing, in one run.
//!
//! `make bench` starts a private RabbitMQ and gives its URL in `AMQP_URL`. Figures are
//! ratios: machines differ and are noisy, the relay runs in the same minute.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on stops, and measures by the clock"
)]

mod latency;
mod load;
mod memory;
mod notifications;
mod process;
mod provider;
mod relay;
mod throughput;

use serde_json::{Value, json};

/// Sizes of a run; `--quick` divides them.
pub(crate) struct Plan {
    pub(crate) url: String,
    pub(crate) requests: usize,
    pub(crate) rounds: usize,
    pub(crate) waiting: usize,
    pub(crate) seconds: usize,
}

fn main() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    if arguments.first().is_some_and(|first| first == "relay") {
        return runtime.block_on(relay::run(&arguments[1], &arguments[2], &arguments[3]));
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let only = arguments
        .iter()
        .find(|argument| !argument.starts_with("--"));
    let plan = Plan {
        url: std::env::var("AMQP_URL").expect("AMQP_URL names a RabbitMQ of the benchmark's own"),
        requests: if quick { 4_000 } else { 20_000 },
        rounds: if quick { 1 } else { 3 },
        waiting: if quick { 10_000 } else { 100_000 },
        seconds: if quick { 5 } else { 20 },
    };
    let mut report = serde_json::Map::new();
    let wanted = |name: &str| only.is_none_or(|only| only == name);
    if wanted("throughput") {
        report.insert(
            "throughput".into(),
            runtime.block_on(throughput::measure(&plan)),
        );
    }
    if wanted("latency") {
        report.insert("latency".into(), runtime.block_on(latency::measure(&plan)));
    }
    if wanted("notifications") {
        report.insert(
            "notifications".into(),
            runtime.block_on(notifications::measure(&plan)),
        );
    }
    if wanted("memory") {
        report.insert("memory".into(), runtime.block_on(memory::measure(&plan)));
    }
    save(&Value::Object(report));
}

fn save(report: &Value) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.json");
    let written = json!({ "cores": std::thread::available_parallelism().map_or(0, usize::from), "report": report });
    std::fs::write(path, serde_json::to_string_pretty(&written).unwrap()).unwrap();
    println!("\nwritten to target/bench.json");
}

/// The middle value.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
