//! The one HTTP client: sends what an adapter built, and says whether it may have left.
//!
//! Deadlines, the size cap, TLS and tokens are here. Redirects are not followed, proxies of
//! the environment are not used, and the library never sends twice: every send is counted
//! in the ledger.

use std::error::Error as _;
use std::sync::Mutex;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use crate::config::AccountConfig;
use crate::providers::{Account, Method, Provider, Request, Response};

mod authorities;
mod login;
mod suspended;

use login::{CachedToken, Logins};
use suspended::{Late, unless_suspended};

pub use authorities::{ClientError, authorities};
pub use login::{Authorization, LoginError, LoginObserver};
pub use suspended::since_boot;

/// Largest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// What became of a send.
#[derive(Debug)]
pub enum Roundtrip {
    /// A complete answer.
    Answered(Answer),
    /// Certainly nothing left: no connection, no TLS.
    NotSent(String),
    /// It may have left, and no complete answer came.
    Lost(String),
}

/// A complete answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After` from now.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// As an adapter reads it.
    pub fn response(&self) -> Response<'_> {
        Response {
            status: self.status,
            retry_after: self.retry_after,
            body: &self.body,
        }
    }
}

/// The client of one account.
pub struct Caller {
    http: reqwest::Client,
    adapter: &'static dyn Provider,
    account: Account,
    timeout: Duration,
    /// The time since the system was started.
    boot: fn() -> Duration,
    token: Mutex<Option<CachedToken>>,
    /// Held during a login: all other calls wait for that one.
    logins: tokio::sync::Mutex<Logins>,
}

impl Caller {
    /// Builds the client of an account. `boot`: [`since_boot`].
    pub fn new(config: &AccountConfig, boot: fn() -> Duration) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder();
        if let Some(path) = &config.ca_file {
            builder = builder.tls_certs_only(authorities(path)?);
        } else if !uses_tls(&config.account) {
            // No TLS, so no need of the system's certificates, which a small image may lack.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            // A call that times out while it connects was not sent; one that reaches its own limit is in doubt.
            .connect_timeout(config.connect_timeout.min(config.timeout / 2))
            .timeout(config.timeout)
            // Otherwise the system would go on sending the written bytes for half a minute after the call has
            // ended, and the call could arrive after the look-ups that did not see it.
            .tcp_user_timeout(config.timeout / 2)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(usize::try_from(config.max_in_flight).unwrap_or(usize::MAX))
            .user_agent(concat!("rescind/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            adapter: config.adapter,
            account: config.account.clone(),
            timeout: config.timeout,
            boot,
            token: Mutex::new(None),
            logins: tokio::sync::Mutex::default(),
        })
    }

    /// Sends a call with a login. `traceparent` tells the provider which trace it belongs to.
    pub async fn send(
        &self,
        request: &Request,
        authorization: &Authorization,
        traceparent: Option<&str>,
    ) -> Roundtrip {
        self.transmit(request, Some(&authorization.value), traceparent)
            .await
    }

    /// `authorization`: none for a login itself.
    async fn transmit(
        &self,
        request: &Request,
        authorization: Option<&SecretString>,
        traceparent: Option<&str>,
    ) -> Roundtrip {
        let built = match self.build(request, authorization) {
            Ok(mut built) => {
                // A trace that no header can hold must not cost the call.
                if let Some(Ok(value)) = traceparent.map(reqwest::header::HeaderValue::from_str) {
                    built.headers_mut().insert("traceparent", value);
                }
                built
            }
            Err(why) => return Roundtrip::NotSent(format!("the call cannot be built: {why}")),
        };
        match unless_suspended(self.http.execute(built), self.timeout, self.boot).await {
            Err(Late::Suspended) => {
                Roundtrip::Lost("the machine was suspended during the call".into())
            }
            Err(Late::Over) => Roundtrip::Lost(self.no_answer()),
            Ok(Ok(response)) => self.read(response).await,
            Ok(Err(error)) if error.is_connect() || error.is_builder() => {
                Roundtrip::NotSent(explain(&error))
            }
            Ok(Err(error)) => Roundtrip::Lost(self.explain_loss(&error)),
        }
    }

    fn build(
        &self,
        request: &Request,
        authorization: Option<&SecretString>,
    ) -> Result<reqwest::Request, String> {
        let method = match request.method {
            Method::Get => reqwest::Method::GET,
            Method::Post => reqwest::Method::POST,
            Method::Put => reqwest::Method::PUT,
        };
        let mut builder = self.http.request(method, self.url(&request.path));
        builder = builder.header(reqwest::header::ACCEPT, "application/json");
        if request.body.is_some()
            && !request
                .headers
                .iter()
                .any(|(name, _)| *name == "content-type")
        {
            builder = builder.header(reqwest::header::CONTENT_TYPE, "application/json");
        }
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(secret) = authorization {
            let value =
                header_value(secret).ok_or("the login holds characters that a header cannot")?;
            builder = builder.header(reqwest::header::AUTHORIZATION, value);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        builder.build().map_err(|error| explain(&error))
    }

    fn url(&self, path: &str) -> String {
        if path.starts_with('/') {
            format!("{}{path}", self.account.base_url)
        } else {
            path.to_owned()
        }
    }

    async fn read(&self, mut response: reqwest::Response) -> Roundtrip {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(reqwest::header::RETRY_AFTER)
            .and_then(|value| parse_retry_after(value.to_str().ok()?, response.headers()));
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_BYTES_MAX => {
                    return Roundtrip::Lost(format!(
                        "the answer is larger than {ANSWER_BYTES_MAX} bytes"
                    ));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => {
                    return Roundtrip::Answered(Answer {
                        status,
                        retry_after,
                        body,
                    });
                }
                Err(error) => return Roundtrip::Lost(self.explain_loss(&error)),
            }
        }
    }

    fn explain_loss(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return self.no_answer();
        }
        explain(error)
    }

    fn no_answer(&self) -> String {
        format!("no answer within {} ms", self.timeout.as_millis())
    }
}

/// Whether any address of the account, its token's among them, has TLS.
fn uses_tls(account: &Account) -> bool {
    let plain = account.plain.values().map(String::as_str);
    std::iter::once(account.base_url.as_str())
        .chain(plain)
        .any(|text| text.starts_with("https://"))
}

fn header_value(secret: &SecretString) -> Option<reqwest::header::HeaderValue> {
    let mut value = reqwest::header::HeaderValue::from_str(secret.expose_secret()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The chain of causes without the URL, which may hold ids.
fn explain(error: &reqwest::Error) -> String {
    let causes = || std::iter::successors(error.source(), |&cause| cause.source());
    if causes().any(speaks_no_tls) {
        return "what answers there does not speak TLS; is the port in base_url the provider's one for https?".into();
    }
    let words: Vec<String> = causes().map(ToString::to_string).collect();
    match words.as_slice() {
        [] => "the exchange failed".into(),
        words => words.join(": "),
    }
}

/// As from a port for plain HTTP. The library's own words are about content types, and below an error of the system,
/// which names what is inside as if it were its own.
fn speaks_no_tls(cause: &(dyn std::error::Error + 'static)) -> bool {
    match cause.downcast_ref() {
        Some(rustls::Error::InvalidMessage(_)) => true,
        Some(_) => false,
        None => {
            let system: Option<&std::io::Error> = cause.downcast_ref();
            let inner = system.and_then(std::io::Error::get_ref);
            inner.is_some_and(|inner| speaks_no_tls(inner))
        }
    }
}

/// Seconds, or an HTTP date that is taken relative to the server's own `Date`.
fn parse_retry_after(text: &str, headers: &reqwest::header::HeaderMap) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let at = httpdate::parse_http_date(text).ok()?;
    let date = headers.get(reqwest::header::DATE)?.to_str().ok()?;
    Some(
        at.duration_since(httpdate::parse_http_date(date).ok()?)
            .unwrap_or_default(),
    )
}
