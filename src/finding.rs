//! The finding about a request, and the messages that report it: the result, a correction, the dead
//! letter. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::outcome::{Cancelled, Failed, Invalid, Nothing, Outcome, Refused, Unresolved};
use crate::reading::Evidence;
use crate::strict;
use crate::wire::{Envelope, Header, Kind, Outgoing, Properties, derived};

/// Where an outcome was learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// The answer to the cancel call.
    Response,
    /// The answer to a look-up.
    Lookup,
    /// A notification.
    Notification,
    /// The worker's own decision: a deadline, a schedule's end.
    Worker,
}

/// What was found out: everything that a result, a correction or a dead letter contains.
#[derive(Debug, Clone)]
pub struct Finding<'a> {
    /// The request's id.
    pub request_id: &'a str,
    /// The account's name.
    pub provider: &'a str,
    /// The provider's name for people.
    pub title: &'a str,
    /// The delivery.
    pub envelope: &'a Envelope,
    /// What became of the request.
    pub outcome: Outcome,
    /// A sentence that replaces the standard one.
    pub detail: Option<&'a str>,
    /// Where it was learned.
    pub source: Source,
    /// The provider's words.
    pub evidence: &'a Evidence,
    /// Cancel calls sent.
    pub attempts: u32,
    /// Look-ups sent.
    pub lookups: u32,
    /// When the outcome was found.
    pub completed_at: Timestamp,
    /// Dead letters that the request has had before.
    pub letters: u32,
}

#[derive(Serialize)]
struct ResultBody<'a> {
    result_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    supersedes: Option<Uuid>,
    request_id: &'a str,
    provider: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<&'a RawValue>,
    outcome: &'a str,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    already: Option<bool>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    amount: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<&'a str>,
    evidence: EvidenceBody<'a>,
    attempts: u32,
    lookups: u32,
    received_at: Timestamp,
    completed_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct EvidenceBody<'a> {
    source: Source,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    reference: &'a BTreeMap<String, String>,
}

/// The parts of a request that its result repeats.
#[derive(Deserialize, Default)]
struct Echo<'a> {
    #[serde(default, borrow)]
    payment: Option<&'a RawValue>,
    #[serde(default, borrow)]
    metadata: Option<&'a RawValue>,
}

impl Finding<'_> {
    /// The sentence for a person.
    pub fn sentence(&self) -> String {
        match self.detail {
            Some(detail) => format!("{}.", detail.trim_end_matches('.')),
            None => sentence(self.title, self.outcome, self.attempts),
        }
    }

    /// The result, and the dead letter where the outcome asks for one.
    pub fn messages(&self) -> Vec<Outgoing> {
        let mut messages = vec![self.result()];
        if self.outcome.is_dead_letter() {
            messages.push(self.dead_letter());
        }
        messages
    }

    /// Derived, so that the same finding has the same id even after a crash. An invalid message may carry
    /// the `request_id` of another request: its bytes tell the two apart.
    pub fn result_id(&self) -> Uuid {
        let mut name = format!("result\n{}\n{}", self.provider, self.request_id).into_bytes();
        if let Outcome::Invalid(reason) = self.outcome {
            name.extend_from_slice(reason.as_str().as_bytes());
            name.extend_from_slice(&Sha256::digest(&self.envelope.body));
        }
        derived(name)
    }

    fn result(&self) -> Outgoing {
        let key = format!("result.{}.{}", self.provider, self.outcome.as_str());
        self.message(Kind::Result, self.result_id(), None, key)
    }

    /// The correction of the message `supersedes`: the result, or an earlier correction.
    pub fn correction(&self, supersedes: Uuid) -> Outgoing {
        let found = format!("{}\n{}", self.outcome.as_str(), self.outcome.reason());
        let name = format!("correction\n{supersedes}\n{found}");
        let id = derived(name);
        let key = format!("correction.{}.{}", self.provider, self.outcome.as_str());
        self.message(Kind::Correction, id, Some(supersedes), key)
    }

    fn message(&self, kind: Kind, id: Uuid, supersedes: Option<Uuid>, key: String) -> Outgoing {
        let echo = self.echo();
        let body = ResultBody {
            result_id: id,
            supersedes,
            request_id: self.request_id,
            provider: self.provider,
            payment: echo.payment,
            outcome: self.outcome.as_str(),
            reason: self.outcome.reason(),
            already: match self.outcome {
                Outcome::Cancelled { already, .. } => Some(already),
                _ => None,
            },
            message: self.sentence(),
            amount: self.evidence.amount.as_deref(),
            currency: self.evidence.currency.as_deref(),
            evidence: self.evidence_body(),
            attempts: self.attempts,
            lookups: self.lookups,
            received_at: self.envelope.received_at,
            completed_at: self.completed_at,
            metadata: echo.metadata,
        };
        let message_type = match kind {
            Kind::Correction => "cancellation.correction",
            _ => "cancellation.result",
        };
        Outgoing {
            id,
            kind,
            routing_key: key,
            properties: self.properties(Some(message_type)),
            body: serde_json::to_vec(&body).unwrap_or_default(),
        }
    }

    /// Nothing of a message over the limit: its result has to fit where the message only just did.
    fn echo(&self) -> Echo<'_> {
        let too_large = self.outcome == Outcome::Invalid(Invalid::TooLarge);
        if too_large || !strict::is_object(&self.envelope.body) {
            return Echo::default();
        }
        let echo: Echo<'_> = serde_json::from_slice(&self.envelope.body).unwrap_or_default();
        // A request that was understood can be read. Of any other only the parts that every reader can.
        let readable = !matches!(self.outcome, Outcome::Invalid(_));
        let is_object = |raw: &&RawValue| {
            raw.get().starts_with('{')
                && (readable || serde_json::from_str::<serde_json::Value>(raw.get()).is_ok())
        };
        Echo {
            payment: echo.payment.filter(is_object),
            metadata: echo.metadata.filter(is_object),
        }
    }

    fn evidence_body(&self) -> EvidenceBody<'_> {
        EvidenceBody {
            source: self.source,
            http_status: self.evidence.http_status,
            code: self.evidence.code.as_deref(),
            status: self.evidence.status.as_deref(),
            message: self.evidence.message.as_deref(),
            reference: &self.evidence.reference,
        }
    }

    fn properties(&self, message_type: Option<&str>) -> Properties {
        let mut headers = BTreeMap::new();
        let trace = [
            ("traceparent", &self.envelope.traceparent),
            ("tracestate", &self.envelope.tracestate),
        ];
        for (name, value) in trace {
            if let Some(value) = value {
                headers.insert(name.to_owned(), Header::Text(value.clone()));
            }
        }
        let correlation_id = self.envelope.correlation_id.clone();
        Properties {
            correlation_id: Some(correlation_id.unwrap_or_else(|| self.request_id.to_owned())),
            message_type: message_type.map(str::to_owned),
            reply_to: self.envelope.reply_to.clone(),
            timestamp: self.completed_at.as_second(),
            headers,
        }
    }

    /// Derived as well; a different one each time that a replay fails.
    pub fn dead_letter_id(&self) -> Uuid {
        let mut name = [self.result_id().as_bytes().as_slice(), b"dead"].concat();
        if self.letters > 0 {
            name.extend_from_slice(self.letters.to_string().as_bytes());
        }
        derived(name)
    }

    /// The request's bytes exactly as received, with the finding in flat headers.
    pub fn dead_letter(&self) -> Outgoing {
        let mut properties = self.properties(None);
        properties.reply_to = None;
        let mut set = |name: &str, value: Header| properties.headers.insert(name.to_owned(), value);
        let text = |value: &str| Header::Text(value.to_owned());
        set("rescind-reason", text(self.outcome.reason()));
        set("rescind-outcome", text(self.outcome.as_str()));
        set("rescind-request-id", text(self.request_id));
        set("rescind-provider", text(self.provider));
        set("rescind-attempts", Header::Count(self.attempts.into()));
        set("rescind-lookups", Header::Count(self.lookups.into()));
        set("rescind-detail", Header::Text(self.sentence()));
        set(
            "rescind-received-at",
            Header::Text(self.envelope.received_at.to_string()),
        );
        set(
            "rescind-dead-at",
            Header::Text(self.completed_at.to_string()),
        );
        Outgoing {
            id: self.dead_letter_id(),
            kind: Kind::DeadLetter,
            routing_key: format!("dead.{}.{}", self.provider, self.outcome.reason()),
            properties,
            body: self.envelope.body.clone(),
        }
    }
}

/// One plain sentence for a person: true of every request that can end so.
fn sentence(title: &str, outcome: Outcome, attempts: u32) -> String {
    match outcome {
        Outcome::Cancelled { reason, already } => {
            let before = if already { " had already" } else { "" };
            let what = match reason {
                Cancelled::Voided => "voided the payment",
                Cancelled::Refunded => "refunded the payment",
                Cancelled::PartiallyRefunded => "refunded the requested part",
                Cancelled::Dismissed => "dismissed the payment",
                Cancelled::Reversed => "reversed the requested amount",
                Cancelled::Cancelled => "cancelled the payment",
                Cancelled::ReversalPending => {
                    "cancelled the payment; what was paid is on its way back"
                }
            };
            format!("{title}{before} {what}.")
        }
        Outcome::NothingToCancel(reason) => format!(
            "{title} says that the payment had {}.",
            match reason {
                Nothing::Expired => "expired",
                Nothing::Denied => "been denied",
                Nothing::PaymentFailed => "failed",
            }
        ),
        Outcome::Refused(reason) => format!(
            "{title} {}",
            match reason {
                Refused::Settled => "has settled the payment; refund what is left of it instead.",
                Refused::AlreadyRefunded => "refunded the payment before.",
                Refused::Disputed => "has the payment in dispute.",
                Refused::Unsupported =>
                    "cannot cancel such a payment, or not as this account is set up.",
                Refused::NotFound => "knows no such payment.",
                Refused::NotEligible =>
                    "does not allow the payment to be cancelled in its state; look at it before anything else.",
                Refused::AmountNotAllowed => "does not allow this amount to be cancelled.",
            }
        ),
        Outcome::Failed(reason) => failed(reason, attempts),
        Outcome::Unresolved(reason) => format!(
            "It is not known whether the payment is cancelled: {} A person has to look.",
            match reason {
                Unresolved::NoLookup => "the provider offers no way to ask.",
                Unresolved::LookupsExhausted =>
                    "the provider gave no final answer for as long as it was asked.",
                Unresolved::ContradictoryEvidence =>
                    "what the provider says does not fit together.",
                Unresolved::RefundFailed => "a refund was started and failed.",
            }
        ),
        Outcome::Invalid(reason) => {
            format!("The request was not understood: {}.", reason.as_str())
        }
    }
}

/// Where nothing was sent, an earlier request may have cancelled the payment, or be in doubt.
fn failed(reason: Failed, attempts: u32) -> String {
    let known = if attempts == 0 {
        "No cancel was sent"
    } else {
        "Nothing was cancelled"
    };
    let why = match reason {
        Failed::RetriesExhausted => "the provider carried out no call for as long as it was tried",
        Failed::DeadlinePassed => "the request's deadline passed",
        Failed::CredentialsRefused => "the provider refuses our credentials or permissions",
        Failed::RejectedByProvider => {
            "the provider calls the request malformed, or the address is wrong, or a gateway in between refuses it"
        }
    };
    format!("{known}: {why}.")
}
