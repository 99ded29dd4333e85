//! The one HTTP client against servers that answer as no provider should.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rescind::backoff::Schedule;
use rescind::call::{ANSWER_BYTES_MAX, Answer, Caller, Exchange};
use rescind::config::{AccountConfig, Breaker};
use rescind::providers::{self, Account, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const SECOND: Duration = Duration::from_secs(1);
const SCHEDULE: Schedule = Schedule {
    first: SECOND,
    factor: 2.0,
    max: SECOND,
    give_up_after: SECOND,
};

/// Answers every call on its address with these bytes.
struct Server {
    base_url: String,
    calls: Arc<AtomicUsize>,
}

impl Server {
    async fn start(answer: impl Into<Vec<u8>>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let (counted, answer) = (Arc::clone(&calls), answer.into());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                assert!(head[..read].ends_with(b"\r\n\r\n"), "a whole request");
                // A client that has read enough closes.
                drop(stream.write_all(&answer).await);
            }
        });
        Self { base_url, calls }
    }

    async fn call(&self) -> Exchange {
        // As main.rs does; only the first one counts.
        drop(rustls::crypto::ring::default_provider().install_default());
        let caller = Caller::new(&AccountConfig {
            provider: providers::by_kind("migo").unwrap(),
            account: Account {
                base_url: self.base_url.clone(),
                secrets: [("token".to_owned(), vec!["t".to_owned().into()])].into(),
                ..Account::default()
            },
            connect_timeout: 5 * SECOND,
            ca_file: None,
            timeout: 20 * SECOND,
            max_in_flight: 1,
            rate_per_second: 0.0,
            retry: SCHEDULE,
            poll: SCHEDULE,
            breaker: Breaker {
                failures: 1,
                open_for: SECOND,
            },
        });
        let caller = caller.unwrap();
        let authorization = caller.authorize(Timestamp::UNIX_EPOCH, &|_, _| {}).await;
        let request = Request::get("/a".to_owned());
        caller.send(&request, &authorization.unwrap(), None).await
    }

    async fn answer(&self) -> Answer {
        match self.call().await {
            Exchange::Answered(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_leads_nowhere() {
    let elsewhere = Server::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    for status in [301, 302, 303, 307, 308] {
        let server = Server::start(format!(
            "HTTP/1.1 {status} Moved\r\nlocation: {}/b\r\ncontent-length: 0\r\n\r\n",
            elsewhere.base_url
        ))
        .await;
        assert_eq!(server.answer().await.status, status);
        assert_eq!(server.calls.load(Ordering::SeqCst), 1);
    }
    assert_eq!(elsewhere.calls.load(Ordering::SeqCst), 0);
}

fn chunked(length: usize) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let mut rest = length;
    while rest > 0 {
        let part = rest.min(10_000);
        answer.extend(format!("{part:x}\r\n{}\r\n", " ".repeat(part)).bytes());
        rest -= part;
    }
    answer.extend(b"0\r\n\r\n");
    answer
}

#[tokio::test]
async fn an_endless_answer_is_a_lost_one() {
    let whole = Server::start(chunked(ANSWER_BYTES_MAX)).await;
    assert_eq!(whole.answer().await.body.len(), ANSWER_BYTES_MAX);
    let larger = Server::start(chunked(ANSWER_BYTES_MAX + 1)).await;
    match larger.call().await {
        Exchange::Lost(why) => assert!(why.contains("262144 bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_retry_after_is_read_as_seconds_or_as_a_date_of_the_servers_clock() {
    let date = "Date: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
    for (headers, seconds) in [
        ("Retry-After: 7\r\n".to_owned(), Some(7)),
        (
            format!("{date}Retry-After: Wed, 21 Oct 2015 07:28:30 GMT\r\n"),
            Some(30),
        ),
        (
            format!("{date}Retry-After: Wed, 21 Oct 2015 07:27:00 GMT\r\n"),
            Some(0),
        ),
        (
            "Retry-After: Wed, 21 Oct 2015 07:28:30 GMT\r\n".to_owned(),
            None,
        ),
        ("Retry-After: soon\r\n".to_owned(), None),
        (String::new(), None),
    ] {
        let answer = format!("HTTP/1.1 429 Slow\r\n{headers}content-length: 0\r\n\r\n");
        let answer = Server::start(answer).await.answer().await;
        assert_eq!(
            answer.retry_after,
            seconds.map(Duration::from_secs),
            "{headers}"
        );
    }
}
