//! The provider's side: what it may do about a cancel, and what it may answer.

use crate::answer::Answer;
use crate::book::Book;
use crate::config::{Config, Guard, LAG, SETTLE, WIRE};
use crate::rules::Rule;
use crate::state::{Fate, Slot, State, Truth};

/// Carries a cancel out, as often as nothing keeps it from that.
pub(crate) fn apply(config: &Config, state: &mut State, request: usize) -> Fate {
    let key_is_known = config.broken != Some(Rule::OneKeyForEver) && state.effects[request] > 0;
    let known = match config.guard {
        Guard::Nothing => false,
        Guard::State => state.is_cancelled(),
        Guard::Key => key_is_known,
    };
    match state.truth {
        _ if known => Fate::WasAlready,
        Truth::Open => {
            if !state.is_cancelled() {
                state.effect_age = 0;
            }
            state.effects[request] += 1;
            Fate::Applied
        }
        Truth::Cancelled | Truth::Settled | Truth::Expired => Fate::WasAlready,
    }
}

/// Whether a cancel that arrives now can still do something.
pub(crate) fn can_apply(state: &State) -> bool {
    state.truth == Truth::Open
}

/// The truth about a payment that is not open, or what the provider did with the call.
pub(crate) fn right_answer(state: &State, fate: Fate) -> Option<Answer> {
    match (fate, state.truth) {
        (Fate::Applied, _) => Some(Answer::Cancelled),
        (Fate::WasAlready, _) | (Fate::Pending, Truth::Cancelled) => Some(Answer::Already),
        (Fate::Pending, Truth::Settled) => Some(Answer::Settled),
        (Fate::Pending, Truth::Expired) => Some(Answer::Expired),
        (Fate::Pending, Truth::Open) => None,
    }
}

/// What a provider that works may answer to a look-up: what is, or just was. That it did not do
/// what it had taken, an adapter says only of an attempt that was accepted.
pub(crate) fn seen(state: &State, slot: &Slot, answers: &mut Vec<Answer>) {
    let accepted = Book::is_accepted(slot.progress);
    let before_the_effect = match state.truth {
        Truth::Settled => Answer::Settled,
        Truth::Expired => Answer::Expired,
        Truth::Cancelled => Answer::Already,
        Truth::Open if state.processing != [0; 2] => Answer::NotYet,
        Truth::Open if accepted && state.dropped[usize::from(slot.request)] => Answer::Again,
        Truth::Open => Answer::StillOpen,
    };
    let stale = state.effects != [0; 2] && state.effect_age < LAG;
    if state.is_cancelled() {
        answers.push(Answer::Already);
    }
    if (stale || !state.is_cancelled()) && !answers.contains(&before_the_effect) {
        answers.push(before_the_effect);
    }
}

/// "Not found" is no more than the lag of one copy of the provider's data.
pub(crate) fn may_be_missing(state: &State) -> bool {
    state.missing <= LAG
}

/// Wrong answers to a cancel that changed nothing, or not yet.
pub(crate) fn wrong_when_sent(book: &Book, state: &State, answers: &mut Vec<Answer>) {
    answers.extend([Answer::Doubt, Answer::Again, Answer::Credentials]);
    if book.abilities().lookup {
        answers.push(Answer::NotYet);
    }
    if may_be_missing(state) {
        answers.push(Answer::NotFound);
    }
}

/// Wrong answers to a look-up.
pub(crate) fn wrong_when_asked(state: &State, answers: &mut Vec<Answer>) {
    answers.extend([Answer::Doubt, Answer::NotYet, Answer::Credentials]);
    if may_be_missing(state) {
        answers.push(Answer::NotFound);
    }
}

/// A cancel that was given up `age` ticks after it was sent may still be carried out.
pub(crate) fn orphan(state: &mut State, request: usize, ticks: u8) {
    if can_apply(state) {
        state.orphans[request][usize::from(ticks)] += 1;
    }
}

/// Ticks for which a cancel may still be carried out when nobody closes its connection.
pub(crate) fn ticks_left(age: u8) -> Option<u8> {
    (WIRE + SETTLE).checked_sub(age)
}

/// A tick at the provider.
pub(crate) fn tick(state: &mut State) {
    state.effect_age = (state.effect_age + 1).min(LAG);
    if state.missing > 0 {
        state.missing = (state.missing + 1).min(LAG + 1);
    }
    for request in 0..2 {
        state.processing[request] = state.processing[request].saturating_sub(1);
        let [_, one, two] = state.orphans[request];
        state.orphans[request] = [one, two, 0];
    }
}
