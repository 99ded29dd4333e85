//! The benchmark: the real worker beside a bare relay that keeps nothing, in one run.
//!
//! `make bench` starts a private RabbitMQ and a private PostgreSQL and gives their URLs in
//! `AMQP_URL` and `DATABASE_URL`. Figures are ratios where they can be: machines differ and
//! are noisy, the relay runs in the same minute.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a benchmark that cannot go on stops, and measures by the clock"
)]

mod burst;
mod database;
mod drain;
mod hanging;
mod large;
mod latency;
mod load;
mod machine;
mod memory;
mod middle;
mod notifications;
mod pace;
mod plan;
mod process;
mod provider;
mod relay;
mod report;
mod restart;
mod retention;
mod size;
mod throughput;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::Instant;

use futures_util::FutureExt;

use crate::plan::Plan;
use crate::report::{Measured, Report};

type Measuring<'a> = Pin<Box<dyn Future<Output = Measured> + 'a>>;

/// A scenario: its name, what it measures, how.
struct Scenario {
    name: &'static str,
    about: &'static str,
    measure: for<'a> fn(&'a Plan) -> Measuring<'a>,
}

macro_rules! scenarios {
    ($($name:ident $about:literal)*) => {
        &[$(Scenario {
            name: stringify!($name),
            about: $about,
            measure: |plan| Box::pin($name::measure(plan)),
        }),*]
    };
}

/// In this order: the large ledger is filled once, and retention takes it apart.
const SCENARIOS: &[Scenario] = scenarios! {
    throughput "a full queue: relay, worker on SQLite, worker on PostgreSQL"
    latency "what is added to the provider's own time, 500 requests a second"
    notifications "latency beside a flood of notifications for unknown payments"
    hanging "one provider of six never answers: throughput of the others"
    burst "memory while a queue with very many requests drains"
    size "throughput on a ledger with very many rows"
    memory "memory while very many requests wait"
    restart "from the start to the first result while very many requests wait"
    retention "throughput while very many old rows are removed"
};

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
        let at_once = arguments[4].parse().unwrap();
        return runtime.block_on(relay::run(
            &arguments[1],
            &arguments[2],
            &arguments[3],
            at_once,
        ));
    }
    let chosen = chosen(&arguments);
    let plan = Plan::new(arguments.iter().any(|argument| argument == "--quick"));
    let report = runtime.block_on(run(&chosen, &plan));
    plan.clear();
    report.print();
    report.save();
    if report.is_broken() {
        std::process::exit(1);
    }
}

/// One scenario that breaks off does not cost the figures of the others.
async fn run(chosen: &[&Scenario], plan: &Plan) -> Report {
    let mut report = Report::new(plan);
    for scenario in chosen {
        println!("\n{}: {}", scenario.name, scenario.about);
        let started = Instant::now();
        let measuring = AssertUnwindSafe((scenario.measure)(plan));
        match measuring.catch_unwind().await {
            Ok(measured) => report.add(scenario.name, measured),
            Err(_) => report.broke_off(scenario.name),
        }
        println!("({:.0} s)", started.elapsed().as_secs_f64());
    }
    report
}

/// The scenarios that were named, or all.
fn chosen(arguments: &[String]) -> Vec<&'static Scenario> {
    let known = |name: &String| SCENARIOS.iter().any(|scenario| scenario.name == name);
    let flags = ["--quick"];
    let (flags_given, names): (Vec<&String>, Vec<&String>) = arguments
        .iter()
        .partition(|argument| argument.starts_with('-'));
    let wrong_flag = flags_given
        .iter()
        .find(|flag| !flags.contains(&flag.as_str()));
    if let Some(wrong) = wrong_flag.or(names.iter().find(|name| !known(name))) {
        usage(wrong);
    }
    SCENARIOS
        .iter()
        .filter(|scenario| names.is_empty() || names.iter().any(|name| *name == scenario.name))
        .collect()
}

/// Says what there is and ends.
fn usage(argument: &str) -> ! {
    println!("make bench [ARGS=\"[--quick] [SCENARIO...]\"]\n");
    for scenario in SCENARIOS {
        println!("  {:<14} {}", scenario.name, scenario.about);
    }
    if argument == "--help" {
        std::process::exit(0);
    }
    println!("\nno such scenario or option: {argument}");
    std::process::exit(2)
}
