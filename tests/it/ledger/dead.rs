//! Dead letters in every ledger: found, replayed, discarded, taken back, and by one person each.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use jiff::Timestamp;
use rescind::ledger::{Accepted, Arrival, Closed, Committed, DeadFilter, DeadRecord, Resolution};
use rescind::lifecycle::Hindrance;
use rescind::outcome::{Nothing, Operation, Outcome, Refused, State, Unresolved};
use rescind::wire::Kind;

use super::desk::{
    ACCOUNT, Desk, GIVEN_UP, VOIDED, admitted, at, at_once, by, calls, finish, finish_again,
    invalid, reopens, request, sends, wait,
};
use super::on_each;

/// A request that was given up at `now`, published; answers its dead letter.
async fn dead(desk: &Desk, id: &str, now: i64) -> String {
    desk.done(id, GIVEN_UP, at(now)).await;
    desk.letter_of(id).await.unwrap().id
}

async fn replay(desk: &Desk, letter: &str, now: i64) -> Closed {
    let closing = by("ana", Resolution::Replay(reopens(at(now))), at(now));
    desk.close(letter, closing).await.unwrap()
}

#[tokio::test]
async fn dead_letters_are_found_by_id_request_and_filter_oldest_first() {
    on_each(async |desk| {
        for (id, now) in [("c", 30), ("a", 10), ("b", 20)] {
            dead(&desk, id, now).await;
        }
        desk.take_in_invalid(b"{", at(15)).await;
        let found = async |filter: DeadFilter| {
            let filter = DeadFilter {
                most: usize::MAX,
                ..filter
            };
            let letters = desk.dead(filter).await.unwrap().into_iter();
            letters.map(|l| l.request_id.unwrap()).collect::<Vec<_>>()
        };
        let all = DeadFilter::default;
        assert_eq!(found(all()).await, ["a", "x", "b", "c"]);
        let text = |text: &str| Some(text.to_owned());
        let by_request = DeadFilter {
            id: text("b"),
            ..all()
        };
        assert_eq!(found(by_request).await, ["b"]);
        let containing = DeadFilter {
            containing: text("\"request_id\":\"b\""),
            ..all()
        };
        assert_eq!(found(containing).await, ["b"]);
        let id = desk.letter_of("c").await.unwrap().id;
        assert_eq!(
            found(DeadFilter {
                id: Some(id),
                ..all()
            })
            .await,
            ["c"]
        );
        assert!(
            found(DeadFilter {
                id: text("nobody"),
                ..all()
            })
            .await
            .is_empty()
        );
        let unknown = DeadFilter {
            provider: text("unknown"),
            ..all()
        };
        assert_eq!(found(unknown).await, ["x"]);
        let failed = DeadFilter {
            outcome: text("failed"),
            ..all()
        };
        assert_eq!(found(failed).await, ["a", "b", "c"]);
        let passed = DeadFilter {
            reason: text("not_json"),
            ..all()
        };
        assert_eq!(found(passed).await, ["x"]);
        let old = DeadFilter {
            dead_before: Some(at(20)),
            ..all()
        };
        assert_eq!(found(old).await, ["a", "x"], "before, not at");

        // Page by page, nothing twice and nothing left out.
        let mut filter = DeadFilter { most: 1, ..all() };
        let mut seen = Vec::new();
        while let Some(last) = desk.dead(filter.clone()).await.unwrap().pop() {
            filter.after = Some((last.dead_at, last.id.clone()));
            seen.push(last.request_id.unwrap());
        }
        assert_eq!(seen, ["a", "x", "b", "c"]);

        let letter = &desk.letters().await[0];
        assert_eq!(letter.body, request("a", "a").envelope.body);
        assert_eq!((letter.received_at, letter.dead_at), (at(0), at(10)));
        assert!(letter.is_request && letter.closed_at.is_none() && letter.last.is_none());
        let evidence = letter.evidence.as_ref().unwrap();
        assert_eq!(evidence.message.as_deref(), Some("done"));
        assert!(
            desk.letter_of("x").await.unwrap().body.is_empty(),
            "not asked for"
        );
        assert!(!desk.letter_of("x").await.unwrap().is_request);
    })
    .await;
}

/// A publisher with one id for everything makes any number of conflicts with its first request.
#[tokio::test]
async fn a_crowd_with_the_id_of_a_request_hides_none_of_its_own_dead_letters() {
    on_each(async |desk| {
        let crowd = (0..1_005).map(|n| {
            let (letter, messages) = invalid(format!("{n}").as_bytes(), at(n));
            Arrival::Invalid(Box::new(letter), messages)
        });
        desk.accept(crowd.collect()).await.unwrap();
        desk.done("x", GIVEN_UP, at(2_000)).await;
        let of_request = desk.seen("x").await.letters;
        assert_eq!(of_request.len(), 1);
        assert!(of_request[0].is_request);
        let named = async || desk.dead(DeadFilter::with_id("x")).await.unwrap();
        let first = named().await;
        assert_eq!((first.len(), &first[..1]), (1_000, &of_request[..]));
        assert!(first[1..].is_sorted_by_key(|letter| letter.dead_at));

        // Of the others, first what is open.
        let discard =
            |letter: &DeadRecord| desk.close(&letter.id, by("ana", Resolution::Discard, at(3_000)));
        join_all(first[1..].iter().map(discard)).await;
        let then = named().await;
        assert_eq!(then[..1], of_request[..]);
        let open: Vec<_> = then.iter().map(|l| l.closed_at.is_none()).collect();
        assert!(open[..7].iter().all(|open| *open) && !open[7..].contains(&true));
        let one = DeadFilter {
            most: 1,
            ..DeadFilter::with_id(&then[7].id)
        };
        assert_eq!(desk.dead(one).await.unwrap(), then[7..8]);
    })
    .await;
}

/// An export of the largest ones would be more than a machine has memory for.
#[tokio::test]
async fn so_many_messages_of_dead_letters_are_read_at_once_as_there_is_room_for() {
    on_each(async |desk| {
        for n in 0..4 {
            desk.take_in_invalid(&vec![b'0' + n; 3 << 20], at(i64::from(n)))
                .await;
        }
        let mut filter = DeadFilter {
            most: 100,
            ..DeadFilter::default()
        };
        let all = desk.dead(filter.clone()).await.unwrap();
        assert_eq!(all.len(), 4, "without them there is room for all");
        filter.with_body = true;
        let (mut pages, mut bodies) = (Vec::new(), Vec::new());
        loop {
            let page = desk.dead(filter.clone()).await.unwrap();
            let Some(last) = page.last() else { break };
            filter.after = Some((last.dead_at, last.id.clone()));
            pages.push(page.len());
            bodies.extend(page.into_iter().map(|letter| letter.body[0]));
        }
        assert_eq!((pages, bodies.as_slice()), (vec![2, 2], &b"0123"[..]));
    })
    .await;
}

#[tokio::test]
async fn of_several_who_close_a_dead_letter_one_does() {
    on_each(async |desk| {
        let letter = dead(&desk, "a", 1).await;
        let people = (0..10).map(|n| {
            let (ledger, letter) = (desk.shared(), letter.clone());
            let resolution = match n % 2 {
                0 => Resolution::Replay(reopens(at(5))),
                _ => Resolution::Discard,
            };
            tokio::spawn(async move {
                let closing = by(&format!("person {n}"), resolution, at(5));
                (n, ledger.close(&letter, closing).await.unwrap())
            })
        });
        let (mut winners, mut losers) = (Vec::new(), BTreeSet::new());
        for person in people.collect::<Vec<_>>() {
            match person.await.unwrap() {
                (n, Closed::Done) => winners.push(format!("person {n}")),
                (_, Closed::Changed(Some(by))) => drop(losers.insert(by.who)),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(
            losers.into_iter().collect::<Vec<_>>(),
            winners,
            "told who it was"
        );
        let actions = desk.seen("a").await.actions;
        assert_eq!(actions.len(), 1);
        assert_eq!(
            (actions[0].who.as_str(), actions[0].at),
            (winners[0].as_str(), at(5))
        );
        assert_eq!(actions[0].why, "the provider is well again");
    })
    .await;
}

#[tokio::test]
async fn what_is_discarded_can_be_taken_back_and_what_is_replayed_cannot() {
    on_each(async |mut desk| {
        let letter = dead(&desk, "a", 1).await;
        let close = async |desk: &Desk, resolution, now| {
            desk.close(&letter, by("ana", resolution, at(now)))
                .await
                .unwrap()
        };
        assert_eq!(
            close(&desk, Resolution::TakeBack, 2).await,
            Closed::Changed(None)
        );
        assert_eq!(close(&desk, Resolution::Discard, 3).await, Closed::Done);
        let stats = desk.stats().await.unwrap();
        assert!(stats.dead.is_empty() && stats.oldest_dead.is_none());
        desk.reopen().await;
        let closed = desk.letter_of("a").await.unwrap();
        assert_eq!(closed.closed_at, Some(at(3)));
        assert_eq!(closed.last.as_ref().unwrap().action, "discarded");
        assert_eq!(
            close(&desk, Resolution::Discard, 4).await,
            Closed::Changed(closed.last)
        );
        assert_eq!(close(&desk, Resolution::TakeBack, 5).await, Closed::Done);
        assert_eq!(desk.letter_of("a").await.unwrap().closed_at, None);
        assert_eq!(desk.stats().await.unwrap().oldest_dead, Some(at(1)));
        assert_eq!(replay(&desk, &letter, 6).await, Closed::Done);
        let last = desk.letter_of("a").await.unwrap().last;
        assert_eq!(
            close(&desk, Resolution::TakeBack, 7).await,
            Closed::Changed(last)
        );
        let actions = desk.seen("a").await.actions.into_iter();
        let names: Vec<_> = actions.map(|action| action.action).collect();
        assert_eq!(names, ["discarded", "taken_back", "replayed"]);
        let mut closed = desk.stats().await.unwrap().closed;
        closed.sort();
        let count = |name: &str| (name.to_owned(), 1);
        assert_eq!(closed, [count("discarded"), count("replayed")]);
        let unknown = by("ana", Resolution::Discard, at(8));
        assert_eq!(
            desk.close("nothing", unknown).await.unwrap(),
            Closed::Unknown
        );
    })
    .await;
}

#[tokio::test]
async fn a_replay_is_the_same_request_again_and_its_result_stays() {
    on_each(async |mut desk| {
        let letter = dead(&desk, "a", 4).await;
        assert_eq!(replay(&desk, &letter, 10).await, Closed::Done);
        desk.reopen().await;
        let outcome = Some(("failed".to_owned(), "deadline_passed".to_owned()));
        let seen = desk.seen("a").await;
        assert_eq!((&seen.outcome, seen.finished_at), (&outcome, None));
        assert_eq!(
            (seen.progress.state, seen.progress.due_at),
            (State::Due, Some(at(10)))
        );
        assert!(
            desk.stats().await.unwrap().open.is_empty(),
            "it has its result"
        );
        // Who asks again gets the result, also now.
        assert_eq!(desk.take_in(request("a", "a")).await, Accepted::Repeated);
        let outbox = desk.outbox().await;
        assert_eq!(outbox.len(), 1);
        assert_eq!(outbox[0].message.kind, Kind::Result);
        desk.publish_all(at(11)).await;
        assert_eq!(desk.purge(at(900), 9).await.unwrap(), 0, "it is worked on");

        let claim = desk.only_claim(at(12), sends()).await;
        assert_eq!(claim.outcome, Some(GIVEN_UP));
        assert_eq!((claim.progress.calls, claim.progress.attempts), (2, 2));
        assert_eq!(desk.settle(wait(&claim, at(13))).await, Committed::Done);
        assert_eq!(desk.seen("a").await.outcome, outcome);
        let claim = desk.only_claim(at(13), sends()).await;
        let change = finish_again(&claim, VOIDED, at(20));
        assert_eq!(desk.settle(change).await, Committed::Done);
        let seen = desk.seen("a").await;
        assert_eq!((&seen.outcome, seen.finished_at), (&outcome, Some(at(20))));
        assert_eq!(seen.progress.state, State::Finished);
        assert_eq!(seen.calls.len(), 3);
        assert_eq!(seen.letters.len(), 1);
        assert_eq!(desk.start_again(at(21)).await, 0);
        assert!(desk.claimed_ids(9, at(900)).await.is_empty());
    })
    .await;
}

/// The accounts with replays under way, how many, and since when.
async fn replaying(desk: &Desk) -> Vec<(String, u64, Option<Timestamp>)> {
    desk.stats().await.unwrap().replaying
}

fn since(count: u64, begun: i64) -> Vec<(String, u64, Option<Timestamp>)> {
    vec![(ACCOUNT.to_owned(), count, Some(at(begun)))]
}

#[tokio::test]
async fn a_replay_is_counted_from_its_own_beginning_to_its_end() {
    on_each(async |mut desk| {
        let first = dead(&desk, "a", 4).await;
        let second = dead(&desk, "b", 5).await;
        desk.begin("open", "open").await;
        desk.done("done", VOIDED, at(6)).await;
        assert_eq!(replaying(&desk).await, []);
        replay(&desk, &first, 10).await;
        let claim = desk.only_claim(at(12), sends()).await;
        assert_eq!(replaying(&desk).await, since(1, 10), "during its call");
        desk.settle(wait(&claim, at(13))).await;
        desk.reopen().await;
        replay(&desk, &second, 20).await;
        assert_eq!(replaying(&desk).await, since(2, 10));

        let claim = desk.only_claim(at(13), sends()).await;
        desk.settle(finish_again(&claim, GIVEN_UP, at(21))).await;
        assert_eq!(replaying(&desk).await, since(1, 20));
        let again = desk.letter_of("a").await.unwrap().id;
        replay(&desk, &again, 30).await;
        let claim = desk.only_claim(at(20), sends()).await;
        desk.settle(finish_again(&claim, VOIDED, at(31))).await;
        assert_eq!(replaying(&desk).await, since(1, 30), "not since its first");
        let claim = desk.only_claim(at(30), sends()).await;
        desk.settle(finish_again(&claim, VOIDED, at(32))).await;
        assert_eq!(replaying(&desk).await, []);
    })
    .await;
}

#[tokio::test]
async fn a_replay_that_fails_again_is_a_new_dead_letter() {
    on_each(async |desk| {
        let first = dead(&desk, "a", 4).await;
        let mut letters = BTreeSet::from([first.clone()]);
        let mut last = first;
        for round in [10, 20, 30] {
            assert_eq!(replay(&desk, &last, round).await, Closed::Done);
            let claim = desk.only_claim(at(round), sends()).await;
            let change = finish_again(&claim, GIVEN_UP, at(round + 5));
            assert_eq!(desk.settle(change.clone()).await, Committed::Done);
            assert_eq!(desk.settle(change).await, Committed::Lost, "and one only");
            let letter = desk.letter_of("a").await.unwrap();
            assert_eq!((letter.dead_at, letter.closed_at), (at(round + 5), None));
            assert!(letters.insert(letter.id.clone()), "an id of its own");
            last = letter.id;
        }
        assert_eq!(desk.seen("a").await.letters.len(), 4);
        assert_eq!(desk.stats().await.unwrap().dead[0].2, 1);
        let messages = desk.seen("a").await.messages;
        let dead = messages.iter().filter(|m| m.kind == "dead_letter");
        let ids: BTreeSet<String> = dead.map(|m| m.id.clone()).collect();
        assert_eq!(ids, letters);
    })
    .await;
}

#[tokio::test]
async fn a_replay_has_its_turn_on_the_payment() {
    on_each(async |desk| {
        desk.end("a", "p", GIVEN_UP, at(4)).await;
        let letter = desk.letter_of("a").await.unwrap().id;
        let other = desk.begin("b", "p").await;
        desk.take_in(request("c", "p")).await;
        assert_eq!(replay(&desk, &letter, 10).await, Closed::Done);
        let seen = desk.seen("a").await;
        assert!(seen.parked && seen.progress.due_at.is_none());
        assert_eq!(replaying(&desk).await, since(1, 10), "nobody else tells");
        assert!(desk.claimed_ids(9, at(99)).await.is_empty());
        // The end of one frees one.
        let freed = desk.settle(finish(&other, VOIDED, at(11))).await;
        assert_eq!(freed, Committed::Freed);
        let claim = desk.only_claim(at(11), sends()).await;
        assert_eq!(claim.stored.request_id, "a", "in the order of arrival");
        assert_eq!(desk.take_in(admitted("d", "p")).await, Accepted::New(None));
        let freed = desk.settle(finish_again(&claim, VOIDED, at(12))).await;
        assert_eq!(freed, Committed::Freed);
        assert_eq!(desk.claimed_ids(9, at(12)).await, ["c"]);
    })
    .await;
}

#[tokio::test]
async fn a_replay_survives_a_crash_like_any_request() {
    on_each(async |mut desk| {
        let letter = dead(&desk, "a", 4).await;
        replay(&desk, &letter, 10).await;
        let lost = desk.only_claim(at(10), sends()).await;
        assert_eq!(desk.start_again(at(20)).await, 1);
        let seen = desk.seen("a").await;
        assert_eq!(seen.progress.state, State::InDoubt);
        assert!(seen.progress.doubtful && seen.outcome.is_some());
        let late = finish_again(&lost, VOIDED, at(21));
        assert_eq!(desk.settle(late).await, Committed::Lost);
        let claim = desk.only_claim(at(21), calls(Operation::Lookup)).await;
        assert_eq!(claim.outcome, Some(GIVEN_UP));
        assert_eq!(
            desk.reconcile(at(22), at_once()).await.unwrap(),
            1,
            "and it is held"
        );
        assert_eq!(
            desk.settle(finish_again(&claim, VOIDED, at(23))).await,
            Committed::Done
        );
    })
    .await;
}

#[tokio::test]
async fn a_claim_of_before_is_good_for_no_replay() {
    on_each(async |desk| {
        let before = desk.begin("a", "p").await;
        desk.settle(finish(&before, GIVEN_UP, at(4))).await;
        let letter = desk.letter_of("a").await.unwrap().id;
        assert_eq!(replay(&desk, &letter, 10).await, Closed::Done);
        let claim = desk.only_claim(at(10), sends()).await;
        let late = finish_again(&before, VOIDED, at(11));
        assert_eq!(desk.settle(late).await, Committed::Lost);
        let ended = finish_again(&claim, VOIDED, at(12));
        assert_eq!(desk.settle(ended).await, Committed::Done);
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_replayed_stays_as_it_was() {
    on_each(async |mut desk| {
        desk.take_in_invalid(b"{", at(1)).await;
        let invalid = desk.letter_of("x").await.unwrap().id;
        let letter = dead(&desk, "a", 4).await;
        let before = desk.everything().await;
        let hindered = |hindrance| Closed::Hindered(hindrance);
        assert_eq!(
            replay(&desk, &invalid, 9).await,
            hindered(Hindrance::Invalid)
        );
        for &hindrance in Hindrance::ALL {
            let refuses = Resolution::Replay(Arc::new(move |_, _, outcome, _| {
                assert_eq!(outcome, GIVEN_UP);
                Err(hindrance)
            }));
            let closed = desk.close(&letter, by("ana", refuses, at(9))).await;
            assert_eq!(closed.unwrap(), hindered(hindrance));
        }
        assert_eq!(desk.everything().await, before);
        // Somebody looks whether the result holds, at this moment.
        let hear: rescind::ledger::Hear = Arc::new(|_, progress, _| {
            progress.due_at = Some(at(10));
            rescind::ledger::Heard::Checking
        });
        desk.hear(&["a"], hear).await;
        let check = desk.only_claim(at(10), super::desk::checks()).await;
        assert_eq!(
            replay(&desk, &letter, 11).await,
            hindered(Hindrance::UnderWay)
        );
        desk.settle(super::desk::checked(&check, at(12))).await;
        assert_eq!(replay(&desk, &letter, 13).await, Closed::Done);
        assert_eq!(desk.start_again(at(14)).await, 0);
    })
    .await;
}

/// Each has a key of its own: the provider would carry out both.
#[tokio::test]
async fn a_replay_is_told_of_a_later_request_on_its_payment_that_may_have_done_its_work() {
    let ends = [
        (None, true),
        (Some(VOIDED), true),
        (Some(GIVEN_UP), true),
        (Some(Outcome::Unresolved(Unresolved::NoLookup)), true),
        (Some(Outcome::Refused(Refused::Settled)), false),
        (Some(Outcome::NothingToCancel(Nothing::Expired)), false),
    ];
    on_each(async |desk| {
        for (n, (end, overtaken)) in ends.into_iter().enumerate() {
            let [first, later, payment] = ["first", "later", "p"].map(|name| format!("{name}{n}"));
            desk.end(&first, &payment, GIVEN_UP, at(4)).await;
            let claim = desk.begin(&later, &payment).await;
            if let Some(outcome) = end {
                desk.settle(finish(&claim, outcome, at(5))).await;
            }
            let newer = overtaken.then_some(later.as_str());
            assert_eq!(desk.seen(&first).await.newer.as_deref(), newer, "{end:?}");
            assert_eq!(desk.seen(&later).await.newer, None);
            let told = Resolution::Replay(Arc::new(|_, _, _, overtaken| {
                if overtaken {
                    Err(Hindrance::NewerRequest)
                } else {
                    Err(Hindrance::NobodyToAsk)
                }
            }));
            let letter = desk.letter_of(&first).await.unwrap().id;
            let closed = desk.close(&letter, by("ana", told, at(9))).await.unwrap();
            let hindrance = if overtaken {
                Hindrance::NewerRequest
            } else {
                Hindrance::NobodyToAsk
            };
            assert_eq!(closed, Closed::Hindered(hindrance), "{end:?}");
        }
    })
    .await;
}

/// The publisher was not corrected after all.
#[tokio::test]
async fn an_invalid_message_that_comes_again_is_open_again() {
    on_each(async |desk| {
        desk.take_in_invalid(b"{", at(1)).await;
        let letter = desk.letter_of("x").await.unwrap().id;
        let discard = by("ana", Resolution::Discard, at(2));
        assert_eq!(desk.close(&letter, discard).await.unwrap(), Closed::Done);
        assert_eq!(desk.stats().await.unwrap().dead, []);
        let again = desk.take_in_all_invalid(&[b"{"], at(3)).await;
        assert_eq!(again, [Accepted::Repeated]);
        let stats = desk.stats().await.unwrap();
        assert_eq!(stats.dead[0].2, 1);
        assert_eq!(stats.oldest_dead, Some(at(3)));
        let open = desk.letter_of("x").await.unwrap();
        assert_eq!((open.id, open.closed_at), (letter, None));
    })
    .await;
}

#[tokio::test]
async fn a_notification_about_a_replay_finds_it_open() {
    on_each(async |desk| {
        let letter = dead(&desk, "a", 4).await;
        replay(&desk, &letter, 500).await;
        let hear: rescind::ledger::Hear = Arc::new(|_, progress, outcome| {
            assert_eq!(outcome, None);
            progress.due_at = Some(at(20));
            rescind::ledger::Heard::Open
        });
        desk.hear(&["a"], hear).await;
        assert_eq!(desk.claimed_ids(9, at(20)).await, ["a"]);
        let refuses: rescind::ledger::Hear = Arc::new(|_, _, _| panic!("it is worked on"));
        assert_eq!(
            desk.hear(&["a"], refuses).await,
            [rescind::ledger::Heard::Open]
        );
    })
    .await;
}

#[tokio::test]
async fn what_was_closed_is_kept_as_long_as_what_has_ended() {
    on_each(async |desk| {
        let letter = dead(&desk, "a", 4).await;
        desk.take_in_invalid(b"{", at(4)).await;
        desk.publish_all(at(4)).await;
        let invalid = desk.letter_of("x").await.unwrap().id;
        assert_eq!(
            desk.purge(at(50), 9).await.unwrap(),
            2,
            "the messages of the invalid one"
        );
        for id in [&letter, &invalid] {
            let closing = by("ana", Resolution::Discard, at(50));
            assert_eq!(desk.close(id, closing).await.unwrap(), Closed::Done);
        }
        assert_eq!(
            desk.purge(at(50), 9).await.unwrap(),
            0,
            "it can be taken back"
        );
        assert_eq!(desk.purge(at(51), 9).await.unwrap(), 2);
        assert!(desk.letters().await.is_empty() && !desk.is_known("a").await);
        assert_eq!(
            desk.stats().await.unwrap().closed,
            [("discarded".to_owned(), 2)]
        );
        // Its id begins anew, and with it its dead letters.
        assert_eq!(dead(&desk, "a", 60).await, letter);
        assert!(desk.seen("a").await.actions.is_empty());
        let provider = desk.letter_of("a").await.unwrap().provider;
        assert_eq!(provider, ACCOUNT);
    })
    .await;
}

/// Or a replay would not know that the publisher asked anew, and that this was carried out.
#[tokio::test]
async fn what_overtook_a_dead_letter_is_kept_for_as_long_as_that_can_be_replayed() {
    on_each(async |desk| {
        let letter = dead(&desk, "first", 4).await;
        let refused = Outcome::Refused(Refused::Settled);
        for (id, payment, outcome) in [
            ("later", "first", VOIDED),
            ("harmless", "first", refused),
            ("else", "other", VOIDED),
        ] {
            desk.end(id, payment, outcome, at(5)).await;
        }
        desk.publish_all(at(5)).await;
        assert_eq!(
            desk.purge(at(50), 9).await.unwrap(),
            2,
            "of another payment, and one that moved nothing"
        );
        assert_eq!(desk.seen("first").await.newer.as_deref(), Some("later"));
        let discard = by("ana", Resolution::Discard, at(50));
        assert_eq!(desk.close(&letter, discard).await.unwrap(), Closed::Done);
        assert_eq!(
            desk.purge(at(50), 9).await.unwrap(),
            0,
            "it can be taken back"
        );
        while desk.purge(at(51), 9).await.unwrap() > 0 {}
        assert!(!desk.is_known("first").await && !desk.is_known("later").await);
    })
    .await;
}
