//! What a worker does: with the broker, with the ledger, with the provider.

use crate::action::Action;
use crate::answer::Answer;
use crate::config::{SEND_WITHIN, SETTLE, WIRE};
use crate::ledger;
use crate::provider;
use crate::rules::Rule;
use crate::state::{Call, Fate, Slot, Stage, State};
use crate::world::{Steps, World};

impl World {
    /// What a worker does with the broker: take in, acknowledge, publish, mark.
    pub(crate) fn messages(&self, state: &State, w: usize, steps: &mut Steps) {
        let id = w as u8;
        let worker = &state.workers[w];
        let early = self.is_broken(Rule::AcknowledgedAfterTheCommit);
        if worker.unacked != 0 {
            self.step(steps, state, Action::Acknowledge(id), |s| {
                let unacked = std::mem::take(&mut s.workers[w].unacked);
                if early {
                    let request = usize::from(unacked >> 1);
                    ledger::accept(s, request, self.config.broken);
                }
            });
        }
        for request in 0..2 {
            if state.queue[request] > 0 && worker.unacked == 0 {
                self.step(steps, state, Action::Deliver(id, request as u8), |s| {
                    s.queue[request] -= 1;
                    s.workers[w].unacked |= 1 << request;
                    if !early {
                        ledger::accept(s, request, self.config.broken);
                    }
                });
            }
            if state.rows[request].pending && worker.marking == 0 {
                let action = Action::Publish(id, request as u8);
                steps.push((action, self.publish(state, w, request)));
            }
        }
        if worker.marking > 0 {
            self.step(steps, state, Action::Mark(id), |s| {
                let request = usize::from(worker.marking) - 1;
                s.workers[w].marking = 0;
                s.rows[request].pending = false;
                if self.is_broken(Rule::MarkedAfterTheConfirm) {
                    s.seen[request] = s.rows[request].outcome;
                }
            });
        }
    }

    pub(crate) fn publish(
        &self,
        state: &State,
        w: usize,
        request: usize,
    ) -> Result<State, &'static str> {
        let mut next = *state;
        next.workers[w].marking = request as u8 + 1;
        if self.is_broken(Rule::MarkedAfterTheConfirm) {
            next.rows[request].pending = false;
            return Ok(next);
        }
        let again = state.seen[request] > 0;
        let rebuilt = again && self.is_broken(Rule::TheStoredBytesArePublished);
        let bytes = state.rows[request].outcome | u8::from(rebuilt) << 7;
        if again && state.seen[request] != bytes {
            return Err("every publication of a result is the same");
        }
        next.seen[request] = bytes;
        Ok(next)
    }

    /// What a worker that reaches the ledger does with it.
    pub(crate) fn at_the_ledger(&self, state: &State, w: usize, steps: &mut Steps) {
        let id = w as u8;
        let slot = &state.workers[w].slot;
        match slot.stage {
            Stage::Idle => {
                for request in 0..2 {
                    if ledger::is_due(&state.rows[request]) {
                        self.step(steps, state, Action::Claim(id, request as u8), |s| {
                            ledger::claim(&self.book, s, w, request);
                        });
                    }
                }
            }
            Stage::Answered => {
                let commit = |s: &mut State| ledger::commit(s, slot, self.config.broken);
                self.step(steps, state, Action::Commit(id), |s| {
                    commit(s);
                    s.workers[w].slot = Slot::IDLE;
                });
                if state.faults.answers > 0 {
                    self.step(steps, state, Action::CommitUnanswered(id), |s| {
                        s.faults.answers -= 1;
                        commit(s);
                    });
                }
            }
            Stage::Claimed | Stage::Waiting => {}
        }
    }

    /// What a worker does with the provider.
    pub(crate) fn at_the_provider(&self, state: &State, w: usize, steps: &mut Steps) {
        let slot = &state.workers[w].slot;
        match (slot.stage, slot.call) {
            (Stage::Claimed, Call::Cancel) => {
                steps.push((Action::Send(w as u8), self.send(state, w)));
                self.answers(state, w, &[], &[Answer::NotSent], steps);
            }
            (Stage::Claimed, _) => {
                let (mut right, mut wrong) = (Vec::new(), vec![Answer::NotSent]);
                provider::seen(state, slot, &mut right);
                provider::wrong_when_asked(state, &mut wrong);
                self.answers(state, w, &right, &wrong, steps);
            }
            (Stage::Waiting, _) => self.waiting(state, w, steps),
            (Stage::Idle | Stage::Answered, _) => {}
        }
    }

    /// The cancel leaves, if it is not too late for it.
    pub(crate) fn send(&self, state: &State, w: usize) -> Result<State, &'static str> {
        let mut next = *state;
        let slot = state.workers[w].slot;
        let request = usize::from(slot.request);
        let held_up = slot.age > SEND_WITHIN && !self.is_broken(Rule::SentSoonOrNotAtAll);
        if held_up || state.deadline == 0 {
            self.end(&mut next, w, Answer::NotSent);
            return Ok(next);
        }
        let other = &state.workers[1 - w].slot;
        let both = other.stage == Stage::Waiting && other.current && slot.current;
        if both && other.request != slot.request {
            return Err("one request at a time works on a payment");
        }
        if self.config.waits_for_certainty() && state.is_exposed(request) {
            return Err("nothing is sent while an attempt was applied or may be");
        }
        let slot = &mut next.workers[w].slot;
        slot.stage = Stage::Waiting;
        slot.age = 0;
        Ok(next)
    }

    pub(crate) fn waiting(&self, state: &State, w: usize, steps: &mut Steps) {
        let id = w as u8;
        let slot = &state.workers[w].slot;
        let request = usize::from(slot.request);
        if slot.fate != Fate::Pending {
            let right = provider::right_answer(state, slot.fate);
            return self.answers(state, w, right.as_slice(), &[Answer::Doubt], steps);
        }
        let Some(_) = provider::ticks_left(slot.age) else {
            // Nothing came while it was paused.
            return self.answers(state, w, &[Answer::Doubt], &[], steps);
        };
        let mut right: Vec<Answer> = Vec::new();
        right.extend(provider::right_answer(state, slot.fate));
        if provider::can_apply(state) {
            self.step(steps, state, Action::Apply(id), |s| {
                s.workers[w].slot.fate = provider::apply(&self.config, s, request);
            });
            if self.config.accepts && !state.is_cancelled() {
                right.push(Answer::Accepted);
            }
        }
        let mut wrong = Vec::new();
        provider::wrong_when_sent(&self.book, state, &mut wrong);
        self.answers(state, w, &right, &wrong, steps);
    }

    pub(crate) fn answers(
        &self,
        state: &State,
        w: usize,
        right: &[Answer],
        wrong: &[Answer],
        steps: &mut Steps,
    ) {
        for &answer in right {
            self.step(steps, state, Action::Answer(w as u8, answer, true), |s| {
                self.end(s, w, answer);
            });
        }
        if state.faults.answers == 0 && !self.config.for_ever {
            return;
        }
        for &answer in wrong.iter().filter(|answer| !right.contains(answer)) {
            self.step(steps, state, Action::Answer(w as u8, answer, false), |s| {
                s.faults.answers = s.faults.answers.saturating_sub(1);
                self.end(s, w, answer);
            });
        }
    }

    /// A call ends at its worker.
    pub(crate) fn end(&self, state: &mut State, w: usize, answer: Answer) {
        let slot = state.workers[w].slot;
        let request = usize::from(slot.request);
        match answer {
            Answer::Doubt if slot.stage == Stage::Waiting && slot.fate == Fate::Pending => {
                // Who gives up closes the connection: what has arrived may still be done.
                let late = slot.age.saturating_sub(WIRE);
                if let Some(ticks) = SETTLE.checked_sub(late) {
                    provider::orphan(state, request, ticks);
                }
            }
            Answer::Accepted => {
                state.processing[request] = 2;
                state.dropped[request] = false;
            }
            Answer::NotFound if state.missing == 0 => state.missing = 1,
            _ => {}
        }
        let led = match slot.call {
            Call::Check => {
                self.book
                    .after_check(slot.progress, state.rows[request].outcome, answer)
            }
            _ => self.book.after(slot.progress, answer, state.deadline),
        };
        state.workers[w].slot = Slot {
            stage: Stage::Answered,
            age: 0,
            fate: Fate::Pending,
            progress: led.to,
            hinted: led.hinted,
            outcome: led.outcome,
            ..slot
        };
    }
}
