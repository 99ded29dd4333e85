//! The shipped reducer as a table: each `Progress` has a number, each of its moves is computed
//! once by the shipped code and then looked up.
//!
//! Time is relative: in here it is always [`now`], and a tick moves every instant of a
//! `Progress` into the past. What the reducer cannot tell apart gets the same number.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use rescind::backoff::plus;
use rescind::lifecycle::{Checked, Plan, Progress, Seen, Sighting, Step, Terms};
use rescind::outcome::{
    Cancelled, Cause, Nothing, Operation, Outcome, Refused, State, Verdict, Why,
};
use rescind::providers::{Abilities, DoubtPolicy};

use crate::config::{CHECK_EVERY, Config, FIRST, TICK};
use crate::fingerprint::Known;
use crate::rules::Rule;

/// The instant at which everything in the book happens.
pub(crate) fn now() -> Timestamp {
    plus(Timestamp::UNIX_EPOCH, 100_000 * TICK)
}

/// No deadline.
pub(crate) const NEVER: u8 = u8::MAX;

/// What a call ended with, of those that differ to the reducer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Answer {
    Cancelled,
    Already,
    Settled,
    Expired,
    Accepted,
    Again,
    Doubt,
    StillOpen,
    NotYet,
    NotFound,
    Credentials,
    /// Not an answer: nothing was sent.
    NotSent,
}

impl Answer {
    /// `None` where nothing was sent.
    fn verdict(self) -> Option<Verdict> {
        let cancelled = |already| Verdict::Cancelled {
            reason: Cancelled::Voided,
            already,
            amount: None,
        };
        Some(match self {
            Self::Cancelled => cancelled(false),
            Self::Already => cancelled(true),
            Self::Settled => Verdict::Refused(Refused::Settled),
            Self::Expired => Verdict::NothingToCancel(Nothing::Expired),
            Self::Accepted => Verdict::Accepted,
            Self::Again => Verdict::Again {
                after: None,
                cause: Cause::Retryable,
            },
            Self::Doubt => Verdict::Doubt,
            Self::StillOpen => Verdict::StillOpen,
            Self::NotYet => Verdict::NotYet { after: None },
            Self::NotFound => Verdict::NotFound,
            Self::Credentials => Verdict::Misconfigured(Why::Credentials),
            Self::NotSent => return None,
        })
    }
}

/// What the plan of a due request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Planned {
    Cancel,
    Lookup,
    Check,
    /// With the number of the outcome.
    Finish(u8),
}

/// What an answer led to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Led {
    /// Where the request stands.
    pub(crate) to: u32,
    /// Its outcome, or of a check the finding that contradicts it; 0 is none.
    pub(crate) outcome: u8,
    /// Where it stands if a notification came in between; the same if that changes nothing.
    pub(crate) hinted: u32,
}

/// A move of the reducer.
#[derive(Clone, Copy)]
enum Move {
    Claim,
    After,
    Check,
    Lost,
    Heard,
    HeardAfter,
    Tick,
}

#[derive(Default)]
struct Numbers {
    by_json: HashMap<String, u32>,
    all: Vec<Progress>,
}

/// What a move came to: numbers, by the kind of the move.
type Came = (u32, u32, u32);

/// Of a number, the two bits that say whether it is due, and the one for "accepted".
const DUE_SHIFT: u32 = 30;
const ACCEPTED: u32 = 1 << 29;
const PLACE: u32 = ACCEPTED - 1;

static BOOKS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What this thread has looked up, in which book: the threads keep out of each other's way.
    static LOOKED_UP: RefCell<(u64, Known<Came>)> = RefCell::default();
}

/// The table of one configuration.
pub(crate) struct Book {
    config: Config,
    serial: u64,
    numbers: RwLock<Numbers>,
    moves: RwLock<Known<Came>>,
    outcomes: RwLock<Vec<Outcome>>,
}

impl Book {
    pub(crate) fn new(config: &Config) -> Self {
        let book = Self {
            config: config.clone(),
            serial: BOOKS.fetch_add(1, Ordering::Relaxed) + 1,
            numbers: RwLock::default(),
            moves: RwLock::default(),
            outcomes: RwLock::default(),
        };
        assert_eq!(book.number(Progress::new(now())), Self::NEW);
        book
    }

    /// A request that has just been accepted.
    pub(crate) const NEW: u32 = 1 << DUE_SHIFT;

    pub(crate) fn progress(&self, id: u32) -> Progress {
        let numbers = self.numbers.read().unwrap_or_else(PoisonError::into_inner);
        numbers.all[(id & PLACE) as usize].clone()
    }

    /// How many different ones there are.
    pub(crate) fn len(&self) -> usize {
        let numbers = self.numbers.read().unwrap_or_else(PoisonError::into_inner);
        numbers.all.len()
    }

    /// Whether it waits for a time, and whether that has come.
    pub(crate) fn due(id: u32) -> Option<bool> {
        match id >> DUE_SHIFT {
            0 => None,
            1 => Some(true),
            _ => Some(false),
        }
    }

    /// Whether the provider has taken an attempt of it.
    pub(crate) fn is_accepted(id: u32) -> bool {
        id & ACCEPTED != 0
    }

    /// The outcome of a number that is not 0.
    pub(crate) fn outcome(&self, number: u8) -> Outcome {
        let outcomes = self.outcomes.read().unwrap_or_else(PoisonError::into_inner);
        outcomes[usize::from(number) - 1]
    }

    fn number_outcome(&self, outcome: Outcome) -> u8 {
        let mut outcomes = self
            .outcomes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let found = outcomes.iter().position(|one| *one == outcome);
        let place = found.unwrap_or_else(|| {
            outcomes.push(outcome);
            outcomes.len() - 1
        });
        place as u8 + 1
    }

    /// Numbers a progress as the ledger keeps it: it has to survive its JSON.
    fn number(&self, progress: Progress) -> u32 {
        let progress = self.normal(progress);
        let json = serde_json::to_string(&progress).unwrap();
        let mut numbers = self.numbers.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(id) = numbers.by_json.get(&json) {
            return *id;
        }
        assert_eq!(serde_json::from_str::<Progress>(&json).unwrap(), progress);
        let due = match progress.due_at {
            None => 0,
            Some(at) if at <= now() => 1,
            Some(_) => 2,
        };
        let accepted = if progress.accepted { ACCEPTED } else { 0 };
        let id = numbers.all.len() as u32 | due << DUE_SHIFT | accepted;
        numbers.by_json.insert(json, id);
        numbers.all.push(progress);
        id
    }

    /// Without what the reducer never reads, or cannot tell from another value: see
    /// `docs/model.md`, "What is normalised".
    fn normal(&self, mut p: Progress) -> Progress {
        let config = &self.config;
        let calling = p.state == State::Calling;
        p.calls = 0;
        p.lookups = 0;
        p.retries = 0;
        p.attempts = p.attempts.min(if calling { 2 } else { 1 });
        if p.state != State::Finished {
            p.polls = 0;
        }
        let key_life = match config.abilities.doubt {
            DoubtPolicy::SameKey { key_life } => Some(key_life),
            _ => None,
        };
        p.first_sent_at = key_life.and_then(|life| aged(p.first_sent_at, life));
        p.retrying_since = aged(p.retrying_since, config.retry.give_up_after);
        p.waiting_since = aged(p.waiting_since, config.poll.give_up_after);
        p.due_at = aged(p.due_at, Duration::ZERO);
        p.quiet_until = p.quiet_until.filter(|end| *end > now());
        if let Some(seen) = &mut p.sighting {
            seen.at = aged(Some(seen.at), FIRST).unwrap();
        }
        p.hints.at = aged(p.hints.at, FIRST);
        p.hints.checked_at = aged(p.hints.checked_at, CHECK_EVERY);
        p.hints.checking_since = aged(p.hints.checking_since, config.poll.give_up_after);
        p
    }

    fn terms(&self, deadline: u8) -> Terms {
        Terms {
            abilities: self.config.abilities,
            retry: self.config.retry,
            poll: self.config.poll,
            deadline: (deadline != NEVER).then(|| plus(now(), u32::from(deadline) * TICK)),
        }
    }

    fn look_up(
        &self,
        kind: Move,
        id: u32,
        argument: u16,
        compute: impl FnOnce(Progress) -> Came,
    ) -> Came {
        let key = (kind as u64) << 56 | u64::from(argument) << 32 | u64::from(id);
        LOOKED_UP.with_borrow_mut(|(serial, known)| {
            if *serial != self.serial {
                known.clear();
                *serial = self.serial;
            }
            *known
                .entry(key)
                .or_insert_with(|| self.compute(key, id, compute))
        })
    }

    fn compute(&self, key: u64, id: u32, compute: impl FnOnce(Progress) -> Came) -> Came {
        let moves = self.moves.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = moves.get(&key) {
            return *found;
        }
        drop(moves);
        let computed = compute(self.progress(id));
        let mut moves = self.moves.write().unwrap_or_else(PoisonError::into_inner);
        *moves.entry(key).or_insert(computed)
    }

    /// As the dispatcher begins what is due: the plan, its intent, and where it stands with
    /// that done if nothing has to be asked for it.
    pub(crate) fn claim(&self, id: u32, deadline: u8) -> (Planned, u32, u32) {
        let (plan, to, end) = self.look_up(Move::Claim, id, u16::from(deadline), |mut p| {
            let mut plan = p.plan(&self.terms(deadline), now());
            if self.config.broken == Some(Rule::NothingIsSentInDoubt) && p.state == State::InDoubt {
                plan = Plan::Call(Operation::Cancel);
            }
            let code = match plan {
                Plan::Call(Operation::Cancel) => 0,
                Plan::Call(Operation::Lookup) => 1,
                Plan::Check => 2,
                Plan::Finish(outcome) => 2 + u32::from(self.number_outcome(outcome)),
            };
            match plan {
                Plan::Call(operation) => p.begin(operation, now()),
                Plan::Check => p.begin_check(now()),
                // The ledger takes it like any other claim.
                Plan::Finish(_) => p.due_at = None,
            }
            let mut end = p.clone();
            if matches!(plan, Plan::Finish(_)) {
                end.finish();
            }
            (code, self.number(p), self.number(end))
        });
        let plan = match plan {
            0 => Planned::Cancel,
            1 => Planned::Lookup,
            2 => Planned::Check,
            outcome => Planned::Finish((outcome - 2) as u8),
        };
        (plan, to, end)
    }

    /// As the dispatcher reads the end of a call.
    pub(crate) fn after(&self, id: u32, answer: Answer, deadline: u8) -> Led {
        let argument = u16::from(deadline) << 4 | answer as u16;
        let led = self.look_up(Move::After, id, argument, |mut p| {
            let terms = self.terms(deadline);
            let before = p.clone();
            let answer = self.misread(answer, &mut p);
            let step = match answer.verdict() {
                Some(verdict) => p.after(&verdict, &terms, now(), self.config.jitter),
                None => p.not_sent(&terms, now(), self.config.jitter),
            };
            if self.config.broken == Some(Rule::ExposureIsRemembered) {
                p.exposed = before.exposed && p.doubtful;
            }
            let mut hinted = p.clone();
            let outcome = match step {
                Step::Finish(outcome) => self.number_outcome(outcome),
                Step::Wait(_) => {
                    hinted.heard(None, &terms, now());
                    0
                }
            };
            (self.number(p), u32::from(outcome), self.number(hinted))
        });
        Led {
            to: led.0,
            outcome: led.1 as u8,
            hinted: led.2,
        }
    }

    /// What a worker with a broken rule takes an answer for.
    fn misread(&self, answer: Answer, p: &mut Progress) -> Answer {
        let asked = p.operation == Some(Operation::Lookup);
        match (self.config.broken, answer) {
            (Some(Rule::ATimeoutIsDoubt), Answer::Doubt) if !asked => Answer::Again,
            (Some(Rule::AcceptedIsNotDone), Answer::Accepted) => Answer::Cancelled,
            (Some(Rule::OpenIsSeenTwice), Answer::StillOpen) => {
                p.sighting = Some(Sighting {
                    what: Seen::StillOpen,
                    at: ago(FIRST),
                });
                answer
            }
            (Some(Rule::NotFoundIsSeenTwice), Answer::NotFound) => {
                p.sighting = Some(Sighting {
                    what: Seen::NotFound,
                    at: ago(FIRST),
                });
                answer
            }
            _ => answer,
        }
    }

    /// As the dispatcher reads the answer to the check of a result.
    pub(crate) fn after_check(&self, id: u32, outcome: u8, answer: Answer) -> Led {
        let argument = u16::from(outcome) << 4 | answer as u16;
        let led = self.look_up(Move::Check, id, argument, |mut p| {
            let verdict = answer.verdict().unwrap_or(Verdict::Doubt);
            let terms = self.terms(NEVER);
            let stood = self.outcome(outcome);
            let found = match p.after_check(stood, &verdict, &terms, now(), self.config.jitter) {
                Checked::Contradicted { found, .. } => self.number_outcome(found),
                Checked::Holds | Checked::Again | Checked::Unclear => 0,
            };
            (self.number(p), u32::from(found), 0)
        });
        Led {
            to: led.0,
            outcome: led.1 as u8,
            hinted: led.0,
        }
    }

    /// As the ledger recovers what was on the wire at a worker that is gone.
    pub(crate) fn lost(&self, id: u32) -> u32 {
        let led = self.look_up(Move::Lost, id, 0, |mut p| {
            if p.state != State::Calling {
                p.due_at = Some(now());
            } else if self.config.broken == Some(Rule::ADeadWorkersCallIsInDoubt) {
                p.not_sent(&self.terms(NEVER), now(), 0.0);
            } else {
                p.lost(now(), self.config.quiet());
            }
            (self.number(p), 0, 0)
        });
        led.0
    }

    /// As a ledger that may have forgotten what was sent doubts an open request.
    pub(crate) fn reconciled(&self) -> u32 {
        let mut progress = self.progress(Self::NEW);
        progress.reconcile(now(), now());
        self.number(progress)
    }

    /// As a notification reaches an open request that nobody works on.
    pub(crate) fn heard(&self, id: u32, event: Option<u8>, deadline: u8) -> u32 {
        let argument = u16::from(deadline) << 4 | event.map_or(15, u16::from);
        let led = self.look_up(Move::Heard, id, argument, |mut p| {
            let event = event.map(|event| event.to_string());
            let before = p.clone();
            p.heard(event.as_deref(), &self.terms(deadline), now());
            let same = Progress {
                due_at: before.due_at,
                hints: before.hints.clone(),
                ..p.clone()
            };
            assert_eq!(same, before, "a notification changed more than a time");
            (self.number(p), 0, 0)
        });
        led.0
    }

    /// As a notification, with what it claims, reaches a result.
    pub(crate) fn heard_after(&self, id: u32, outcome: u8, claim: Answer, event: u8) -> u32 {
        let argument = u16::from(outcome) << 8 | u16::from(event) << 4 | claim as u16;
        let led = self.look_up(Move::HeardAfter, id, argument, |mut p| {
            let event = event.to_string();
            let (claim, outcome) = (claim.verdict(), self.outcome(outcome));
            let terms = self.terms(NEVER);
            let before = p.clone();
            p.heard_after(outcome, claim.as_ref(), Some(&event), &terms, now());
            let same = Progress {
                due_at: before.due_at,
                hints: before.hints.clone(),
                sighting: before.sighting.clone(),
                polls: before.polls,
                ..p.clone()
            };
            assert_eq!(same, before, "a notification changed more than a time");
            (self.number(p), 0, 0)
        });
        led.0
    }

    /// A tick passes.
    pub(crate) fn tick(&self, id: u32) -> u32 {
        let led = self.look_up(Move::Tick, id, 0, |mut p| {
            let instants = [
                &mut p.due_at,
                &mut p.first_sent_at,
                &mut p.quiet_until,
                &mut p.retrying_since,
                &mut p.waiting_since,
                &mut p.hints.at,
                &mut p.hints.checked_at,
                &mut p.hints.checking_since,
            ];
            let seen = p.sighting.as_mut().map(|seen| &mut seen.at);
            for at in instants.into_iter().filter_map(Option::as_mut).chain(seen) {
                *at = earlier(*at, TICK);
            }
            (self.number(p), 0, 0)
        });
        led.0
    }

    pub(crate) fn abilities(&self) -> Abilities {
        self.config.abilities
    }
}

/// An instant, but not longer ago than makes a difference.
fn aged(at: Option<Timestamp>, most: Duration) -> Option<Timestamp> {
    at.map(|at| at.max(ago(most)))
}

fn ago(duration: Duration) -> Timestamp {
    earlier(now(), duration)
}

fn earlier(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_sub(SignedDuration::try_from(duration).unwrap())
        .unwrap()
}
