//! What is explored: a class of adapters, taken from the real ones, with a provider, schedules
//! that a handful of ticks covers, and a measure of faults.

use std::collections::BTreeMap;
use std::time::Duration;

use rescind::backoff::Schedule;
use rescind::job::{Amount, Currency, Job, Payment};
use rescind::providers::{self, Abilities, Account, DoubtPolicy};

use crate::book::NEVER;
use crate::rules::Rule;
use crate::state::{Faults, Truth};

/// The model's unit of time.
pub(crate) const TICK: Duration = Duration::from_secs(30);
/// `poll.first`: the least time between two answers that count as two. No shorter than
/// [`SETTLE`] and [`LAG`] together, as the documentation asks of it.
pub(crate) const FIRST: Duration = Duration::from_secs(60);
/// The reducer's own: a result is checked at most this often.
pub(crate) const CHECK_EVERY: Duration = Duration::from_secs(60);
/// Ticks after its claim within which a cancel is sent, or not at all.
pub(crate) const SEND_WITHIN: u8 = 1;
/// Ticks for which a cancel may be on the wire: the timeout of a call.
pub(crate) const WIRE: u8 = 1;
/// Ticks for which the provider may still carry out what its caller has given up.
pub(crate) const SETTLE: u8 = 1;
/// Ticks for which a look-up may not see an effect.
pub(crate) const LAG: u8 = 1;
/// Ticks after which a worker that is paused or cut off comes back at the latest.
pub(crate) const DOWN_MAX: u8 = 3;
/// Ticks after which the work of such a worker has been taken over.
pub(crate) const LEASE: u8 = 1;

/// What keeps a provider from moving money twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Nothing: every cancel that it carries out is an effect. The worst for the worker.
    Nothing,
    /// The payment's state: what is cancelled cannot be cancelled again.
    State,
    /// The key: a repeat of a request is known.
    Key,
}

/// One configuration.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    pub(crate) name: &'static str,
    /// The adapters that it stands for.
    pub(crate) adapters: Vec<&'static str>,
    pub(crate) abilities: Abilities,
    pub(crate) guard: Guard,
    pub(crate) retry: Schedule,
    pub(crate) poll: Schedule,
    pub(crate) jitter: f64,
    pub(crate) deadline: u8,
    pub(crate) workers: usize,
    /// The provider may accept and do it later.
    pub(crate) accepts: bool,
    /// The ledger was restored from an older copy: the first request is in it, new, and what
    /// was sent of it is forgotten.
    pub(crate) restored: bool,
    /// What may have become of the payment before.
    pub(crate) truths: &'static [Truth],
    /// Wrong answers never end: only the schedules do.
    pub(crate) for_ever: bool,
    pub(crate) faults: Faults,
    pub(crate) broken: Option<Rule>,
}

impl Config {
    /// How long a call of a worker that is gone may still reach the provider. One file has one
    /// worker, and who starts after it knows that it is gone.
    pub(crate) fn quiet(&self) -> Duration {
        let waits = self.workers > 1 && self.broken != Some(Rule::QuietIsWaitedFor);
        u32::from(waits) * u32::from(SEND_WITHIN + WIRE) * TICK
    }

    /// Nothing is repeated before it is certain that it was not applied.
    pub(crate) fn waits_for_certainty(&self) -> bool {
        matches!(
            self.abilities.doubt,
            DoubtPolicy::LookUp | DoubtPolicy::Person
        )
    }
}

pub(crate) const fn schedule(first: u64, give_up: u64) -> Schedule {
    Schedule {
        first: Duration::from_secs(30 * first),
        factor: 1.0,
        max: Duration::from_secs(30 * first),
        give_up_after: Duration::from_secs(30 * give_up),
    }
}

/// How far to explore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    /// Seconds, in a debug build.
    Small,
    /// Minutes, in a release build.
    Large,
}

/// The abilities of an adapter, as it declares them, and what it is called here.
fn abilities(kind: &str, lookup_path: Option<&str>, amount: bool) -> Abilities {
    let mut account = Account::default();
    if let Some(path) = lookup_path {
        account.plain.insert("lookup_path".into(), path.into());
    }
    let job = Job {
        request_id: "r".into(),
        provider: kind.into(),
        payment: Payment {
            key: "p".into(),
            ids: BTreeMap::new(),
        },
        amount: amount.then(|| Amount::parse("1.00").unwrap()),
        currency: Currency::parse("MXN"),
        reason: None,
        deadline: None,
    };
    let abilities = providers::by_kind(kind).unwrap().abilities(&account, &job);
    let doubt = match abilities.doubt {
        // A life that ends within the model's time.
        DoubtPolicy::SameKey { .. } => DoubtPolicy::SameKey { key_life: 4 * TICK },
        doubt => doubt,
    };
    Abilities { doubt, ..abilities }
}

/// Every adapter, in every form that makes a difference to the lifecycle.
const ADAPTERS: [(&str, &str, Option<&str>, bool); 10] = [
    ("bento", "bento", None, false),
    ("bento, a part", "bento", None, true),
    (
        "bento, its look-up set",
        "bento",
        Some("/{transaction_id}"),
        false,
    ),
    ("bento, no look-up", "bento", Some(""), false),
    ("bento, a part, no look-up", "bento", Some(""), true),
    ("gr4vy", "gr4vy", None, false),
    ("midtrans", "midtrans", None, false),
    ("migo", "migo", None, false),
    ("pismo", "pismo", None, false),
    ("tingg", "tingg", None, false),
];

/// The classes that differ to the lifecycle, each with the adapters that it stands for.
pub(crate) fn classes() -> Vec<Config> {
    let mut classes: Vec<Config> = Vec::new();
    for (title, kind, lookup_path, amount) in ADAPTERS {
        let abilities = abilities(kind, lookup_path, amount);
        match classes.iter_mut().find(|c| c.abilities == abilities) {
            Some(class) => class.adapters.push(title),
            None => classes.push(class(title, abilities)),
        }
    }
    classes
}

fn class(adapter: &'static str, abilities: Abilities) -> Config {
    let (name, guard) = match abilities {
        Abilities {
            lookup: true,
            finds_all: true,
            look_first: true,
            ..
        } => ("look-up first", Guard::Nothing),
        Abilities { lookup: true, .. } => ("look-up", Guard::Nothing),
        Abilities {
            look_first: true, ..
        } => ("look-up first, none offered", Guard::Nothing),
        Abilities {
            doubt: DoubtPolicy::SameKey { .. },
            ..
        } => ("same key", Guard::Key),
        Abilities {
            doubt: DoubtPolicy::AskOnceMore,
            ..
        } => ("ask once more", Guard::State),
        Abilities { .. } => ("person", Guard::Nothing),
    };
    Config {
        name,
        adapters: vec![adapter],
        abilities,
        guard,
        retry: schedule(1, 6),
        poll: schedule(2, 10),
        jitter: 0.0,
        deadline: NEVER,
        workers: 2,
        accepts: true,
        restored: false,
        truths: &[
            Truth::Open,
            Truth::Settled,
            Truth::Expired,
            Truth::Cancelled,
        ],
        for_ever: false,
        faults: Faults {
            answers: 0,
            crashes: 0,
            away: 0,
            repeats: 0,
            notices: 0,
        },
        broken: None,
    }
}

pub(crate) const fn faults(answers: u8, crashes: u8, away: u8, repeats: u8, notices: u8) -> Faults {
    Faults {
        answers,
        crashes,
        away,
        repeats,
        notices,
    }
}

/// Everything that is explored within a bound: each class and variant, with one measure of
/// faults after the other. More at once is more states than a machine holds.
pub(crate) fn configurations(bound: Bound) -> Vec<Config> {
    let mut all = Vec::new();
    for config in classes().into_iter().chain(variants(bound)) {
        let measures = match bound {
            Bound::Small => small(config.name),
            Bound::Large => large(config.name),
        };
        all.extend(measures.into_iter().map(|faults| Config {
            faults,
            ..config.clone()
        }));
    }
    all
}

/// The look-up class under other terms.
pub(crate) fn variants(bound: Bound) -> [Config; 5] {
    let main = classes().into_iter().find(|c| c.name == "look-up").unwrap();
    [
        Config {
            name: "look-up, deadline",
            deadline: 3,
            ..main.clone()
        },
        Config {
            name: "look-up, one worker",
            workers: 1,
            ..main.clone()
        },
        Config {
            name: "look-up, restored",
            restored: true,
            ..main.clone()
        },
        // Only what can move money twice: a payment that is open, done at once.
        Config {
            name: "look-up, at worst",
            truths: &[Truth::Open],
            accepts: false,
            ..main.clone()
        },
        Config {
            name: "look-up, never well",
            retry: schedule(1, 1),
            poll: schedule(2, 2),
            jitter: 1.0,
            workers: if bound == Bound::Small { 1 } else { 2 },
            for_ever: true,
            ..main
        },
    ]
}

/// Each kind of fault alone, where that is quickly explored.
fn small(name: &str) -> Vec<Faults> {
    let (answer, crash) = (faults(1, 0, 0, 0, 0), faults(0, 1, 0, 0, 0));
    match name {
        "look-up" => vec![answer, crash],
        "look-up first" | "look-up, restored" => vec![answer],
        "look-up, one worker" => vec![answer, crash],
        _ => vec![faults(0, 0, 0, 0, 0)],
    }
}

/// Two and three kinds of faults together, up to two crashes and two notifications.
fn large(name: &str) -> Vec<Faults> {
    match name {
        "look-up" => vec![
            faults(1, 2, 0, 0, 0),
            faults(2, 1, 0, 0, 0),
            faults(0, 2, 1, 0, 0),
            faults(1, 0, 1, 0, 0),
            faults(1, 0, 0, 0, 2),
            faults(0, 0, 0, 1, 2),
            faults(0, 1, 0, 1, 1),
            faults(0, 0, 1, 0, 2),
            faults(3, 0, 0, 0, 0),
        ],
        "look-up, at worst" => vec![faults(1, 1, 1, 0, 0)],
        "look-up first" => vec![
            faults(2, 1, 0, 0, 0),
            faults(0, 1, 1, 0, 0),
            faults(1, 0, 0, 1, 1),
        ],
        "person" => vec![
            faults(1, 1, 0, 0, 0),
            faults(0, 1, 1, 0, 0),
            faults(0, 0, 0, 1, 1),
        ],
        "same key" | "ask once more" => vec![
            faults(2, 0, 0, 0, 0),
            faults(0, 0, 1, 0, 0),
            faults(0, 1, 0, 0, 0),
            faults(0, 0, 0, 1, 1),
        ],
        "look-up, one worker" => vec![faults(2, 2, 0, 0, 0), faults(0, 1, 1, 0, 1)],
        "look-up, never well" => vec![faults(0, 1, 0, 0, 0)],
        "look-up, restored" => vec![faults(1, 1, 0, 0, 0), faults(0, 0, 1, 0, 1)],
        _ => vec![faults(1, 1, 0, 0, 0), faults(0, 0, 0, 1, 1)],
    }
}
