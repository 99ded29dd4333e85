//! A simulator for the tests of its providers, and a client with their demo logins.

use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::{Options, Scenario, es512, now, serve};

/// How long a client waits for an answer: not long for one that is not meant to come.
fn patience(path: &str) -> Duration {
    let silent = ["timeout", "hang", "late", "stale"]
        .iter()
        .any(|word| path.contains(word));
    Duration::from_millis(if silent { 300 } else { 10_000 })
}

/// What a client saw: a status and a body, or no answer.
pub(super) type Seen = Option<(u16, String)>;

pub(super) struct Rig {
    address: SocketAddr,
    http: reqwest::Client,
    /// Ends when it is dropped.
    _server: JoinSet<io::Result<()>>,
}

impl Rig {
    pub(super) async fn start() -> Self {
        Self::with("", None).await
    }

    pub(super) async fn with(scenario: &str, record: Option<PathBuf>) -> Self {
        // Another test of this process may have installed it.
        rustls::crypto::ring::default_provider()
            .install_default()
            .ok();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let options = Options {
            expose: false,
            scenario: Some(Scenario::parse(scenario).unwrap()),
            record,
            latency: Duration::ZERO,
            notify: None,
        };
        let mut server = JoinSet::new();
        server.spawn(serve(listener, options, pending()));
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self {
            address,
            http,
            _server: server,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A call without a login.
    pub(super) fn call(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("http://{}{path}", self.address);
        self.http.request(method, url).timeout(patience(path))
    }

    /// A call with the provider's login, fetched anew where it is fetched.
    pub(super) async fn logged_in(&self, method: Method, path: &str) -> RequestBuilder {
        let call = self.call(method, path);
        match path.split('/').nth(1).unwrap() {
            "midtrans" => call.basic_auth("SB-Mid-server-demo", Some("")),
            "migo" => call.bearer_auth("demo-migo-token"),
            "gr4vy" => call.bearer_auth(gr4vy_token()),
            "bento" => call.bearer_auth("demo-bento-token"),
            "pismo" => call.bearer_auth(self.token("pismo", "passport/v2/oauth/token").await),
            _ => call.bearer_auth(self.token("tingg", "oauth/token").await),
        }
    }

    pub(super) async fn token(&self, provider: &str, path: &str) -> String {
        let body = json!({
            "grant_type": "client_credentials",
            "client_id": format!("demo-{provider}"),
            "client_secret": format!("demo-{provider}-secret"),
        });
        let call = self.call(Method::POST, &format!("/{provider}/{path}"));
        let (status, answer) = seen(call.json(&body)).await.unwrap();
        assert_eq!(status, 200);
        value(&answer)["access_token"].as_str().unwrap().to_owned()
    }

    /// The record of one payment.
    pub(super) async fn money(&self, payment: &str) -> Value {
        let call = self.call(Method::GET, &format!("/money/{payment}"));
        value(&seen(call).await.unwrap().1)
    }

    /// How many movements of money one payment has seen.
    pub(super) async fn effects(&self, payment: &str) -> usize {
        self.money(payment).await["effects"]
            .as_array()
            .unwrap()
            .len()
    }
}

/// Sends, and reads as far as a patient client can.
pub(super) async fn seen(call: RequestBuilder) -> Seen {
    let response = call.send().await.ok()?;
    let status = response.status().as_u16();
    Some((status, response.text().await.ok()?))
}

pub(super) fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn gr4vy_token() -> String {
    let now = now().as_second();
    es512::sign(&json!({
        "iss": "rescind", "iat": now, "nbf": now, "exp": now + 60,
        "jti": uuid::Uuid::new_v4(), "scopes": ["transactions.write", "transactions.read"],
    }))
}
