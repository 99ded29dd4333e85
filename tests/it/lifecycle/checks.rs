//! A result that is checked after a notification: what each answer says of it, and how often
//! the provider is asked.

use std::time::Duration;

use rescind::backoff::plus;
use rescind::lifecycle::{Checked, Progress};
use rescind::outcome::{Cause, Failed, Nothing, Outcome, Refused, Unresolved, Verdict};

use super::{HOUR, LOOKS_UP, POLL, every_outcome, finished, now, terms, verdicts};

fn asked(outcome: Outcome, verdict: &Verdict) -> (Progress, Checked) {
    let (mut progress, outcome) = finished(outcome);
    progress.begin_check(now());
    let checked = progress.after_check(outcome, verdict, &terms(LOOKS_UP), now(), 0.5);
    (progress, checked)
}

/// One line for each kind of result: what is made of each answer.
const SAID: &str = "
result              cancelled nothing  refused  refunded open   else
cancelled           holds     holds    stake    holds    again  again
nothing_to_cancel   holds     holds    stake    holds    again  again
refused             correct   correct  holds    holds    holds  again
failed              correct   correct  holds    holds    holds  again
unresolved          correct   correct  correct  correct  holds  again
";

#[test]
fn what_an_answer_says_depends_on_the_result_that_was_told() {
    let mut answers = verdicts();
    answers.push(Verdict::Refused(Refused::AlreadyRefunded));
    for outcome in every_outcome() {
        let line = SAID.lines().find(|line| line.starts_with(outcome.as_str()));
        let said: Vec<&str> = line.unwrap().split_whitespace().skip(1).collect();
        for verdict in &answers {
            let column = match verdict {
                Verdict::Cancelled { .. } => 0,
                Verdict::NothingToCancel(_) => 1,
                Verdict::Refused(Refused::AlreadyRefunded) => 3,
                Verdict::Refused(_) => 2,
                Verdict::StillOpen => 4,
                _ => 5,
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
    let told = Some(plus(now(), Duration::from_secs(30)));
    let cause = Cause::RateLimited;
    assert_eq!(due(refused, Verdict::NotYet { after }), told);
    assert_eq!(due(refused, Verdict::Again { after, cause }), told);
    // No header parks it.
    let after = Some(HOUR);
    let most = Some(plus(now(), POLL.max));
    assert_eq!(due(refused, Verdict::NotYet { after }), most);
}
