//! The one HTTP client: sends what an adapter built, and says whether it may have left.
//!
//! Deadlines, the size cap, TLS and tokens are here. Redirects are not followed, proxies of
//! the environment are not used, and the library never sends twice: every send is counted
//! in the ledger.

use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::config::AccountConfig;
use crate::providers::{Account, Login, Method, Provider, Request, Response, Token};

mod authorities;

pub use authorities::{ClientError, authorities};

/// Largest answer that is read, in bytes.
pub const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// How long a login that never changes is kept before it is built again.
const STATIC_LIFE: Duration = Duration::from_secs(24 * 3600);

/// What became of a send.
#[derive(Debug)]
pub enum Exchange {
    /// A complete answer.
    Answered(Answer),
    /// Certainly nothing left: no connection, no TLS, no token.
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

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The provider refuses the credentials.
    #[error("the login was refused: {0}")]
    Refused(String),
    /// The login did not work this time.
    #[error("no login: {0}")]
    Unavailable(String),
}

/// A login that may be used now.
#[derive(Clone)]
pub struct Authorization {
    value: SecretString,
    /// Tells a refused token from its successor; `None` where there is nothing to renew.
    generation: Option<u64>,
}

/// What a login cost, for the metrics.
pub type LoginObserver<'a> = &'a (dyn Fn(&'static str, Duration) + Sync);

/// The client of one account.
pub struct Caller {
    http: reqwest::Client,
    provider: &'static dyn Provider,
    account: Account,
    timeout: Duration,
    held: Mutex<Option<Held>>,
    /// Held during a login: everybody else waits for that one.
    login: tokio::sync::Mutex<u64>,
}

#[derive(Clone)]
struct Held {
    authorization: Authorization,
    renew_at: Instant,
    ends_at: Instant,
}

impl Caller {
    /// Builds the client of an account.
    pub fn new(config: &AccountConfig) -> Result<Self, ClientError> {
        let mut builder = reqwest::Client::builder();
        if let Some(path) = &config.ca_file {
            builder = builder.tls_certs_only(authorities(path)?);
        } else if config.account.base_url.starts_with("http://") {
            // No TLS, so no need of the system's certificates, which a small image may lack.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .connect_timeout(config.connect_timeout)
            .timeout(config.timeout)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .pool_idle_timeout(Duration::from_secs(30))
            .pool_max_idle_per_host(usize::try_from(config.max_in_flight).unwrap_or(usize::MAX))
            .user_agent(concat!("rescind/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Self {
            http,
            provider: config.provider,
            account: config.account.clone(),
            timeout: config.timeout,
            held: Mutex::new(None),
            login: tokio::sync::Mutex::new(0),
        })
    }

    /// Sends a call with a login. `traceparent` tells the provider which trace it belongs to.
    pub async fn send(
        &self,
        request: &Request,
        authorization: &Authorization,
        traceparent: Option<&str>,
    ) -> Exchange {
        self.exchange(request, Some(&authorization.value), traceparent)
            .await
    }

    async fn exchange(
        &self,
        request: &Request,
        authorization: Option<&SecretString>,
        traceparent: Option<&str>,
    ) -> Exchange {
        let built = match self.build(request, authorization) {
            Ok(mut built) => {
                // One that no header can hold is not worth a call.
                if let Some(Ok(value)) = traceparent.map(reqwest::header::HeaderValue::from_str) {
                    built.headers_mut().insert("traceparent", value);
                }
                built
            }
            Err(why) => return Exchange::NotSent(format!("the call cannot be built: {why}")),
        };
        match self.http.execute(built).await {
            Ok(response) => self.read(response).await,
            Err(error) if error.is_connect() || error.is_builder() => {
                Exchange::NotSent(explain(&error))
            }
            Err(error) => Exchange::Lost(self.explain_loss(&error)),
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
                header_value(secret).ok_or("the login holds characters that no header can")?;
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

    async fn read(&self, mut response: reqwest::Response) -> Exchange {
        let status = response.status().as_u16();
        let retry_after = response
            .headers()
            .get(reqwest::header::RETRY_AFTER)
            .and_then(|value| parse_retry_after(value.to_str().ok()?, response.headers()));
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > ANSWER_BYTES_MAX => {
                    return Exchange::Lost(format!(
                        "the answer is larger than {ANSWER_BYTES_MAX} bytes"
                    ));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => {
                    return Exchange::Answered(Answer {
                        status,
                        retry_after,
                        body,
                    });
                }
                Err(error) => return Exchange::Lost(self.explain_loss(&error)),
            }
        }
    }

    fn explain_loss(&self, error: &reqwest::Error) -> String {
        if error.is_timeout() {
            return format!("no answer within {} ms", self.timeout.as_millis());
        }
        explain(error)
    }

    /// A login that may be used now. One login runs at a time; a token is renewed while the
    /// last quarter of its life is still there, and used meanwhile.
    pub async fn authorize(
        &self,
        now: Timestamp,
        observe: LoginObserver<'_>,
    ) -> Result<Authorization, LoginError> {
        if let Some(authorization) = self.usable(|held| held.renew_at) {
            return Ok(authorization);
        }
        let generation = match self.usable(|held| held.ends_at) {
            Some(authorization) => match self.login.try_lock() {
                Ok(generation) => generation,
                Err(_) => return Ok(authorization),
            },
            None => self.login.lock().await,
        };
        if let Some(authorization) = self.usable(|held| held.renew_at) {
            return Ok(authorization);
        }
        self.log_in(generation, now, observe).await
    }

    fn usable(&self, until: impl Fn(&Held) -> Instant) -> Option<Authorization> {
        let held = self.held.lock().ok()?;
        held.as_ref()
            .filter(|held| Instant::now() < until(held))
            .map(|held| held.authorization.clone())
    }

    async fn log_in(
        &self,
        mut generation: tokio::sync::MutexGuard<'_, u64>,
        now: Timestamp,
        observe: LoginObserver<'_>,
    ) -> Result<Authorization, LoginError> {
        let nonce = uuid::Uuid::new_v4().to_string();
        let login = self.provider.login(&self.account, now, &nonce);
        let (token, renewable) = match login.map_err(LoginError::Refused)? {
            Login::Static(authorization) => (
                Token {
                    authorization,
                    life: STATIC_LIFE,
                },
                false,
            ),
            Login::Minted(token) => (token, true),
            Login::Fetch(request) => (self.fetch(&request, observe).await?, true),
        };
        *generation += 1;
        let authorization = Authorization {
            value: token.authorization,
            generation: renewable.then_some(*generation),
        };
        let held = Held {
            authorization: authorization.clone(),
            renew_at: Instant::now() + token.life.mul_f64(0.75),
            ends_at: Instant::now() + token.life.mul_f64(0.95),
        };
        if let Ok(mut slot) = self.held.lock() {
            *slot = Some(held);
        }
        Ok(authorization)
    }

    async fn fetch(
        &self,
        request: &Request,
        observe: LoginObserver<'_>,
    ) -> Result<Token, LoginError> {
        let started = Instant::now();
        let exchange = self.exchange(request, None, None).await;
        let token = match exchange {
            Exchange::Answered(answer) => match self.provider.read_login(&answer.response()) {
                Ok(token) => Ok(token),
                Err(why) if matches!(answer.status, 400..=407 | 409..=428 | 430..=499) => {
                    Err(LoginError::Refused(why))
                }
                Err(why) => Err(LoginError::Unavailable(why)),
            },
            Exchange::NotSent(why) | Exchange::Lost(why) => Err(LoginError::Unavailable(why)),
        };
        let verdict = match &token {
            Ok(_) => "issued",
            Err(LoginError::Refused(_)) => "unauthorized",
            Err(LoginError::Unavailable(_)) => "not_yet",
        };
        observe(verdict, started.elapsed());
        token
    }

    /// The provider refused this login. `true` if a new one can be had.
    pub fn refused(&self, authorization: &Authorization) -> bool {
        let Some(generation) = authorization.generation else {
            return false;
        };
        if let Ok(mut held) = self.held.lock()
            && held
                .as_ref()
                .is_some_and(|held| held.authorization.generation == Some(generation))
        {
            *held = None;
        }
        true
    }
}

fn header_value(secret: &SecretString) -> Option<reqwest::header::HeaderValue> {
    let mut value = reqwest::header::HeaderValue::from_str(secret.expose_secret()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// The chain of causes without the URL, which may hold ids.
fn explain(error: &reqwest::Error) -> String {
    let mut text = String::new();
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(error);
    while let Some(error) = cause {
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&error.to_string());
        cause = error.source();
    }
    if text.is_empty() {
        "the exchange failed".into()
    } else {
        text
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
