//! What a flood of genuine notifications for unknown payments costs the requests beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest, Sha512};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Plan;
use crate::latency;
use crate::load::{Load, Names};
use crate::process::Process;
use crate::provider::{self, Answer};

/// Notifications a second.
const RATE: usize = 1000;
/// Connections that they come on.
const SENDERS: usize = 20;

/// The latency of requests without them and with them, one after the other.
pub(crate) async fn measure(plan: &Plan) -> Value {
    let quiet = run(plan, false).await.0;
    let (flooded, taken) = run(plan, true).await;
    let p99 = |measured: &Value| measured["p99_ms"].as_f64().unwrap();
    let ratio = p99(&flooded) / p99(&quiet);
    println!("{taken} notifications taken; p99 of the requests times {ratio:.2}");
    json!({ "per_second": RATE, "taken": taken, "quiet": quiet, "flooded": flooded, "p99_ratio": ratio })
}

async fn run(plan: &Plan, flood: bool) -> (Value, usize) {
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.url, Names::new("notifications")).await;
    let listen = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap()
    };
    let process = Process::worker_at(&plan.url, load.names(), provider, listen);
    let taken = Arc::new(AtomicUsize::new(0));
    let senders: Vec<_> = (0..if flood { SENDERS } else { 0 })
        .map(|sender| tokio::spawn(send(listen, sender, Arc::clone(&taken))))
        .collect();
    let measured = latency::run(plan, &load).await;
    senders.iter().for_each(|sender| sender.abort());
    drop(process);
    (measured, taken.load(Ordering::Relaxed))
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
    let hash = Sha512::digest(format!("{order}20010000.00bench"));
    let signature: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
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
