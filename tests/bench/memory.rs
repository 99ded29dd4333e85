//! Memory of a worker while very many requests wait, after some load and a few scrapes.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::drain::settle;
use crate::load::{Load, await_results};
use crate::plan::Plan;
use crate::process::free_address;
use crate::provider::{self, Answer};
use crate::report::{Aim, Measured, thousands};

/// Resident megabytes at the most.
pub(crate) async fn measure(plan: &Plan) -> Measured {
    let large = plan.large(plan.rows).await;
    let large = large.as_ref().unwrap();
    let provider = provider::start(Answer::Cancelled).await;
    let load = Load::new(&plan.amqp, "memory").await;
    let listen = free_address();
    load.publish(load.ids(plan.requests)).await;
    settle();
    let mut results = load.results().await;
    let process = large.worker(&load, &provider).at(listen).start();
    await_results(&mut results, plan.requests).await;
    let mut scrapes = Vec::new();
    for _ in 0..3 {
        scrapes.push(scrape(listen).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let kinds = ["VmRSS", "VmHWM", "RssAnon", "RssFile", "RssShmem"];
    let [now, most, anonymous, file, together] = kinds.map(|kind| process.megabytes(kind));
    println!(
        "{now:.0} MB, at the most {most:.0} MB; {anonymous:.0} MB of it allocated, {file:.0} MB of files, {together:.0} MB shared; scrapes of {scrapes:.0?} ms"
    );
    drop(process);
    load.close().await;
    let figures = json!({
        "waiting": plan.rows, "served": plan.requests, "resident_mb": now, "most_mb": most,
        "anonymous_mb": anonymous, "file_mb": file, "shared_mb": together, "scrapes_ms": scrapes,
    });
    let rows = thousands(plan.rows);
    let what = format!("memory with {rows} waiting requests, at the most");
    let aims = vec![Aim::at_most(&what, most, 100.0, "MB")];
    Measured { aims, figures }
}

/// Milliseconds until the metrics were there.
async fn scrape(listen: std::net::SocketAddr) -> f64 {
    let started = Instant::now();
    let mut stream = TcpStream::connect(listen).await.unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    started.elapsed().as_secs_f64() * 1000.0
}
