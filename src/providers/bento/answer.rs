//! What an answer of Bento's holds: the transaction, its history, failures, and whose they can be. Pure.

use std::time::Duration;

use serde_json::Value;

use super::super::{Ask, Reading, Response, loose_text};
use super::reversed::{self, REVERSED, Reversed};
use crate::job::{Amount, Currency};
use crate::outcome::{Cancelled, Cause, Refused, Verdict};

/// Learned: how many failed voids and refunds of this payment are accounted for: retried for, or
/// older than the next call.
pub(super) const FAILURES: &str = "failures";

/// An answer's body: the transaction is in `data`, errors and newer declines are outside of it.
pub(super) struct Answer<'a> {
    pub(super) body: &'a Value,
    pub(super) transaction: &'a Value,
}

/// A void or refund that the provider says has failed.
pub(super) struct Failure {
    pub(super) retryable: bool,
    /// Failed voids and refunds in the history; 0 where only `status` tells of it.
    pub(super) count: usize,
}

impl<'a> Answer<'a> {
    pub(super) fn of(body: &'a Value) -> Self {
        let transaction = match &body["data"] {
            data if data.is_object() => data,
            _ => body,
        };
        Self { body, transaction }
    }

    pub(super) fn state(&self) -> Option<&'a str> {
        self.transaction["state"].as_str()
    }

    /// The transaction's own status, or that of an answer without a transaction.
    pub(super) fn status(&self) -> &'a Value {
        match &self.transaction["status"] {
            status if status.is_object() => status,
            _ => &self.body["status"],
        }
    }

    /// False for an answer that is about another payment than the one asked for.
    pub(super) fn is_about(&self, ask: &Ask<'_>) -> bool {
        let same = |field: &str, name| match loose_text(&self.transaction[field]) {
            Some(id) => id == ask.job.payment.id(name),
            None => true,
        };
        same("orderId", "order_id") && same("transactionId", "transaction_id")
    }

    /// One of the transaction's amounts, in minor units.
    pub(super) fn units(&self, field: &str) -> Option<i64> {
        loose_text(&self.transaction[field])?.parse().ok()
    }

    /// What was refunded, in minor units; of a part only what was not before our first call.
    pub(super) fn refunded_units(&self, ask: &Ask<'_>) -> Option<i64> {
        let all = self.units("refundedAmount").filter(|units| *units > 0)?;
        Some(match (ask.job.amount, Reversed::before(ask)) {
            (Some(_), Some(before)) => all.saturating_sub(before.units),
            _ => all,
        })
    }

    /// What this request refunded, as an amount: nothing where it is not certain how much of all that was
    /// refunded that is. Of a payment that was refunded before, all of it.
    fn refunded_amount(&self, ask: &Ask<'_>, already: bool) -> Option<Amount> {
        let is_ours = !already || Whose::earlier(ask) != Whose::SomebodyElses;
        let units = if ask.job.amount.is_none() && is_ours {
            reversed::rest(ask, self)?
        } else {
            self.refunded_units(ask)?
        };
        Some(Amount::from_minor_units(units, self.currency(ask)?))
    }

    /// Of the transaction's amounts. The request's stands in for one that is not told, not for one that is
    /// unknown.
    fn currency(&self, ask: &Ask<'_>) -> Option<Currency> {
        match self.transaction["currency"].as_str() {
            Some(code) if !code.is_empty() => Currency::parse(&code.to_ascii_uppercase()),
            _ => ask.job.currency,
        }
    }

    /// A void or refund that failed, where the answer allows no other reading.
    ///
    /// `status` is of the last action, which may not be ours. The history decides: its last
    /// entry is a failed Void or Refund (certain), or another failed action (then `status` is
    /// of that one), or a success, or there is none; then a failing `status` is of an action
    /// that came after it, and that is ours.
    pub(super) fn failure(&self) -> Option<Failure> {
        let count = self.failures();
        let (status, count) = match self.history().last() {
            Some(last) if is_failed_reversal(last) && last["status"].is_object() => {
                (&last["status"], count)
            }
            Some(last) if is_failed_reversal(last) => (self.status(), count),
            Some(last) if is_failed(last) => return None,
            _ => (self.status(), 0),
        };
        Some(Failure {
            count,
            ..failed(status)?
        })
    }

    fn history(&self) -> &'a [Value] {
        self.transaction["history"]
            .as_array()
            .map_or(&[], Vec::as_slice)
    }

    /// Failed voids and refunds in the history, whosever they are.
    fn failures(&self) -> usize {
        let history = self.history().iter();
        history.filter(|entry| is_failed_reversal(entry)).count()
    }

    /// Voids and refunds in the history that went through, whosever they are.
    pub(super) fn reversals(&self) -> usize {
        let history = self.history().iter();
        history
            .filter(|entry| is_reversal(entry) && is_success(entry))
            .count()
    }

    /// What was there before a call of ours can have done anything is noted, as it is none of ours.
    fn reversed_before(&self, ask: &Ask<'_>, verdict: &Verdict) -> Option<Reversed> {
        if *verdict == Verdict::StillOpen && Whose::earlier(ask) == Whose::SomebodyElses {
            Reversed::shown(self)
        } else {
            None
        }
    }

    /// How many of them need no answer any more, once a call follows: those that it repeats, and
    /// whatever had failed before it, whosever it was. Never fewer than before: one too many ends
    /// with a person, one too few with a call beside one that is being carried out.
    fn accounted(&self, ask: &Ask<'_>, verdict: &Verdict) -> Option<usize> {
        let known = accounted_for(ask);
        let failure = self.failure();
        match (verdict, &failure) {
            (Verdict::Again { cause, .. }, Some(failure)) if *cause == Cause::Retryable => {
                Some(match failure.count {
                    0 => known + 1,
                    count => count.max(known),
                })
            }
            (Verdict::StillOpen, _) => {
                let seen = self.failures().max(usize::from(failure.is_some()));
                Some(seen).filter(|seen| *seen > known)
            }
            _ => None,
        }
    }

    pub(super) fn reading(
        &self,
        ask: &Ask<'_>,
        verdict: Verdict,
        response: &Response<'_>,
    ) -> Reading {
        let status = self.status();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let message = text(&status["description"]).or_else(|| text(&self.body["message"]));
        let accounted = self.accounted(ask, &verdict);
        let before = self.reversed_before(ask, &verdict);
        let amount = match verdict {
            Verdict::Cancelled {
                reason: Cancelled::Refunded | Cancelled::PartiallyRefunded,
                already,
            } => self.refunded_amount(ask, already),
            _ => None,
        };
        let reading = Reading::of(verdict, response)
            .with(
                loose_text(&status["code"]),
                text(&self.transaction["state"]),
                message,
            )
            .learn(FAILURES, accounted.map(|count| count.to_string()))
            .learn(REVERSED, before.map(Reversed::to_learn));
        match amount {
            Some(amount) => reading.amount(
                Some(amount.to_string()),
                text(&self.transaction["currency"]),
            ),
            None => reading,
        }
    }
}

impl Failure {
    /// A failure that is accounted for is shown again after the next submission: what is shown
    /// counts once, and what is only told by `status` once.
    pub(super) fn is_new(&self, ask: &Ask<'_>) -> bool {
        self.count.max(1) > accounted_for(ask)
    }

    pub(super) fn verdict(&self, after: Option<Duration>) -> Verdict {
        if self.retryable {
            Verdict::Again {
                after,
                cause: Cause::Retryable,
            }
        } else {
            Verdict::Refused(Refused::NotEligible)
        }
    }
}

fn accounted_for(ask: &Ask<'_>) -> usize {
    let known = ask.learned(FAILURES).and_then(|n| n.parse().ok());
    known.unwrap_or(0)
}

fn is_failed(entry: &Value) -> bool {
    entry["result"]
        .as_str()
        .is_some_and(|r| r.eq_ignore_ascii_case("Failure"))
        || failed(&entry["status"]).is_some()
}

fn is_success(entry: &Value) -> bool {
    let says = |told: &Value, word| told.as_str().is_some_and(|s| s.eq_ignore_ascii_case(word));
    says(&entry["result"], "Success") || says(&entry["status"]["outcome"], "succeeded")
}

fn is_reversal(entry: &Value) -> bool {
    let action = entry["action"].as_str().unwrap_or_default();
    let reverses = |name| action.eq_ignore_ascii_case(name);
    reverses("Void") || reverses("Refund")
}

fn is_failed_reversal(entry: &Value) -> bool {
    is_reversal(entry) && is_failed(entry)
}

/// `None` unless the outcome is one of the two documented failures.
pub(super) fn failed(status: &Value) -> Option<Failure> {
    let outcome = status["outcome"].as_str()?.to_ascii_lowercase();
    let retryable = outcome == "failedretryable";
    (retryable || outcome == "failednonretryable").then_some(Failure {
        retryable,
        count: 0,
    })
}

/// Who can have brought about the state that is seen.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    ThisCall,
    AnEarlierCall,
    SomebodyElses,
}

impl Whose {
    pub(super) fn earlier(ask: &Ask<'_>) -> Self {
        if ask.exposed || ask.accepted {
            Self::AnEarlierCall
        } else {
            Self::SomebodyElses
        }
    }
}
