//! The ledger's rules: what each of its transactions changes.
//!
//! A fencing token is only ever compared with the row's, so a slot keeps whether it is still
//! the row's: taking a row over makes every other slot on it an old one.

use crate::answer::Answer;
use crate::book::{Book, Planned};
use crate::rules::Rule;
use crate::state::{Call, Place, Row, Slot, Stage, State};

/// A row that somebody works on, or did until they were gone.
pub(crate) fn is_held(row: &Row) -> bool {
    let undue = Book::due(row.progress).is_none();
    match row.place {
        Place::Open => undue,
        Place::Finished => undue && row.notified,
        Place::Absent | Place::Parked => false,
    }
}

pub(crate) fn is_due(row: &Row) -> bool {
    let at_work = matches!(row.place, Place::Open | Place::Finished);
    at_work && Book::due(row.progress) == Some(true)
}

/// A delivery of a request.
pub(crate) fn accept(state: &mut State, request: usize, broken: Option<Rule>) {
    let other_is_open = state.rows[1 - request].place == Place::Open;
    let row = &mut state.rows[request];
    match row.place {
        Place::Absent => {
            row.progress = Book::NEW;
            row.place = if other_is_open && broken != Some(Rule::OneRequestAtATime) {
                Place::Parked
            } else {
                Place::Open
            };
        }
        Place::Finished => row.pending = true,
        Place::Parked | Place::Open => {}
    }
}

/// The row's token moves on.
fn outdate(state: &mut State, request: usize) {
    for worker in &mut state.workers {
        if worker.slot.stage != Stage::Idle && usize::from(worker.slot.request) == request {
            worker.slot.current = false;
        }
    }
}

pub(crate) fn claim(book: &Book, state: &mut State, worker: usize, request: usize) {
    outdate(state, request);
    let row = &mut state.rows[request];
    let (plan, progress, end) = book.claim(row.progress, state.deadline);
    row.progress = progress;
    row.notified = row.place == Place::Finished;
    let (stage, call, outcome) = match plan {
        Planned::Cancel => (Stage::Claimed, Call::Cancel, 0),
        Planned::Lookup => (Stage::Claimed, Call::Lookup, 0),
        Planned::Check => (Stage::Claimed, Call::Check, 0),
        Planned::Finish(outcome) => (Stage::Answered, Call::None, outcome),
    };
    state.workers[worker].slot = Slot {
        stage,
        request: request as u8,
        current: true,
        call,
        progress: end,
        hinted: end,
        outcome,
        ..Slot::IDLE
    };
}

/// Writes what a claim led to, if the claim is still held.
pub(crate) fn commit(state: &mut State, slot: &Slot, broken: Option<Rule>) {
    let request = usize::from(slot.request);
    let fenced = slot.current || broken == Some(Rule::TheFence);
    let row = &mut state.rows[request];
    if !fenced || !is_held(row) {
        return;
    }
    match (slot.call, row.place) {
        (Call::Check, Place::Finished) => {
            row.progress = slot.progress;
            row.notified = Book::due(row.progress).is_some();
            if slot.outcome > 0 {
                row.corrected = slot.outcome;
            }
        }
        (Call::None | Call::Cancel | Call::Lookup, Place::Open) => {
            row.progress = if row.notified && slot.outcome == 0 {
                slot.hinted
            } else {
                slot.progress
            };
            row.notified = false;
            if slot.outcome > 0 {
                finish(state, request, slot.outcome, broken);
            }
        }
        _ => {}
    }
}

pub(crate) fn finish(state: &mut State, request: usize, outcome: u8, broken: Option<Rule>) {
    let row = &mut state.rows[request];
    row.place = Place::Finished;
    row.outcome = outcome;
    row.results += 1;
    row.pending = broken != Some(Rule::AnOutcomeComesWithItsResult);
    let next = &mut state.rows[1 - request];
    if next.place == Place::Parked && broken != Some(Rule::TheNextOneHasItsTurn) {
        next.place = Place::Open;
    }
}

/// What was under way at a worker that is gone is due, in doubt if it was on the wire.
pub(crate) fn recover(book: &Book, state: &mut State, request: usize) {
    outdate(state, request);
    let row = &mut state.rows[request];
    row.progress = book.lost(row.progress);
}

/// A notification: of the payment's requests the open one hears it, or else the last one.
pub(crate) fn notified(
    book: &Book,
    state: &mut State,
    claim: Answer,
    event: u8,
    broken: Option<Rule>,
) {
    let open = state.rows.iter().position(|row| row.place == Place::Open);
    let finished = || state.rows.iter().rposition(|r| r.place == Place::Finished);
    let Some(request) = open.or_else(finished) else {
        return;
    };
    let deadline = state.deadline;
    let row = &mut state.rows[request];
    let is_open = row.place == Place::Open;
    let due = Book::due(row.progress).is_some();
    let checked = !is_open && row.notified && !due;
    if is_open && !due {
        row.notified = true;
        return;
    }
    if is_open && claim == Answer::Already && broken == Some(Rule::NotificationsAreNotBelieved) {
        let outcome = book.after(row.progress, claim, deadline).outcome;
        return finish(state, request, outcome, broken);
    }
    let before = row.progress;
    let heard = if is_open {
        book.heard(before, Some(event), deadline)
    } else {
        book.heard_after(before, row.outcome, claim, event)
    };
    let due = Book::due(heard).is_some();
    if heard == before || (checked && !due) {
        return;
    }
    row.progress = heard;
    row.notified = !is_open && due;
    if checked {
        outdate(state, request);
    }
}
