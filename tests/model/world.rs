//! What may happen next in a state, and where it leads.

use crate::action::Action;
use crate::answer::Answer;
use crate::book::Book;
use crate::config::{Config, SETTLE, WIRE};
use crate::explorer::{Model, Next};
use crate::ledger;
use crate::provider;
use crate::rules::Rule;
use crate::state::{Fate, Life, Place, Stage, State, Truth};

/// One configuration with its book.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) book: Book,
}

/// States to come, as they are collected.
pub(crate) type Steps = Vec<Next<World>>;

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let book = Book::new(&config);
        Self { config, book }
    }

    pub(crate) fn is_broken(&self, rule: Rule) -> bool {
        self.config.broken == Some(rule)
    }

    /// The state after a change.
    pub(crate) fn step(
        &self,
        steps: &mut Steps,
        state: &State,
        action: Action,
        change: impl FnOnce(&mut State),
    ) {
        let mut next = *state;
        change(&mut next);
        steps.push((action, Ok(next)));
    }

    /// The first request is in doubt by order. What was sent of it before, and is forgotten:
    /// nothing, something that was done, something that may yet be done, or was accepted.
    pub(crate) fn restored(&self, start: &State) -> Vec<State> {
        let mut nothing = *start;
        nothing.queue[0] = 0;
        nothing.rows[0].place = Place::Open;
        nothing.rows[0].progress = self.book.reconciled();
        if start.truth != Truth::Open {
            return vec![nothing];
        }
        let (mut done, mut lost, mut taken) = (nothing, nothing, nothing);
        done.effects[0] = 1;
        lost.orphans[0][usize::from(SETTLE)] = 1;
        taken.processing[0] = 2;
        vec![nothing, done, lost, taken]
    }

    pub(crate) fn publisher(&self, state: &State, steps: &mut Steps) {
        if state.late {
            self.step(steps, state, Action::PublishSecond, |s| {
                s.late = false;
                s.queue[1] += 1;
            });
        }
        for request in 0..2_u8 {
            let known = state.rows[usize::from(request)].place != Place::Absent;
            if state.faults.repeats > 0 && known {
                self.step(steps, state, Action::Repeat(request), |s| {
                    s.faults.repeats -= 1;
                    s.queue[usize::from(request)] += 1;
                });
            }
        }
        if state.faults.notices > 0 && state.rows.iter().any(|row| row.place != Place::Absent) {
            for (claim, event) in [(Answer::Already, 0), (Answer::Settled, 1)] {
                self.step(steps, state, Action::Notice(claim, event), |s| {
                    s.faults.notices -= 1;
                    ledger::notified(&self.book, s, claim, event, self.config.broken);
                });
            }
        }
    }

    fn provider(&self, state: &State, steps: &mut Steps) {
        for request in 0..2 {
            let id = request as u8;
            for ticks in 0..3 {
                if state.orphans[request][ticks] > 0 {
                    self.step(steps, state, Action::LateApply(id, ticks as u8), |s| {
                        s.orphans[request][ticks] -= 1;
                        provider::apply(&self.config, s, request);
                    });
                }
            }
            if state.processing[request] == 0 {
                continue;
            }
            self.step(steps, state, Action::Process(id), |s| {
                s.processing[request] = 0;
                provider::apply(&self.config, s, request);
            });
            if state.faults.answers > 0 || self.config.for_ever {
                self.step(steps, state, Action::Drop(id), |s| {
                    s.processing[request] = 0;
                    s.dropped[request] = true;
                    s.faults.answers = s.faults.answers.saturating_sub(1);
                });
            }
        }
    }

    fn line(&self, state: &State) -> String {
        let mut words = Vec::new();
        for (number, row) in state.rows.iter().enumerate() {
            let outcome = |n: u8| self.book.outcome(n);
            let stands = match row.place {
                Place::Absent => continue,
                Place::Parked => "parked".into(),
                Place::Open => {
                    let progress = self.book.progress(row.progress);
                    let doubt = if progress.doubtful { ", doubtful" } else { "" };
                    format!("{}{doubt}", progress.state.as_str())
                }
                Place::Finished => {
                    let outcome = outcome(row.outcome);
                    format!("{}/{}", outcome.as_str(), outcome.reason())
                }
            };
            words.push(format!("R{} {stands}", number + 1));
        }
        words.push(format!("effects {:?}", state.effects));
        words.join(" | ")
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn starts(&self) -> Vec<State> {
        let config = &self.config;
        let start = |truth| State::new(truth, config.deadline, config.faults, config.workers);
        let starts: Vec<State> = config.truths.iter().map(|truth| start(*truth)).collect();
        if self.config.restored {
            starts
                .iter()
                .flat_map(|start| self.restored(start))
                .collect()
        } else {
            starts
        }
    }

    /// The two workers are alike.
    fn canonical(&self, state: &State) -> State {
        let mut state = *state;
        state.workers.sort_unstable();
        state
    }

    fn steps(&self, state: &State, steps: &mut Steps) {
        self.publisher(state, steps);
        for (w, worker) in state.workers.iter().enumerate() {
            if worker.life == Life::Alive {
                self.messages(state, w, steps);
                self.at_the_ledger(state, w, steps);
            }
            if matches!(worker.life, Life::Alive | Life::CutOff) {
                self.at_the_provider(state, w, steps);
            }
            if worker.life == Life::Asleep
                && worker.slot.stage == Stage::Waiting
                && worker.slot.fate == Fate::Pending
                && provider::ticks_left(worker.slot.age).is_some()
                && provider::can_apply(state)
            {
                self.step(steps, state, Action::Apply(w as u8), |s| {
                    let request = usize::from(worker.slot.request);
                    s.workers[w].slot.fate = provider::apply(&self.config, s, request);
                });
            }
            self.lives(state, w, steps);
        }
        if state
            .workers
            .iter()
            .any(|worker| worker.life == Life::Alive)
        {
            self.recovery(state, steps);
        }
        self.provider(state, steps);
        self.tick(state, steps);
    }

    fn judge(&self, state: &State) -> Result<(), &'static str> {
        crate::laws::judge(self, state)
    }

    fn judge_rest(&self, state: &State) -> Result<(), &'static str> {
        crate::laws::judge_rest(state)
    }

    fn is_fault(&self, action: &Action) -> bool {
        match action {
            Action::Answer(_, _, right) => !right && !self.config.for_ever,
            Action::Drop(_) => !self.config.for_ever,
            Action::Repeat(_)
            | Action::CommitUnanswered(_)
            | Action::Crash(_)
            | Action::Sleep(_)
            | Action::CutOff(_)
            | Action::Notice(..) => true,
            _ => false,
        }
    }

    fn takes_time(&self, action: &Action) -> bool {
        *action == Action::Tick
    }

    fn is_inevitable(&self, state: &State, action: &Action) -> bool {
        if let Action::Answer(w, _, true) | Action::Apply(w) = action {
            // A call ends at its timeout at the latest.
            return state.workers[usize::from(*w)].slot.age >= WIRE;
        }
        matches!(
            action,
            Action::Tick
                | Action::Process(_)
                | Action::Deliver(..)
                | Action::Acknowledge(_)
                | Action::Publish(..)
                | Action::Mark(_)
                | Action::Claim(..)
                | Action::Send(_)
                | Action::Commit(_)
                | Action::Recover(_)
                | Action::Return(_)
        )
    }

    fn describe(&self, state: &State) -> String {
        self.line(state)
    }
}
