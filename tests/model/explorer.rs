//! Every reachable state of a model, breadth first, on two threads; then the proof that every
//! path comes to an end.
//!
//! A state is known by 64 bits of its hash, kept with its parent for the trace and with its
//! edges for the proof. Only the frontier holds whole states.

use std::fmt::Display;
use std::time::{Duration, Instant};

use crate::fingerprint::{Known, fingerprint};
use crate::liveness::{Edge, INEVITABLE, TAKES_TIME, endless};
use crate::trace::{go_round, trace};

/// What can be explored.
pub(crate) trait Model: Sync {
    /// One state of the world.
    type State: Copy + Send + Sync + std::hash::Hash;
    /// What leads from one to the next.
    type Action: Copy + Send + Sync + Display;

    /// Where it begins.
    fn starts(&self) -> Vec<Self::State>;
    /// The same state for all states that differ by a symmetry only.
    fn canonical(&self, state: &Self::State) -> Self::State;
    /// Everything that may happen next, always in the same order; or the law that it breaks.
    fn steps(&self, state: &Self::State, steps: &mut Vec<Next<Self>>);
    /// The law that a state breaks.
    fn judge(&self, state: &Self::State) -> Result<(), &'static str>;
    /// The law that a state breaks in which nothing more happens by itself.
    fn judge_rest(&self, state: &Self::State) -> Result<(), &'static str>;
    /// Whether an action is something that goes wrong, and need never happen.
    fn is_fault(&self, action: &Self::Action) -> bool;
    /// Whether it is the passing of time.
    fn takes_time(&self, action: &Self::Action) -> bool;
    /// Whether it comes about by itself, sooner or later.
    fn is_inevitable(&self, state: &Self::State, action: &Self::Action) -> bool;
    /// A line about a state.
    fn describe(&self, state: &Self::State) -> String;
}

/// One action and the state that it leads to.
pub(crate) type Next<M> = (
    <M as Model>::Action,
    Result<<M as Model>::State, &'static str>,
);

/// What an exploration found.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) states: usize,
    pub(crate) edges: usize,
    /// States in which nothing more happens by itself.
    pub(crate) rests: usize,
    /// Longest of the shortest paths.
    pub(crate) depth: usize,
    pub(crate) took: Duration,
    pub(crate) broken: Option<Broken>,
}

/// A law that does not hold, with the way there.
#[derive(Debug)]
pub(crate) struct Broken {
    pub(crate) law: &'static str,
    pub(crate) trace: Vec<String>,
}

/// States of a layer that are worked on at once.
const CHUNK: usize = 1 << 17;
pub(crate) const THREADS: usize = 2;
/// Of the states that begin, which have no parent.
pub(crate) const NOBODY: u32 = u32::MAX;

/// A state that was reached, on its way to the shard that knows whether it is new.
struct Reached<S> {
    mark: u64,
    state: S,
    parent: u32,
    action: u16,
    /// [`TAKES_TIME`], [`INEVITABLE`].
    bits: u32,
}

/// Half of the known states: those whose fingerprint ends in the shard's number. A state's
/// number is its place in the shard and the shard's number.
#[derive(Default)]
pub(crate) struct Shard {
    pub(crate) known: Known<u32>,
    pub(crate) parents: Vec<(u32, u16)>,
    edges: Vec<Edge>,
}

impl Shard {
    /// The new ones of what was reached.
    fn take<S: Copy>(&mut self, number: usize, reached: Vec<Reached<S>>) -> Vec<(u32, S)> {
        let mut new = Vec::new();
        for one in reached {
            let next = self.parents.len() as u32 * THREADS as u32 + number as u32;
            let id = *self.known.entry(one.mark).or_insert(next);
            if id == next {
                self.parents.push((one.parent, one.action));
                new.push((id, one.state));
            }
            if one.parent != NOBODY {
                self.edges.push((one.parent, id | one.bits));
            }
        }
        new
    }
}

/// What one thread found in its part of a chunk.
struct Found<S> {
    reached: [Vec<Reached<S>>; THREADS],
    rests: usize,
    /// The law, the state, and the action that breaks it if it is not the state itself.
    broken: Option<(&'static str, u32, Option<u16>)>,
}

/// Explores all of it, or until a law is broken.
pub(crate) fn explore<M: Model>(model: &M) -> Report {
    let started = Instant::now();
    let mut shards: [Shard; THREADS] = Default::default();
    let mut frontier = begin(model, &mut shards);
    let mut report = Report {
        states: 0,
        edges: 0,
        rests: 0,
        depth: 0,
        took: Duration::ZERO,
        broken: None,
    };
    while !frontier.is_empty() && report.broken.is_none() {
        let mut next = Vec::new();
        for chunk in frontier.chunks(CHUNK) {
            let found = expand(model, chunk);
            report.rests += found.iter().map(|one| one.rests).sum::<usize>();
            let broken = found.iter().find_map(|one| one.broken);
            if let Some((law, id, action)) = broken {
                report.broken = Some(Broken {
                    law,
                    trace: trace(model, &shards, id, action).0,
                });
                break;
            }
            next.extend(merge(&mut shards, found));
        }
        report.depth += usize::from(!next.is_empty());
        frontier = next;
    }
    report.states = shards.iter().map(|shard| shard.parents.len()).sum();
    report.edges = shards.iter().map(|shard| shard.edges.len()).sum();
    if report.broken.is_none() {
        let places = shards.iter().map(|s| s.parents.len()).max().unwrap_or(0) * THREADS;
        let edges = shards
            .iter_mut()
            .map(|shard| std::mem::take(&mut shard.edges));
        let round = endless(places, edges.collect());
        report.broken = round.map(|round| Broken {
            law: "every path comes to an end",
            trace: go_round(model, &shards, &round),
        });
    }
    report.took = started.elapsed();
    report
}

fn begin<M: Model>(model: &M, shards: &mut [Shard; THREADS]) -> Vec<(u32, M::State)> {
    let mut frontier = Vec::new();
    for (index, state) in model.starts().into_iter().enumerate() {
        let mark = fingerprint(&model.canonical(&state));
        let number = mark as usize % THREADS;
        let reached = Reached {
            mark,
            state,
            parent: NOBODY,
            action: index as u16,
            bits: 0,
        };
        frontier.extend(shards[number].take(number, vec![reached]));
    }
    frontier
}

fn expand<M: Model>(model: &M, chunk: &[(u32, M::State)]) -> Vec<Found<M::State>> {
    let part = chunk.len().div_ceil(THREADS);
    std::thread::scope(|scope| {
        let threads: Vec<_> = chunk
            .chunks(part)
            .map(|part| scope.spawn(move || expand_part(model, part)))
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn expand_part<M: Model>(model: &M, part: &[(u32, M::State)]) -> Found<M::State> {
    let mut found = Found {
        reached: Default::default(),
        rests: 0,
        broken: None,
    };
    let mut steps = Vec::new();
    for (id, state) in part {
        steps.clear();
        model.steps(state, &mut steps);
        let rests = steps.iter().all(|(action, _)| model.is_fault(action));
        found.rests += usize::from(rests);
        let rest = if rests {
            model.judge_rest(state)
        } else {
            Ok(())
        };
        if let Err(law) = model.judge(state).and(rest) {
            found.broken = Some((law, *id, None));
            return found;
        }
        for (number, (happens, next)) in steps.iter().enumerate() {
            let action = number as u16;
            let bits = bits(model, state, happens);
            match next {
                Ok(state) => {
                    let mark = fingerprint(&model.canonical(state));
                    let (state, parent) = (*state, *id);
                    found.reached[mark as usize % THREADS].push(Reached {
                        mark,
                        state,
                        parent,
                        action,
                        bits,
                    });
                }
                Err(law) => {
                    found.broken = Some((law, *id, Some(action)));
                    return found;
                }
            }
        }
    }
    found
}

fn bits<M: Model>(model: &M, state: &M::State, action: &M::Action) -> u32 {
    match (model.takes_time(action), model.is_inevitable(state, action)) {
        (true, _) => TAKES_TIME | INEVITABLE,
        (false, true) => INEVITABLE,
        (false, false) => 0,
    }
}

/// Each shard takes what is its own, in the order in which it was found.
fn merge<S: Copy + Send>(shards: &mut [Shard; THREADS], found: Vec<Found<S>>) -> Vec<(u32, S)> {
    let mut own: [Vec<Vec<Reached<S>>>; THREADS] = Default::default();
    for one in found {
        for (number, reached) in one.reached.into_iter().enumerate() {
            own[number].push(reached);
        }
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = shards
            .iter_mut()
            .zip(own)
            .enumerate()
            .map(|(number, (shard, own))| {
                scope.spawn(move || {
                    let new = own.into_iter().map(|reached| shard.take(number, reached));
                    new.flatten().collect::<Vec<_>>()
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect()
    })
}
