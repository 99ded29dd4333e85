//! The state machine: its whole table in a text file, every path to a depth, and an end to
//! every schedule.

mod limits;

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use rescind::backoff::{Schedule, plus};
use rescind::lifecycle::{Checked, Plan, Progress, Seen, Sighting, Step, Terms};
use rescind::outcome::{
    Cancelled, Cause, Nothing, Operation, Outcome, Refused, State, Unresolved, Verdict, Why,
};
use rescind::providers::{Abilities, DoubtPolicy};

const HOUR: Duration = Duration::from_secs(3600);

const RETRY: Schedule = Schedule {
    first: Duration::from_secs(2),
    factor: 2.0,
    max: Duration::from_secs(600),
    give_up_after: Duration::from_secs(24 * 3600),
};
const POLL: Schedule = Schedule {
    max: Duration::from_secs(300),
    ..RETRY
};

mod checks;
mod lost;
mod memory;
mod replay;

fn now() -> Timestamp {
    plus(Timestamp::UNIX_EPOCH, 1000 * HOUR)
}

fn terms(abilities: Abilities) -> Terms {
    Terms {
        abilities,
        retry: RETRY,
        poll: POLL,
        deadline: None,
    }
}

const LOOKS_UP: Abilities = Abilities {
    lookup: true,
    finds_all: true,
    look_first: false,
    doubt: DoubtPolicy::LookUp,
};
const LOOKS_FIRST: Abilities = Abilities {
    look_first: true,
    ..LOOKS_UP
};
const SAME_KEY: Abilities = Abilities {
    lookup: false,
    finds_all: true,
    look_first: false,
    doubt: DoubtPolicy::SameKey { key_life: HOUR },
};
const ASKS_ONCE_MORE: Abilities = Abilities {
    lookup: false,
    finds_all: true,
    look_first: false,
    doubt: DoubtPolicy::AskOnceMore,
};
const PERSON: Abilities = Abilities {
    lookup: false,
    finds_all: true,
    look_first: false,
    doubt: DoubtPolicy::Person,
};
const POLICIES: [(&str, Abilities); 5] = [
    ("look-up", LOOKS_UP),
    ("look-up first", LOOKS_FIRST),
    ("no look-up, same key", SAME_KEY),
    ("no look-up, ask once more", ASKS_ONCE_MORE),
    ("no look-up, person", PERSON),
];

fn verdicts() -> Vec<Verdict> {
    vec![
        Verdict::Cancelled {
            reason: Cancelled::Voided,
            already: true,
        },
        Verdict::NothingToCancel(Nothing::Expired),
        Verdict::Refused(Refused::Settled),
        Verdict::Accepted,
        Verdict::Again {
            after: None,
            cause: Cause::Retryable,
        },
        Verdict::Again {
            after: Some(Duration::from_secs(30)),
            cause: Cause::RateLimited,
        },
        Verdict::Doubt,
        Verdict::StillOpen,
        Verdict::NotYet { after: None },
        Verdict::NotFound,
        Verdict::Unauthorized,
        Verdict::Misconfigured(Why::Credentials),
        Verdict::Misconfigured(Why::Rejected),
        Verdict::Barred(Why::Rejected),
        Verdict::Unresolved(Unresolved::RefundFailed),
    ]
}

/// What may happen to a call: an answer, nothing sent, or the death of the worker.
#[derive(Debug, Clone)]
enum Event {
    Answer(Verdict),
    NotSent,
    NoToken,
    Lost,
}

impl Event {
    fn all() -> Vec<Self> {
        let mut events: Vec<Self> = verdicts().into_iter().map(Self::Answer).collect();
        events.extend([Self::NotSent, Self::NoToken, Self::Lost]);
        events
    }

    fn name(&self) -> String {
        match self {
            Self::Answer(Verdict::Again { after: Some(_), .. }) => "again after 30 s".into(),
            Self::Answer(Verdict::Misconfigured(why)) => format!("misconfigured {}", why.as_str()),
            Self::Answer(Verdict::Barred(why)) => format!("barred {}", why.as_str()),
            Self::Answer(verdict) => verdict.as_str().into(),
            Self::NotSent => "(not sent)".into(),
            Self::NoToken => "(token refused)".into(),
            Self::Lost => "(worker died)".into(),
        }
    }

    fn apply(&self, progress: &mut Progress, terms: &Terms, now: Timestamp) -> Option<Step> {
        match self {
            Self::Answer(verdict) => Some(progress.after(verdict, terms, now, 0.5)),
            Self::NotSent => Some(progress.not_sent(terms, now, 0.5)),
            Self::NoToken => Some(progress.no_token(terms, now, 0.5)),
            Self::Lost => {
                progress.lost(now, Duration::ZERO);
                None
            }
        }
    }
}

fn calling(operation: Operation, change: impl FnOnce(&mut Progress)) -> Progress {
    let mut progress = Progress::new(now());
    change(&mut progress);
    progress.begin(operation, now());
    progress
}

fn sent(progress: &mut Progress) {
    progress.attempts = 1;
    progress.first_sent_at = Some(now());
}

fn in_doubt(progress: &mut Progress) {
    sent(progress);
    progress.doubtful = true;
    progress.exposed = true;
    progress.waiting_since = Some(now());
}

fn seen(progress: &mut Progress, what: Seen) {
    let earlier = now()
        .checked_sub(jiff::SignedDuration::from_secs(2))
        .unwrap();
    progress.sighting = Some(Sighting { what, at: earlier });
}

/// Every situation in which an answer can arrive.
fn situations() -> Vec<(&'static str, Abilities, Progress)> {
    use Operation::{Cancel, Lookup};
    vec![
        ("first cancel", LOOKS_UP, calling(Cancel, |_| {})),
        (
            "first cancel, no look-up",
            SAME_KEY,
            calling(Cancel, |_| {}),
        ),
        (
            "cancel again, an earlier doubt was cleared up",
            LOOKS_UP,
            calling(Cancel, |p| {
                sent(p);
                p.exposed = true;
            }),
        ),
        (
            "cancel again in doubt, same key",
            SAME_KEY,
            calling(Cancel, in_doubt),
        ),
        (
            "cancel again in doubt, ask once more",
            ASKS_ONCE_MORE,
            calling(Cancel, in_doubt),
        ),
        (
            "cancel again, not found seen once, no look-up",
            ASKS_ONCE_MORE,
            calling(Cancel, |p| {
                sent(p);
                seen(p, Seen::NotFound);
            }),
        ),
        (
            "look-up before the first cancel",
            LOOKS_FIRST,
            calling(Lookup, |_| {}),
        ),
        (
            "look-up before the first cancel, somebody else's seen under way",
            LOOKS_FIRST,
            calling(Lookup, |p| {
                p.under_way = true;
                p.waiting_since = Some(now());
            }),
        ),
        ("look-up in doubt", LOOKS_UP, calling(Lookup, in_doubt)),
        (
            "look-up in doubt, open once, then not found once",
            LOOKS_UP,
            calling(Lookup, |p| {
                in_doubt(p);
                p.was_there = true;
                seen(p, Seen::NotFound);
            }),
        ),
        (
            "look-up in doubt, not found seen once, before that one under way",
            LOOKS_UP,
            calling(Lookup, |p| {
                in_doubt(p);
                p.under_way = true;
                seen(p, Seen::NotFound);
            }),
        ),
        (
            "look-up after a repeat that was refused, an earlier doubt was cleared up",
            LOOKS_UP,
            calling(Lookup, |p| {
                sent(p);
                p.exposed = true;
                p.refusals = 1;
                p.waiting_since = Some(now());
            }),
        ),
        (
            "look-up in doubt, open seen once",
            LOOKS_UP,
            calling(Lookup, |p| {
                in_doubt(p);
                seen(p, Seen::StillOpen);
            }),
        ),
        (
            "look-up in doubt, not found seen once",
            LOOKS_UP,
            calling(Lookup, |p| {
                in_doubt(p);
                seen(p, Seen::NotFound);
            }),
        ),
        (
            "look-up after accepted",
            LOOKS_UP,
            calling(Lookup, |p| {
                sent(p);
                p.accepted = true;
                p.exposed = true;
                p.waiting_since = Some(now());
            }),
        ),
        (
            "look-up after a cancel that changed nothing",
            LOOKS_UP,
            calling(Lookup, |p| {
                sent(p);
                p.refusals = 1;
                p.waiting_since = Some(now());
            }),
        ),
        (
            "look-up after a cancel that changed nothing, not found seen once",
            LOOKS_UP,
            calling(Lookup, |p| {
                sent(p);
                p.refusals = 1;
                p.waiting_since = Some(now());
                seen(p, Seen::NotFound);
            }),
        ),
        (
            "look-up after the last cancel that changed nothing",
            LOOKS_UP,
            calling(Lookup, |p| {
                sent(p);
                p.refusals = rescind::lifecycle::REFUSALS_MAX;
                p.waiting_since = Some(now());
            }),
        ),
    ]
}

fn answers_table() -> String {
    let mut table = String::from("# What an answer leads to\n");
    for (name, abilities, progress) in situations() {
        writeln!(table, "\n{name}").unwrap();
        for event in Event::all() {
            let mut after = progress.clone();
            let step = event.apply(&mut after, &terms(abilities), now());
            writeln!(
                table,
                "  {:<26} -> {}",
                event.name(),
                describe(&after, step)
            )
            .unwrap();
        }
    }
    table
}

fn describe(after: &Progress, step: Option<Step>) -> String {
    if let Some(Step::Finish(outcome)) = step {
        let already = match outcome {
            Outcome::Cancelled { already: true, .. } => ", already",
            _ => "",
        };
        return format!(
            "RESULT {} / {}{already}",
            outcome.as_str(),
            outcome.reason()
        );
    }
    let wait = after.due_at.unwrap().duration_since(now()).as_millis();
    let mut text = format!("{}, in {wait} ms", after.state.as_str());
    for (set, word) in [
        (after.doubtful, "doubtful"),
        (after.accepted, "accepted"),
        (after.under_way, "under way"),
    ] {
        if set {
            write!(text, ", {word}").unwrap();
        }
    }
    text
}

fn plans_table() -> String {
    let mut table = String::from("\n# What is done with a request that is due\n");
    let states = [
        State::Due,
        State::WaitingRetry,
        State::WaitingProvider,
        State::InDoubt,
    ];
    let times = [
        ("in time", Duration::ZERO, false, false),
        ("schedule over", 24 * HOUR, false, false),
        ("over, and asked", 24 * HOUR, false, true),
        ("deadline passed", Duration::ZERO, true, false),
    ];
    for (name, abilities) in POLICIES {
        writeln!(table, "\n{name}").unwrap();
        for state in states {
            for (time, passed, late, asked) in times {
                let mut progress = Progress::new(now());
                progress.state = state;
                progress.first_sent_at = Some(now());
                progress.retrying_since = (state == State::WaitingRetry).then(now);
                progress.waiting_since = Some(now());
                progress.asked_at = asked.then(|| plus(now(), passed));
                let deadline = late.then(now);
                let plan = progress.plan(
                    &Terms {
                        deadline,
                        ..terms(abilities)
                    },
                    plus(now(), passed),
                );
                let plan = match plan {
                    Plan::Call(operation) => operation.as_str().to_owned(),
                    Plan::Finish(outcome) => {
                        format!("RESULT {} / {}", outcome.as_str(), outcome.reason())
                    }
                    Plan::Check => panic!("an open request has no result to check"),
                };
                writeln!(table, "  {:<16} {time:<16} -> {plan}", state.as_str()).unwrap();
            }
        }
    }
    table
}

#[test]
fn the_table_is_the_reviewed_one() {
    let table = answers_table() + &plans_table();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/lifecycle.txt");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    let reviewed = std::fs::read_to_string(path).unwrap();
    for (number, (is, was)) in table.lines().zip(reviewed.lines()).enumerate() {
        assert_eq!(
            is,
            was,
            "line {}: review the change and run with UPDATE=1",
            number + 1
        );
    }
    assert_eq!(table.lines().count(), reviewed.lines().count());
}

/// One path: what it has seen, to judge the next step by.
#[derive(Clone)]
struct Path {
    progress: Progress,
    now: Timestamp,
    /// The last cancel may have been applied, by the test's own book-keeping.
    open_doubt: bool,
    /// Nobody has said that it was accepted: what failed may be an earlier one.
    unanswered: bool,
    /// Agreeing answers "open" since, with their first time.
    open_seen: Option<Timestamp>,
    repeats_in_doubt: u32,
    trail: Vec<String>,
}

fn walk(path: &Path, terms: &Terms, depth: usize, paths: &mut u64) {
    if depth == 0 {
        *paths += 1;
        return;
    }
    let operation = match path.progress.plan(terms, path.now) {
        Plan::Call(operation) => operation,
        Plan::Finish(outcome) => {
            *paths += 1;
            return judge_end(path, outcome, None);
        }
        Plan::Check => panic!("an open request has no result to check"),
    };
    judge_call(path, operation, terms);
    assert!(
        !path.progress.under_way || operation == Operation::Lookup,
        "{:?}",
        path.trail
    );
    for event in Event::all() {
        let mut next = path.clone();
        next.trail
            .push(format!("{}: {}", operation.as_str(), event.name()));
        next.progress.begin(operation, path.now);
        let step = event.apply(&mut next.progress, terms, path.now);
        remember(&mut next, operation, &event, terms);
        let under_way = next.progress.under_way;
        if let Some(Step::Finish(outcome)) = step {
            *paths += 1;
            judge_end(&next, outcome, Some(&event));
            let certainly_not = matches!(
                outcome,
                Outcome::Failed(_) | Outcome::Refused(Refused::NotFound)
            );
            assert!(!(certainly_not && under_way), "{:?}", next.trail);
            assert_eq!(next.progress.state, State::Finished, "{:?}", next.trail);
            assert_eq!(next.progress.due_at, None, "{:?}", next.trail);
            continue;
        }
        go_on(&next, terms, depth - 1, paths);
        // During the call, or at any time until the next one: both are told after the answer.
        let hinted = hear(&next, terms);
        if hinted.progress.due_at != next.progress.due_at {
            go_on(&hinted, terms, depth - 1, paths);
        }
    }
}

fn go_on(path: &Path, terms: &Terms, depth: usize, paths: &mut u64) {
    let mut next = path.clone();
    next.now = next
        .progress
        .due_at
        .expect("an open request is due at some time")
        .max(path.now);
    walk(&next, terms, depth, paths);
}

/// A notification changes when the provider is asked, and nothing else.
fn hear(path: &Path, terms: &Terms) -> Path {
    let mut hinted = path.clone();
    hinted.trail.push("(notified)".into());
    let sooner = hinted.progress.heard(None, terms, path.now);
    let (before, after) = (&path.progress, &hinted.progress);
    if sooner {
        assert!(after.due_at < before.due_at, "{:?}", hinted.trail);
        let plan = before.plan(terms, path.now);
        assert_eq!(plan, Plan::Call(Operation::Lookup), "{:?}", hinted.trail);
    }
    let same = Progress {
        due_at: before.due_at,
        hints: before.hints.clone(),
        ..after.clone()
    };
    assert_eq!(same, *before, "{:?}", hinted.trail);
    // A flood of them moves it no further.
    let mut flooded = after.clone();
    for n in 0..3 {
        let event = format!("event {n}");
        assert!(!flooded.heard(Some(&event), terms, path.now));
    }
    assert_eq!(flooded.due_at, after.due_at);
    hinted
}

/// Nothing is sent while a call may have been applied, except as the policy says.
fn judge_call(path: &Path, operation: Operation, terms: &Terms) {
    if operation == Operation::Lookup {
        assert!(
            terms.abilities.lookup,
            "asked a provider without look-up: {:?}",
            path.trail
        );
        return;
    }
    match (path.open_doubt, terms.abilities.doubt) {
        (false, _) | (true, DoubtPolicy::SameKey { .. }) => {}
        (true, DoubtPolicy::AskOnceMore) => {
            assert!(
                path.repeats_in_doubt <= 1,
                "repeated twice in doubt: {:?}",
                path.trail
            );
        }
        (true, DoubtPolicy::LookUp | DoubtPolicy::Person) => {
            panic!("sent in doubt: {:?}", path.trail)
        }
    }
}

fn remember(path: &mut Path, operation: Operation, event: &Event, terms: &Terms) {
    match (operation, event) {
        (Operation::Cancel, Event::Lost | Event::Answer(Verdict::Doubt | Verdict::Accepted)) => {
            path.repeats_in_doubt += u32::from(path.open_doubt);
            path.open_doubt = true;
            path.unanswered |= !matches!(event, Event::Answer(Verdict::Accepted));
            path.open_seen = None;
        }
        // It was certainly not processed.
        (Operation::Cancel, Event::Answer(Verdict::Again { .. } | Verdict::Unauthorized)) => {}
        (Operation::Cancel, Event::Answer(_)) => {
            path.repeats_in_doubt += u32::from(path.open_doubt)
        }
        (Operation::Lookup, Event::Answer(Verdict::Again { .. })) if !path.unanswered => {
            path.open_doubt = false;
        }
        (Operation::Lookup, Event::Answer(Verdict::StillOpen | Verdict::Again { .. })) => {
            match path.open_seen {
                Some(first) if rescind::backoff::elapsed(first, path.now) >= terms.poll.first => {
                    path.open_doubt = false;
                    path.unanswered = false;
                }
                Some(_) => {}
                None => path.open_seen = Some(path.now),
            }
        }
        (Operation::Lookup, Event::Answer(_)) => path.open_seen = None,
        (_, Event::NotSent | Event::NoToken | Event::Lost) => {}
    }
}

/// A result says no more than what was seen.
fn judge_end(path: &Path, outcome: Outcome, event: Option<&Event>) {
    let trail = &path.trail;
    match outcome {
        Outcome::Cancelled { already, .. } => {
            assert!(
                matches!(event, Some(Event::Answer(Verdict::Cancelled { .. }))),
                "cancelled without evidence: {trail:?}"
            );
            let ours = trail.iter().any(|step| {
                step.starts_with("cancel: doubt")
                    || step.starts_with("cancel: accepted")
                    || step == "cancel: (worker died)"
            });
            assert!(
                !(already && ours),
                "called already what may be ours: {trail:?}"
            );
        }
        Outcome::Failed(_) => assert!(!path.open_doubt, "failed in doubt: {trail:?}"),
        Outcome::Invalid(_) => panic!("a request that was understood became invalid: {trail:?}"),
        Outcome::NothingToCancel(_) | Outcome::Refused(_) | Outcome::Unresolved(_) => {}
    }
}

#[test]
fn on_every_path_nothing_is_sent_in_doubt_and_nothing_is_claimed_without_evidence() {
    let mut paths = 0;
    for (_, abilities) in POLICIES {
        let start = Path {
            progress: Progress::new(now()),
            now: now(),
            open_doubt: false,
            unanswered: false,
            open_seen: None,
            repeats_in_doubt: 0,
            trail: Vec::new(),
        };
        walk(&start, &terms(abilities), 5, &mut paths);
    }
    println!("{paths} paths");
    assert!(
        paths > 200_000,
        "only {paths} paths: the walk does not walk"
    );
}

fn finished(outcome: Outcome) -> (Progress, Outcome) {
    let mut progress = Progress::new(now());
    progress.finish();
    (progress, outcome)
}

/// The next question of a check comes late enough for an answer to count.
fn asked_before(progress: &mut Progress) {
    let earlier = now()
        .checked_sub(jiff::SignedDuration::try_from(POLL.first).unwrap())
        .unwrap();
    progress.hints.checking_since = Some(earlier);
}

fn every_outcome() -> Vec<Outcome> {
    let already = false;
    let cancelled = Cancelled::ALL
        .iter()
        .map(|&reason| Outcome::Cancelled { reason, already });
    let refused = Refused::ALL.iter().map(|&reason| Outcome::Refused(reason));
    let failed = rescind::outcome::Failed::ALL
        .iter()
        .map(|&r| Outcome::Failed(r));
    cancelled
        .chain(Nothing::ALL.iter().map(|&r| Outcome::NothingToCancel(r)))
        .chain(refused)
        .chain(failed)
        .chain(Unresolved::ALL.iter().map(|&r| Outcome::Unresolved(r)))
        .collect()
}

#[test]
fn names_are_read_back() {
    for outcome in every_outcome() {
        let named = Outcome::named(outcome.as_str(), outcome.reason());
        assert_eq!(named, Some(outcome));
    }
    assert_eq!(Outcome::named("cancelled", "settled"), None);
}

/// Every answer to a check of every result: what is corrected, and what is dead-lettered.
#[test]
fn a_result_is_corrected_by_clear_answers_only() {
    let terms = terms(LOOKS_UP);
    for outcome in every_outcome() {
        for verdict in verdicts() {
            let (mut progress, outcome) = finished(outcome);
            assert!(progress.heard_after(outcome, None, None, &terms, now()));
            asked_before(&mut progress);
            progress.begin_check(now());
            assert_eq!(progress.state, State::Finished);
            let checked = progress.after_check(outcome, &verdict, &terms, now(), 0.5);
            let name = format!(
                "{} / {}: {}",
                outcome.as_str(),
                outcome.reason(),
                verdict.as_str()
            );
            let clear = matches!(
                verdict,
                Verdict::Cancelled { .. } | Verdict::NothingToCancel(_) | Verdict::Refused(_)
            );
            // Of the provider's own, and only a person can tell what it means.
            let unclear = matches!(verdict, Verdict::Unresolved(_));
            match checked {
                Checked::Holds => {
                    let open = matches!(verdict, Verdict::StillOpen);
                    assert!(clear || unclear || open, "{name}");
                }
                Checked::Contradicted { found, at_stake } => {
                    assert!((clear || unclear) && found != outcome, "{name}");
                    let said = matches!(outcome.as_str(), "cancelled" | "nothing_to_cancel");
                    let taken = matches!(found, Outcome::Refused(_));
                    assert_eq!(at_stake, said && taken || unclear, "{name}");
                    assert_eq!(matches!(found, Outcome::Unresolved(_)), unclear, "{name}");
                    // The same finding again is no news.
                    progress.begin_check(now());
                    let again = progress.after_check(outcome, &verdict, &terms, now(), 0.5);
                    assert_eq!(again, Checked::Holds, "{name}");
                }
                Checked::Again => {
                    assert!(!clear && !unclear, "{name}");
                    assert!(progress.due_at > Some(now()), "{name}");
                }
                Checked::Unclear => panic!("{name}: given up at once"),
            }
            assert_eq!(progress.state, State::Finished, "{name}");
        }
    }
}

#[test]
fn open_after_all_is_believed_when_seen_twice() {
    let terms = terms(LOOKS_UP);
    let (mut progress, outcome) = finished(Outcome::Cancelled {
        reason: Cancelled::Voided,
        already: false,
    });
    progress.begin_check(now());
    let first = progress.after_check(outcome, &Verdict::StillOpen, &terms, now(), 0.0);
    assert_eq!(first, Checked::Again);
    let later = progress.due_at.unwrap();
    progress.begin_check(later);
    let second = progress.after_check(outcome, &Verdict::StillOpen, &terms, later, 0.0);
    let found = Outcome::Unresolved(Unresolved::ContradictoryEvidence);
    let at_stake = true;
    assert_eq!(second, Checked::Contradicted { found, at_stake });
}

#[test]
fn a_check_ends_and_a_flood_does_not_repeat_it() {
    let terms = terms(LOOKS_UP);
    let (mut progress, outcome) = finished(Outcome::Refused(Refused::Settled));
    let mut time = now();
    for asked in 1.. {
        progress.begin_check(time);
        let verdict = Verdict::NotYet { after: None };
        if progress.after_check(outcome, &verdict, &terms, time, 1.0) == Checked::Unclear {
            break;
        }
        assert!(asked < 1000, "a check without an end");
        time = progress.due_at.unwrap();
        let pending = progress.due_at;
        assert!(!progress.heard_after(outcome, None, None, &terms, now()));
        assert_eq!(progress.due_at, pending);
    }
    assert!(
        rescind::backoff::elapsed(now(), time) >= POLL.give_up_after,
        "as long as any other question"
    );
    progress.due_at = None;
    assert!(progress.heard_after(outcome, None, None, &terms, time));
    assert_eq!(progress.due_at, Some(plus(time, Duration::from_secs(60))));
}

#[test]
fn what_says_the_same_or_was_heard_before_asks_nothing() {
    let (mut progress, outcome) = finished(Outcome::Refused(Refused::Settled));
    let says = |verdict: &Verdict, progress: &mut Progress, event: &str| {
        progress.heard_after(outcome, Some(verdict), Some(event), &terms(LOOKS_UP), now())
    };
    let settled = Verdict::Refused(Refused::Settled);
    assert!(!says(&settled, &mut progress, "a"));
    let cancelled = verdicts().remove(0);
    assert!(!says(&cancelled, &mut progress, "a"), "a repeated event");
    let mut blind = progress.clone();
    assert!(!blind.heard_after(outcome, Some(&cancelled), None, &terms(PERSON), now()));
    assert!(says(&cancelled, &mut progress, "b"));
}

/// Of a provider that cannot be asked.
#[test]
fn a_claim_contradicts_a_result_that_says_something_else() {
    let cancelled = || verdicts().remove(0);
    let settled = || Verdict::Refused(Refused::Settled);
    let contradicts =
        |outcome, claim: Verdict| finished(outcome).0.is_contradicted(outcome, &claim);
    let dismissed = Outcome::Cancelled {
        reason: Cancelled::Dismissed,
        already: false,
    };
    assert!(contradicts(dismissed, settled()));
    assert!(!contradicts(dismissed, cancelled()));
    assert!(contradicts(Outcome::Refused(Refused::Settled), cancelled()));
    assert!(!contradicts(Outcome::Refused(Refused::Settled), settled()));
    let unknown = Outcome::Unresolved(Unresolved::NoLookup);
    assert!(!contradicts(unknown, cancelled()), "it said nothing");
}

/// The same answer for ever is the worst that a provider can do to a schedule.
#[test]
fn every_schedule_ends_in_a_result() {
    for (policy, abilities) in POLICIES {
        for when_sent in Event::all() {
            for when_asked in Event::all() {
                let name = format!("{policy}: {} / {}", when_sent.name(), when_asked.name());
                ends(&name, abilities, &when_sent, &when_asked);
            }
        }
    }
}

fn ends(name: &str, abilities: Abilities, when_sent: &Event, when_asked: &Event) {
    let terms = terms(abilities);
    let (mut progress, mut time) = (Progress::new(now()), now());
    for _ in 0..20_000 {
        let operation = match progress.plan(&terms, time) {
            Plan::Call(operation) => operation,
            Plan::Finish(_) | Plan::Check => return,
        };
        progress.begin(operation, time);
        let event = match operation {
            Operation::Cancel => when_sent,
            Operation::Lookup => when_asked,
        };
        if let Some(Step::Finish(_)) = event.apply(&mut progress, &terms, time) {
            return;
        }
        // A worker that dies at each call still takes its time to start again.
        time = progress
            .due_at
            .unwrap()
            .max(plus(time, Duration::from_secs(1)));
        if matches!(event, Event::Lost) {
            time = plus(time, HOUR);
        }
        let lasted = rescind::backoff::elapsed(now(), time);
        assert!(lasted < 24 * 4 * HOUR, "{name}: no result after {lasted:?}");
    }
    panic!("{name}: no result after 20,000 calls");
}

#[test]
fn a_deadline_ends_the_sending_and_not_the_asking() {
    let deadline = Some(plus(now(), Duration::from_secs(60)));
    let terms = Terms {
        deadline,
        ..terms(LOOKS_UP)
    };
    let mut progress = calling(Operation::Cancel, |_| {});
    progress.after(&Verdict::Doubt, &terms, now(), 0.5);
    let late = plus(now(), HOUR);
    assert_eq!(progress.plan(&terms, late), Plan::Call(Operation::Lookup));
    progress.begin(Operation::Lookup, late);
    progress.after(&Verdict::StillOpen, &terms, late, 0.5);
    let later = progress.due_at.unwrap();
    progress.begin(Operation::Lookup, later);
    let step = progress.after(&Verdict::StillOpen, &terms, later, 0.5);
    let outcome = match step {
        Step::Finish(outcome) => outcome,
        Step::Wait(_) => match progress.plan(&terms, progress.due_at.unwrap()) {
            Plan::Finish(outcome) => outcome,
            plan => panic!("{plan:?} after the deadline"),
        },
    };
    assert_eq!(
        (outcome.as_str(), outcome.reason()),
        ("failed", "deadline_passed")
    );
}
