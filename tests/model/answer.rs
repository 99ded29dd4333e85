//! How a call may end, of the ends that differ to the reducer.

use rescind::outcome::{Cancelled, Cause, Nothing, Refused, Verdict, Why};

/// What a call ended with, of those that differ to the reducer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Cancelled,
    Already,
    Settled,
    Expired,
    Accepted,
    Again,
    Doubt,
    StillOpen,
    NotYet,
    NotFound,
    Credentials,
    /// Not an answer: nothing was sent.
    NotSent,
}

impl Answer {
    /// `None` where nothing was sent.
    pub(crate) fn verdict(self) -> Option<Verdict> {
        let cancelled = |already| Verdict::Cancelled {
            reason: Cancelled::Voided,
            already,
        };
        Some(match self {
            Self::Cancelled => cancelled(false),
            Self::Already => cancelled(true),
            Self::Settled => Verdict::Refused(Refused::Settled),
            Self::Expired => Verdict::NothingToCancel(Nothing::Expired),
            Self::Accepted => Verdict::Accepted,
            Self::Again => Verdict::Again {
                after: None,
                cause: Cause::Retryable,
            },
            Self::Doubt => Verdict::Doubt,
            Self::StillOpen => Verdict::StillOpen,
            Self::NotYet => Verdict::NotYet { after: None },
            Self::NotFound => Verdict::NotFound,
            Self::Credentials => Verdict::Misconfigured(Why::Credentials),
            Self::NotSent => return None,
        })
    }
}
