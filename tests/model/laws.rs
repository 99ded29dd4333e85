//! What has to hold in every state, and in every state in which nothing more happens.

use rescind::outcome::Outcome;

use crate::config::Guard;
use crate::state::{Place, State};
use crate::world::World;

/// The laws that are checked, for the report. Those about one step are in `world.rs`.
pub(crate) const LAWS: [&str; 13] = [
    "no request moves money twice",
    "no payment is cancelled twice, where the provider's state can prevent it",
    "nothing is sent while an attempt was applied or may be (look-up, person)",
    "one request at a time works on a payment",
    "a request has at most one result",
    "every publication of a result is the same",
    "cancelled comes with an effect",
    "already is not said of an effect of its own",
    "refused, failed and nothing_to_cancel come without an effect, for ever",
    "a correction says what is so",
    "a notification changes nothing but when the provider is asked",
    "when nothing more happens, every request has its result, published",
    "every path comes to an end",
];

pub(crate) fn judge(world: &World, state: &State) -> Result<(), &'static str> {
    if state.effects.iter().any(|effects| *effects > 1) {
        return Err(LAWS[0]);
    }
    if world.config.guard == Guard::State && state.effects.iter().sum::<u8>() > 1 {
        return Err(LAWS[1]);
    }
    for (row, effects) in state.rows.iter().zip(state.effects) {
        if row.results > 1 {
            return Err(LAWS[4]);
        }
        if row.place != Place::Finished {
            continue;
        }
        judge_outcome(world.book.outcome(row.outcome), effects, state)?;
        if row.corrected > 0 {
            judge_correction(world.book.outcome(row.corrected), state)?;
        }
    }
    Ok(())
}

fn judge_outcome(outcome: Outcome, effects: u8, state: &State) -> Result<(), &'static str> {
    match outcome {
        Outcome::Cancelled { .. } if !state.is_cancelled() => Err(LAWS[6]),
        Outcome::Cancelled { already: true, .. } if effects > 0 => Err(LAWS[7]),
        Outcome::Refused(_) | Outcome::Failed(_) | Outcome::NothingToCancel(_) if effects > 0 => {
            Err(LAWS[8])
        }
        _ => Ok(()),
    }
}

fn judge_correction(found: Outcome, state: &State) -> Result<(), &'static str> {
    let cancelled = matches!(found, Outcome::Cancelled { .. });
    if cancelled == state.is_cancelled() {
        Ok(())
    } else {
        Err(LAWS[9])
    }
}

pub(crate) fn judge_rest(state: &State) -> Result<(), &'static str> {
    let done = state
        .rows
        .iter()
        .zip(state.seen)
        .all(|(row, seen)| row.place == Place::Finished && seen > 0 && !row.pending);
    if done && !state.late && state.queue == [0; 2] {
        Ok(())
    } else {
        Err(LAWS[11])
    }
}
