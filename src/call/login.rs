//! The logins of one account: one at a time, kept for as long as they are good.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::SecretString;
use tokio::time::Instant;

use super::{Caller, Roundtrip};
use crate::providers::{Login, Request, Token};

/// How long a login that never changes is kept before it is built again.
const STATIC_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Pause between a renewal that failed and the next one; the token is still good meanwhile.
const RENEW_AGAIN: Duration = Duration::from_secs(5);

/// Why there is no token.
#[derive(Debug, Clone, thiserror::Error)]
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
    pub(super) value: SecretString,
    /// Tells a refused token from its successor; `None` where there is nothing to renew.
    generation: Option<u64>,
}

/// What a login cost, for the metrics.
pub type LoginObserver<'a> = &'a (dyn Fn(&'static str, Duration) + Sync);

/// Held during a login.
#[derive(Default)]
pub(super) struct Logins {
    generation: u64,
    /// The error of the last login, if it failed, and when.
    failed: Option<(Instant, LoginError)>,
}

/// The token in use.
#[derive(Clone)]
pub(super) struct CachedToken {
    authorization: Authorization,
    renew_at: Instant,
    ends_at: Instant,
}

impl Caller {
    /// A login that may be used now. One login runs at a time, and its outcome holds for all calls that
    /// waited for it: a silent endpoint costs each of them one wait. A token is renewed in the last
    /// quarter of its life, and used meanwhile.
    pub async fn authorize(
        &self,
        now: Timestamp,
        observe: LoginObserver<'_>,
    ) -> Result<Authorization, LoginError> {
        let asked_at = Instant::now();
        if let Some(authorization) = self.usable(|token| token.renew_at) {
            return Ok(authorization);
        }
        let still_good = self.usable(|token| token.ends_at);
        let mut logins = match (&still_good, self.logins.try_lock()) {
            (_, Ok(logins)) => logins,
            (Some(authorization), Err(_)) => return Ok(authorization.clone()),
            (None, Err(_)) => self.logins.lock().await,
        };
        if let Some(authorization) = self.usable(|token| token.renew_at) {
            return Ok(authorization);
        }
        let since = match still_good {
            Some(_) => asked_at.checked_sub(RENEW_AGAIN).unwrap_or(asked_at),
            None => asked_at,
        };
        let failed = logins.failed.clone().filter(|(at, _)| *at > since);
        let logged_in = match failed {
            Some((_, error)) => Err(error),
            None => self.log_in(&mut logins, now, observe).await,
        };
        // A renewal that failed does not end a call whose token is still good.
        logged_in.or_else(|error| self.usable(|token| token.ends_at).ok_or(error))
    }

    fn usable(&self, until: impl Fn(&CachedToken) -> Instant) -> Option<Authorization> {
        let token = self.token.lock().ok()?;
        token
            .as_ref()
            .filter(|token| Instant::now() < until(token))
            .map(|token| token.authorization.clone())
    }

    async fn log_in(
        &self,
        logins: &mut Logins,
        now: Timestamp,
        observe: LoginObserver<'_>,
    ) -> Result<Authorization, LoginError> {
        // Its life began before the answer came.
        let began_at = Instant::now();
        let issued = self.issued(now, observe).await;
        logins.failed = issued.as_ref().err().map(|e| (Instant::now(), e.clone()));
        let (token, renewable) = issued?;
        logins.generation += 1;
        let authorization = Authorization {
            value: token.authorization,
            generation: renewable.then_some(logins.generation),
        };
        let token = CachedToken {
            authorization: authorization.clone(),
            renew_at: began_at + token.life.mul_f64(0.75),
            ends_at: began_at + token.life.mul_f64(0.95),
        };
        if let Ok(mut slot) = self.token.lock() {
            *slot = Some(token);
        }
        Ok(authorization)
    }

    /// A new token, and whether another one can be had once it is refused.
    async fn issued(
        &self,
        now: Timestamp,
        observe: LoginObserver<'_>,
    ) -> Result<(Token, bool), LoginError> {
        let nonce = uuid::Uuid::new_v4().to_string();
        let login = self.adapter.login(&self.account, now, &nonce);
        Ok(match login.map_err(LoginError::Refused)? {
            Login::Static(authorization) => (
                Token {
                    authorization,
                    life: STATIC_LIFE,
                },
                false,
            ),
            Login::Minted(token) => (token, true),
            Login::Fetch(request) => (self.fetch(&request, observe).await?, true),
        })
    }

    async fn fetch(
        &self,
        request: &Request,
        observe: LoginObserver<'_>,
    ) -> Result<Token, LoginError> {
        let started = Instant::now();
        let exchange = self.transmit(request, None, None).await;
        let token = match exchange {
            Roundtrip::Answered(answer) => {
                let response = answer.response();
                self.adapter.read_login(&response).map_err(|why| {
                    if self.adapter.refuses_login(&response) {
                        LoginError::Refused(why)
                    } else {
                        LoginError::Unavailable(why)
                    }
                })
            }
            Roundtrip::NotSent(why) | Roundtrip::Lost(why) => Err(LoginError::Unavailable(why)),
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
        if let Ok(mut token) = self.token.lock()
            && token
                .as_ref()
                .is_some_and(|token| token.authorization.generation == Some(generation))
        {
            *token = None;
        }
        true
    }
}
