//! Rules that can be broken, to show that the model sees it.

use crate::config::faults;
use crate::state::Faults;

/// One rule of the worker, the ledger or the lifecycle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// An acknowledgement follows the commit.
    AcknowledgedAfterTheCommit,
    /// An outcome is committed together with its result.
    AnOutcomeComesWithItsResult,
    /// The stored bytes are published, every time.
    TheStoredBytesArePublished,
    /// A message is marked after the broker has it.
    MarkedAfterTheConfirm,
    /// A write under an old claim writes nothing.
    TheFence,
    /// A cancel is sent soon after its claim, or not at all.
    SentSoonOrNotAtAll,
    /// What a look-up does not see counts only when a lost call cannot arrive any more.
    QuietIsWaitedFor,
    /// A call that was on the wire when its worker died is in doubt.
    ADeadWorkersCallIsInDoubt,
    /// A call without an answer may have been applied.
    ATimeoutIsDoubt,
    /// Nothing is sent in doubt.
    NothingIsSentInDoubt,
    /// "Open" is believed in doubt when it is seen twice.
    OpenIsSeenTwice,
    /// "Not found" is believed when it is seen twice.
    NotFoundIsSeenTwice,
    /// What the provider has taken is not done.
    AcceptedIsNotDone,
    /// What an attempt may have done is not called `already`.
    ExposureIsRemembered,
    /// A notification is not believed.
    NotificationsAreNotBelieved,
    /// One request at a time works on a payment.
    OneRequestAtATime,
    /// The next request on a payment has its turn when the last one ends.
    TheNextOneHasItsTurn,
    /// A repeat has the key of the first call.
    OneKeyForEver,
}

impl Rule {
    pub(crate) const ALL: [Self; 18] = [
        Self::AcknowledgedAfterTheCommit,
        Self::AnOutcomeComesWithItsResult,
        Self::TheStoredBytesArePublished,
        Self::MarkedAfterTheConfirm,
        Self::TheFence,
        Self::SentSoonOrNotAtAll,
        Self::QuietIsWaitedFor,
        Self::ADeadWorkersCallIsInDoubt,
        Self::ATimeoutIsDoubt,
        Self::NothingIsSentInDoubt,
        Self::OpenIsSeenTwice,
        Self::NotFoundIsSeenTwice,
        Self::AcceptedIsNotDone,
        Self::ExposureIsRemembered,
        Self::NotificationsAreNotBelieved,
        Self::OneRequestAtATime,
        Self::TheNextOneHasItsTurn,
        Self::OneKeyForEver,
    ];

    /// The smallest configuration in which breaking it shows: the class, and what goes wrong.
    pub(crate) fn shown_in(self) -> (&'static str, Faults) {
        let faults = match self {
            Self::AnOutcomeComesWithItsResult
            | Self::AcceptedIsNotDone
            | Self::OneRequestAtATime
            | Self::TheNextOneHasItsTurn => faults(0, 0, 0, 0, 0),
            Self::AcknowledgedAfterTheCommit
            | Self::MarkedAfterTheConfirm
            | Self::ADeadWorkersCallIsInDoubt => faults(0, 1, 0, 0, 0),
            Self::TheStoredBytesArePublished => faults(0, 0, 0, 1, 0),
            Self::TheFence | Self::SentSoonOrNotAtAll | Self::QuietIsWaitedFor => {
                faults(0, 0, 1, 0, 0)
            }
            Self::ATimeoutIsDoubt
            | Self::NothingIsSentInDoubt
            | Self::OpenIsSeenTwice
            | Self::ExposureIsRemembered
            | Self::OneKeyForEver => faults(1, 0, 0, 0, 0),
            Self::NotFoundIsSeenTwice => faults(2, 0, 0, 0, 0),
            Self::NotificationsAreNotBelieved => faults(0, 0, 0, 0, 1),
        };
        let class = match self {
            Self::OneKeyForEver => "same key",
            _ => "look-up",
        };
        (class, faults)
    }
}
