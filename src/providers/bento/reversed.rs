//! What an answer of Bento's shows as given back, and whether a call of ours can have done it. Pure.

use super::super::Ask;
use super::answer::Answer;
use super::units_asked;

/// Learned: what had been given back before our first call.
pub(super) const REVERSED: &str = "reversed";

/// What was given back of a payment, by whomever.
#[derive(Clone, Copy, Default)]
pub(super) struct Reversed {
    /// In minor units.
    pub(super) units: i64,
    /// Voids and refunds that went through.
    times: usize,
}

/// What was given back since our first look.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// Nothing that a call of ours can have done.
    NotOurs,
    /// Perhaps by us: whoever it was, nothing may be sent.
    PerhapsOurs,
    /// Exactly the part that was asked for, by one refund more.
    ThePart,
}

impl Reversed {
    /// `None` where its amount cannot be read.
    pub(super) fn shown(answer: &Answer<'_>) -> Option<Self> {
        let units = match &answer.transaction["refundedAmount"] {
            told if told.is_null() => 0,
            _ => answer.units("refundedAmount")?,
        };
        Some(Self {
            units: units.max(0),
            times: answer.reversals(),
        })
    }

    /// As it was noted before our first call; `None` where nobody looked.
    pub(super) fn before(ask: &Ask<'_>) -> Option<Self> {
        let (units, times) = ask.learned(REVERSED)?.split_once('/')?;
        Some(Self {
            units: units.parse().ok()?,
            times: times.parse().ok()?,
        })
    }

    /// What is noted of it.
    pub(super) fn to_learn(self) -> String {
        format!("{}/{}", self.units, self.times)
    }
}

/// What a refund of the whole payment gave back, in minor units, where that is certain: it is one refund, and what
/// there was before it is known.
pub(super) fn rest(ask: &Ask<'_>, answer: &Answer<'_>) -> Option<i64> {
    let shown = Reversed::shown(answer)?;
    let known = Reversed::before(ask);
    let before = known.unwrap_or_default();
    let is_one = match shown.times.saturating_sub(before.times) {
        1 => true,
        // No history: one that has not got it yet may lack another one, too.
        0 => known.is_some() && shown.times == 0,
        _ => false,
    };
    let units = shown.units.saturating_sub(before.units);
    (is_one && units > 0 && !ask.presumed).then_some(units)
}

/// Compares what is shown with what there was before our first call. Who never looked takes all of it for ours,
/// but for what is less than ours would be.
pub(super) fn since(ask: &Ask<'_>, answer: &Answer<'_>) -> Since {
    let Some(shown) = Reversed::shown(answer) else {
        return Since::PerhapsOurs;
    };
    let known = Reversed::before(ask);
    let before = known.unwrap_or_default();
    let units = shown.units.saturating_sub(before.units);
    let times = shown.times.saturating_sub(before.times);
    if units <= 0 && times == 0 {
        return Since::NotOurs;
    }
    let asked = units_asked(ask);
    let is_less = match asked {
        Some(asked) => known.is_none() && units < asked,
        // Ours would have left nothing.
        None => {
            ask.job.amount.is_none()
                && answer
                    .units("capturedAmount")
                    .is_some_and(|all| shown.units < all)
        }
    };
    // Another request's on the payment, where no call of ours is on record.
    let can_tell = known.is_some() && !ask.presumed;
    if units > 0 && is_less {
        Since::NotOurs
    } else if can_tell && asked == Some(units) && times == 1 {
        Since::ThePart
    } else {
        Since::PerhapsOurs
    }
}
