//! One run with a full queue: from the first result to the last.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::load::{Load, await_counted};
use crate::middle::median;
use crate::process::{Process, beside};

/// What a run took.
pub(crate) struct Drained {
    pub(crate) per_second: f64,
    /// Processor time of a request, in microseconds.
    pub(crate) cpu: f64,
    /// The same of broker and load meanwhile.
    pub(crate) beside: [f64; 2],
    /// Until the last result, with the start of the process.
    pub(crate) seconds: f64,
    /// Memory at the most, in megabytes.
    pub(crate) most_mb: f64,
}

/// Fills the queue, starts the process and waits for all results.
pub(crate) async fn drain(load: &Load, count: usize, start: impl FnOnce() -> Process) -> Drained {
    load.publish(load.ids(count)).await;
    drain_of(load, count, |_| true, start).await
}

/// Starts the process on a queue that is full and waits for so many results that count, by
/// their routing keys.
pub(crate) async fn drain_of(
    load: &Load,
    count: usize,
    counts: impl Fn(&str) -> bool,
    start: impl FnOnce() -> Process,
) -> Drained {
    settle();
    let mut results = load.results().await;
    let started = Instant::now();
    let before = beside();
    let process = start();
    let took = await_counted(&mut results, count, counts).await;
    let after = beside();
    let of_one = |n: usize| (after[n] - before[n]) / count as f64 * 1e6;
    let run = Drained {
        per_second: count as f64 / took.as_secs_f64(),
        cpu: process.cpu_seconds() / count as f64 * 1e6,
        beside: [of_one(0), of_one(1)],
        seconds: started.elapsed().as_secs_f64(),
        most_mb: process.megabytes("VmHWM"),
    };
    drop(process);
    run
}

/// What earlier runs left to be written is written now, and not during the next one.
pub(crate) fn settle() {
    assert!(Command::new("sync").status().unwrap().success());
    std::thread::sleep(Duration::from_millis(300));
}

impl Drained {
    pub(crate) fn print(&self, who: &str) {
        println!(
            "{who:<14} {:>8.0} requests/s {:>6.1} us CPU a request (broker {:.0}, load {:.0}) {:>4.0} MB at the most, {:.1} s with the start",
            self.per_second, self.cpu, self.beside[0], self.beside[1], self.most_mb, self.seconds
        );
    }
}

/// Requests a second of the middle run.
pub(crate) fn rate(runs: &[Drained]) -> f64 {
    median(runs.iter().map(|run| run.per_second))
}

/// Processor time of a request in the middle run.
pub(crate) fn cpu(runs: &[Drained]) -> f64 {
    median(runs.iter().map(|run| run.cpu))
}

/// The medians and every run.
pub(crate) fn figures(runs: &[Drained]) -> Value {
    let all = |what: fn(&Drained) -> f64| runs.iter().map(what).collect::<Vec<_>>();
    json!({
        "per_second": rate(runs),
        "cpu_us": cpu(runs),
        "runs": {
            "per_second": all(|run| run.per_second),
            "cpu_us": all(|run| run.cpu),
            "seconds": all(|run| run.seconds),
            "most_mb": all(|run| run.most_mb),
        },
    })
}
