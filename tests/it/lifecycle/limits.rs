//! What ends, or does not count: the life of a key, an answer that comes too soon, a call that
//! was not sent.

use super::*;

#[test]
fn a_second_answer_that_comes_too_soon_is_no_second_one() {
    let terms = terms(LOOKS_UP);
    for (verdict, believed) in [
        (Verdict::StillOpen, State::WaitingRetry),
        (Verdict::NotFound, State::Finished),
    ] {
        let mut progress = calling(Operation::Lookup, in_doubt);
        progress.after(&verdict, &terms, now(), 0.0);
        for (wait, state) in [
            (Duration::ZERO, State::InDoubt),
            (POLL.first - Duration::from_millis(1), State::InDoubt),
            (POLL.first, believed),
        ] {
            let mut second = progress.clone();
            let later = plus(now(), wait);
            second.begin(Operation::Lookup, later);
            second.after(&verdict, &terms, later, 0.0);
            assert_eq!(second.state, state, "{} after {wait:?}", verdict.as_str());
        }
    }
}

/// The wait for the second is capped at the longest between two attempts, so it takes some of them.
#[test]
fn without_a_look_up_the_second_counts_from_the_first_however_short_the_waits_are() {
    let mut terms = terms(ASKS_ONCE_MORE);
    terms.poll.first = terms.retry.max * 3;
    let (mut progress, mut at) = (Progress::new(now()), now());
    let outcome = loop {
        progress.begin(Operation::Cancel, at);
        match progress.after(&Verdict::NotFound, &terms, at, 0.0) {
            Step::Wait(_) => at = progress.due_at.unwrap(),
            Step::Finish(outcome) => break outcome,
        }
    };
    assert_eq!(outcome, Outcome::Refused(Refused::NotFound));
    assert_eq!(at, plus(now(), terms.poll.first));
}

/// Who is refused at the door was not heard.
#[test]
fn a_repeat_in_doubt_that_was_not_processed_is_none() {
    let terms = terms(ASKS_ONCE_MORE);
    let mut in_doubt = calling(Operation::Cancel, |_| {});
    in_doubt.after(&Verdict::Doubt, &terms, now(), 0.0);
    let again = Verdict::unprocessed(Operation::Cancel, None, Cause::RateLimited);
    let gives_up = Plan::Finish(Outcome::Unresolved(Unresolved::NoLookup));
    for (verdict, plan) in [
        (Verdict::Unauthorized, Plan::Call(Operation::Cancel)),
        (again, Plan::Call(Operation::Cancel)),
        (Verdict::Doubt, gives_up),
    ] {
        let mut repeat = in_doubt.clone();
        repeat.begin(Operation::Cancel, now());
        repeat.after(&verdict, &terms, now(), 0.0);
        assert_eq!(repeat.plan(&terms, now()), plan, "{}", verdict.as_str());
    }
}

#[test]
fn a_repeat_in_doubt_is_sent_only_while_its_key_lives() {
    let terms = terms(SAME_KEY);
    let mut progress = calling(Operation::Cancel, |_| {});
    progress.after(&Verdict::Doubt, &terms, now(), 0.0);
    let just_before = plus(now(), HOUR - Duration::from_millis(1));
    let plan = progress.plan(&terms, just_before);
    assert_eq!(plan, Plan::Call(Operation::Cancel));
    // The life begins with the first send, not with the last one.
    progress.begin(Operation::Cancel, just_before);
    progress.after(&Verdict::Doubt, &terms, just_before, 0.0);
    let plan = progress.plan(&terms, plus(now(), HOUR));
    assert_eq!(
        plan,
        Plan::Finish(Outcome::Unresolved(Unresolved::NoLookup))
    );
}

#[test]
fn what_was_not_sent_is_no_attempt() {
    for (operation, abilities) in [
        (Operation::Cancel, LOOKS_UP),
        (Operation::Lookup, LOOKS_UP),
        (Operation::Cancel, ASKS_ONCE_MORE),
    ] {
        let mut before = Progress::new(now());
        in_doubt(&mut before);
        for end in [Progress::not_sent, Progress::no_token] {
            let mut progress = before.clone();
            progress.begin(operation, now());
            end(&mut progress, &terms(abilities), now(), 0.5);
            let counts = |p: &Progress| (p.attempts, p.lookups, p.asked_again);
            assert_eq!(counts(&progress), counts(&before), "{}", operation.as_str());
            assert!(
                progress.doubtful && progress.exposed,
                "as doubtful as before"
            );
            assert_eq!(progress.calls, 1, "the call is in the log all the same");
        }
    }
}

/// By an id by which not every payment is found.
#[test]
fn what_is_not_found_may_be_there_where_the_look_up_does_not_find_all() {
    let some = terms(Abilities {
        finds_all: false,
        ..LOOKS_UP
    });
    let end = |terms: &Terms, exposed: bool| {
        let mut progress = Progress::new(now());
        progress.exposed = exposed;
        loop {
            let at = progress.due_at.unwrap();
            progress.begin(Operation::Lookup, at);
            if let Step::Finish(outcome) = progress.after(&Verdict::NotFound, terms, at, 0.5) {
                return outcome;
            }
        }
    };
    let not_found = Outcome::Refused(Refused::NotFound);
    assert_eq!(end(&some, true), Outcome::Unresolved(Unresolved::NoLookup));
    assert_eq!(end(&terms(LOOKS_UP), true), not_found);
    assert_eq!(end(&terms(LOOKS_UP), false), not_found);

    // Where it is looked at first the cancel is asked all the same, and one of the two that agree.
    let looks_first = terms(Abilities {
        look_first: true,
        ..some.abilities
    });
    let mut progress = Progress::new(now());
    let found = loop {
        let at = progress.due_at.unwrap();
        let Plan::Call(operation) = progress.plan(&looks_first, at) else {
            panic!("{progress:?}");
        };
        progress.begin(operation, at);
        if let Step::Finish(outcome) = progress.after(&Verdict::NotFound, &looks_first, at, 0.5) {
            break outcome;
        }
    };
    assert_eq!(found, not_found);
    assert_eq!((progress.attempts, progress.lookups), (1, 2));
}

/// Also where the look-up need not find it.
#[test]
fn nothing_is_sent_beside_a_cancellation_that_was_seen_under_way_and_is_not_found_any_more() {
    let terms = terms(Abilities {
        finds_all: false,
        look_first: true,
        ..LOOKS_UP
    });
    let mut progress = Progress::new(now());
    let mut answers = [Verdict::Accepted, Verdict::NotFound, Verdict::NotFound].into_iter();
    let end = loop {
        let at = progress.due_at.unwrap();
        assert_eq!(progress.plan(&terms, at), Plan::Call(Operation::Lookup));
        progress.begin(Operation::Lookup, at);
        let answer = answers.next().unwrap();
        if let Step::Finish(outcome) = progress.after(&answer, &terms, at, 0.5) {
            break outcome;
        }
    };
    let contradictory = Outcome::Unresolved(Unresolved::ContradictoryEvidence);
    assert_eq!(end, contradictory);
}

/// It says no, and that the payment is open, again and again.
#[test]
fn a_refusal_that_the_look_up_contradicts_is_believed_after_some_tries() {
    let no = Verdict::NotYet { after: None };
    assert_eq!(
        refused_for_ever(false, &no),
        Outcome::Refused(Refused::NotEligible)
    );
}

/// After a doubt that was cleared up the first call may have been taken, late, and refuse the others.
#[test]
fn nobody_says_that_nothing_was_changed_where_a_first_call_may_have_been_applied() {
    let contradictory = Outcome::Unresolved(Unresolved::ContradictoryEvidence);
    for no in [
        Verdict::Refused(Refused::Settled),
        Verdict::NotYet { after: None },
        Verdict::Misconfigured(Why::Rejected),
    ] {
        assert_eq!(refused_for_ever(true, &no), contradictory);
    }
}

fn refused_for_ever(exposed: bool, no: &Verdict) -> Outcome {
    let terms = terms(LOOKS_UP);
    let mut progress = Progress::new(now());
    progress.exposed = exposed;
    let mut at = now();
    for refused in 1..=rescind::lifecycle::REFUSALS_MAX {
        assert_eq!(progress.plan(&terms, at), Plan::Call(Operation::Cancel));
        progress.begin(Operation::Cancel, at);
        progress.after(no, &terms, at, 1.0);
        assert_eq!((progress.due_at, progress.refusals), (Some(at), refused));
        progress.begin(Operation::Lookup, at);
        let step = progress.after(&Verdict::StillOpen, &terms, at, 1.0);
        match step {
            Step::Wait(_) => at = progress.due_at.unwrap(),
            Step::Finish(outcome) => {
                assert_eq!(refused, rescind::lifecycle::REFUSALS_MAX);
                assert_eq!(progress.state, State::Finished);
                return outcome;
            }
        }
    }
    panic!("it goes on for ever: {progress:?}")
}

#[test]
fn a_spaced_question_makes_the_next_wait_longer_like_any_other() {
    let mut progress = calling(Operation::Lookup, in_doubt);
    progress.after(&Verdict::NotFound, &terms(LOOKS_UP), now(), 0.0);
    assert_eq!(progress.polls, 1);
}

#[test]
fn each_call_is_counted_as_what_it_is() {
    let mut progress = Progress::new(now());
    for _ in 0..2 {
        progress.begin(Operation::Cancel, now());
        progress.begin(Operation::Lookup, now());
        progress.begin(Operation::Lookup, now());
    }
    let counts = (progress.attempts, progress.lookups, progress.calls);
    assert_eq!(counts, (2, 4, 6));
}

#[test]
fn however_many_notifications_come_the_provider_is_asked_no_more_often_than_by_schedule() {
    let terms = terms(LOOKS_UP);
    let soon = plus(now(), Duration::from_millis(1));
    let spaced = Some(plus(now(), POLL.first));

    let mut accepted = calling(Operation::Cancel, |_| {});
    accepted.after(&Verdict::Accepted, &terms, now(), 1.0);
    assert!(accepted.heard(Some("first"), &terms, now()));
    assert_eq!(accepted.due_at, Some(now()));
    accepted.begin(Operation::Lookup, now());
    accepted.after(&Verdict::NotYet { after: None }, &terms, now(), 1.0);
    assert!(accepted.heard(Some("second"), &terms, soon));
    assert_eq!(accepted.due_at, spaced);

    // The second of two answers would not count if it came earlier.
    let mut seen_once = calling(Operation::Lookup, in_doubt);
    seen_once.after(&Verdict::StillOpen, &terms, now(), 1.0);
    assert!(seen_once.heard(Some("first"), &terms, soon));
    assert_eq!(seen_once.due_at, spaced);
}

/// The worker was away over the weekend: one question would have told.
#[test]
fn after_a_pause_the_provider_is_asked_before_it_is_given_up() {
    let terms = terms(LOOKS_UP);
    let mut progress = calling(Operation::Lookup, in_doubt);
    progress.after(&Verdict::Doubt, &terms, now(), 0.0);
    let monday = plus(now(), 3 * 24 * HOUR);
    assert_eq!(progress.plan(&terms, monday), Plan::Call(Operation::Lookup));
    progress.begin(Operation::Lookup, monday);
    // At once, so that the result rests on this answer.
    let unresolved = Outcome::Unresolved(Unresolved::LookupsExhausted);
    let step = progress.after(&Verdict::Doubt, &terms, monday, 0.0);
    assert_eq!(step, Step::Finish(unresolved));
}

/// A look-up before the first cancel finds a cancellation that somebody else began.
fn somebody_elses() -> Progress {
    let mut progress = calling(Operation::Lookup, |_| {});
    progress.after(&Verdict::Accepted, &terms(LOOKS_FIRST), now(), 0.0);
    progress
}

/// `failed` says that the payment is certainly not cancelled.
#[test]
fn what_somebody_else_has_under_way_is_unresolved_in_the_end_and_never_failed() {
    let late = Terms {
        deadline: Some(now()),
        ..terms(LOOKS_FIRST)
    };
    let no_answers = [
        Verdict::Accepted,
        Verdict::Doubt,
        Verdict::NotYet { after: None },
        Verdict::Unauthorized,
        Verdict::Misconfigured(Why::Rejected),
    ];
    for verdict in no_answers {
        let (mut progress, mut at) = (somebody_elses(), now());
        let end = loop {
            let asked = Plan::Call(Operation::Lookup);
            assert_eq!(progress.plan(&late, at), asked, "nothing is sent");
            progress.begin(Operation::Lookup, at);
            match progress.after(&verdict, &late, at, 0.5) {
                Step::Wait(cause) => assert_eq!(cause, Cause::Accepted, "{}", verdict.as_str()),
                Step::Finish(outcome) => break outcome,
            }
            at = progress.due_at.unwrap();
        };
        let unresolved = Outcome::Unresolved(Unresolved::LookupsExhausted);
        assert_eq!(end, unresolved, "{}", verdict.as_str());
        assert_eq!(at, POLL.end(now()), "{}", verdict.as_str());
    }
}

#[test]
fn when_it_came_to_nothing_ours_is_sent() {
    let terms = terms(LOOKS_FIRST);
    let again = Verdict::Again {
        after: None,
        cause: Cause::Retryable,
    };
    // One "open" may come from a copy that lags behind.
    let opens = [Verdict::StillOpen, Verdict::StillOpen];
    for (verdicts, call) in [
        (&opens[..1], Operation::Lookup),
        (&opens[..], Operation::Cancel),
        (&[again], Operation::Lookup),
    ] {
        let (mut progress, mut at) = (somebody_elses(), now());
        for verdict in verdicts {
            assert!(progress.under_way);
            progress.begin(Operation::Lookup, at);
            progress.after(verdict, &terms, at, 0.0);
            at = progress.due_at.unwrap();
        }
        let plan = progress.plan(&terms, at);
        assert_eq!(plan, Plan::Call(call), "{verdicts:?}");
    }
}

#[test]
fn a_replay_of_it_asks_first_and_does_not_take_it_for_ours() {
    let late = Terms {
        deadline: Some(now()),
        ..terms(LOOKS_FIRST)
    };
    let mut given_up = somebody_elses();
    given_up.finish();
    let outcome = Outcome::Unresolved(Unresolved::LookupsExhausted);
    let mut again = given_up.replay(outcome, &late, now()).unwrap();
    assert_eq!(again.plan(&late, now()), Plan::Call(Operation::Lookup));
    again.begin(Operation::Lookup, now());
    let cancelled = Verdict::Cancelled {
        reason: Cancelled::Voided,
        already: true,
    };
    let step = again.after(&cancelled, &late, now(), 0.0);
    let (reason, already) = (Cancelled::Voided, true);
    assert_eq!(step, Step::Finish(Outcome::Cancelled { reason, already }));
}
