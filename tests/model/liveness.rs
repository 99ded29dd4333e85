//! The proof that every path comes to an end: no round takes time, and every round that takes
//! none is left when time passes, or somebody else does what is to be done.
//!
//! A round without a tick is a worker that asks again and again within one instant, which no
//! worker can do for ever. Rounds are the strongly connected parts of the graph (Tarjan).

use std::collections::{HashMap, VecDeque};

/// An edge: from, and to with what it is.
pub(crate) type Edge = (u32, u32);

/// The bit of an edge that is a tick.
pub(crate) const TAKES_TIME: u32 = 1 << 31;
/// The bit of an edge that comes about by itself, whatever else happens meanwhile.
pub(crate) const INEVITABLE: u32 = 1 << 30;
/// The bits of the state that it leads to.
const TO: u32 = INEVITABLE - 1;

/// The edges by the state that they leave.
struct Graph {
    first: Vec<usize>,
    targets: Vec<u32>,
}

impl Graph {
    fn new(states: usize, shards: Vec<Vec<Edge>>) -> Self {
        let mut first = vec![0_usize; states + 1];
        for (from, _) in shards.iter().flatten() {
            first[*from as usize + 1] += 1;
        }
        for index in 0..states {
            first[index + 1] += first[index];
        }
        let mut place = first.clone();
        let mut targets = vec![0_u32; first[states]];
        for (from, to) in shards.into_iter().flatten() {
            let place = &mut place[from as usize];
            targets[*place] = to;
            *place += 1;
        }
        Self { first, targets }
    }

    fn from(&self, state: u32) -> &[u32] {
        &self.targets[self.first[state as usize]..self.first[state as usize + 1]]
    }

    /// The number of the part that each state belongs to, and how many states each has.
    fn parts(&self) -> (Vec<u32>, Vec<u32>) {
        let states = self.first.len() - 1;
        let (mut order, mut low) = (vec![u32::MAX; states], vec![0_u32; states]);
        let (mut part, mut sizes) = (vec![u32::MAX; states], Vec::new());
        let (mut open, mut path, mut next) = (Vec::new(), Vec::<(u32, u32)>::new(), 0);
        for root in 0..states as u32 {
            if order[root as usize] != u32::MAX {
                continue;
            }
            path.push((root, 0));
            while let Some((at, edge)) = path.last_mut() {
                let state = *at as usize;
                if *edge == 0 && order[state] == u32::MAX {
                    (order[state], low[state]) = (next, next);
                    next += 1;
                    open.push(*at);
                }
                if let Some(to) = self.from(*at).get(*edge as usize) {
                    *edge += 1;
                    let to = to & TO;
                    if order[to as usize] == u32::MAX {
                        path.push((to, 0));
                    } else if part[to as usize] == u32::MAX {
                        low[state] = low[state].min(order[to as usize]);
                    }
                    continue;
                }
                path.pop();
                if let Some((above, _)) = path.last() {
                    low[*above as usize] = low[*above as usize].min(low[state]);
                }
                if low[state] == order[state] {
                    let number = sizes.len() as u32;
                    let start = open.iter().rposition(|one| *one as usize == state).unwrap();
                    sizes.push((open.len() - start) as u32);
                    open.drain(start..)
                        .for_each(|one: u32| part[one as usize] = number);
                }
            }
        }
        (part, sizes)
    }

    /// A way from one state to another within their part.
    fn way(&self, from: u32, to: u32, part: &[u32]) -> Vec<u32> {
        let mut before = HashMap::from([(from, from)]);
        let mut queue = VecDeque::from([from]);
        while let Some(at) = queue.pop_front().filter(|at| *at != to) {
            for next in self.from(at).iter().map(|next| next & TO) {
                if part[next as usize] == part[from as usize] && !before.contains_key(&next) {
                    before.insert(next, at);
                    queue.push_back(next);
                }
            }
        }
        let mut way = vec![to];
        while way[way.len() - 1] != from {
            way.push(before[&way[way.len() - 1]]);
        }
        way.reverse();
        way
    }
}

/// A round without an end, if there is one.
pub(crate) fn endless(states: usize, shards: Vec<Vec<Edge>>) -> Option<Vec<u32>> {
    let graph = Graph::new(states, shards);
    let (part, sizes) = graph.parts();
    // Those of one state have no round, unless that leads to itself.
    let mut may_end: Vec<bool> = sizes.iter().map(|size| *size == 1).collect();
    for from in 0..states as u32 {
        for to in graph.from(from) {
            let (takes_time, inevitable) = (to & TAKES_TIME != 0, to & INEVITABLE != 0);
            let (own, to) = (part[from as usize], to & TO);
            let leaves = part[to as usize] != own;
            if takes_time && !leaves {
                let mut round = graph.way(to, from, &part);
                round.push(to);
                return Some(round);
            }
            may_end[own as usize] |= leaves && inevitable;
            assert!(takes_time || from != to, "a step that changes nothing");
        }
    }
    let stuck = may_end.iter().position(|may| !may)?;
    let inside = part.iter().position(|part| *part as usize == stuck)? as u32;
    let mut targets = graph.from(inside).iter().map(|to| to & TO);
    let next = targets.find(|to| part[*to as usize] as usize == stuck)?;
    let mut round = vec![inside];
    round.extend(graph.way(next, inside, &part));
    Some(round)
}
