//! The one HTTP client against servers that answer as no provider should.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use rescind::backoff::Schedule;
use rescind::call::{ANSWER_BYTES_MAX, Answer, Authorization, Caller, LoginError, Roundtrip};
use rescind::config::{AccountConfig, Breaker};
use rescind::providers::{self, Account, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};

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
        Self::start_with([answer]).await
    }

    /// One after the other; the last one again and again.
    async fn start_with(answers: impl IntoIterator<Item = impl Into<Vec<u8>>>) -> Self {
        let mut answers: VecDeque<Vec<u8>> = answers.into_iter().map(Into::into).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let head = &head[..read];
                let whole = head.starts_with(b"POST ") || head.ends_with(b"\r\n\r\n");
                assert!(whole, "a whole request");
                let answer = answers.front().unwrap().clone();
                if answers.len() > 1 {
                    answers.pop_front();
                }
                // A client that has read enough closes.
                drop(stream.write_all(&answer).await);
            }
        });
        Self { base_url, calls }
    }

    async fn call(&self) -> Roundtrip {
        let caller = caller("migo", migo(&self.base_url), 20 * SECOND);
        let authorization = caller.authorize(Timestamp::UNIX_EPOCH, &|_, _| {}).await;
        let request = Request::get("/a".to_owned());
        caller.send(&request, &authorization.unwrap(), None).await
    }

    async fn answer(&self) -> Answer {
        match self.call().await {
            Roundtrip::Answered(answer) => answer,
            other => panic!("{other:?}"),
        }
    }
}

fn caller(kind: &str, account: Account, timeout: Duration) -> Caller {
    caller_by(rescind::call::since_boot, kind, account, timeout)
}

fn caller_by(boot: fn() -> Duration, kind: &str, account: Account, timeout: Duration) -> Caller {
    // As main.rs does; only the first one counts.
    drop(rustls::crypto::ring::default_provider().install_default());
    let config = AccountConfig {
        adapter: providers::by_kind(kind).unwrap(),
        account,
        connect_timeout: 5 * SECOND,
        ca_file: None,
        timeout,
        max_in_flight: 1,
        rate_per_second: 0.0,
        retry: SCHEDULE,
        poll: SCHEDULE,
        breaker: Breaker {
            failures: 1,
            open_for: SECOND,
        },
    };
    Caller::new(&config, boot).unwrap()
}

/// One whose token never changes.
fn migo(base_url: &str) -> Account {
    Account {
        base_url: base_url.to_owned(),
        secrets: [("token".to_owned(), vec!["t".to_owned().into()])].into(),
        ..Account::default()
    }
}

/// One that fetches its tokens here.
fn bento(token_url: &str) -> Account {
    let plain = [("oauth.token_url", token_url), ("oauth.client_id", "id")];
    let secret = vec!["s".to_owned().into()];
    Account {
        base_url: "http://127.0.0.1:9".to_owned(),
        plain: plain
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into(),
        secrets: [("oauth.client_secret".to_owned(), secret)].into(),
        ..Account::default()
    }
}

/// One that fetches its tokens below its base URL.
fn tingg(base_url: &str) -> Account {
    let secret = vec!["s".to_owned().into()];
    Account {
        base_url: base_url.to_owned(),
        plain: [("client_id".to_owned(), "id".to_owned())].into(),
        secrets: [("client_secret".to_owned(), secret)].into(),
        ..Account::default()
    }
}

async fn authorize(caller: &Caller) -> Result<Authorization, LoginError> {
    caller.authorize(Timestamp::UNIX_EPOCH, &|_, _| {}).await
}

/// Its timers stood still, and others may have its work by now.
#[tokio::test]
async fn a_machine_that_was_suspended_while_it_connected_sends_nothing() {
    static LOOKS: AtomicUsize = AtomicUsize::new(0);
    // The first one is the beginning, at the second one it connects, and then an hour is gone.
    let boot = || match LOOKS.fetch_add(1, Ordering::SeqCst) {
        0 | 1 => Duration::ZERO,
        _ => 3600 * SECOND,
    };
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let caller = caller_by(boot, "migo", migo(&base_url), 20 * SECOND);
    let authorization = caller.authorize(Timestamp::UNIX_EPOCH, &|_, _| {}).await;
    let request = Request::get("/a".to_owned());
    let roundtrip = caller.send(&request, &authorization.unwrap(), None).await;
    let told = matches!(&roundtrip, Roundtrip::Lost(why) if why.contains("suspended"));
    assert!(told, "{roundtrip:?}");
    drop(caller);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    assert!(bytes.is_empty());
}

/// A silent endpoint costs each request one wait, and not one for each request before it.
#[tokio::test]
async fn a_login_that_fails_has_failed_for_all_who_waited_for_it() {
    let server = Server::start("HTTP/1.1 503 Gone\r\ncontent-length: 0\r\n\r\n").await;
    let caller = caller("bento", bento(&server.base_url), SECOND);
    let ended = join_all((0..9).map(|_| authorize(&caller))).await;
    assert!(ended.iter().all(Result::is_err));
    assert_eq!(server.calls.load(Ordering::SeqCst), 1);
    assert!(authorize(&caller).await.is_err());
    assert_eq!(server.calls.load(Ordering::SeqCst), 2, "who came later");
}

/// Refused credentials end each request that is due; what a wrong address or a gateway answers must not.
#[tokio::test]
async fn a_login_is_refused_in_the_words_for_it_and_by_nothing_else() {
    let unauthenticated = r#"{"message":"Unauthenticated.","status_code":500}"#;
    let cases = [(400, "{}"), (401, ""), (403, "")]
        .map(|(status, body)| (status, body, true))
        .into_iter()
        .chain([200, 401, 500].map(|status| (status, unauthenticated, true)))
        .chain([404, 405, 409, 422, 425, 429, 460, 499, 500, 503].map(|s| (s, "{}", false)))
        .chain([(
            500,
            r#"{"message":"Server Error","status_code":500}"#,
            false,
        )]);
    for (status, body, is_refusal) in cases {
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n\r\n{body}");
        let server = Server::start(answer).await;
        let caller = caller("tingg", tingg(&server.base_url), 20 * SECOND);
        let ended = authorize(&caller).await.err();
        match (ended, is_refusal) {
            (Some(LoginError::Refused(_)), true) | (Some(LoginError::Unavailable(_)), false) => {}
            (ended, _) => panic!("{status} {body}: {ended:?}"),
        }
    }
}

#[tokio::test]
async fn a_renewal_that_fails_takes_no_token_that_is_still_good() {
    let refusals = ["403 Forbidden", "503 Gone"];
    join_all(refusals.map(keep_the_token)).await;
}

async fn keep_the_token(refusal: &str) {
    let token = r#"{"access_token":"t","expires_in":12}"#;
    let length = token.len();
    let issued = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{token}");
    let refused = format!("HTTP/1.1 {refusal}\r\ncontent-length: 0\r\n\r\n");
    let server = Server::start_with([issued, refused]).await;
    let caller = caller("bento", bento(&server.base_url), SECOND);
    let began_at = Instant::now();
    authorize(&caller).await.unwrap();
    // In the last quarter of its life.
    sleep_until(began_at + SECOND.mul_f64(9.1)).await;
    for _ in 0..3 {
        assert!(authorize(&caller).await.is_ok(), "{refusal}");
    }
    let calls = server.calls.load(Ordering::SeqCst);
    assert_eq!(calls, 2, "it is not tried again with each call");
    sleep_until(began_at + 12 * SECOND).await;
    assert!(authorize(&caller).await.is_err(), "{refusal}");
}

/// Its limit for the whole call is the shorter one.
#[tokio::test]
async fn what_ends_while_it_connects_was_not_sent() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    // Once its queue is full, the system lets no connection in.
    let mut waiting = Vec::new();
    while let Ok(stream) = timeout(SECOND / 2, TcpStream::connect(address)).await {
        waiting.push(stream.unwrap());
    }
    let caller = caller("migo", migo(&format!("http://{address}")), SECOND);
    let authorization = authorize(&caller).await.unwrap();
    let request = Request::get("/a".to_owned());
    let roundtrip = caller.send(&request, &authorization, None).await;
    assert!(matches!(roundtrip, Roundtrip::NotSent(_)), "{roundtrip:?}");
}

/// The port is the one for plain HTTP.
#[tokio::test]
async fn what_answers_without_tls_is_called_so() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let base_url = format!("https://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusal).await.unwrap();
        // Until the client has read it and gone.
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
    let caller = caller("migo", migo(&base_url), 20 * SECOND);
    let authorization = authorize(&caller).await.unwrap();
    let request = Request::get("/a".to_owned());
    let roundtrip = caller.send(&request, &authorization, None).await;
    let Roundtrip::NotSent(why) = roundtrip else {
        panic!("{roundtrip:?}");
    };
    assert!(why.contains("does not speak TLS"), "{why}");
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
        Roundtrip::Lost(why) => assert!(why.contains("262144 bytes"), "{why}"),
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
