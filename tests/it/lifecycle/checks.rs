//! A result that is checked after a notification: what each answer says of it, and how often
//! the provider is asked.

use std::time::Duration;

use rescind::backoff::plus;
use rescind::lifecycle::{Checked, Progress};
use rescind::outcome::{Cause, Failed, Nothing, Outcome, Refused, Unresolved, Verdict};

use super::{HOUR, LOOKS_UP, POLL, asked_before, every_outcome, finished, now, terms, verdicts};

fn asked(outcome: Outcome, verdict: &Verdict) -> (Progress, Checked) {
    let (mut progress, outcome) = finished(outcome);
    asked_before(&mut progress);
    progress.begin_check(now());
    let checked = progress.after_check(outcome, verdict, &terms(LOOKS_UP), now(), 0.5);
    (progress, checked)
}

/// One line for each kind of result: what is made of each answer.
const SAID: &str = "
result              cancelled nothing  refused  refunded open   failed later  else
cancelled           holds     holds    stake    holds    again  stake  holds  again
nothing_to_cancel   holds     holds    stake    holds    again  stake  holds  again
refused             correct   correct  holds    holds    holds  holds  holds  again
refused/not_found   correct   correct  correct  correct  holds  stake  stake  again
failed              correct   correct  holds    holds    holds  holds  holds  again
unresolved          correct   correct  correct  correct  holds  holds  holds  again
";

#[test]
fn what_an_answer_says_depends_on_the_result_that_was_told() {
    let mut answers = verdicts();
    answers.push(Verdict::Refused(Refused::AlreadyRefunded));
    answers.extend(
        [Unresolved::RefundFailed, Unresolved::ContradictoryEvidence].map(Verdict::Unresolved),
    );
    for outcome in every_outcome() {
        let name = match outcome {
            Outcome::Refused(Refused::NotFound) => "refused/not_found",
            _ => outcome.as_str(),
        };
        let mut lines = SAID.lines().map(|line| line.split_whitespace());
        let line = lines.find(|line| line.clone().next() == Some(name));
        let said: Vec<&str> = line.unwrap().skip(1).collect();
        for verdict in &answers {
            let column = match verdict {
                Verdict::Cancelled { .. } => 0,
                Verdict::NothingToCancel(_) => 1,
                Verdict::Refused(Refused::AlreadyRefunded) => 3,
                Verdict::Refused(_) => 2,
                Verdict::StillOpen => 4,
                Verdict::Unresolved(Unresolved::RefundFailed) => 5,
                // As Midtrans says it, of a payment that was made after the call.
                Verdict::Unresolved(_) => 6,
                _ => 7,
            };
            let made = match asked(outcome, verdict).1 {
                Checked::Holds => "holds",
                Checked::Contradicted { at_stake: true, .. } => "stake",
                Checked::Contradicted { .. } => "correct",
                Checked::Again => "again",
                Checked::Unclear => "unclear",
            };
            assert_eq!(made, said[column], "{outcome:?}: {verdict:?}");
        }
    }
}

#[test]
fn a_correction_says_what_the_answer_said() {
    let found = |outcome, verdict| match asked(outcome, &verdict).1 {
        Checked::Contradicted { found, .. } => found,
        checked => panic!("{checked:?}"),
    };
    let unknown = Outcome::Unresolved(Unresolved::NoLookup);
    for reason in [Refused::Settled, Refused::AlreadyRefunded] {
        let corrected = found(unknown, Verdict::Refused(reason));
        assert_eq!(corrected, Outcome::Refused(reason));
    }
    let failed = Outcome::Failed(Failed::DeadlinePassed);
    let corrected = found(failed, Verdict::NothingToCancel(Nothing::Expired));
    assert_eq!(corrected, Outcome::NothingToCancel(Nothing::Expired));
}

/// A look-up may lag behind what it was asked for: at once, an answer is none that a result holds by.
#[test]
fn that_a_result_holds_is_believed_when_seen_twice() {
    let failed = Outcome::Failed(Failed::DeadlinePassed);
    let (mut progress, _) = finished(failed);
    let terms = terms(LOOKS_UP);
    progress.begin_check(now());
    let first = progress.after_check(failed, &Verdict::StillOpen, &terms, now(), 0.0);
    assert_eq!(first, Checked::Again);
    let later = progress.due_at.unwrap();
    assert_eq!(later, plus(now(), POLL.first));
    progress.begin_check(later);
    let mut stale = progress.clone();
    let second = stale.after_check(failed, &Verdict::StillOpen, &terms, later, 0.0);
    assert_eq!(second, Checked::Holds);
    let cancelled = Verdict::NothingToCancel(Nothing::Expired);
    let second = progress.after_check(failed, &cancelled, &terms, later, 0.0);
    assert!(matches!(second, Checked::Contradicted { .. }), "{second:?}");
}

/// Asked before what a notification tells of was so. A flood of them keeps no check from its end.
#[test]
fn a_check_is_begun_anew_for_a_notification_during_its_question_some_times_in_a_row() {
    let (mut progress, outcome) = finished(Outcome::NothingToCancel(Nothing::Expired));
    let heard = |progress: &mut Progress, event: u32| {
        progress.heard_after(
            outcome,
            None,
            Some(&event.to_string()),
            &terms(LOOKS_UP),
            now(),
        )
    };
    assert!(heard(&mut progress, 0));
    for event in 1..=3 {
        progress.begin_check(now());
        assert!(heard(&mut progress, event));
        assert!(progress.due_at > Some(now()), "not at once");
    }
    progress.begin_check(now());
    assert!(!heard(&mut progress, 4));
    progress.after_check(outcome, &Verdict::NotFound, &terms(LOOKS_UP), now(), 0.0);
    progress.begin_check(now());
    assert!(heard(&mut progress, 5), "another check");
}

/// A payment that is not there will not be there tomorrow; a provider that does not answer may.
#[test]
fn a_check_asks_as_long_as_any_question_and_is_open_to_the_same_event_after() {
    let ends = |verdict: &Verdict| {
        let (mut progress, outcome) = finished(Outcome::NothingToCancel(Nothing::Expired));
        assert!(progress.heard_after(outcome, None, Some("event"), &terms(LOOKS_UP), now()));
        let mut time = now();
        while progress.due_at.take().is_some() {
            progress.begin_check(time);
            progress.after_check(outcome, verdict, &terms(LOOKS_UP), time, 0.0);
            time = progress.due_at.unwrap_or(time);
        }
        assert!(progress.heard_after(outcome, None, Some("event"), &terms(LOOKS_UP), time));
        rescind::backoff::elapsed(now(), time)
    };
    assert!(ends(&Verdict::NotFound) < HOUR);
    assert!(ends(&Verdict::Unauthorized) >= POLL.give_up_after);
}

#[test]
fn each_question_of_a_check_is_counted() {
    let (mut progress, _) = asked(
        Outcome::Refused(Refused::Settled),
        &Verdict::NotYet { after: None },
    );
    assert_eq!((progress.calls, progress.lookups), (1, 1));
    progress.begin_check(progress.due_at.unwrap());
    assert_eq!((progress.calls, progress.lookups), (2, 2));
}

/// Half of the jitter: a wait that it may only lengthen is half as long again.
#[test]
fn a_check_asks_again_late_enough_and_when_the_provider_says() {
    let due = |outcome, verdict| asked(outcome, &verdict).0.due_at;
    let cancelled = Outcome::NothingToCancel(Nothing::Expired);
    let refused = Outcome::Refused(Refused::Settled);
    let spaced = Some(plus(now(), POLL.first.mul_f64(1.5)));
    assert_eq!(due(cancelled, Verdict::StillOpen), spaced);
    let least = Some(plus(now(), POLL.first));
    assert_eq!(due(refused, Verdict::NotYet { after: None }), least);
    assert_eq!(due(refused, Verdict::Doubt), least);
    let after = Some(Duration::from_secs(30));
    let jittered = POLL.interval(1).mul_f64(0.5);
    let told = Some(plus(now(), Duration::from_secs(30) + jittered));
    let cause = Cause::RateLimited;
    assert_eq!(due(refused, Verdict::NotYet { after }), told);
    assert_eq!(due(refused, Verdict::Again { after, cause }), told);
    // No header parks it.
    let after = Some(HOUR);
    let most = Some(plus(now(), POLL.max + jittered));
    assert_eq!(due(refused, Verdict::NotYet { after }), most);
}
