//! How a worker is lost: it dies, is paused, is cut off, comes back; and who takes its work over.

use crate::action::Action;
use crate::config::SETTLE;
use crate::ledger;
use crate::provider;
use crate::rules::Rule;
use crate::state::{Fate, Life, Slot, Stage, State, Worker};
use crate::world::{Steps, World};

impl World {
    /// Rows whose worker is gone, or cannot be reached.
    pub(crate) fn recovery(&self, state: &State, steps: &mut Steps) {
        for request in 0..2 {
            if self.is_abandoned(state, request) {
                self.step(steps, state, Action::Recover(request as u8), |s| {
                    ledger::recover(&self.book, s, request);
                });
            }
        }
    }

    pub(crate) fn is_abandoned(&self, state: &State, request: usize) -> bool {
        let holder = state.workers.iter().any(|worker| {
            let slot = &worker.slot;
            let holds = slot.stage != Stage::Idle && slot.current;
            holds && usize::from(slot.request) == request && worker.life == Life::Alive
        });
        !holder && ledger::is_held(&state.rows[request])
    }

    /// A worker dies, is paused, is cut off, and comes back.
    pub(crate) fn lives(&self, state: &State, w: usize, steps: &mut Steps) {
        let id = w as u8;
        let worker = &state.workers[w];
        match worker.life {
            Life::Absent => {}
            Life::Asleep | Life::CutOff | Life::Dead => {
                self.step(steps, state, Action::Return(id), |s| {
                    s.workers[w].life = Life::Alive;
                    s.workers[w].down = 0;
                });
            }
            Life::Alive => {
                let busy = worker.slot.stage != Stage::Idle;
                let at_the_broker = worker.unacked != 0 || worker.marking != 0;
                if state.faults.crashes > 0 && (busy || at_the_broker) {
                    self.step(steps, state, Action::Crash(id), |s| self.crash(s, w));
                }
                if state.faults.naps == 0 {
                    return;
                }
                if busy || at_the_broker {
                    self.step(steps, state, Action::Sleep(id), |s| {
                        self.nap(s, w, Life::Asleep)
                    });
                }
                if busy && self.config.workers > 1 {
                    self.step(steps, state, Action::CutOff(id), |s| {
                        self.nap(s, w, Life::CutOff)
                    });
                }
            }
        }
    }

    pub(crate) fn crash(&self, state: &mut State, w: usize) {
        state.faults.crashes -= 1;
        let slot = state.workers[w].slot;
        if slot.stage == Stage::Waiting && slot.fate == Fate::Pending {
            // One file has one worker, on one machine: the system closes the connection.
            let ticks = match self.config.workers {
                1 => Some(SETTLE),
                _ => provider::ticks_left(slot.age),
            };
            if let Some(ticks) = ticks {
                provider::orphan(state, usize::from(slot.request), ticks);
            }
        }
        self.requeue(state, w);
        state.workers[w] = Worker {
            life: Life::Dead,
            down: 0,
            slot: Slot::IDLE,
            unacked: 0,
            marking: 0,
        };
    }

    pub(crate) fn nap(&self, state: &mut State, w: usize, life: Life) {
        state.faults.naps -= 1;
        self.requeue(state, w);
        state.workers[w].life = life;
    }

    /// The broker closes the channel of who does not answer.
    pub(crate) fn requeue(&self, state: &mut State, w: usize) {
        let unacked = std::mem::take(&mut state.workers[w].unacked);
        if !self.is_broken(Rule::AcknowledgedAfterTheCommit) {
            for request in 0..2 {
                state.queue[request] += unacked >> request & 1;
            }
        }
    }
}
