//! A worker that is gone, or a ledger that may have forgotten: nothing is sent before the
//! provider was asked, and "open" counts only once nothing can still arrive.

use std::time::Duration;

use rescind::lifecycle::{Plan, Progress, Seen, Sighting, Step};
use rescind::outcome::{Cause, Operation, Outcome, Refused, State, Unresolved, Verdict};

use super::{LOOKS_UP, SAME_KEY, in_doubt, now, plus, seen, terms};

const QUIET: Duration = Duration::from_secs(25);

fn taken_over(quiet: Duration) -> Progress {
    let mut progress = Progress::new(now());
    progress.begin(Operation::Cancel, now());
    progress.lost(now(), quiet);
    progress
}

/// Asks at each due time and hears the same, until something is sent or a day has passed.
fn sent_after(mut progress: Progress, verdict: &Verdict) -> Option<Duration> {
    let terms = terms(LOOKS_UP);
    // Not without jitter: a full one may draw no wait at all, and time would stand still.
    while let Some(due) = progress.due_at {
        let passed = rescind::backoff::elapsed(now(), due);
        match progress.plan(&terms, due) {
            Plan::Call(Operation::Cancel) => return Some(passed),
            Plan::Call(Operation::Lookup) => {
                progress.begin(Operation::Lookup, due);
                progress.after(verdict, &terms, due, 0.5);
            }
            _ => return None,
        }
    }
    None
}

#[test]
fn what_is_not_seen_counts_once_the_lost_call_cannot_arrive_any_more() {
    let first = terms(LOOKS_UP).poll.first;
    let at_once = sent_after(taken_over(Duration::ZERO), &Verdict::StillOpen).unwrap();
    assert!(at_once < QUIET, "{at_once:?}");
    let later = sent_after(taken_over(QUIET), &Verdict::StillOpen).unwrap();
    // Twice and spaced, both answers after the quiet.
    assert!(later >= QUIET + first, "{later:?}");
    assert!(later <= QUIET + 4 * first, "{later:?}");
}

/// A new version, or only a new `timeout`, comes with a restart.
#[test]
fn a_lost_call_has_the_time_that_it_was_sent_with() {
    let first = terms(LOOKS_UP).poll.first;
    let mut progress = Progress::new(now());
    progress.begin(Operation::Cancel, now());
    progress.set_quiet(QUIET, true);
    let mut calling = progress.clone();
    progress.lost(now(), first);
    progress.distrust(now(), now(), first);
    let later = sent_after(progress, &Verdict::StillOpen).unwrap();
    assert!(later >= QUIET + first, "{later:?}");
    // Also where it was the worker that heard nothing, and another one asks.
    let mut unheard = calling.clone();
    unheard.unheard(now(), QUIET);
    unheard.after(&Verdict::Doubt, &terms(LOOKS_UP), now(), 0.5);
    unheard.distrust(jiff::Timestamp::MIN, now(), first);
    let later = sent_after(unheard, &Verdict::StillOpen).unwrap();
    assert!(later >= QUIET + first, "{later:?}");
    // Not for the next call, once one was answered.
    calling.after(&Verdict::Doubt, &terms(LOOKS_UP), now(), 0.5);
    calling.begin(Operation::Cancel, now());
    calling.lost(now(), first);
    assert_eq!(calling.quiet_until, Some(plus(now(), first)));
}

/// The worker is there, and heard nothing: the provider may still be at it.
#[test]
fn a_call_without_an_answer_has_its_time_once_more() {
    let mut progress = Progress::new(now());
    progress.begin(Operation::Cancel, now());
    progress.unheard(now(), QUIET);
    progress.after(&Verdict::Doubt, &terms(LOOKS_UP), now(), 0.5);
    let sent = sent_after(progress, &Verdict::StillOpen).unwrap();
    assert!(sent >= QUIET + terms(LOOKS_UP).poll.first, "{sent:?}");
}

#[test]
fn a_question_without_an_answer_keeps_nothing_quiet() {
    let mut progress = taken_over(Duration::ZERO);
    progress.begin(Operation::Lookup, now());
    progress.unheard(now(), QUIET);
    assert_eq!(progress.quiet_until, None);
}

#[test]
fn a_refusal_of_something_else_does_not_end_the_quiet() {
    let again = Verdict::Again {
        after: None,
        cause: Cause::Retryable,
    };
    let sent = sent_after(taken_over(QUIET), &again).unwrap();
    assert!(sent >= QUIET, "{sent:?}");
}

/// It was paid meanwhile, and the lost call takes it back all the same.
#[test]
fn a_state_that_refuses_counts_once_the_lost_call_cannot_arrive_any_more() {
    let mut progress = taken_over(QUIET);
    let refused = Verdict::Refused(Refused::Settled);
    progress.begin(Operation::Lookup, now());
    let step = progress.after(&refused, &terms(LOOKS_UP), now(), 1.0);
    assert_eq!(step, Step::Wait(Cause::Unknown));
    assert_eq!(progress.state, State::InDoubt);
    // An hour that did not pass, since the clock was set, is no time.
    let forward = plus(now(), Duration::from_secs(3600));
    let mut set = progress.clone();
    set.begin(Operation::Lookup, now());
    set.distrust(forward, forward, QUIET);
    let step = set.after(&refused, &terms(LOOKS_UP), forward, 1.0);
    assert_eq!(step, Step::Wait(Cause::Unknown));
    let end = plus(now(), QUIET);
    progress.begin(Operation::Lookup, end);
    let step = progress.after(&refused, &terms(LOOKS_UP), end, 1.0);
    assert_eq!(step, Step::Finish(Outcome::Refused(Refused::Settled)));
}

#[test]
fn evidence_counts_at_once() {
    let mut progress = taken_over(QUIET);
    progress.begin(Operation::Lookup, now());
    let cancelled = Verdict::Cancelled {
        reason: rescind::outcome::Cancelled::Voided,
        already: true,
    };
    let step = progress.after(&cancelled, &terms(LOOKS_UP), now(), 0.0);
    let Step::Finish(Outcome::Cancelled { already, .. }) = step else {
        panic!("{step:?}")
    };
    assert!(!already, "the lost call may have done it");
}

/// What it saw then may be another thing when its answer comes.
#[test]
fn an_answer_counts_by_when_it_was_asked_for() {
    let terms = terms(LOOKS_UP);
    let asked_at = plus(now(), QUIET - Duration::from_secs(1));
    let answered_at = plus(asked_at, Duration::from_secs(2));
    for verdict in [
        Verdict::Refused(Refused::Settled),
        Verdict::StillOpen,
        Verdict::NotFound,
    ] {
        let mut progress = taken_over(QUIET);
        progress.begin(Operation::Lookup, asked_at);
        let step = progress.after(&verdict, &terms, answered_at, 0.0);
        assert!(matches!(step, Step::Wait(_)), "{step:?}");
        assert_eq!(progress.sighting, None);
        assert!(progress.due_at <= Some(answered_at), "asked again at once");
    }
}

/// Where nobody can be asked, the same call is all that can be made.
#[test]
fn a_repeat_waits_until_the_first_call_cannot_be_carried_out_any_more() {
    let mut progress = Progress::new(now());
    progress.begin(Operation::Cancel, now());
    progress.unheard(now(), QUIET);
    progress.after(&Verdict::Doubt, &terms(SAME_KEY), now(), 0.0);
    assert_eq!(progress.due_at, Some(plus(now(), QUIET)));
    // The time to ask begins with that, however short it is.
    let mut short = terms(SAME_KEY);
    short.poll.give_up_after = QUIET / 5;
    let plan = |progress: &Progress| progress.plan(&short, plus(now(), QUIET));
    assert_eq!(plan(&progress), Plan::Call(Operation::Cancel));
    // Nor is it given up before, at the end of the time to ask.
    let mut last = Progress::new(now());
    last.waiting_since = Some(plus(now(), Duration::ZERO));
    last.begin(Operation::Cancel, now());
    last.unheard(now(), QUIET);
    last.after(&Verdict::Doubt, &short, now(), 0.0);
    assert_eq!(last.due_at, Some(plus(now(), QUIET)));
    // A worker that is gone, or a ledger that may have forgotten, changes nothing of that.
    let mut lost = Progress::new(now());
    lost.begin(Operation::Cancel, now());
    lost.set_quiet(QUIET, false);
    lost.lost(now(), Duration::ZERO);
    assert_eq!(lost.due_at, Some(plus(now(), QUIET)));
    assert_eq!(plan(&lost), Plan::Call(Operation::Cancel));
    lost.reconcile(now(), now(), Duration::ZERO);
    assert_eq!(lost.due_at, Some(plus(now(), QUIET)));
    let mut answered = Progress::new(now());
    answered.begin(Operation::Cancel, now());
    answered.after(&Verdict::Doubt, &terms(SAME_KEY), now(), 0.0);
    assert!(answered.due_at < Some(plus(now(), QUIET)));
}

#[test]
fn a_payment_that_is_not_found_may_only_not_be_found_yet() {
    let mut progress = taken_over(QUIET);
    let terms = terms(LOOKS_UP);
    let early = plus(now(), QUIET - Duration::from_secs(1));
    for _ in 0..2 {
        progress.begin(Operation::Lookup, early);
        let step = progress.after(&Verdict::NotFound, &terms, early, 0.0);
        assert!(matches!(step, Step::Wait(_)), "{step:?}");
        assert_eq!(progress.sighting, None);
    }
}

#[test]
fn after_a_restore_the_provider_is_asked_first() {
    let received = now();
    let restored_at = plus(now(), Duration::from_secs(60));
    let mut fresh = Progress::new(received);
    fresh.reconcile(restored_at, received, QUIET);
    assert_eq!(fresh.state, State::InDoubt);
    let asks = fresh.plan(&terms(LOOKS_UP), restored_at);
    assert_eq!(asks, Plan::Call(Operation::Lookup));
    // Where nobody can be asked: the same key, for as long as it may live.
    let repeats = fresh.plan(&terms(SAME_KEY), restored_at);
    assert_eq!(repeats, Plan::Call(Operation::Cancel));
    let much_later = plus(received, Duration::from_secs(40 * 24 * 3600));
    let mut old = Progress::new(received);
    old.reconcile(much_later, received, QUIET);
    let given_up = old.plan(&terms(SAME_KEY), much_later);
    assert_eq!(
        given_up,
        Plan::Finish(Outcome::Unresolved(Unresolved::NoLookup))
    );
}

/// Whatever the ledger has forgotten was sent a moment ago at the latest.
#[test]
fn after_a_restore_what_is_not_seen_counts_once_nothing_can_arrive_any_more() {
    let mut restored = Progress::new(now());
    restored.reconcile(now(), now(), QUIET);
    restored.distrust(jiff::Timestamp::MIN, now(), terms(LOOKS_UP).poll.first);
    let later = sent_after(restored, &Verdict::StillOpen).unwrap();
    assert!(later >= QUIET + terms(LOOKS_UP).poll.first, "{later:?}");
}

/// As after an edit by hand: a call may have begun a moment before.
#[test]
fn what_cannot_be_read_is_asked_about_until_nothing_can_arrive_any_more() {
    for state in [
        State::Due,
        State::Calling,
        State::WaitingRetry,
        State::InDoubt,
    ] {
        let mut read = Progress::illegible(state, 1, 0, now());
        if state == State::Calling {
            read.recovered(now(), QUIET);
        }
        read.due_at = Some(now());
        read.distrust(jiff::Timestamp::MIN, now(), QUIET);
        let asks = read.plan(&terms(LOOKS_UP), now());
        assert_eq!(asks, Plan::Call(Operation::Lookup), "{state:?}");
        let later = sent_after(read, &Verdict::StillOpen).unwrap();
        assert!(later >= QUIET, "{state:?} {later:?}");
    }
}

#[test]
fn a_restore_forgets_nothing_that_was_known() {
    let mut progress = Progress::new(now());
    in_doubt(&mut progress);
    let before = progress.clone();
    progress.reconcile(plus(now(), Duration::from_secs(9)), now(), QUIET);
    assert_eq!(progress.first_sent_at, before.first_sent_at);
    assert_eq!(progress.attempts, before.attempts);
    assert!(progress.doubtful && progress.exposed);
}

/// A refund that is seen then is another request's, unless a call that is on record can have made it.
#[test]
fn after_a_restore_only_a_call_on_record_may_be_the_one_that_is_seen() {
    let mut presumed = Progress::new(now());
    presumed.begin(Operation::Cancel, now());
    let not_processed = Verdict::unprocessed(Operation::Cancel, None, Cause::RateLimited);
    presumed.after(&not_processed, &terms(LOOKS_UP), now(), 0.0);
    for _ in 0..2 {
        presumed.reconcile(now(), now(), QUIET);
        assert!(presumed.exposed && presumed.is_presumed(), "{presumed:?}");
    }
    let mut known = Progress::new(now());
    in_doubt(&mut known);
    known.reconcile(now(), now(), QUIET);
    assert!(known.exposed && !known.is_presumed(), "{known:?}");
    // As an earlier version wrote it, and as a replay leaves it.
    let older = r#"{"state":"in_doubt","doubtful":true,"exposed":true}"#;
    let older: Progress = serde_json::from_str(older).unwrap();
    assert!(older.is_presumed(), "{older:?}");

    for verdict in [Verdict::Doubt, Verdict::Accepted] {
        let mut sent = presumed.clone();
        sent.begin(Operation::Cancel, now());
        sent.after(&verdict, &terms(LOOKS_UP), now(), 0.0);
        assert!(!sent.is_presumed(), "{sent:?}");
    }
    presumed.begin(Operation::Cancel, now());
    presumed.lost(now(), QUIET);
    assert!(!presumed.is_presumed(), "{presumed:?}");
}

#[test]
fn a_clock_that_was_set_makes_no_second_witness_and_no_shorter_or_longer_quiet() {
    let hour = Duration::from_secs(3600);
    let (before, after) = (now(), plus(now(), hour));
    let mut progress = taken_over(QUIET);
    seen(&mut progress, Seen::StillOpen);
    let steady = progress.clone();
    // Nothing was set, or long before.
    progress.distrust(jiff::Timestamp::MIN, before, QUIET);
    assert_eq!(progress, steady);

    // Forward: the hour has not passed.
    progress.distrust(after, after, QUIET);
    assert_eq!(progress.sighting, None);
    assert_eq!(progress.quiet_until, Some(plus(after, QUIET)));
    let forward = progress.clone();
    progress.distrust(after, plus(after, QUIET / 2), QUIET);
    assert_eq!(progress, forward, "once");

    // What was seen since is measured by one clock.
    let at = after;
    let what = Seen::StillOpen;
    progress.sighting = Some(Sighting { what, at });
    progress.distrust(after, plus(after, QUIET), QUIET);
    assert!(progress.sighting.is_some());

    // And back: the quiet does not last for an hour.
    progress.distrust(before, before, QUIET);
    assert_eq!(progress.quiet_until, Some(plus(before, QUIET)));
}

/// For some minutes the clock was a year ahead.
#[test]
fn what_is_tried_since_a_time_to_come_is_tried_since_now() {
    let mut progress = Progress::new(now());
    let year = plus(now(), 365 * 24 * super::HOUR);
    (progress.waiting_since, progress.retrying_since) = (Some(year), Some(year));
    progress.asked_at = Some(year);
    progress.distrust(now(), now(), QUIET);
    let begun = (progress.waiting_since, progress.retrying_since);
    assert_eq!(begun, (Some(now()), Some(now())));
    assert_eq!(progress.asked_at, None, "nobody was asked at the end");
    progress.distrust(now(), plus(now(), super::HOUR), QUIET);
    assert_eq!(
        progress.waiting_since,
        Some(now()),
        "and goes on from there"
    );
}

#[test]
fn a_key_first_used_in_the_future_is_not_trusted_to_live() {
    let mut progress = Progress::new(now());
    in_doubt(&mut progress);
    progress.state = State::InDoubt;
    let terms = terms(SAME_KEY);
    assert_eq!(progress.plan(&terms, now()), Plan::Call(Operation::Cancel));
    progress.first_sent_at = Some(plus(now(), Duration::from_secs(1)));
    let no_lookup = Plan::Finish(Outcome::Unresolved(Unresolved::NoLookup));
    assert_eq!(progress.plan(&terms, now()), no_lookup);
}
