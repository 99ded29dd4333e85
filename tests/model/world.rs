//! What may happen next in a state, and where it leads.

use crate::book::{Answer, Book};
use crate::config::{Config, DOWN_MAX, LEASE, SEND_WITHIN, SETTLE, WIRE};
use crate::explorer::{Model, Next};
use crate::ledger;
use crate::provider;
use crate::rules::Rule;
use crate::state::{
    Action, Call, Fate, Life, Place, Slot, Stage, State, Truth, Worker, sooner,
};

/// One configuration with its book.
pub(crate) struct World {
    pub(crate) config: Config,
    pub(crate) book: Book,
}

/// States to come, as they are collected.
type Steps = Vec<Next<World>>;

impl World {
    pub(crate) fn new(config: Config) -> Self {
        let book = Book::new(&config);
        Self { config, book }
    }

    fn is_broken(&self, rule: Rule) -> bool {
        self.config.broken == Some(rule)
    }

    /// The state after a change.
    fn step(&self, steps: &mut Steps, state: &State, action: Action, change: impl FnOnce(&mut State)) {
        let mut next = *state;
        change(&mut next);
        steps.push((action, Ok(next)));
    }

    /// The first request is in doubt by order. What was sent of it before, and is forgotten:
    /// nothing, something that was done, something that may yet be done, or was accepted.
    fn restored(&self, start: &State) -> Vec<State> {
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

    fn publisher(&self, state: &State, steps: &mut Steps) {
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

    /// What a worker does with the broker: take in, acknowledge, publish, mark.
    fn messages(&self, state: &State, w: usize, steps: &mut Steps) {
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

    fn publish(&self, state: &State, w: usize, request: usize) -> Result<State, &'static str> {
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
    fn at_the_ledger(&self, state: &State, w: usize, steps: &mut Steps) {
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
    fn at_the_provider(&self, state: &State, w: usize, steps: &mut Steps) {
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
    fn send(&self, state: &State, w: usize) -> Result<State, &'static str> {
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

    fn waiting(&self, state: &State, w: usize, steps: &mut Steps) {
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

    fn answers(
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
    fn end(&self, state: &mut State, w: usize, answer: Answer) {
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
            Call::Check => self.book.after_check(slot.progress, state.rows[request].outcome, answer),
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

    /// Rows whose worker is gone, or cannot be reached.
    fn recovery(&self, state: &State, steps: &mut Steps) {
        for request in 0..2 {
            if self.is_abandoned(state, request) {
                self.step(steps, state, Action::Recover(request as u8), |s| {
                    ledger::recover(&self.book, s, request);
                });
            }
        }
    }

    fn is_abandoned(&self, state: &State, request: usize) -> bool {
        let holder = state.workers.iter().any(|worker| {
            let slot = &worker.slot;
            let holds = slot.stage != Stage::Idle && slot.current;
            holds && usize::from(slot.request) == request && worker.life == Life::Alive
        });
        !holder && ledger::is_held(&state.rows[request])
    }

    /// A worker dies, is paused, is cut off, and comes back.
    fn lives(&self, state: &State, w: usize, steps: &mut Steps) {
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
                    self.step(steps, state, Action::Sleep(id), |s| self.nap(s, w, Life::Asleep));
                }
                if busy && self.config.workers > 1 {
                    self.step(steps, state, Action::CutOff(id), |s| self.nap(s, w, Life::CutOff));
                }
            }
        }
    }

    fn crash(&self, state: &mut State, w: usize) {
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

    fn nap(&self, state: &mut State, w: usize, life: Life) {
        state.faults.naps -= 1;
        self.requeue(state, w);
        state.workers[w].life = life;
    }

    /// The broker closes the channel of who does not answer.
    fn requeue(&self, state: &mut State, w: usize) {
        let unacked = std::mem::take(&mut state.workers[w].unacked);
        if !self.is_broken(Rule::AcknowledgedAfterTheCommit) {
            for request in 0..2 {
                state.queue[request] += unacked >> request & 1;
            }
        }
    }

    fn tick(&self, state: &State, steps: &mut Steps) {
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

    fn is_something_timed(&self, state: &State) -> bool {
        let waits = |row: &crate::state::Row| Book::due(row.progress) == Some(false);
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
    fn is_something_urgent(&self, state: &State) -> bool {
        let alive = state.workers.iter().any(|worker| worker.life == Life::Alive);
        let idle = |worker: &Worker| worker.life == Life::Alive && worker.slot.stage == Stage::Idle;
        let work = state.workers.iter().any(idle)
            && state.rows.iter().any(|row| ledger::is_due(row));
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

impl Model for World {
    type State = State;
    type Action = Action;

    fn starts(&self) -> Vec<State> {
        let config = &self.config;
        let start = |truth| State::new(truth, config.deadline, config.faults, config.workers);
        let starts: Vec<State> = config.truths.iter().map(|truth| start(*truth)).collect();
        match self.config.restored {
            true => starts.iter().flat_map(|start| self.restored(start)).collect(),
            false => starts,
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
        if state.workers.iter().any(|worker| worker.life == Life::Alive) {
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
        if let Action::Answer(w, _, true) = action {
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
