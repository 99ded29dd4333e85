//! The demo credentials, the token endpoints, and the check of what a call carries.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use axum::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use uuid::Uuid;

use super::dialect::{Provider, Reply};
use super::now;
use super::tingg::unauthenticated;

pub(super) const MIGO_TOKEN: &str = "demo-migo-token";
pub(super) const BENTO_TOKEN: &str = "demo-bento-token";
pub(super) const MIGO_NOTIFICATION_TOKEN: &str = "demo-migo-notification-token";
pub(super) const GR4VY_WEBHOOK_SECRET: &str = "demo-gr4vy-webhook-secret";
pub(super) const MIDTRANS_SERVER_KEY: &str = "SB-Mid-server-demo";

/// An OAuth client known to the simulator, and how long its tokens live.
pub(super) struct Client {
    pub(super) id: &'static str,
    pub(super) secret: &'static str,
    seconds: i64,
}

/// The client of a provider that hands out tokens.
pub(super) fn client(provider: Provider) -> Option<Client> {
    let (id, secret, seconds) = match provider {
        Provider::Bento => ("demo-bento", "demo-bento-secret", 300),
        Provider::Pismo => ("demo-pismo", "demo-pismo-secret", 3600),
        Provider::Tingg => ("demo-tingg", "demo-tingg-secret", 120),
        Provider::Gr4vy | Provider::Midtrans | Provider::Migo => return None,
    };
    Some(Client {
        id,
        secret,
        seconds,
    })
}

/// A login that the provider takes.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) token: String,
    /// Whether the caller can get another one.
    pub(super) renewable: bool,
}

impl Login {
    pub(super) fn fixed(token: &str) -> Self {
        Self {
            token: token.to_owned(),
            renewable: false,
        }
    }

    pub(super) fn renewable(token: &str) -> Self {
        Self {
            renewable: true,
            ..Self::fixed(token)
        }
    }
}

/// The tokens that were handed out.
#[derive(Default)]
pub(super) struct Logins {
    issued: Mutex<HashMap<(Provider, String), Timestamp>>,
    calls: Mutex<BTreeMap<&'static str, u64>>,
    /// Signed tokens that were verified before: a signature costs more than all the rest.
    verified: Mutex<HashMap<String, Timestamp>>,
}

impl Logins {
    /// Accepts a token that came from this provider's own endpoint and has not expired.
    pub(super) fn issued(&self, provider: Provider, headers: &HeaderMap) -> Option<Login> {
        let token = bearer(headers)?;
        let issued = lock(&self.issued);
        let expires = issued.get(&(provider, token.to_owned()))?;
        (now() < *expires).then(|| Login::renewable(token))
    }

    /// How often each token endpoint was called.
    pub(super) fn token_calls(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.calls).clone()
    }

    /// Answers a call of a token endpoint.
    pub(super) fn issue(&self, provider: Provider, headers: &HeaderMap, body: &[u8]) -> Reply {
        *lock(&self.calls).entry(provider.as_str()).or_default() += 1;
        let fields = fields(headers, body);
        let known = client(provider).filter(|client| client.is(&fields));
        match known {
            Some(_)
                if fields.get("grant_type").map(String::as_str) != Some("client_credentials") =>
            {
                Reply::json(400, &json!({"error": "unsupported_grant_type"}))
            }
            Some(client) => Reply::json(200, &self.fresh(provider, &client)),
            None if provider == Provider::Tingg => unauthenticated(),
            None => Reply::json(401, &json!({"error": "invalid_client"})),
        }
    }

    fn fresh(&self, provider: Provider, client: &Client) -> Value {
        let token = format!("{}-{}", provider.as_str(), Uuid::new_v4().simple());
        let now = now();
        let mut issued = lock(&self.issued);
        issued.retain(|_, expires| *expires > now);
        let expires = now + SignedDuration::from_secs(client.seconds);
        issued.insert((provider, token.clone()), expires);
        json!({"token_type": "Bearer", "expires_in": client.seconds, "access_token": token})
    }

    /// Accepts a self-signed token that `verify` finds good until some time, asking it once a token.
    pub(super) fn signed(
        &self,
        headers: &HeaderMap,
        verify: impl FnOnce(&str) -> Option<Timestamp>,
    ) -> Option<Login> {
        let token = bearer(headers)?;
        let now = now();
        let seen = lock(&self.verified).get(token).copied();
        let expires = match seen {
            Some(expires) => expires,
            None => verify(token)?,
        };
        let mut verified = lock(&self.verified);
        if verified.len() > 1000 {
            verified.retain(|_, expires| *expires > now);
        }
        verified.insert(token.to_owned(), expires);
        (now < expires).then(|| Login::renewable(token))
    }
}

impl Client {
    /// The secret's field has another name at Pismo, whose pages write `client_secret_string`.
    fn is(&self, fields: &HashMap<String, String>) -> bool {
        let secret = fields
            .get("client_secret")
            .or_else(|| fields.get("client_secret_string"));
        fields.get("client_id").is_some_and(|id| id == self.id)
            && secret.is_some_and(|secret| secret == self.secret)
    }
}

/// The fields of a token request: JSON or a form, with the client in the body or in a Basic login.
fn fields(headers: &HeaderMap, body: &[u8]) -> HashMap<String, String> {
    let mut fields: HashMap<String, String> = match serde_json::from_slice(body) {
        Ok(Value::Object(object)) => object
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_str()?.to_owned())))
            .collect(),
        _ => url::form_urlencoded::parse(body).into_owned().collect(),
    };
    if let Some((id, secret)) = basic(headers) {
        fields.insert("client_id".to_owned(), id);
        fields.insert("client_secret".to_owned(), secret);
    }
    fields
}

/// The token of an `Authorization: Bearer` header.
pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    value.strip_prefix("Bearer ")
}

/// User and password of an `Authorization: Basic` header.
pub(super) fn basic(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let bytes = STANDARD.decode(value.strip_prefix("Basic ")?).ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
