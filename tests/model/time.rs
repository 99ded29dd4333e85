//! When time passes, and what it changes.

use crate::action::Action;
use crate::book::{Book, NEVER};
use crate::config::{DOWN_MAX, LEASE, SEND_WITHIN, SETTLE, WIRE};
use crate::ledger;
use crate::provider;
use crate::state::{Call, Life, Row, Stage, State, Worker};
use crate::world::{Steps, World};

impl World {
    pub(crate) fn tick(&self, state: &State, steps: &mut Steps) {
        if !self.is_something_timed(state) || self.is_something_urgent(state) {
            return;
        }
        self.step(steps, state, Action::Tick, |s| {
            for row in &mut s.rows {
                row.progress = self.book.tick(row.progress);
            }
            for worker in &mut s.workers {
                if !matches!(worker.life, Life::Alive | Life::Absent) {
                    worker.down = (worker.down + 1).min(DOWN_MAX);
                }
                let slot = &mut worker.slot;
                if slot.stage != Stage::Idle {
                    slot.progress = self.book.tick(slot.progress);
                    slot.hinted = self.book.tick(slot.hinted);
                }
                if matches!(slot.stage, Stage::Claimed | Stage::Waiting) {
                    slot.age = (slot.age + 1).min(WIRE + SETTLE + 1);
                }
            }
            provider::tick(s);
            s.deadline = sooner(s.deadline);
        });
    }

    pub(crate) fn is_something_timed(&self, state: &State) -> bool {
        let waits = |row: &Row| Book::due(row.progress) == Some(false);
        state.rows.iter().any(waits)
            || state.orphans != [[0; 3]; 2]
            || state.processing != [0; 2]
            || state.workers.iter().any(|worker| {
                let down = !matches!(worker.life, Life::Alive | Life::Absent);
                down || matches!(worker.slot.stage, Stage::Claimed | Stage::Waiting)
            })
    }

    /// What is done before the next tick: a worker that works is not slow without a fault,
    /// and nobody stays away for ever.
    pub(crate) fn is_something_urgent(&self, state: &State) -> bool {
        let alive = state
            .workers
            .iter()
            .any(|worker| worker.life == Life::Alive);
        let idle = |worker: &Worker| worker.life == Life::Alive && worker.slot.stage == Stage::Idle;
        let work = state.workers.iter().any(idle) && state.rows.iter().any(ledger::is_due);
        let messages = state.queue != [0; 2] || state.rows.iter().any(|row| row.pending);
        let abandoned = (0..2).any(|request| {
            self.is_abandoned(state, request)
                && state.workers.iter().all(|worker| {
                    let slot = &worker.slot;
                    let holds = slot.current && usize::from(slot.request) == request;
                    !(holds && slot.stage != Stage::Idle) || worker.down >= LEASE
                })
        });
        work || alive && (messages || abandoned)
            || state.processing.contains(&1)
            || state.workers.iter().any(is_urgent)
    }
}

/// A worker with something that it does within the tick.
fn is_urgent(worker: &Worker) -> bool {
    let slot = &worker.slot;
    let within = match (slot.stage, slot.call) {
        (Stage::Idle, _) => true,
        (Stage::Claimed, Call::Cancel) => slot.age < SEND_WITHIN,
        (Stage::Waiting, _) => slot.age < WIRE,
        // A look-up takes its time too.
        (Stage::Claimed, _) => slot.age < WIRE,
        (Stage::Answered, _) => worker.life == Life::CutOff,
    };
    match worker.life {
        Life::Alive => !within || worker.unacked != 0 || worker.marking != 0,
        Life::CutOff => !within || worker.down >= DOWN_MAX,
        Life::Asleep | Life::Dead => worker.down >= DOWN_MAX,
        Life::Absent => false,
    }
}

/// Ticks until the deadline after one more.
pub(crate) fn sooner(deadline: u8) -> u8 {
    if deadline == NEVER {
        NEVER
    } else {
        deadline.saturating_sub(1)
    }
}
