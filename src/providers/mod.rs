//! The seam to the providers: an adapter translates, it never sends. Pure.
//!
//! One file per kind of provider. An adapter builds the cancel request and the look-up,
//! reads each answer into a [`Verdict`](crate::outcome::Verdict), and declares what its provider can do. Sending,
//! timeouts, tokens, limits and counting are done once, in `call` and `dispatch`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use uuid::Uuid;

use crate::job::{Amount, Currency, Job, Payment};
use crate::oauth;

mod bento;
mod gr4vy;
mod midtrans;
mod migo;
mod pismo;
mod tingg;

pub(crate) use crate::asking::is_visible;
pub use crate::asking::{Login, Method, Request, Token, segment};
pub use crate::notification::{Arrived, Hint, NOTIFICATION_BYTES_MAX, Notification, Via};
pub use crate::reading::{
    Evidence, Learned, Reading, Response, by_http_status, is_client_error, loose_text,
};

/// Every kind of provider. Tests over all adapters, configuration and command line are driven by it.
pub const ALL: &[&dyn Provider] = &[
    &bento::Bento,
    &gr4vy::Gr4vy,
    &midtrans::Midtrans,
    &migo::Migo,
    &pismo::Pismo,
    &tingg::Tingg,
];

/// The adapter for a kind, by its configuration name.
pub fn by_kind(kind: &str) -> Option<&'static dyn Provider> {
    ALL.iter().copied().find(|provider| provider.kind() == kind)
}

/// One kind of provider: its dialect, nothing of its transport.
pub trait Provider: Send + Sync {
    /// Name in configuration and documentation, e.g. `midtrans`.
    fn kind(&self) -> &'static str;

    /// Name for people, e.g. `Midtrans`.
    fn title(&self) -> &'static str;

    /// The keys of its configuration table beyond the shared ones.
    fn settings(&self) -> &'static [Setting];

    /// Checks the settings of one account beyond presence, e.g. that a key can be read.
    fn check(&self, account: &Account) -> Result<(), String>;

    /// What this provider offers for such a request, and what doubt means for it.
    fn abilities(&self, account: &Account, job: &Job) -> Abilities;

    /// Whether what is known of the payment may come to name a later one, so that a cancel that comes late could
    /// hit that: its state is then asked first.
    fn may_be_another(&self, _job: &Job, _learned: &Learned) -> bool {
        false
    }

    /// Checks the `payment`, `amount` and `currency` of a request and names the payment.
    /// The error is one sentence for the publisher.
    fn payment(&self, asked: &Asked<'_>) -> Result<Payment, String>;

    /// The call that cancels.
    fn cancel(&self, ask: &Ask<'_>) -> Request;

    /// The question what became of the payment; only called when [`Abilities::lookup`].
    fn lookup(&self, ask: &Ask<'_>) -> Request;

    /// What the answer to [`Provider::cancel`] says.
    fn read_cancel(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading;

    /// What the answer to [`Provider::lookup`] says. `Cancelled` is given with
    /// `already: true`; the lifecycle knows whether an attempt of ours can have done it.
    fn read_lookup(&self, ask: &Ask<'_>, response: &Response<'_>) -> Reading;

    /// How to authenticate: at once, or by asking for a token first. `nonce` is a fresh
    /// random text for signed tokens.
    fn login(&self, account: &Account, now: Timestamp, nonce: &str) -> Result<Login, String>;

    /// Reads the answer to [`Login::Fetch`], where [`login`](Self::login) asks for one.
    fn read_login(&self, _response: &Response<'_>) -> Result<Token, String> {
        Err(format!("{} has no token to fetch", self.title()))
    }

    /// Whether the answer to [`Login::Fetch`] refuses the credentials: then each request that is due ends as failed.
    /// Anything else, a wrong address as well, is no word on them.
    fn refuses_login(&self, response: &Response<'_>) -> bool {
        oauth::is_refusal(response)
    }

    /// What a notification says. Where the provider documents none, nothing is taken.
    fn notification(&self, _account: &Account, _arrived: &Arrived<'_>) -> Notification {
        Notification::Unsupported
    }

    /// The headers, in lower case, without which a notification cannot be verified again.
    /// They are published with it: never one that holds a secret.
    fn notification_headers(&self) -> &'static [&'static str] {
        &[]
    }
}

impl fmt::Debug for dyn Provider {
    /// Its kind: an adapter has no state.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind())
    }
}

/// One key of a provider's configuration table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Key below `[providers.<name>]`; a dot separates levels (`oauth.client_id`).
    pub key: &'static str,
    /// Wrapped from parsing on, never shown; may be given as `<key>_file`.
    pub secret: bool,
    /// Must be given. Alternatives are checked by [`Provider::check`].
    pub required: bool,
    /// May hold several values (a list in TOML).
    pub many: bool,
}

impl Setting {
    /// One that has to be given.
    pub const fn plain(key: &'static str) -> Self {
        Self {
            key,
            secret: false,
            required: true,
            many: false,
        }
    }

    /// A secret that has to be given.
    pub const fn secret(key: &'static str) -> Self {
        Self {
            secret: true,
            ..Self::plain(key)
        }
    }

    /// The same, which may be left out.
    pub const fn optional(self) -> Self {
        Self {
            required: false,
            ..self
        }
    }

    /// The same, of which there may be none or several.
    pub const fn several(self) -> Self {
        Self {
            many: true,
            ..self.optional()
        }
    }
}

/// One configured account at a provider.
#[derive(Debug, Clone, Default)]
pub struct Account {
    /// The name used in requests, routing keys, metrics and the ledger.
    pub name: String,
    /// Base URL without a trailing slash.
    pub base_url: String,
    /// Settings that are no secret, by key.
    pub plain: BTreeMap<String, String>,
    /// Secret settings, by key; more than one only where [`Setting::many`].
    pub secrets: BTreeMap<String, Vec<SecretString>>,
}

impl Account {
    /// A plain setting.
    pub fn plain(&self, key: &str) -> Option<&str> {
        self.plain.get(key).map(String::as_str)
    }

    /// A secret setting, exposed: for building a login, never for a log.
    pub fn secret(&self, key: &str) -> Option<&str> {
        self.secrets
            .get(key)?
            .first()
            .map(ExposeSecret::expose_secret)
    }

    /// All values of a secret setting that may have several, exposed.
    pub fn secrets(&self, key: &str) -> impl Iterator<Item = &str> {
        let given = self.secrets.get(key).into_iter().flatten();
        given.map(ExposeSecret::expose_secret)
    }
}

/// What a provider offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// There is a way to ask what became of a payment.
    pub lookup: bool,
    /// A payment that the look-up does not find is not there.
    pub finds_all: bool,
    /// The state has to be asked before the first cancel, since it chooses the call.
    pub look_first: bool,
    /// What to do about a call that may have been applied.
    pub doubt: DoubtPolicy,
}

/// What doubt means for a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DoubtPolicy {
    /// Ask the provider before anything is sent again.
    LookUp,
    /// The provider deduplicates by our key: the same call with the same key is the
    /// question, for as long as the key lives.
    SameKey {
        /// Counted from the first send.
        key_life: Duration,
    },
    /// A repeat does no harm, but its answer may be ambiguous: send once more, believe
    /// only a clear answer.
    AskOnceMore,
    /// Nothing can be done safely: a person has to look.
    Person,
}

/// The parts of a request that its provider's kind gives a meaning to.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The `payment` object as published.
    pub payment: &'a serde_json::Map<String, serde_json::Value>,
    /// Partial amount.
    pub amount: Option<Amount>,
    /// Its currency.
    pub currency: Option<Currency>,
}

impl Asked<'_> {
    /// A required id that is a non-empty string.
    pub fn text(&self, name: &str) -> Result<String, String> {
        self.optional_text(name)?
            .ok_or_else(|| format!("payment.{name} is missing"))
    }

    /// An optional id; when present it must be a non-empty string without control characters.
    pub fn optional_text(&self, name: &str) -> Result<Option<String>, String> {
        match self.payment.get(name) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(serde_json::Value::String(s)) if s.is_empty() => {
                Err(format!("payment.{name} is empty"))
            }
            Some(serde_json::Value::String(s)) if s.chars().any(char::is_control) => {
                Err(format!("payment.{name} holds a control character"))
            }
            Some(serde_json::Value::String(s)) if is_dots(s) => Err(format!(
                "payment.{name} cannot be {s}, which no URL can carry"
            )),
            Some(serde_json::Value::String(s)) => Ok(Some(s.clone())),
            Some(_) => Err(format!("payment.{name} must be a string")),
        }
    }

    /// An optional id that is an integer of at least 1, as decimal text.
    pub fn optional_integer(&self, name: &str) -> Result<Option<String>, String> {
        match self.payment.get(name) {
            None | Some(serde_json::Value::Null) => Ok(None),
            Some(value) => match value.as_i64() {
                Some(n) if n >= 1 => Ok(Some(n.to_string())),
                _ => Err(format!(
                    "payment.{name} must be an integer of at least 1 and at most {}",
                    i64::MAX
                )),
            },
        }
    }

    /// Refuses an amount where the provider can only cancel the whole payment.
    pub fn whole_only(&self, title: &str) -> Result<(), String> {
        match self.amount {
            Some(_) => Err(format!(
                "{title} cancels whole payments only; leave out amount"
            )),
            None => Ok(()),
        }
    }
}

/// The path segments that mean a step and not a name.
fn is_dots(id: &str) -> bool {
    id == "." || id == ".."
}

/// A payment's id for its key: a UUID names the same one in capitals, any other id only as it is spelled.
fn in_one_case(id: &str) -> String {
    match Uuid::try_parse(id) {
        Ok(_) => id.to_ascii_lowercase(),
        Err(_) => id.to_owned(),
    }
}

/// Everything an adapter may look at when it builds a call or reads an answer.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The account whose settings apply.
    pub account: &'a Account,
    /// The request.
    pub job: &'a Job,
    /// Deterministic idempotency key of this cancellation, a UUID of 36 characters.
    pub key: &'a str,
    /// What earlier answers taught.
    pub learned: &'a Learned,
    /// An earlier attempt of this request may have been applied.
    pub exposed: bool,
    /// It is exposed only since the ledger may have forgotten calls: none on record may have been applied.
    pub presumed: bool,
    /// The provider has accepted an earlier attempt of this request.
    pub accepted: bool,
    /// When the request was received: it cannot mean a payment that was made later.
    pub received_at: Timestamp,
}

impl Ask<'_> {
    /// Something learned earlier.
    pub fn learned(&self, name: &str) -> Option<&str> {
        self.learned.get(name).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_names_one_payment_in_capitals_too_and_another_id_only_as_it_is_spelled() {
        let id = "fe26475d-ec3e-4884-9553-f7356683f7f9";
        for spelled in [id.to_owned(), id.to_uppercase()] {
            assert_eq!(in_one_case(&spelled), id);
        }
        assert_eq!(in_one_case("TX-1"), "TX-1");
    }
}
