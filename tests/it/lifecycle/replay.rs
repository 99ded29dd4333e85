//! A replay never sends blind: the provider is asked first, or its policy says how; where
//! neither is possible, nothing is begun.

use std::time::Duration;

use rescind::backoff::plus;
use rescind::lifecycle::{Hindrance, Plan, Progress, Seen, Sighting, Step, Terms};
use rescind::outcome::{
    Cancelled, Cause, Failed, Operation, Outcome, Refused, State, Unresolved, Verdict, Why,
};
use rescind::providers::Abilities;

use super::{ASKS_ONCE_MORE, HOUR, LOOKS_FIRST, LOOKS_UP, SAME_KEY, now, terms};

const FAILED: Outcome = Outcome::Failed(Failed::RetriesExhausted);
const UNKNOWN: Outcome = Outcome::Unresolved(Unresolved::LookupsExhausted);

/// A request that was sent once, a while ago, and given up.
fn given_up(exposed: bool) -> Progress {
    let mut progress = Progress::new(now());
    progress.begin(Operation::Cancel, now());
    progress.exposed = exposed;
    progress.doubtful = exposed;
    progress.retries = 9;
    progress.polls = 9;
    progress.refusals = 4;
    progress.looked = true;
    progress.retrying_since = Some(now());
    progress.waiting_since = Some(now());
    progress.asked_at = Some(super::POLL.end(now()));
    progress.finish();
    progress
}

fn replayed(
    outcome: Outcome,
    abilities: Abilities,
    later: Duration,
) -> Result<Progress, Hindrance> {
    let exposed = matches!(outcome, Outcome::Unresolved(_));
    given_up(exposed).replay(outcome, &terms(abilities), plus(now(), later))
}

#[test]
fn where_the_provider_can_be_asked_it_is_asked_first() {
    for abilities in [LOOKS_UP, LOOKS_FIRST] {
        for (outcome, state) in [(FAILED, State::Due), (UNKNOWN, State::InDoubt)] {
            let at = plus(now(), 100 * HOUR);
            let again = replayed(outcome, abilities, 100 * HOUR).unwrap();
            assert_eq!((again.state, again.due_at), (state, Some(at)));
            let plan = again.plan(&terms(abilities), at);
            assert_eq!(plan, Plan::Call(Operation::Lookup), "{outcome:?}");
            assert_eq!((again.calls, again.attempts), (1, 1), "the log goes on");
            let budgets = (again.retries, again.polls, again.refusals);
            assert_eq!((budgets, again.retrying_since), ((0, 0, 0), None));
            assert_eq!((again.replays.begun, again.replays.letters), (1, 1));
        }
    }
}

/// A refund of the same size need not be ours, where none of our calls may have been applied.
#[test]
fn a_replay_presumes_what_no_call_on_record_did() {
    for exposed in [false, true] {
        let again = given_up(exposed)
            .replay(UNKNOWN, &terms(LOOKS_UP), now())
            .unwrap();
        assert!(again.exposed);
        assert_eq!(again.is_presumed(), !exposed);
    }
}

/// A call that was answered with it began something.
#[test]
fn an_answer_for_a_person_is_no_refusal() {
    let mut progress = Progress::new(now());
    progress.begin(Operation::Cancel, now());
    let failed = Verdict::Unresolved(Unresolved::RefundFailed);
    progress.after(&failed, &terms(LOOKS_UP), now(), 0.0);
    let ended = Outcome::Unresolved(Unresolved::RefundFailed);
    let again = progress.replay(ended, &terms(LOOKS_UP), now()).unwrap();
    assert!(again.exposed && !again.is_presumed());
}

/// What the provider has said is taken back by its word only.
#[test]
fn a_replay_without_an_answer_has_learned_nothing() {
    let reason = Cancelled::Voided;
    let already = false;
    let proven = Outcome::Cancelled { reason, already };
    let open = Outcome::Unresolved(Unresolved::ContradictoryEvidence);
    let asked = Progress::new(now());
    for found in [FAILED, UNKNOWN, Outcome::Unresolved(Unresolved::NoLookup)] {
        assert!(asked.has_learned_nothing(proven, found), "{found:?}");
        assert!(!asked.has_learned_nothing(UNKNOWN, found), "{found:?}");
    }
    for found in [open, proven, Outcome::Refused(Refused::Settled)] {
        assert!(!asked.has_learned_nothing(proven, found), "{found:?}");
    }
    let mut seen_open = Progress::new(now());
    seen_open.looked = true;
    assert!(!seen_open.has_learned_nothing(proven, FAILED));
}

/// What was there once and is gone after a doubt was removed by somebody, perhaps by us.
#[test]
fn what_was_there_before_a_replay_was_there() {
    let (at, terms) = (plus(now(), HOUR), terms(LOOKS_UP));
    for (was_there, refusals) in [(false, 0), (true, 0), (false, 1)] {
        let mut before = given_up(true);
        (before.was_there, before.refusals) = (was_there, refusals);
        let again = before.replay(UNKNOWN, &terms, at).unwrap();
        assert_eq!(again.was_there, was_there || refusals > 0);
    }
}

/// Somebody else's is under way, and ours may have been applied, too.
#[test]
fn what_may_have_been_applied_is_in_doubt_beside_somebody_elses() {
    let mut before = given_up(true);
    before.under_way = true;
    let again = before.replay(UNKNOWN, &terms(LOOKS_UP), now()).unwrap();
    assert_eq!((again.state, again.doubtful), (State::InDoubt, true));
}

/// One answer from before would make a second one of the next, hours later and by chance.
#[test]
fn what_was_seen_before_a_replay_is_no_first_witness() {
    let mut before = given_up(true);
    before.sighting = Some(Sighting {
        what: Seen::StillOpen,
        at: now(),
    });
    // A question about its result that a worker died over.
    before.operation = Some(Operation::Lookup);
    let at = plus(now(), HOUR);
    let terms = terms(LOOKS_UP);
    let mut again = before.replay(UNKNOWN, &terms, at).unwrap();
    assert_eq!((&again.sighting, again.operation), (&None, None));
    again.begin(Operation::Lookup, at);
    again.after(&Verdict::StillOpen, &terms, at, 0.0);
    assert_eq!(again.state, State::InDoubt);
}

#[test]
fn each_hindrance_has_the_name_that_programs_know_and_says_what_to_do() {
    let names = Hindrance::ALL.iter().map(|hindrance| hindrance.as_str());
    let known = [
        "invalid",
        "deadline_passed",
        "nobody_to_ask",
        "unreadable",
        "under_way",
        "newer_request",
    ];
    assert!(names.eq(known));
    for hindrance in Hindrance::ALL {
        let sentence = hindrance.sentence();
        let next = ["discard", "replay", "see"];
        assert!(
            next.iter().any(|word| sentence.contains(word)),
            "{sentence}"
        );
    }
}

#[test]
fn what_is_cancelled_by_now_is_found_without_a_call() {
    let cancelled = Verdict::Cancelled {
        reason: Cancelled::Voided,
        already: true,
    };
    // What was in doubt may be our own doing; what certainly failed is somebody else's.
    for (outcome, already) in [(FAILED, true), (UNKNOWN, false)] {
        let mut again = replayed(outcome, LOOKS_UP, HOUR).unwrap();
        again.begin(Operation::Lookup, plus(now(), HOUR));
        let step = again.after(&cancelled, &terms(LOOKS_UP), plus(now(), HOUR), 0.0);
        let reason = Cancelled::Voided;
        assert_eq!(step, Step::Finish(Outcome::Cancelled { reason, already }));
        assert_eq!(again.attempts, 1);
    }
}

#[test]
fn a_key_is_used_again_for_as_long_as_it_lives() {
    let first = Some(now());
    let half = HOUR / 2;
    // In doubt: under a living key or not at all.
    let again = replayed(UNKNOWN, SAME_KEY, half).unwrap();
    let plan = again.plan(&terms(SAME_KEY), plus(now(), half));
    assert_eq!(
        (plan, again.first_sent_at),
        (Plan::Call(Operation::Cancel), first)
    );
    assert_eq!(
        replayed(UNKNOWN, SAME_KEY, HOUR),
        Err(Hindrance::NobodyToAsk)
    );
    // Certainly not applied: a key that the provider has forgotten is a new one.
    assert_eq!(
        replayed(FAILED, SAME_KEY, half).unwrap().first_sent_at,
        first
    );
    assert_eq!(
        replayed(FAILED, SAME_KEY, HOUR).unwrap().first_sent_at,
        None
    );
}

#[test]
fn where_nobody_can_be_asked_nothing_is_begun() {
    let mut asked = given_up(true);
    asked.asked_again = true;
    let refused = asked.replay(UNKNOWN, &terms(ASKS_ONCE_MORE), now());
    assert_eq!(refused, Err(Hindrance::NobodyToAsk));
    // Certainly not applied: there is nothing to ask.
    let again = replayed(FAILED, ASKS_ONCE_MORE, HOUR).unwrap();
    let plan = again.plan(&terms(ASKS_ONCE_MORE), plus(now(), HOUR));
    assert_eq!(plan, Plan::Call(Operation::Cancel));
    for outcome in [
        Outcome::Refused(Refused::Settled),
        Outcome::Invalid(rescind::outcome::Invalid::NotJson),
    ] {
        assert_eq!(replayed(outcome, LOOKS_UP, HOUR), Err(Hindrance::Invalid));
    }
}

#[test]
fn after_its_deadline_nothing_is_sent_and_a_doubt_can_still_be_asked_about() {
    let late = |abilities| Terms {
        deadline: Some(now()),
        ..terms(abilities)
    };
    for abilities in [LOOKS_UP, LOOKS_FIRST, SAME_KEY, ASKS_ONCE_MORE] {
        let refused = given_up(false).replay(FAILED, &late(abilities), now());
        assert_eq!(refused, Err(Hindrance::DeadlinePassed));
    }
    let terms = late(LOOKS_UP);
    let mut again = given_up(true).replay(UNKNOWN, &terms, now()).unwrap();
    let mut at = now();
    // Still open, twice: it was not applied, and is not sent.
    let step = loop {
        assert_eq!(again.plan(&terms, at), Plan::Call(Operation::Lookup));
        again.begin(Operation::Lookup, at);
        match again.after(&Verdict::StillOpen, &terms, at, 0.5) {
            Step::Wait(_) => at = again.due_at.unwrap(),
            step => break step,
        }
    };
    assert_eq!(step, Step::Finish(Outcome::Failed(Failed::DeadlinePassed)));
}

fn verdicts() -> Vec<Verdict> {
    vec![
        Verdict::Accepted,
        Verdict::Again {
            after: None,
            cause: Cause::Retryable,
        },
        Verdict::Doubt,
        Verdict::StillOpen,
        Verdict::NotYet { after: None },
        Verdict::NotFound,
        Verdict::Misconfigured(Why::Credentials),
        Verdict::Refused(Refused::Settled),
    ]
}

/// Every path of a replay to a depth: nothing is sent that was not asked about, and nothing
/// in doubt.
fn walk(progress: &Progress, terms: &Terms, asked: bool, depth: u32, calls: &mut u32) {
    let (Some(due), 1..) = (progress.due_at, depth) else {
        return;
    };
    let Plan::Call(operation) = progress.plan(terms, due) else {
        return;
    };
    if operation == Operation::Cancel {
        *calls += 1;
        assert!(
            asked && !progress.doubtful && !progress.accepted,
            "{progress:#?}"
        );
    }
    for verdict in verdicts() {
        let mut next = progress.clone();
        next.begin(operation, due);
        let open = operation == Operation::Lookup
            && matches!(verdict, Verdict::StillOpen | Verdict::Again { .. });
        if let Step::Wait(_) = next.after(&verdict, terms, due, 0.5) {
            walk(&next, terms, asked || open, depth - 1, calls);
        }
    }
}

#[test]
fn on_every_path_of_a_replay_nothing_is_sent_blind() {
    let mut calls = 0;
    for abilities in [LOOKS_UP, LOOKS_FIRST] {
        for outcome in [FAILED, UNKNOWN] {
            let again = replayed(outcome, abilities, 100 * HOUR).unwrap();
            walk(&again, &terms(abilities), false, 5, &mut calls);
        }
    }
    assert!(calls > 100, "{calls} calls: the walk saw little");
}
