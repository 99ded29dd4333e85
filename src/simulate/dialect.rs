//! What a provider file has to say: its login, its state words, and the bodies of its answers.

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use jiff::SignedDuration;
use rust_decimal::Decimal;
use serde_json::Value;

use super::behaviour::Fault;
use super::logins::{Login, Logins};
use super::payment::Payment;
use crate::names::names;

names! {
    /// The provider of a call; its name is also its path below the base URL.
    #[derive(PartialOrd, Ord)]
    pub(super) Provider {
        Bento = "bento",
        Gr4vy = "gr4vy",
        Midtrans = "midtrans",
        Migo = "migo",
        Pismo = "pismo",
        Tingg = "tingg",
    }
}

/// Which payment a call is about.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    /// The name it has in the money record.
    pub(super) payment: String,
    /// Each id on its own, to look for behaviour words.
    pub(super) ids: Vec<String>,
}

impl Subject {
    pub(super) fn one(id: String) -> Self {
        Self {
            payment: id.clone(),
            ids: vec![id],
        }
    }

    /// For a payment that only two ids name together.
    pub(super) fn two(first: String, second: String) -> Self {
        Self {
            payment: format!("{first}/{second}"),
            ids: vec![first, second],
        }
    }
}

/// One cancel call, read from its path, headers and body.
#[derive(Clone, Debug)]
pub(super) struct Cancel {
    pub(super) subject: Subject,
    /// The caller's idempotency key, or what stands for one.
    pub(super) key: Option<String>,
    /// How much of the payment, where the caller says so.
    pub(super) amount: Option<Amount>,
    /// What differs between a provider's ways to ask.
    pub(super) way: Way,
}

impl Cancel {
    pub(super) fn plain(subject: Subject) -> Self {
        Self {
            subject,
            key: None,
            amount: None,
            way: Way::Plain,
        }
    }
}

/// An amount as the provider writes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Amount {
    Minor(i64),
    Decimal(Decimal),
}

/// A provider's ways to ask for a cancel, where it has more than one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Plain,
    /// Gr4vy's `/void`; whether the void itself was asked for, and not the transaction.
    Void {
        itself: bool,
    },
    /// Gr4vy's `/cancel`.
    Withdraw,
}

/// Money moving (or ceasing to be held), as the record will show it.
pub(super) struct Movement {
    pub(super) operation: &'static str,
    pub(super) amount: i64,
    /// Whether nothing is left to cancel afterwards.
    pub(super) closes: bool,
}

/// One provider's way of speaking. Nothing here changes a payment: `exchange` does.
pub(super) trait Dialect: Send + Sync {
    fn provider(&self) -> Provider;

    /// The currency of a payment whose id names none.
    fn currency(&self) -> &'static str;

    /// The login a call carries, if the provider would take it.
    fn login(&self, logins: &Logins, headers: &HeaderMap) -> Option<Login>;

    /// Other names under which the provider knows the payment.
    fn aliases(&self, _id: &str) -> Vec<String> {
        Vec::new()
    }

    /// The provider's own word for the payment's state.
    fn state(&self, payment: &Payment) -> String;

    /// What a cancel would do now, or nothing where the state or the amount forbids it.
    fn movement(&self, payment: &Payment, call: &Cancel) -> Option<Movement>;

    /// The answer to a cancel that was just carried out.
    fn done(&self, payment: &Payment, call: &Cancel) -> Reply;

    /// The answer to a cancel that will be carried out later, where the provider has one.
    fn accepted(&self, _payment: &Payment, _call: &Cancel) -> Option<Reply> {
        None
    }

    /// The answer to a cancel that the state or the amount forbids.
    fn refused(&self, payment: &Payment, call: &Cancel) -> Reply;

    /// The answer to a look-up.
    fn lookup(&self, payment: &Payment) -> Reply;

    /// What a notification about the payment says, before it is signed, where the provider
    /// sends any.
    fn notification(&self, _payment: &Payment) -> Option<Value> {
        None
    }

    /// An answer without effect.
    fn fault(&self, fault: Fault, payment: &Payment, call: Option<&Cancel>) -> Reply;

    /// How long the answer is kept under the call's key.
    fn keeps(&self, _carried_out: bool) -> Option<SignedDuration> {
        None
    }

    /// The answer while a call with the same key is still running.
    fn running(&self, payment: &Payment, call: &Cancel) -> Reply {
        self.refused(payment, call)
    }
}

/// An answer, kept as text so that it can be given twice.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    content_type: &'static str,
    body: String,
    retry_after: Option<u32>,
}

impl Reply {
    pub(super) fn json(status: u16, body: &Value) -> Self {
        Self::new(status, "application/json", body.to_string())
    }

    pub(super) fn text(status: u16, body: &str) -> Self {
        Self::new(status, "text/plain; charset=utf-8", body.to_owned())
    }

    /// A proxy's page, as it stands in front of many an API.
    pub(super) fn html(status: u16, title: &str) -> Self {
        let page = format!(
            "<!doctype html><html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
        );
        Self::new(status, "text/html; charset=utf-8", page)
    }

    pub(super) fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    fn new(status: u16, content_type: &'static str, body: String) -> Self {
        Self {
            // Every status here is a literal of this module; a wrong one shows as a 500.
            status: StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            content_type,
            body,
            retry_after: None,
        }
    }
}

impl IntoResponse for Reply {
    fn into_response(self) -> Response {
        let kind = [(header::CONTENT_TYPE, self.content_type)];
        let mut response = (self.status, kind, self.body).into_response();
        if let Some(seconds) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
