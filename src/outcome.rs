//! The closed sets that decisions depend on: what an answer may mean, where a request may
//! stand, and how it may end. Pure.

use std::time::Duration;

use crate::names::names;

/// What an adapter may say of an answer: a closed set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The provider's evidence that the payment is cancelled.
    Cancelled {
        /// In which way.
        reason: Cancelled,
        /// The provider says that it was so before this call.
        already: bool,
    },
    /// The payment had ended without money.
    NothingToCancel(Nothing),
    /// A definite no; nothing was changed.
    Refused(Refused),
    /// Cancel: taken, not finished. Look-up: a cancellation is under way. Ask later.
    Accepted,
    /// Certainly not applied: send again.
    Again {
        /// The provider's `Retry-After`.
        after: Option<Duration>,
        /// For the metric.
        cause: Cause,
    },
    /// May have been applied. Never send before the provider was asked.
    Doubt,
    /// Look-up: certainly not cancelled, and it can be.
    StillOpen,
    /// Look-up: it failed, or what it says is no answer yet. Cancel: this call changed nothing,
    /// and only a look-up can say why.
    NotYet {
        /// The provider's `Retry-After`.
        after: Option<Duration>,
    },
    /// The provider knows no such payment. Believed after two agreeing answers.
    NotFound,
    /// The token was refused.
    Unauthorized,
    /// Credentials, permissions, or malformed for the provider.
    Misconfigured(Why),
    /// Look-up: open, and so it was not the state for which the last cancel was refused.
    Barred(Why),
    /// Evidence that no automatic step can resolve.
    Unresolved(Unresolved),
}

impl Verdict {
    /// Of a call that was certainly not processed: it is made again, whichever it was.
    pub fn unprocessed(operation: Operation, after: Option<Duration>, cause: Cause) -> Self {
        match operation {
            Operation::Cancel => Self::Again { after, cause },
            Operation::Lookup => Self::NotYet { after },
        }
    }

    /// Every name.
    pub const NAMES: [&'static str; 12] = [
        "cancelled",
        "nothing_to_cancel",
        "refused",
        "accepted",
        "again",
        "doubt",
        "still_open",
        "not_yet",
        "not_found",
        "unauthorized",
        "misconfigured",
        "unresolved",
    ];

    /// The name used in metrics, the log and the ledger.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Cancelled { .. } => "cancelled",
            Self::NothingToCancel(_) => "nothing_to_cancel",
            Self::Refused(_) => "refused",
            Self::Accepted => "accepted",
            Self::Again { .. } => "again",
            Self::Doubt => "doubt",
            Self::StillOpen => "still_open",
            Self::NotYet { .. } => "not_yet",
            Self::NotFound => "not_found",
            Self::Unauthorized => "unauthorized",
            Self::Misconfigured(_) | Self::Barred(_) => "misconfigured",
            Self::Unresolved(_) => "unresolved",
        }
    }
}

names! {
    /// Why a call is to be repeated, and the label of the metric of scheduled retries.
    Cause {
        /// The provider says it did not process the call, or nothing was sent.
        Retryable = "retryable",
        /// In doubt: a look-up is scheduled.
        Unknown = "unknown",
        /// Accepted and not finished: a look-up is scheduled.
        Accepted = "accepted",
        /// 429.
        RateLimited = "rate_limited",
        /// The circuit breaker is open.
        BreakerOpen = "breaker_open",
    }
}

names! {
    /// Reasons of `cancelled`.
    Cancelled {
        /// An authorisation was voided.
        Voided = "voided",
        /// The whole payment was refunded.
        Refunded = "refunded",
        /// The requested part was refunded.
        PartiallyRefunded = "partially_refunded",
        /// Dismissed before anybody paid.
        Dismissed = "dismissed",
        /// Reversed.
        Reversed = "reversed",
        /// Cancelled, the provider does not say how.
        Cancelled = "cancelled",
        /// Cancelled; what was paid is on its way back.
        ReversalPending = "reversal_pending",
    }
}

names! {
    /// Reasons of `nothing_to_cancel`.
    Nothing {
        /// Expired unpaid.
        Expired = "expired",
        /// Denied.
        Denied = "denied",
        /// The payment failed.
        PaymentFailed = "payment_failed",
    }
}

names! {
    /// Reasons of `refused`.
    Refused {
        /// The money has been settled: refund instead.
        Settled = "settled",
        /// It was refunded before.
        AlreadyRefunded = "already_refunded",
        /// In dispute.
        Disputed = "disputed",
        /// The provider cannot cancel such a payment.
        Unsupported = "unsupported",
        /// No such payment.
        NotFound = "not_found",
        /// Its state does not allow it.
        NotEligible = "not_eligible",
        /// The amount cannot be cancelled.
        AmountNotAllowed = "amount_not_allowed",
    }
}

names! {
    /// Reasons of `failed`: certainly not cancelled, and the worker gave up.
    Failed {
        /// `retry.give_up_after` has passed.
        RetriesExhausted = "retries_exhausted",
        /// The request's deadline has passed.
        DeadlinePassed = "deadline_passed",
        /// The provider refuses our credentials.
        CredentialsRefused = "credentials_refused",
        /// The provider calls the request malformed.
        RejectedByProvider = "rejected_by_provider",
    }
}

names! {
    /// Reasons of `unresolved`: it may or may not be cancelled.
    Unresolved {
        /// The provider offers no way to ask.
        NoLookup = "no_lookup",
        /// `poll.give_up_after` has passed.
        LookupsExhausted = "lookups_exhausted",
        /// The provider's answers contradict each other.
        ContradictoryEvidence = "contradictory_evidence",
        /// A refund was started and failed.
        RefundFailed = "refund_failed",
    }
}

names! {
    /// Reasons of `invalid`.
    Invalid {
        /// The body is no JSON.
        NotJson = "not_json",
        /// The body is not of the contract's form.
        Schema = "schema",
        /// The message is over the size limit.
        TooLarge = "too_large",
        /// No such account is configured.
        UnknownProvider = "unknown_provider",
        /// The id was used before with other content.
        RequestIdConflict = "request_id_conflict",
    }
}

names! {
    /// Why the provider cannot work with what it was sent.
    Why {
        /// Credentials or permissions.
        Credentials = "credentials",
        /// Malformed for the provider.
        Rejected = "rejected",
    }
}

names! {
    /// A call to the provider.
    Operation {
        /// The call that moves money back.
        Cancel = "cancel",
        /// The question what became of it.
        Lookup = "lookup",
    }
}

names! {
    /// Where a request stands.
    #[derive(Default)]
    State {
        /// Waiting for its first call.
        #[default]
        Due = "due",
        /// A call is on the wire, or was when the worker died.
        Calling = "calling",
        /// Certainly not applied; to be sent again.
        WaitingRetry = "waiting_retry",
        /// Accepted by the provider, not finished.
        WaitingProvider = "waiting_provider",
        /// Its outcome is not known; nothing is sent before the provider was asked.
        InDoubt = "in_doubt",
        /// It has its result.
        Finished = "finished",
    }
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// On the provider's own evidence.
    Cancelled {
        /// In which way.
        reason: Cancelled,
        /// No attempt of this request can have done it.
        already: bool,
    },
    /// Ended without money.
    NothingToCancel(Nothing),
    /// The provider's definite no.
    Refused(Refused),
    /// Certainly not cancelled; the worker gave up.
    Failed(Failed),
    /// Nobody knows; a person has to look.
    Unresolved(Unresolved),
    /// The request could not be understood.
    Invalid(Invalid),
}

impl Outcome {
    /// The names of the six outcomes.
    pub const NAMES: [&'static str; 6] = [
        "cancelled",
        "nothing_to_cancel",
        "refused",
        "failed",
        "unresolved",
        "invalid",
    ];

    /// The outcome with these names; `already`, which they do not say, is false.
    pub fn named(outcome: &str, reason: &str) -> Option<Self> {
        Some(match outcome {
            "cancelled" => Self::Cancelled {
                reason: Cancelled::named(reason)?,
                already: false,
            },
            "nothing_to_cancel" => Self::NothingToCancel(Nothing::named(reason)?),
            "refused" => Self::Refused(Refused::named(reason)?),
            "failed" => Self::Failed(Failed::named(reason)?),
            "unresolved" => Self::Unresolved(Unresolved::named(reason)?),
            _ => return None,
        })
    }

    /// The outcome's name, without its reason.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cancelled { .. } => "cancelled",
            Self::NothingToCancel(_) => "nothing_to_cancel",
            Self::Refused(_) => "refused",
            Self::Failed(_) => "failed",
            Self::Unresolved(_) => "unresolved",
            Self::Invalid(_) => "invalid",
        }
    }

    /// The reason's stable code.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Cancelled { reason, .. } => reason.as_str(),
            Self::NothingToCancel(reason) => reason.as_str(),
            Self::Refused(reason) => reason.as_str(),
            Self::Failed(reason) => reason.as_str(),
            Self::Unresolved(reason) => reason.as_str(),
            Self::Invalid(reason) => reason.as_str(),
        }
    }

    /// Its name and its reason's; whether it was so `already` is in neither.
    pub const fn names(self) -> (&'static str, &'static str) {
        (self.as_str(), self.reason())
    }

    /// A person has to do something: the request is dead-lettered too.
    pub const fn is_dead_letter(self) -> bool {
        matches!(
            self,
            Self::Failed(_) | Self::Unresolved(_) | Self::Invalid(_)
        )
    }
}

/// The reasons of dead letters, in the order of the contract.
pub fn dead_reasons() -> impl Iterator<Item = &'static str> {
    let failed = Failed::ALL.iter().map(|reason| reason.as_str());
    let unresolved = Unresolved::ALL.iter().map(|reason| reason.as_str());
    let invalid = Invalid::ALL.iter().map(|reason| reason.as_str());
    failed.chain(unresolved).chain(invalid)
}
