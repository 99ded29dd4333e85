//! A token that the provider refuses, while there is no other one.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::PATIENCE;
use crate::rig::checker::endings;
use crate::rig::http;
use crate::rig::stage::{Stage, request};

/// Which of its calls a token endpoint does not answer: the one after the first refusal.
const OUT_OF_ORDER: usize = 1;

/// The simulator's token endpoint, at its worst moment. Where it is.
async fn token_endpoint(simulator: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for call in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            answer(stream, simulator, call == OUT_OF_ORDER).await;
        }
    });
    address
}

async fn answer(mut stream: TcpStream, simulator: SocketAddr, out_of_order: bool) {
    let (head, body) = read(&mut stream).await;
    let (status, body) = if out_of_order {
        (503, String::new())
    } else {
        tokio::task::spawn_blocking(move || pass_on(simulator, &head, &body))
            .await
            .unwrap()
    };
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 {status} Said\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
}

async fn read(stream: &mut TcpStream) -> (String, String) {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let size = stream.read(&mut bytes).await.unwrap();
        text.push_str(std::str::from_utf8(&bytes[..size]).unwrap());
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = header(head, "content-length").map_or(0, |length| length.parse().unwrap());
        if body.len() == length {
            return (head.to_owned(), body.to_owned());
        }
    }
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines
        .filter(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .next()
}

fn pass_on(simulator: SocketAddr, head: &str, body: &str) -> (u16, String) {
    let path = head.split(' ').nth(1).unwrap();
    let headers: Vec<(&str, &str)> = ["authorization", "content-type"]
        .into_iter()
        .filter_map(|name| Some((name, header(head, name)?)))
        .collect();
    http::post(simulator, path, &headers, body.as_bytes()).unwrap()
}

/// It has reached the provider: it is told as a call, and made again with the next token.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_refused_counts_also_where_there_is_no_other_token() {
    let mut stage = Stage::new("logins");
    let address = token_endpoint(stage.simulator.address()).await;
    stage.set(
        "providers.bento.oauth.token_url",
        format!("http://{address}/bento/oauth/token"),
    );
    let worker = stage.worker();
    let mut results = stage.results().await;
    let request: Value = request("bento", "wrong-token");
    stage.client().await.publish(&stage.names, &request).await;

    let ended = endings(&stage, &mut results, &[request], PATIENCE).await;
    let ending = &ended[0];
    assert_eq!(ending.result["outcome"], "cancelled", "{ending:#?}");
    assert_eq!(ending.result["attempts"], 2, "{ending:#?}");
    assert_eq!(ending.money.effects.len(), 1, "{ending:#?}");
    let counted = |operation, verdict| {
        let labels = [("operation", operation), ("verdict", verdict)];
        worker.metric("rescind_provider_calls_total", &labels)
    };
    assert_eq!(counted("cancel", "again"), 1.0, "the one that was refused");
    assert_eq!(counted("cancel", "cancelled"), 1.0);
    assert_eq!(counted("cancel", "not_sent"), 0.0);
}

/// Nothing was sent, and so no attempt is counted and no answer claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_login_ends_it_as_our_own_word_and_counts_as_no_call() {
    let mut stage = Stage::new("refused-logins");
    // One says so by its status, the other in words.
    let kinds = ["pismo", "tingg"];
    for kind in kinds {
        stage.set(&format!("providers.{kind}.client_secret"), "wrong");
    }
    let worker = stage.worker();
    let mut results = stage.results().await;
    let requests = kinds.map(|kind| request(kind, "success"));
    let client = stage.client().await;
    client.confirm_all(&stage.names, &requests).await;

    for ending in endings(&stage, &mut results, &requests, PATIENCE).await {
        let result = &ending.result;
        assert_eq!(result["reason"], "credentials_refused", "{result:#}");
        assert_eq!(
            (&result["attempts"], &result["lookups"]),
            (&0.into(), &0.into())
        );
        assert_eq!(result["evidence"]["source"], "worker", "{result:#}");
        assert_eq!(ending.money.cancel_calls, 0);
        let counted = |operation, verdict| {
            let provider = ("provider", result["provider"].as_str().unwrap());
            let labels = [provider, ("operation", operation), ("verdict", verdict)];
            worker.metric("rescind_provider_calls_total", &labels)
        };
        assert_eq!(counted("cancel", "not_sent"), 1.0);
        assert_eq!(counted("token", "unauthorized"), 1.0);
    }
}
