//! One state of the modelled world: ledger, workers, broker, provider, and what may still go
//! wrong. Small and plain, since millions of them are made.

use crate::book::Book;

/// Where a row of the ledger stands, beside what its progress says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Place {
    Absent,
    Parked,
    Open,
    Finished,
}

/// A request in the ledger, with its row in the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub(crate) place: Place,
    pub(crate) progress: u32,
    /// A notification came during the claim; of a finished one: it is to be checked.
    pub(crate) notified: bool,
    /// Number of its outcome, 0 before.
    pub(crate) outcome: u8,
    /// Result rows that were written.
    pub(crate) results: u8,
    /// The result has to be published.
    pub(crate) pending: bool,
    /// Number of the last correction's finding, or 0.
    pub(crate) corrected: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Life {
    Alive,
    /// Stopped, with its connections open; wakes where it fell asleep.
    Asleep,
    /// Works on, but reaches neither ledger nor broker.
    CutOff,
    Dead,
    /// Not in this configuration.
    Absent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Stage {
    Idle,
    /// The intent is committed, nothing is sent.
    Claimed,
    /// A cancel is on the wire.
    Waiting,
    /// What it led to is known here only.
    Answered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Call {
    None,
    Cancel,
    Lookup,
    /// A look-up that checks a result.
    Check,
}

/// What the provider has done about a cancel on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fate {
    Pending,
    Applied,
    WasAlready,
}

/// The claim that a worker carries out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) stage: Stage,
    pub(crate) request: u8,
    /// Its token is still the row's.
    pub(crate) current: bool,
    pub(crate) call: Call,
    /// Ticks since the claim; once it is on the wire, since then.
    pub(crate) age: u8,
    pub(crate) fate: Fate,
    /// As claimed; once answered, as to be committed.
    pub(crate) progress: u32,
    /// The same if a notification came.
    pub(crate) hinted: u32,
    pub(crate) outcome: u8,
}

impl Slot {
    pub(crate) const IDLE: Self = Self {
        stage: Stage::Idle,
        request: 0,
        current: false,
        call: Call::None,
        age: 0,
        fate: Fate::Pending,
        progress: 0,
        hinted: 0,
        outcome: 0,
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Worker {
    pub(crate) life: Life,
    /// Ticks since it was alive.
    pub(crate) down: u8,
    pub(crate) slot: Slot,
    /// Deliveries that are not acknowledged, a bit for each request.
    pub(crate) unacked: u8,
    /// The result that the broker has, not yet marked: request and one, or 0.
    pub(crate) marking: u8,
}

/// What became of the payment before anybody asked to cancel it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Truth {
    Open,
    Settled,
    Expired,
    Cancelled,
}

/// How much may still go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Faults {
    /// Answers lost, late, or not what they should be; commits without an answer.
    pub(crate) answers: u8,
    pub(crate) crashes: u8,
    /// A worker pauses, or is cut off.
    pub(crate) naps: u8,
    /// A request is published again.
    pub(crate) repeats: u8,
    pub(crate) notices: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) rows: [Row; 2],
    pub(crate) workers: [Worker; 2],
    /// Copies of each request in the queue.
    pub(crate) queue: [u8; 2],
    /// The second request is not published yet.
    pub(crate) late: bool,
    /// The result that consumers have of each request.
    pub(crate) seen: [u8; 2],
    pub(crate) truth: Truth,
    /// Times that each request moved money.
    pub(crate) effects: [u8; 2],
    /// Ticks since the first of these, up to the look-up's lag.
    pub(crate) effect_age: u8,
    /// Taken by the provider: ticks until it is done, and one; or 0.
    pub(crate) processing: [u8; 2],
    /// The provider took it and did not do it.
    pub(crate) dropped: [bool; 2],
    /// Cancels whose caller has given up, or is gone, by the ticks for which they may still be
    /// carried out.
    pub(crate) orphans: [[u8; 3]; 2],
    /// Ticks since "not found" was first said, and one; or 0.
    pub(crate) missing: u8,
    /// Ticks until the deadline.
    pub(crate) deadline: u8,
    pub(crate) faults: Faults,
}

impl State {
    pub(crate) fn new(truth: Truth, deadline: u8, faults: Faults, workers: usize) -> Self {
        let row = Row {
            place: Place::Absent,
            progress: Book::NEW,
            notified: false,
            outcome: 0,
            results: 0,
            pending: false,
            corrected: 0,
        };
        let worker = |life| Worker {
            life,
            down: 0,
            slot: Slot::IDLE,
            unacked: 0,
            marking: 0,
        };
        let second = if workers > 1 {
            Life::Alive
        } else {
            Life::Absent
        };
        Self {
            rows: [row; 2],
            workers: [worker(Life::Alive), worker(second)],
            queue: [1, 0],
            late: true,
            seen: [0; 2],
            truth,
            effects: [0; 2],
            effect_age: 0,
            processing: [0; 2],
            dropped: [false; 2],
            orphans: [[0; 3]; 2],
            missing: 0,
            deadline,
            faults,
        }
    }

    /// Money was moved back, by us or before.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.truth == Truth::Cancelled || self.effects != [0; 2]
    }

    /// An attempt of a request was applied, or may still be.
    pub(crate) fn is_exposed(&self, request: usize) -> bool {
        let on_the_wire = self.workers.iter().any(|worker| {
            let slot = &worker.slot;
            slot.stage == Stage::Waiting
                && usize::from(slot.request) == request
                && slot.fate == Fate::Pending
        });
        on_the_wire
            || self.effects[request] > 0
            || self.processing[request] > 0
            || self.orphans[request] != [0; 3]
    }
}
