//! Requests at a steady rate, and the time from publishing each to seeing its result.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::Consumer;
use serde_json::Value;

use crate::load::{Load, await_results, spread};

/// What was seen.
pub(crate) struct Paced {
    /// By the name that the request and its order share.
    pub(crate) times: HashMap<String, Duration>,
    /// How late the latest request was published, against the clock.
    pub(crate) lag: Duration,
}

/// At a process that has just been started: the first second is not counted, in which
/// requests wait for the process and for its connections.
pub(crate) async fn pace(load: &Load, rate: usize, seconds: usize) -> Paced {
    let mut results = load.results().await;
    load.publish(load.ids(rate)).await;
    await_results(&mut results, rate).await;
    let count = rate * seconds;
    let ((sent, lag), seen) = tokio::join!(
        publish_steadily(load, rate, count),
        see(&mut results, count)
    );
    let times = sent
        .into_iter()
        .map(|(name, at)| {
            let seen = seen[&name];
            (name, seen.duration_since(at))
        })
        .collect();
    Paced { times, lag }
}

/// When each was published. Confirms are awaited at the end: waiting for each would make the
/// next one late.
async fn publish_steadily(
    load: &Load,
    rate: usize,
    count: usize,
) -> (Vec<(String, Instant)>, Duration) {
    let (mut sent, mut confirms) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut lag = Duration::ZERO;
    let start = Instant::now();
    for (number, id) in load.ids(count).enumerate() {
        let at = start + Duration::from_secs_f64(number as f64 / rate as f64);
        tokio::time::sleep_until(at.into()).await;
        let now = Instant::now();
        lag = lag.max(now - at);
        sent.push((spread(id), now));
        confirms.push(load.publish_one(id, "midtrans").await);
    }
    for confirm in confirms {
        confirm.await.unwrap();
    }
    (sent, lag)
}

/// When each result was seen.
async fn see(results: &mut Consumer, count: usize) -> HashMap<String, Instant> {
    let mut seen = HashMap::with_capacity(count);
    while seen.len() < count {
        let delivery = results.next().await.unwrap().unwrap();
        let at = Instant::now();
        seen.insert(name(&delivery.data), at);
    }
    seen
}

/// The worker's results have the request's id; the relay passes on what the provider said.
fn name(body: &[u8]) -> String {
    let result: Value = serde_json::from_slice(body).unwrap();
    let id = result.get("request_id").or(result.get("order_id"));
    let (_, name) = id.unwrap().as_str().unwrap().split_once('-').unwrap();
    name.to_owned()
}
