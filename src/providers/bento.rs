//! Bento, in its own words: a 202 that is only a submission, and outcomes inside the body. Pure.
//!
//! Pages: <https://docs.bento-tech.com/apidocs/payments>,
//! <https://docs.bento-tech.com/docs/transaction-history>,
//! <https://docs.bento-tech.com/docs/error-handling>.
//!
//! The page's own 202 shows `state: CaptureSucceeded` and `status.outcome: succeeded`: both are
//! of the action *before* the cancel. So `succeeded` never means that something was cancelled;
//! the state does, and a failure is ours only where the history allows no other reading
//! ([`Answer::failure`]).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::{
    Abilities, Account, Ask, Asked, DoubtPolicy, Login, Method, Provider, Reading, Request,
    Response, Setting, Token, is_visible, segment,
};
use crate::job::{Job, Payment};
use crate::oauth;
use crate::outcome::Operation;
use answer::Answer;
use missing::{by_status, noted_when_asked, noted_when_sent, unanswered};
use verdict::{declined, found, submitted};

mod answer;
mod missing;
mod reversed;
mod verdict;

/// Bento.
pub(super) struct Bento;

/// Nowhere documented, only likely: hence the setting `lookup_path`.
const LOOKUP_PATH: &str = "/payments/v1/orders/{order_id}/transactions/{transaction_id}";

/// Life of a token whose issuer does not tell: Bento's pages give none.
const TOKEN_LIFE: Duration = Duration::from_secs(300);

impl Provider for Bento {
    fn kind(&self) -> &'static str {
        "bento"
    }

    fn title(&self) -> &'static str {
        "Bento"
    }

    fn settings(&self) -> &'static [Setting] {
        const {
            &[
                Setting::secret("token").optional(),
                Setting::plain("oauth.token_url").optional(),
                Setting::plain("oauth.client_id").optional(),
                Setting::secret("oauth.client_secret").optional(),
                Setting::plain("lookup_path").optional(),
            ]
        }
    }

    fn check(&self, account: &Account) -> Result<(), String> {
        check_login(account)?;
        match lookup_path(account) {
            "" => Ok(()),
            path if path.starts_with('/') && path.contains("{transaction_id}") => Ok(()),
            _ => Err(
                "lookup_path must start with / and name {transaction_id}, or be empty".to_owned(),
            ),
        }
    }

    /// No idempotency key was found in Bento's pages, so doubt is cleared up by asking, and
    /// where nobody can be asked by a person.
    /// A part can only be refunded: before capture the same call voids the whole payment, so
    /// a partial request asks for the state first. The whole of a payment does so where the path
    /// is known to be right: what had failed before is then not taken for an answer to this request.
    /// A guessed path would end every request with its 404.
    fn abilities(&self, account: &Account, job: &Job) -> Abilities {
        let lookup = !lookup_path(account).is_empty();
        Abilities {
            lookup,
            finds_all: true,
            look_first: job.amount.is_some() || (lookup && !is_guessed(account)),
            doubt: if lookup {
                DoubtPolicy::LookUp
            } else {
                DoubtPolicy::Person
            },
        }
    }

    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String> {
        let order = asked.text("order_id")?;
        let transaction = asked.text("transaction_id")?;
        if let Some(amount) = asked.amount {
            let currency = asked
                .currency
                .ok_or("currency is needed with amount: Bento takes minor units")?;
            let units = amount.minor_units(currency).map_err(|e| e.to_string())?;
            if units == 0 {
                return Err("amount is zero".to_owned());
            }
        }
        Ok(Payment {
            key: format!("{}/{}", segment(&order), segment(&transaction)),
            ids: [("order_id", order), ("transaction_id", transaction)].into(),
        })
    }

    /// `refundAmount` is left out for the whole payment. An amount is never left out for being
    /// unusable: as text, the provider refuses it.
    fn cancel(&self, ask: &Ask<'_>) -> Request {
        let amount = ask.job.amount.map(|amount| match units_asked(ask) {
            Some(units) => json!(units),
            None => json!(amount.to_string()),
        });
        Request {
            method: Method::Put,
            path: fill(&format!("{LOOKUP_PATH}/_cancel"), ask),
            headers: Vec::new(),
            body: amount.map(|amount| json!({ "refundAmount": amount }).to_string()),
        }
    }

    fn lookup(&self, ask: &Ask<'_>) -> Request {
        Request::get(fill(lookup_path(ask.account), ask))
    }

    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let answer = Answer::of(&body);
        let verdict = match response.status {
            200..=299 => submitted(ask, &answer),
            401 | 403 | 404 | 429 => by_status(Operation::Cancel, response, &body),
            400..=499 => declined(ask, &answer, response),
            _ => by_status(Operation::Cancel, response, &body),
        };
        noted_when_sent(ask, answer.reading(ask, verdict, response))
    }

    fn read_lookup(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading {
        let body = response.json();
        let answer = Answer::of(&body);
        let verdict = if response.is_success() {
            found(ask, &answer, response)
        } else {
            unanswered(ask, response, &body)
        };
        noted_when_asked(ask, response, answer.reading(ask, verdict, response))
    }

    fn login(&self, account: &Account, _now: Timestamp, _nonce: &str) -> Result<Login, String> {
        if let Some(token) = account.secret("token") {
            return Ok(Login::Static(format!("Bearer {token}").into()));
        }
        let plain = |key| account.plain(key).unwrap_or_default();
        let fields = [
            ("grant_type", "client_credentials"),
            ("client_id", plain("oauth.client_id")),
            (
                "client_secret",
                account.secret("oauth.client_secret").unwrap_or_default(),
            ),
        ];
        Ok(Login::Fetch(oauth::ask(plain("oauth.token_url"), &fields)))
    }

    fn read_login(&self, response: &Response<'_>) -> Result<Token, String> {
        oauth::read(response, TOKEN_LIFE)
    }
}

/// Who issues Bento's tokens is not public: either a token is given or where to get one.
fn check_login(account: &Account) -> Result<(), String> {
    let client = [
        account.plain("oauth.token_url"),
        account.plain("oauth.client_id"),
        account.secret("oauth.client_secret"),
    ];
    match (account.secret("token"), client) {
        (Some(token), [None, None, None]) => {
            if is_visible(token) {
                Ok(())
            } else {
                Err("token is empty or holds a space".to_owned())
            }
        }
        (None, [Some(url), Some(_), Some(_)]) => check_token_url(account, url),
        (Some(_), _) => Err("give either token or oauth, not both".to_owned()),
        (None, _) => Err(
            "give token, or oauth.token_url, oauth.client_id and oauth.client_secret".to_owned(),
        ),
    }
}

/// A secret may travel in the clear only where the calls themselves were allowed to.
fn check_token_url(account: &Account, url: &str) -> Result<(), String> {
    let plain_allowed = account.base_url.starts_with("http://");
    match url::Url::parse(url) {
        Ok(url) if url.scheme() == "https" => Ok(()),
        Ok(url) if url.scheme() == "http" && plain_allowed => Ok(()),
        _ => Err("oauth.token_url must be an https URL".to_owned()),
    }
}

fn lookup_path(account: &Account) -> &str {
    account.plain("lookup_path").unwrap_or(LOOKUP_PATH)
}

/// Whether the path of the look-up is ours, not the account's.
fn is_guessed(account: &Account) -> bool {
    account.plain("lookup_path").is_none()
}

fn fill(template: &str, ask: &Ask<'_>) -> String {
    let id = |name| segment(ask.job.payment.id(name));
    // An encoded id holds no brace, so the second name cannot come from the first id.
    template
        .replace("{order_id}", &id("order_id"))
        .replace("{transaction_id}", &id("transaction_id"))
}

fn units_asked(ask: &Ask<'_>) -> Option<i64> {
    ask.job.amount?.minor_units(ask.job.currency?).ok()
}
