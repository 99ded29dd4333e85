//! What is done to the parts, and when: an endless schedule that the seed decides.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use crate::hop::StreamFault;

/// Where the ledger is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "SQLite",
            Self::Postgres => "PostgreSQL",
        }
    }

    pub(crate) fn workers(self) -> usize {
        match self {
            Self::Sqlite => 1,
            Self::Postgres => 2,
        }
    }
}

/// What is done to a part. It is over, and mended, before the next one begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// `kill -9`, started again after so long.
    KillWorker(usize, Duration),
    /// All workers at once.
    KillAll(Duration),
    /// SIGSTOP, SIGCONT after so long.
    PauseWorker(usize, Duration),
    /// SIGTERM, started again once it has ended.
    DrainWorker(usize),
    KillBroker(Duration),
    RestartBroker,
    MemoryAlarm(Duration),
    DiskAlarm(Duration),
    KillDatabase(Duration),
    RestartDatabase,
    /// The small disk below the ledger is full for so long.
    FillDisk(Duration),
}

impl Event {
    /// As the report names it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillWorker(..) => "kill -9",
            Self::KillAll(_) => "kill -9 of all at once",
            Self::PauseWorker(_, time) if time > Duration::from_secs(10) => {
                "SIGSTOP for longer than a lease"
            }
            Self::PauseWorker(..) => "SIGSTOP",
            Self::DrainWorker(_) => "SIGTERM",
            Self::KillBroker(_) => "kill -9",
            Self::RestartBroker => "restart",
            Self::MemoryAlarm(_) => "memory alarm",
            Self::DiskAlarm(_) => "disk alarm",
            Self::KillDatabase(_) => "kill -9",
            Self::RestartDatabase => "restart",
            Self::FillDisk(_) => "disk full",
        }
    }

    pub(crate) fn part(self) -> &'static str {
        match self {
            Self::KillWorker(..)
            | Self::KillAll(_)
            | Self::PauseWorker(..)
            | Self::DrainWorker(_) => "worker",
            Self::KillBroker(_)
            | Self::RestartBroker
            | Self::MemoryAlarm(_)
            | Self::DiskAlarm(_) => "RabbitMQ",
            Self::KillDatabase(_) | Self::RestartDatabase => "PostgreSQL",
            Self::FillDisk(_) => "disk",
        }
    }
}

/// The hops whose connections are broken on command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// Worker and broker.
    Broker(usize),
    /// Publisher, consumer and broker.
    Client,
    /// Worker and PostgreSQL.
    Database(usize),
}

/// One thing on the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strike {
    Stream(Target, StreamFault),
    /// A provider refuses connections.
    RefuseProvider(usize, Duration),
}

/// Events and strikes with the pauses before them.
pub(crate) struct Plan {
    kind: Kind,
    short: bool,
    events: StdRng,
    strikes: StdRng,
    /// A short run begins with one of each that it has the time for.
    first: Vec<Event>,
}

impl Plan {
    pub(crate) fn new(kind: Kind, seed: u64, short: bool) -> Self {
        let ms = Duration::from_millis;
        let mut first = vec![
            Event::KillWorker(0, ms(300)),
            Event::DrainWorker(0),
            Event::PauseWorker(0, ms(1500)),
            Event::KillWorker(0, ms(0)),
        ];
        match kind {
            Kind::Sqlite => first.insert(2, Event::FillDisk(ms(1500))),
            Kind::Postgres => first.insert(2, Event::KillDatabase(ms(300))),
        }
        first.reverse();
        Self {
            kind,
            short,
            events: StdRng::seed_from_u64(seed ^ 0x00e7),
            strikes: StdRng::seed_from_u64(seed ^ 0x571),
            first: if short { first } else { Vec::new() },
        }
    }

    /// The next event and the pause before it.
    pub(crate) fn event(&mut self) -> (Duration, Event) {
        let short = self.short;
        let random = &mut self.events;
        let pause =
            Duration::from_millis(random.random_range(if short { 300..900 } else { 1000..6000 }));
        if let Some(event) = self.first.pop() {
            return (pause, event);
        }
        let mut ms = |from: u64, to: u64| Duration::from_millis(random.random_range(from..to));
        let sqlite = self.kind == Kind::Sqlite;
        // Short of one lease, and longer.
        let down = if sqlite { ms(0, 3000) } else { ms(0, 16_000) };
        let (brief, long) = (ms(100, 5000), ms(11_000, 19_000));
        let alarm = ms(500, 5000);
        let worker = random.random_range(0..self.kind.workers());
        let mut choices = vec![
            (10, Event::KillWorker(worker, down)),
            (5, Event::PauseWorker(worker, brief)),
            (3, Event::DrainWorker(worker)),
        ];
        if !short {
            choices.extend([
                (3, Event::KillBroker(brief / 2)),
                (1, Event::RestartBroker),
                (2, Event::MemoryAlarm(alarm)),
                (1, Event::DiskAlarm(alarm)),
            ]);
        }
        match self.kind {
            Kind::Sqlite => choices.push((4, Event::FillDisk(alarm))),
            Kind::Postgres => choices.extend([
                (2, Event::KillAll(brief / 2)),
                (4, Event::PauseWorker(worker, long)),
                (4, Event::KillDatabase(brief / 2)),
                (2, Event::RestartDatabase),
            ]),
        }
        let chosen = choices.choose_weighted(random, |(weight, _)| *weight);
        (pause, chosen.expect("choices").1)
    }

    /// The next strike and the pause before it.
    pub(crate) fn strike(&mut self) -> (Duration, Strike) {
        let random = &mut self.strikes;
        let pause = Duration::from_millis(random.random_range(500..2500));
        let worker = random.random_range(0..self.kind.workers());
        let targets = match self.kind {
            Kind::Sqlite => vec![Target::Broker(worker), Target::Client],
            Kind::Postgres => vec![
                Target::Broker(worker),
                Target::Database(worker),
                Target::Database(worker),
                Target::Client,
            ],
        };
        let target = *targets.choose(random).expect("targets");
        let mut ms = |from: u64, to: u64| Duration::from_millis(random.random_range(from..to));
        let (refuse, stall) = (ms(100, 1500), ms(200, 4000));
        if random.random_bool(0.3) {
            let provider = random.random_range(0..6);
            return (pause, Strike::RefuseProvider(provider, refuse / 2));
        }
        let bytes = random.random_range(0..4000);
        let rate = random.random_range(500..20_000);
        let fault = match random.random_range(0..8) {
            0 => StreamFault::Refuse(refuse),
            1 => StreamFault::Reset,
            2 => StreamFault::ResetBefore,
            3 => StreamFault::CutUp(bytes),
            4 | 5 => StreamFault::CutDown(bytes),
            6 => StreamFault::Stall(stall),
            _ => StreamFault::Slow(rate, stall),
        };
        (pause, Strike::Stream(target, fault))
    }
}
