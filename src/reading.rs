//! What an adapter makes of an answer: its verdict, and the provider's words that it rests on. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::job::Amount;
use crate::outcome::{Cause, Operation, Verdict, Why};
use crate::strict;

/// A complete answer as an adapter sees it.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, already turned into a duration from now.
    pub retry_after: Option<Duration>,
    /// The whole body, at most 256 KiB.
    pub body: &'a [u8],
}

impl Response<'_> {
    /// The body as JSON, or `Null`: an unreadable body has no fields, and so has one in which a key
    /// stands twice.
    pub fn json(&self) -> serde_json::Value {
        strict::json(self.body).unwrap_or_default()
    }

    /// The question is to be asked again.
    pub fn not_yet(&self) -> Verdict {
        Verdict::NotYet {
            after: self.retry_after,
        }
    }

    /// It says nothing that could be read: a cancel may have been applied, a question is asked again.
    pub fn unread(&self, operation: Operation) -> Verdict {
        match operation {
            Operation::Cancel => Verdict::Doubt,
            Operation::Lookup => self.not_yet(),
        }
    }

    /// True where a program wrote the body, and not a gateway's page.
    pub fn is_object(&self) -> bool {
        self.json().is_object()
    }

    /// True for 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A number or a string as text: providers disagree with their own pages about which.
pub fn loose_text(value: &serde_json::Value) -> Option<String> {
    match value {
        serde_json::Value::String(s) => Some(s.clone()),
        serde_json::Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

/// What the provider told us earlier and a later call needs, e.g. its own transaction id.
/// Small, kept with the request in the ledger.
pub type Learned = BTreeMap<String, String>;

/// A verdict with the words of the provider that it rests on.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// What the answer means.
    pub verdict: Verdict,
    /// The provider's own words, for the result.
    pub evidence: Evidence,
    /// What a later call needs to know.
    pub learned: Learned,
}

impl Reading {
    /// A reading that rests on the HTTP status alone.
    pub fn of(verdict: Verdict, response: &Response<'_>) -> Self {
        let evidence = Evidence {
            http_status: Some(response.status),
            ..Evidence::default()
        };
        Self {
            verdict,
            evidence,
            learned: Learned::new(),
        }
    }

    /// The same with the provider's code, status and message.
    #[must_use]
    pub fn with(
        mut self,
        code: Option<String>,
        status: Option<String>,
        message: Option<String>,
    ) -> Self {
        let shorten = |words: String| shorten(&words);
        self.evidence.code = code.map(shorten);
        self.evidence.status = status.map(shorten);
        self.evidence.message = message.map(shorten);
        self
    }

    /// The same with words of ours before the provider's message.
    #[must_use]
    pub fn remark(mut self, ours: &str) -> Self {
        let theirs = self.evidence.message.take();
        let theirs = theirs.map_or_else(String::new, |message| format!(" ({message})"));
        self.evidence.message = Some(shorten(&format!("{ours}{theirs}")));
        self
    }

    /// The same with an id that the provider returned.
    #[must_use]
    pub fn reference(mut self, name: &str, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.evidence
                .reference
                .insert(name.to_owned(), shorten(&value));
        }
        self
    }

    /// The same with what the provider says was cancelled, as far as it is an amount: consumers
    /// read a decimal there.
    #[must_use]
    pub fn amount(mut self, amount: Option<String>, currency: Option<String>) -> Self {
        let is_code = |c: &String| c.len() == 3 && c.bytes().all(|b| b.is_ascii_uppercase());
        self.evidence.amount = amount.filter(|amount| Amount::parse(amount).is_ok());
        self.evidence.currency = currency.filter(is_code);
        self
    }

    /// The same with something a later call needs.
    #[must_use]
    pub fn learn(mut self, name: &str, value: Option<String>) -> Self {
        if let Some(value) = value {
            self.learned.insert(name.to_owned(), value);
        }
        self
    }
}

/// Words of somebody else's are for a person; a page of HTML is not.
pub(crate) fn shorten(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(300).collect()
}

/// The provider's own words behind a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Evidence {
    /// HTTP status of the answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// The provider's own code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The provider's own state, as received.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The provider's message, at most 300 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Ids that the provider returned.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub reference: BTreeMap<String, String>,
    /// What the provider says was cancelled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<String>,
    /// Currency of that amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
}

impl Evidence {
    /// Code, status and message, as far as the provider gave them.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        let words = [&self.code, &self.status, &self.message];
        words.into_iter().flatten().map(String::as_str)
    }
}

/// The verdict of an answer that has no readable meaning of the provider's own: what HTTP
/// says about whether the call can have been applied.
///
/// A 404 says that the address is wrong: gateways answer it, too, as a page or as JSON, and only an adapter
/// knows in which form its provider says that there is no such payment. 429 was not processed. A 5xx, and a 2xx
/// that nobody could read, may hide an applied call: where a provider documents a 503 as not processed, its adapter
/// says so of one in the provider's own form. So may a 4xx that HTTP does not know: a gateway says that its caller
/// went away (499 of nginx, 460 of AWS) after it passed the call on.
pub fn by_http_status(operation: Operation, response: &Response<'_>) -> Verdict {
    match response.status {
        429 => Verdict::unprocessed(operation, response.retry_after, Cause::RateLimited),
        401 => Verdict::Unauthorized,
        403 => Verdict::Misconfigured(Why::Credentials),
        408 | 409 | 425 => response.unread(operation),
        status if is_client_error(status) => Verdict::Misconfigured(Why::Rejected),
        _ => response.unread(operation),
    }
}

/// A 4xx of the registry, which a gateway says before it passes a call on
/// (<https://www.iana.org/assignments/http-status-codes/http-status-codes.xhtml>).
pub fn is_client_error(status: u16) -> bool {
    matches!(status, 400..=417 | 421..=426 | 428 | 429 | 431 | 451)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_only_a_gateway_says_is_no_refusal() {
        let verdict = |status| {
            let response = Response {
                status,
                retry_after: None,
                body: b"<html>",
            };
            by_http_status(Operation::Cancel, &response)
        };
        for status in [400, 405, 413, 422, 431, 451] {
            assert_eq!(verdict(status), Verdict::Misconfigured(Why::Rejected));
        }
        for status in [408, 418, 444, 460, 499, 500, 503, 524, 598] {
            assert_eq!(verdict(status), Verdict::Doubt, "{status}");
        }
    }

    #[test]
    fn an_amount_is_one_that_consumers_can_read() {
        let response = Response {
            status: 200,
            retry_after: None,
            body: b"",
        };
        let told = |amount: &str, currency: &str| {
            let reading = Reading::of(Verdict::Doubt, &response);
            let evidence = reading
                .amount(Some(amount.into()), Some(currency.into()))
                .evidence;
            (evidence.amount.is_some(), evidence.currency.is_some())
        };
        assert_eq!(told("30000.00", "IDR"), (true, true));
        for (amount, currency) in [
            ("1e9", "idr"),
            ("-5", "Rupiah"),
            ("1,000", ""),
            ("9\n", "ID\n"),
        ] {
            assert_eq!(
                told(amount, currency),
                (false, false),
                "{amount} {currency}"
            );
        }
        assert_eq!(told(&"9".repeat(200_000), "IDR"), (false, true));
    }
}
