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
use rescind::backoff::{Schedule, plus};
use rescind::lifecycle::{Progress, Terms};
use rescind::outcome::{Outcome, State};
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
pub(crate) enum Move {
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
    pub(crate) config: Config,
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

    pub(crate) fn number_outcome(&self, outcome: Outcome) -> u8 {
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
    pub(crate) fn number(&self, progress: Progress) -> u32 {
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
        p.presumed = false;
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
        let end = |p: &Progress| p.waiting_since.map(|since| config.poll.end(since));
        let was_asked = p.asked_at >= end(&p);
        p.waiting_since = aged(p.waiting_since, config.poll.give_up_after);
        p.asked_at = end(&p).filter(|_| was_asked);
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

    pub(crate) fn terms(&self, deadline: u8) -> Terms {
        let endless = self.config.broken == Some(Rule::EveryScheduleEnds);
        let schedule = |schedule: Schedule| Schedule {
            give_up_after: if endless {
                Duration::MAX
            } else {
                schedule.give_up_after
            },
            ..schedule
        };
        Terms {
            abilities: self.config.abilities,
            retry: schedule(self.config.retry),
            poll: schedule(self.config.poll),
            deadline: (deadline != NEVER).then(|| plus(now(), u32::from(deadline) * TICK)),
        }
    }

    pub(crate) fn look_up(
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

    pub(crate) fn abilities(&self) -> Abilities {
        self.config.abilities
    }
}

/// An instant, but not longer ago than makes a difference.
fn aged(at: Option<Timestamp>, most: Duration) -> Option<Timestamp> {
    at.map(|at| at.max(ago(most)))
}

pub(crate) fn ago(duration: Duration) -> Timestamp {
    earlier(now(), duration)
}

pub(crate) fn earlier(at: Timestamp, duration: Duration) -> Timestamp {
    at.checked_sub(SignedDuration::try_from(duration).unwrap())
        .unwrap()
}
