//! What can happen, with a line about each for a trace.

use crate::answer::Answer;

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    PublishSecond,
    Repeat(u8),
    Deliver(u8, u8),
    Acknowledge(u8),
    Claim(u8, u8),
    Send(u8),
    Apply(u8),
    /// The answer arrives; whether it is one that a sound provider gives.
    Answer(u8, Answer, bool),
    LateApply(u8, u8),
    Process(u8),
    Drop(u8),
    Commit(u8),
    /// The commit happens, its answer is lost.
    CommitUnanswered(u8),
    Recover(u8),
    Publish(u8, u8),
    Mark(u8),
    Crash(u8),
    Sleep(u8),
    CutOff(u8),
    Return(u8),
    /// A notification with its claim, under the number of its event.
    Notice(Answer, u8),
    Tick,
}

impl std::fmt::Display for Action {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let w = |w: u8| if w == 0 { "A" } else { "B" };
        let r = |r: u8| r + 1;
        let text = match *self {
            Self::PublishSecond => "the publisher publishes R2".into(),
            Self::Repeat(q) => format!("the publisher publishes R{} again", r(q)),
            Self::Deliver(a, q) => format!("{} takes R{} in", w(a), r(q)),
            Self::Acknowledge(a) => format!("{} acknowledges", w(a)),
            Self::Claim(a, q) => format!("{} claims R{}", w(a), r(q)),
            Self::Send(a) => format!("{} sends its cancel, if it is not too late", w(a)),
            Self::Apply(a) => format!("the provider carries out the cancel of {}", w(a)),
            Self::Answer(a, answer, true) => format!("{} is answered: {answer:?}", w(a)),
            Self::Answer(a, answer, false) => format!("{} gets, wrongly: {answer:?}", w(a)),
            Self::LateApply(q, _) => format!("the provider carries out a lost cancel of R{}", r(q)),
            Self::Process(q) => format!("the provider does what it accepted for R{}", r(q)),
            Self::Drop(q) => format!("the provider drops what it accepted for R{}", r(q)),
            Self::Commit(a) => format!("{} commits", w(a)),
            Self::CommitUnanswered(a) => format!("{} commits, and does not hear of it", w(a)),
            Self::Recover(q) => format!("R{} is taken over from a worker that is gone", r(q)),
            Self::Publish(a, q) => format!("{} publishes the result of R{}", w(a), r(q)),
            Self::Mark(a) => format!("{} marks it as published", w(a)),
            Self::Crash(a) => format!("{} dies", w(a)),
            Self::Sleep(a) => format!("{} is paused", w(a)),
            Self::CutOff(a) => format!("{} is cut off from ledger and broker", w(a)),
            Self::Return(a) => format!("{} is back", w(a)),
            Self::Notice(claim, event) => format!("notification {event}: {claim:?}"),
            Self::Tick => "a tick passes".into(),
        };
        f.pad(&text)
    }
}
