//! Throughput while retention removes old rows, against the same process before it begins.
//!
//! A worker first looks for old rows a minute after its start. So each start gives runs of
//! both kinds: some in that minute, and as many once rows disappear.

use std::path::Path;
use std::time::{Duration, Instant};

use lapin::Consumer;
use serde_json::json;

use crate::drain::settle;
use crate::large::count;
use crate::load::{Load, await_results};
use crate::middle::median;
use crate::plan::Plan;
use crate::process::Process;
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured};

/// Every finished row of the large ledger is older, none of this run.
const RETENTION: (&str, &str) = ("RESCIND_LEDGER__RETENTION", "1d");
/// When a worker begins to remove, after its start.
const BEGINS: Duration = Duration::from_secs(60);

struct Window {
    per_second: f64,
    /// Old rows that disappeared meanwhile.
    removed: usize,
}

/// Three runs of each kind for each start of the worker.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let large = plan.large(plan.rows).await;
    let large = large.as_ref().unwrap();
    let (mut before, mut during) = (Vec::new(), Vec::new());
    for _ in 0..if plan.quick { 1 } else { 2 } {
        let provider = provider::start(Answer::Cancelled).await;
        let load = Load::new(&plan.amqp, "retention").await;
        let (name, value) = RETENTION;
        settle();
        let process = large.worker(&load, &provider).with(name, value).start();
        let mut test = Test {
            // Half as many as elsewhere: four runs have to fit into the first minute.
            requests: plan.requests / 2,
            results: load.results().await,
            load,
            process,
            ledger: large.path(),
        };
        // Not counted: the worker has just been started.
        test.window().await;
        let runs = if plan.quick { 1 } else { 3 };
        before.extend(test.windows(runs, "before").await);
        test.await_removing().await;
        during.extend(test.windows(runs, "removing").await);
        test.end().await;
    }
    measured(&before, &during)
}

fn measured(before: &[Window], during: &[Window]) -> Measured {
    let enough = !before.is_empty() && !during.is_empty();
    assert!(
        enough,
        "no run was all before it began, or all while it removed"
    );
    let rates = |windows: &[Window]| windows.iter().map(|w| w.per_second).collect::<Vec<_>>();
    let removed = |windows: &[Window]| windows.iter().map(|w| w.removed).collect::<Vec<_>>();
    let (quiet, busy) = (median(rates(before)), median(rates(during)));
    let what = "throughput while retention removes rows, of what it was";
    let aims = vec![Aim::at_least(what, busy / quiet, 0.9)];
    let figures = json!({
        "per_second": quiet, "removing_per_second": busy,
        "runs": {
            "before": rates(before), "removing": rates(during), "removed": removed(during),
        },
    });
    Measured { aims, figures }
}

/// A worker that runs, and what it is measured with.
struct Test<'a> {
    requests: usize,
    load: Load,
    process: Process,
    results: Consumer,
    ledger: &'a Path,
}

impl Test<'_> {
    async fn windows(&mut self, runs: usize, what: &str) -> Vec<Window> {
        let mut windows = Vec::new();
        for _ in 0..runs {
            let window = self.window().await;
            let left = self.old();
            println!(
                "{what:<9} {:>8.0} requests/s, {} rows removed meanwhile, {left} left",
                window.per_second, window.removed,
            );
            match what {
                "before" if window.removed > 0 => println!("not counted: it had begun"),
                "removing" if left == 0 => println!("not counted: it came to its end"),
                _ => windows.push(window),
            }
        }
        windows
    }

    /// The worker is held still while the queue is filled.
    async fn window(&mut self) -> Window {
        self.process.pause();
        self.load.publish(self.load.ids(self.requests)).await;
        settle();
        let old = self.old();
        self.process.resume();
        let took = await_results(&mut self.results, self.requests).await;
        Window {
            per_second: self.requests as f64 / took.as_secs_f64(),
            removed: old - self.old(),
        }
    }

    /// Rows that retention has to remove.
    fn old(&self) -> usize {
        let now = jiff::Timestamp::now().as_millisecond();
        count(self.ledger, &format!("finished_at < {}", now - 86_400_000))
    }

    async fn await_removing(&self) {
        let all = self.old();
        let started = Instant::now();
        while self.old() == all {
            assert!(started.elapsed() < 2 * BEGINS, "nothing is removed");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn end(self) {
        drop(self.process);
        self.load.close().await;
    }
}
