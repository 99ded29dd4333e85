//! Figures from the ledger: how soon lost work went on, how soon doubt was resolved.

use std::collections::BTreeMap;

use crate::scene::Scene;

/// One call as the ledger has it. Times are milliseconds since the epoch.
struct Call {
    request: i64,
    provider: String,
    operation: String,
    started_at: i64,
    finished_at: Option<i64>,
    verdict: String,
    request_finished_at: Option<i64>,
}

/// Times in milliseconds, in order.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<i64>);

impl Times {
    fn new(mut times: Vec<i64>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The share of a hundred that took no longer.
    pub(crate) fn percentile(&self, share: usize) -> i64 {
        let at = (self.0.len() * share).div_ceil(100).max(1) - 1;
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(crate) fn max(&self) -> i64 {
        self.0.last().copied().unwrap_or(0)
    }
}

/// What the calls tell.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) calls: usize,
    /// Calls whose end nobody noted.
    pub(crate) lost_calls: usize,
    /// From the end of a worker to the next call, or the end, of what it left behind.
    pub(crate) resumed: Times,
    /// From the first doubt to the result, where the provider can be asked.
    pub(crate) resolved: Times,
}

/// Reads them.
pub(crate) fn figures(scene: &Scene) -> Figures {
    let calls = calls(scene);
    let mut by_request: BTreeMap<i64, Vec<&Call>> = BTreeMap::new();
    for call in &calls {
        by_request.entry(call.request).or_default().push(call);
    }
    let mut losses = scene.losses.clone();
    losses.sort_unstable();
    let resumed = by_request
        .values()
        .flat_map(|calls| resumed(calls, &losses));
    let resolved = by_request.values().filter_map(|calls| resolved(calls));
    Figures {
        calls: calls.len(),
        lost_calls: calls
            .iter()
            .filter(|call| call.finished_at.is_none())
            .count(),
        resumed: Times::new(resumed.collect()),
        resolved: Times::new(resolved.collect()),
    }
}

fn calls(scene: &Scene) -> Vec<Call> {
    let sql = "SELECT c.request, r.provider, c.operation, c.started_at, c.finished_at, \
               coalesce(c.verdict, ''), r.finished_at \
               FROM calls c JOIN requests r ON r.seq = c.request ORDER BY c.request, c.number";
    let number = |text: &str| text.parse::<i64>().ok();
    let rows = scene.query(sql).into_iter();
    rows.map(|row| Call {
        request: number(&row[0]).expect("a number"),
        provider: row[1].clone(),
        operation: row[2].clone(),
        started_at: number(&row[3]).expect("a time"),
        finished_at: number(&row[4]),
        verdict: row[5].clone(),
        request_finished_at: number(&row[6]),
    })
    .collect()
}

/// For each call without an end: how long after the loss of its worker the request went on.
fn resumed(calls: &[&Call], losses: &[i64]) -> Vec<i64> {
    let lost = calls.iter().enumerate();
    lost.filter(|(_, call)| call.finished_at.is_none())
        .filter_map(|(n, call)| {
            let next = calls.get(n + 1).map(|next| next.started_at);
            let on = next.or(call.request_finished_at)?;
            // The last loss before it went on is the one that it went on after.
            let lost = losses.iter().find(|loss| **loss >= call.started_at)?;
            (*lost <= on).then_some(on - lost)
        })
        .collect()
}

fn resolved(calls: &[&Call]) -> Option<i64> {
    let doubtful = |call: &&&Call| {
        call.operation == "cancel" && (call.verdict == "doubt" || call.finished_at.is_none())
    };
    let first = calls.iter().find(doubtful)?;
    let asked = !matches!(first.provider.as_str(), "migo" | "pismo");
    let since = first.finished_at.unwrap_or(first.started_at);
    let end = first.request_finished_at?;
    asked.then_some(end - since)
}
