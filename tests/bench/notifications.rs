//! What a flood of genuine notifications for unknown payments costs the requests beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::load::Load;
use crate::middle::{median, percentile, sorted};
use crate::pace::pace;
use crate::plan::Plan;
use crate::process::{Worker, free_address};
use crate::provider::{self, Answer};
use crate::report::Measured;

/// Requests a second.
const REQUESTS: usize = 200;
/// Notifications a second.
const RATE: usize = 1000;
/// Connections that they come on.
const SENDERS: usize = 20;

/// The latency of requests without them and with them, in turn. There is no aim.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let (mut quiet, mut flooded) = (Vec::new(), Vec::new());
    for _ in 0..plan.rounds.min(3) {
        quiet.push(run(plan, false).await);
        flooded.push(run(plan, true).await);
    }
    let ratio = median(flooded.iter().copied()) / median(quiet.iter().copied());
    println!("p99 of the requests times {ratio:.2}");
    let figures = json!({
        "per_second": RATE, "quiet_p99_ms": quiet, "flooded_p99_ms": flooded, "p99_ratio": ratio,
    });
    let aims = Vec::new();
    Measured { aims, figures }
}

/// Milliseconds from publishing to the result, the 99th of a hundred.
async fn run(plan: &Plan, flood: bool) -> f64 {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, "notifications").await;
    let listen = free_address();
    let process = Worker::new(&load, &provider).at(listen).start();
    let taken = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..if flood { SENDERS } else { 0 })
        .map(|sender| tokio::spawn(send(listen, sender, Arc::clone(&taken))))
        .collect();
    let paced = pace(&load, REQUESTS, plan.seconds).await;
    senders.iter().for_each(|sender| sender.abort());
    drop(process);
    load.close().await;
    let millis = sorted(paced.times.values().map(|time| time.as_secs_f64() * 1000.0));
    let (p50, p99) = (percentile(&millis, 50.0), percentile(&millis, 99.0));
    let taken = taken.load(Ordering::Relaxed);
    println!("p50 {p50:>5.1} ms  p99 {p99:>5.1} ms   {taken:>6} notifications taken");
    p99
}

async fn send(listen: SocketAddr, sender: usize, taken: Arc<AtomicUsize>) {
    let mut stream = loop {
        match TcpStream::connect(listen).await {
            Ok(stream) => break stream,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    drop(stream.set_nodelay(true));
    let every = Duration::from_secs(1) * u32::try_from(SENDERS).unwrap();
    let mut ticks = tokio::time::interval(every / u32::try_from(RATE).unwrap());
    let mut answer = vec![0; 1024];
    for number in 0.. {
        ticks.tick().await;
        let request = request(&format!("unknown-{sender}-{number}"));
        stream.write_all(request.as_bytes()).await.unwrap();
        let read = stream.read(&mut answer).await.unwrap();
        if answer[..read].starts_with(b"HTTP/1.1 200") {
            taken.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Signed with the benchmark's server key.
fn request(order: &str) -> String {
    let signature = hex::encode(Sha512::digest(format!("{order}20010000.00bench")));
    let body = json!({
        "order_id": order, "status_code": "200", "gross_amount": "10000.00",
        "transaction_status": "settlement", "signature_key": signature,
    })
    .to_string();
    format!(
        "POST /notifications/midtrans HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}
