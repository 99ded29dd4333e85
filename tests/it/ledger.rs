//! One suite for every ledger: what a backend has to do, whatever it is made of.
//!
//! A new backend is one entry in [`BACKENDS`].

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rescind::job::PAYMENT_KEY_BYTES_MAX;
use rescind::ledger::{
    Accepted, Arrival, Change, Claim, Committed, Filter, Hear, Heard, NewRequest,
    PENDING_BYTES_MAX, Which,
};
use rescind::outcome::{Operation, State};
use rescind::providers::Evidence;
use rescind::wire::{Envelope, Kind};

mod dead;
mod desk;
mod illegible;
mod model;
mod outbox;
mod postgres;
mod repeats;
mod sqlite;
mod turns;

use desk::{
    ACCOUNT, Desk, GIVEN_UP, Opener, VOIDED, admitted, arriving, at, at_once, calls, checked,
    checks, finish, gives_up, held, outcomes, request, sends, wait,
};

/// Makes a new, empty ledger.
type Fresh = fn() -> Opener;

/// Every backend that is to pass.
const BACKENDS: &[(&str, Fresh)] = &[("sqlite", sqlite::fresh), ("postgres", postgres::fresh)];

async fn on_each(fact: impl AsyncFn(Desk)) {
    for (name, fresh) in BACKENDS {
        eprintln!("on {name}");
        fact(Desk::new(fresh()).await).await;
    }
}

#[tokio::test]
async fn a_request_is_new_once_and_its_id_is_taken_for_ever() {
    on_each(async |desk| {
        assert_eq!(desk.take_in(request("a", "p")).await, Accepted::New(None));
        let mut again = arriving("a", "p", at(5));
        again.envelope.body = b"serialised differently".to_vec();
        assert_eq!(desk.take_in(again).await, Accepted::Repeated);
        for payment in ["p", "another"] {
            let mut other = request("a", payment);
            other.digest = [8; 32];
            other.envelope.body = b"other content".to_vec();
            assert_eq!(desk.take_in(other).await, Accepted::Conflicting);
        }
        let kept = desk.seen("a").await.stored.envelope;
        assert_eq!(kept, request("a", "p").envelope);
        assert_eq!(desk.claimed_ids(9, at(9)).await, ["a"]);
    })
    .await;
}

/// An index takes names of some length only, and a batch that cannot be stored stops intake.
#[tokio::test]
async fn the_longest_name_of_a_payment_can_be_stored() {
    on_each(async |desk| {
        // Nothing in it repeats, so that it cannot be stored in less.
        let mut name: String = std::iter::repeat_with(|| uuid::Uuid::new_v4().simple().to_string())
            .take(PAYMENT_KEY_BYTES_MAX / 32)
            .collect();
        name.truncate(PAYMENT_KEY_BYTES_MAX);
        assert_eq!(name.len(), PAYMENT_KEY_BYTES_MAX);
        let taken = desk.take_in(request("a", &name)).await;
        assert_eq!(taken, Accepted::New(None));
        assert_eq!(desk.claimed_ids(9, at(9)).await, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn arrivals_are_answered_in_their_order() {
    on_each(async |desk| {
        let arrival = |request| Arrival::Request(Box::new(request));
        let mut other = request("a", "p");
        other.digest = [8; 32];
        let arrivals = vec![
            arrival(request("a", "p")),
            arrival(request("a", "p")),
            arrival(other),
            arrival(request("b", "q")),
        ];
        let answers = desk.accept(arrivals.into()).await.unwrap();
        let new = Accepted::New(None);
        let expected = [new.clone(), Accepted::Repeated, Accepted::Conflicting, new];
        assert_eq!(answers, expected);
    })
    .await;
}

#[tokio::test]
async fn a_request_that_begins_at_once_holds_its_claim() {
    on_each(async |desk| {
        let claim = desk.begin("a", "p").await;
        let seen = desk.seen("a").await;
        assert_eq!(seen.progress.state, State::Calling);
        assert_eq!(seen.calls.len(), 1, "the intent is written");
        assert_eq!(seen.calls[0].operation, "cancel");
        assert_eq!(seen.calls[0].finished_at, None);
        assert!(desk.claimed_ids(9, at(9)).await.is_empty());
        let change = finish(&claim, VOIDED, at(10));
        assert_eq!(desk.settle(change).await, Committed::Done);
        assert_eq!(desk.seen("a").await.progress.state, State::Finished);
    })
    .await;
}

#[tokio::test]
async fn requests_on_one_payment_have_their_turns_in_the_order_of_arrival() {
    on_each(async |desk| {
        let mut claim = desk.begin("a", "p").await;
        // Even with room for its call, and although ids sort the other way.
        assert_eq!(desk.take_in(admitted("z", "p")).await, Accepted::New(None));
        assert_eq!(desk.take_in(request("y", "p")).await, Accepted::New(None));
        assert_eq!(desk.take_in(admitted("x", "p")).await, Accepted::New(None));
        let last = ["z", "y", "x"];
        for (turn, next) in last.iter().enumerate() {
            let now = at(100 * turn as i64);
            for waiting in &last[turn..] {
                let seen = desk.seen(waiting).await;
                assert!(seen.parked && seen.progress.due_at.is_none());
                assert_eq!(
                    seen.progress,
                    rescind::lifecycle::Progress {
                        due_at: None,
                        ..rescind::lifecycle::Progress::new(at(0))
                    }
                );
                assert!(seen.calls.is_empty(), "nothing was sent for {waiting}");
            }
            assert!(desk.claimed_ids(9, now).await.is_empty());
            // A retry keeps the turn.
            assert_eq!(desk.settle(wait(&claim, now)).await, Committed::Done);
            claim = desk.only_claim(now, sends()).await;
            assert_eq!(
                desk.settle(finish(&claim, VOIDED, now)).await,
                Committed::Freed
            );
            claim = desk.only_claim(now, sends()).await;
            assert_eq!(claim.stored.request_id, *next);
            assert!(!desk.seen(next).await.parked);
        }
        assert_eq!(
            desk.settle(finish(&claim, VOIDED, at(900))).await,
            Committed::Done
        );
    })
    .await;
}

#[tokio::test]
async fn the_same_payment_key_at_two_accounts_is_two_payments() {
    on_each(async |desk| {
        desk.begin("a", "p").await;
        let mut other = admitted("b", "p");
        other.provider = "another".into();
        assert!(matches!(desk.take_in(other).await, Accepted::New(Some(_))));
    })
    .await;
}

#[tokio::test]
async fn a_claim_takes_what_is_due_of_its_account_oldest_first() {
    on_each(async |desk| {
        for (id, due) in [("c", 30), ("a", 10), ("later", 500), ("b", 20)] {
            desk.take_in(arriving(id, id, at(due))).await;
        }
        let mut other = request("other", "other");
        other.provider = "another".into();
        desk.take_in(other).await;

        let none = desk.claims(9, at(9)).await;
        assert!(none.claims.is_empty());
        assert_eq!(none.next_due, Some(at(10)));
        let full = desk.claims(2, at(100)).await;
        let taken = full.claims.iter().map(|c| c.stored.request_id.as_str());
        assert_eq!(Vec::from_iter(taken), ["a", "b"]);
        assert_eq!(full.next_due, None, "there may be more that is due now");
        let rest = desk.claims(9, at(100)).await;
        assert_eq!(rest.claims.len(), 1);
        assert_eq!(rest.claims[0].stored.request_id, "c");
        assert_eq!(rest.next_due, Some(at(500)));
        assert_eq!(
            desk.claimed_ids(9, at(500)).await,
            ["later"],
            "at its time, not after"
        );
        let nothing = desk.claims(9, at(900)).await;
        assert_eq!((nothing.claims.len(), nothing.next_due), (0, None));
        assert!(desk.claims(0, at(900)).await.claims.is_empty());
    })
    .await;
}

#[tokio::test]
async fn what_only_asks_goes_first_as_far_as_a_claim_wants_it() {
    on_each(async |desk| {
        for id in ["q1", "q2", "q3"] {
            let mut change = wait(&desk.begin(id, id).await, at(50));
            change.progress.state = State::InDoubt;
            assert_eq!(desk.settle(change).await, Committed::Done);
        }
        for id in ["a", "b", "c"] {
            desk.take_in(request(id, id)).await;
        }
        let ids = async |most, questions, now| {
            let which = Which::Due { most, questions };
            let claims = desk.claim(ACCOUNT, which, now, sends()).await.unwrap();
            let ids = claims.claims.into_iter().map(|c| c.stored.request_id);
            (ids.collect::<Vec<_>>().join(" "), claims.next_due)
        };
        assert_eq!(
            ids(1, 1, at(49)).await,
            ("a".into(), None),
            "not before its time"
        );
        assert_eq!(ids(2, 1, at(60)).await, ("q1 b".into(), None));
        assert_eq!(ids(1, 9, at(60)).await, ("q2".into(), None));
        assert_eq!(ids(9, 0, at(60)).await, ("c q3".into(), None));
    })
    .await;
}

#[tokio::test]
async fn what_is_overdue_is_found_among_what_waits_to_be_sent_and_nowhere_else() {
    on_each(async |desk| {
        let with = |id: &str, deadline| NewRequest {
            deadline: Some(at(deadline)),
            ..request(id, id)
        };
        desk.take_in(with("late", 20)).await;
        desk.take_in(with("later", 10)).await;
        desk.take_in(with("ahead", 500)).await;
        desk.take_in(request("without", "without")).await;
        let mut waits = with("waits", 15);
        waits.progress.begin(Operation::Cancel, at(0));
        let mut doubtful = with("doubtful", 15);
        doubtful.progress.begin(Operation::Cancel, at(0));
        let mut begun = with("begun", 15);
        begun.progress.begin(Operation::Cancel, at(0));
        let claims = [begin(&desk, waits).await, begin(&desk, doubtful).await];
        begin(&desk, begun).await;
        let parked = NewRequest {
            payment_key: "begun".into(),
            ..with("parked", 10)
        };
        desk.take_in(parked).await;
        let mut stranger = with("stranger", 10);
        stranger.provider = "tingg".into();
        desk.take_in(stranger).await;
        desk.settle(wait(&claims[0], at(900))).await;
        let mut change = wait(&claims[1], at(0));
        change.progress.state = State::InDoubt;
        desk.settle(change).await;

        let ids = async |most, now| {
            let claimed = desk.claim(ACCOUNT, Which::Overdue(most), now, gives_up());
            let claims = claimed.await.unwrap().claims;
            let ids = claims.into_iter().map(|c| c.stored.request_id);
            ids.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(ids(9, at(10)).await, "", "its last millisecond is not over");
        assert_eq!(ids(1, at(21)).await, "later");
        assert_eq!(ids(9, at(21)).await, "waits late");
        assert_eq!(ids(9, at(21)).await, "");
        let mut rest = desk.claimed_ids(9, at(21)).await;
        rest.sort_unstable();
        assert_eq!(rest, ["ahead", "doubtful", "without"]);
    })
    .await;
}

/// Takes in a request that begins at once.
async fn begin(desk: &Desk, request: NewRequest) -> Claim {
    match desk.take_in(request.clone()).await {
        Accepted::New(Some(claim)) => held(&request, claim),
        other => panic!("no claim: {other:?}"),
    }
}

#[tokio::test]
async fn what_is_due_too_late_for_any_wait_is_due_now_and_nothing_else_is() {
    on_each(async |desk| {
        for (id, due) in [("reach", 100), ("beyond", 3_600_000)] {
            desk.take_in(arriving(id, id, at(due))).await;
        }
        desk.begin("claimed", "p").await;
        let mut stranger = arriving("stranger", "s", at(3_600_000));
        stranger.provider = "tingg".into();
        desk.take_in(stranger).await;
        assert_eq!(desk.claimed_ids(9, at(9)).await.len(), 0);
        assert_eq!(desk.hasten(ACCOUNT, at(100), at(9)).await.unwrap(), 1);
        assert_eq!(desk.claimed_ids(9, at(9)).await, ["beyond"]);
        assert_eq!(desk.hasten(ACCOUNT, at(100), at(9)).await.unwrap(), 0);
        assert_eq!(
            desk.seen("stranger").await.progress.due_at,
            Some(at(3_600_000))
        );
    })
    .await;
}

#[tokio::test]
async fn what_is_claimed_is_claimed_by_nobody_else() {
    on_each(async |desk| {
        for n in 0..64 {
            desk.take_in(request(&format!("r{n}"), &format!("p{n}")))
                .await;
        }
        let claimers = (0..16).map(|_| {
            let ledger = desk.shared();
            tokio::spawn(async move {
                ledger
                    .claim(ACCOUNT, Which::due(7), at(1), sends())
                    .await
                    .unwrap()
            })
        });
        let mut seqs = Vec::new();
        for claimer in claimers.collect::<Vec<_>>() {
            let claims = claimer.await.unwrap().claims;
            assert!(claims.len() <= 7);
            seqs.extend(claims.iter().map(|claim| claim.id.seq));
        }
        let distinct: BTreeSet<_> = seqs.iter().collect();
        assert_eq!((seqs.len(), distinct.len()), (64, 64));
    })
    .await;
}

#[tokio::test]
async fn the_intent_is_on_disk_before_a_claim_is_answered() {
    on_each(async |mut desk| {
        desk.take_in(request("a", "p")).await;
        desk.only_claim(at(3), sends()).await;
        desk.reopen().await;
        let seen = desk.seen("a").await;
        assert_eq!(seen.progress.state, State::Calling);
        assert_eq!(seen.progress.attempts, 1);
        assert_eq!(seen.calls.len(), 1);
        assert_eq!(seen.calls[0].started_at, at(3));
        assert_eq!(seen.calls[0].finished_at, None);
    })
    .await;
}

#[tokio::test]
async fn a_change_under_an_old_claim_writes_nothing() {
    on_each(async |mut desk| {
        let old = desk.begin("a", "p").await;
        desk.take_in(request("b", "p")).await;
        desk.start_again(at(5)).await;
        let new = desk.only_claim(at(5), calls(Operation::Lookup)).await;
        let before = desk.everything().await;
        for outcome in [VOIDED, GIVEN_UP] {
            let change = finish(&old, outcome, at(6));
            assert_eq!(desk.settle(change).await, Committed::Lost);
        }
        assert_eq!(desk.settle(wait(&old, at(6))).await, Committed::Lost);
        assert_eq!(desk.everything().await, before);

        assert_eq!(desk.settle(wait(&new, at(7))).await, Committed::Done);
        let again = finish(&new, VOIDED, at(8));
        assert_eq!(
            desk.settle(again).await,
            Committed::Lost,
            "a claim is good once"
        );
    })
    .await;
}

#[tokio::test]
async fn a_finished_request_is_never_changed() {
    on_each(async |mut desk| {
        let claim = desk.begin("a", "p").await;
        desk.settle(finish(&claim, VOIDED, at(1))).await;
        let before = desk.everything().await;
        let change = finish(&claim, GIVEN_UP, at(2));
        assert_eq!(desk.settle(change).await, Committed::Lost);
        assert!(desk.claimed_ids(9, at(100)).await.is_empty());
        assert_eq!(desk.start_again(at(3)).await, 0);
        assert_eq!(desk.everything().await, before);
    })
    .await;
}

#[tokio::test]
async fn an_answer_says_in_which_rows_its_messages_wait() {
    on_each(async |desk| {
        let (a, b) = (desk.begin("a", "p").await, desk.begin("b", "q").await);
        let changes = [
            finish(&a, GIVEN_UP, at(4)),
            wait(&b, at(9)),
            finish(&b, VOIDED, at(4)),
            finish(&a, VOIDED, at(5)),
        ];
        let answers = desk.commit(changes.to_vec().into()).await.unwrap();
        let lost = [
            Committed::Done,
            Committed::Done,
            Committed::Lost,
            Committed::Lost,
        ];
        assert_eq!(outcomes(&answers), lost);
        let rows = answers.iter().map(|answer| answer.rows.len());
        assert_eq!(rows.collect::<Vec<_>>(), [2, 0, 0, 0]);

        let answers = [answers, {
            let b = desk.only_claim(at(9), sends()).await;
            desk.commit(vec![finish(&b, VOIDED, at(10))].into())
                .await
                .unwrap()
        }];
        let said = answers.concat().into_iter().flat_map(|answer| answer.rows);
        let told = changes[0].messages.iter().chain(&changes[2].messages);
        let told: Vec<_> = said.zip(told.map(|message| message.id)).collect();
        let outbox = desk.outbox().await;
        let found: Vec<_> = outbox.iter().map(|row| (row.seq, row.message.id)).collect();
        assert_eq!((told.len(), told), (3, found));
    })
    .await;
}

#[tokio::test]
async fn an_end_is_written_with_its_messages_call_and_dead_letter() {
    on_each(async |mut desk| {
        let claim = desk.begin("a", "p").await;
        let lost = Change {
            id: rescind::ledger::ClaimId {
                token: 99,
                ..claim.id
            },
            ..finish(&claim, VOIDED, at(4))
        };
        let change = finish(&claim, GIVEN_UP, at(4));
        let messages = change.messages.clone();
        // The changes of one commit are independent of each other.
        let answers = desk.commit(vec![lost, change].into()).await.unwrap();
        assert_eq!(outcomes(&answers), [Committed::Lost, Committed::Done]);
        desk.reopen().await;

        let seen = desk.seen("a").await;
        let outcome = ("failed".to_owned(), "deadline_passed".to_owned());
        assert_eq!(
            (seen.outcome, seen.finished_at),
            (Some(outcome), Some(at(4)))
        );
        assert_eq!(seen.progress.state, State::Finished);
        assert_eq!(seen.calls[0].finished_at, Some(at(4)));
        assert_eq!(seen.calls[0].verdict.as_deref(), Some("failed"));
        assert_eq!(seen.calls[0].evidence.http_status, Some(200));
        let kinds: Vec<_> = seen.messages.iter().map(|m| m.kind.as_str()).collect();
        assert_eq!(kinds, ["result", "dead_letter"]);
        let outbox: Vec<_> = desk.outbox().await.into_iter().map(|p| p.message).collect();
        assert_eq!(outbox, messages);
        let stats = desk.stats().await.unwrap();
        let reason = (ACCOUNT.to_owned(), "deadline_passed".to_owned(), 1);
        assert_eq!(stats.dead, [reason]);
        assert_eq!(stats.oldest_dead, Some(at(4)));
        assert!(stats.open.is_empty());
    })
    .await;
}

/// Whoever hears a notification is asked about at `due`.
fn asks_at(due: i64) -> Hear {
    Arc::new(move |_, progress, outcome| {
        progress.due_at = Some(at(due));
        match outcome {
            Some(_) => Heard::Checking,
            None => Heard::Open,
        }
    })
}

fn says_the_same() -> Hear {
    Arc::new(|_, _, _| Heard::Known)
}

fn asks_nobody() -> Hear {
    Arc::new(|_, _, _| panic!("nobody is there to hear it"))
}

#[tokio::test]
async fn a_notification_about_an_open_request_makes_it_due() {
    on_each(async |desk| {
        let claim = desk.begin("a", "p").await;
        desk.take_in(request("b", "p")).await;
        desk.settle(wait(&claim, at(900))).await;
        let heard = desk.hear(&["x", "p"], asks_at(5)).await;
        assert_eq!(heard, [Heard::Open]);
        assert_eq!(desk.claimed_ids(9, at(4)).await, [""; 0]);
        assert_eq!(
            desk.claimed_ids(9, at(5)).await,
            ["a"],
            "and not the one behind it"
        );
    })
    .await;
}

#[tokio::test]
async fn a_notification_about_no_request_changes_nothing() {
    on_each(async |desk| {
        desk.take_in(request("a", "p")).await;
        let before = desk.everything().await;
        assert_eq!(desk.hear(&["q"], asks_nobody()).await, []);
        assert_eq!(desk.hear(&[], asks_nobody()).await, []);
        let answers = desk.notified("another", vec!["p".into()], asks_nobody());
        assert_eq!(answers.await.unwrap(), []);
        assert_eq!(desk.everything().await, before);
    })
    .await;
}

/// It comes from outside, and is told to the ledger until that has answered.
#[tokio::test]
async fn a_notification_may_name_a_payment_with_any_character() {
    on_each(async |desk| {
        for name in ["zero\0", "\u{1b}[0m", "ＪＰ🦀", "'; --", "%", ""] {
            assert_eq!(desk.hear(&[name], asks_nobody()).await, [], "{name:?}");
            desk.take_in(request(name, name)).await;
            assert_eq!(desk.hear(&["x", name], asks_at(5)).await, [Heard::Open]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_notification_during_the_call_that_ends_a_request_has_its_result_checked() {
    on_each(async |desk| {
        for (id, is_heard) in [("a", true), ("b", false)] {
            let claim = desk.begin(id, id).await;
            if is_heard {
                assert_eq!(desk.hear(&[id], asks_nobody()).await, [Heard::Open]);
            }
            let mut change = finish(&claim, VOIDED, at(5));
            let mut hinted = change.progress.clone();
            hinted.due_at = Some(at(7));
            change.hinted = Some(Box::new(hinted));
            desk.settle(change).await;
            assert_eq!(desk.seen(id).await.progress.state, State::Finished);
        }
        desk.publish_all(at(6)).await;
        assert_eq!(desk.purge(at(900), 9).await.unwrap(), 1);
        assert!(desk.is_known("a").await, "it is to be checked");
        let check = desk.only_claim(at(7), checks()).await;
        assert_eq!(check.stored.request_id, "a");
        assert_eq!(check.outcome, Some(VOIDED));
        assert_eq!(desk.settle(checked(&check, at(8))).await, Committed::Done);
    })
    .await;
}

#[tokio::test]
async fn a_notification_during_a_call_is_remembered_for_its_commit() {
    on_each(async |mut desk| {
        let claim = desk.begin("a", "p").await;
        assert_eq!(desk.hear(&["p"], asks_nobody()).await, [Heard::Open]);
        desk.reopen().await;
        let mut change = wait(&claim, at(900));
        let mut hinted = change.progress.clone();
        hinted.due_at = Some(at(7));
        change.hinted = Some(Box::new(hinted));
        assert_eq!(desk.settle(change.clone()).await, Committed::Hinted);
        let claim = desk.only_claim(at(7), sends()).await;
        // It was one call's, and no later one's.
        change.id = claim.id;
        change.progress = wait(&claim, at(900)).progress;
        assert_eq!(desk.settle(change).await, Committed::Done);
        assert!(desk.claimed_ids(9, at(899)).await.is_empty());
        assert_eq!(desk.claimed_ids(9, at(900)).await, ["a"]);
    })
    .await;
}

#[tokio::test]
async fn an_answer_that_is_final_needs_no_notification() {
    on_each(async |mut desk| {
        let claim = desk.begin("a", "p").await;
        desk.hear(&["p"], asks_nobody()).await;
        desk.settle(finish(&claim, VOIDED, at(4))).await;
        assert!(desk.claimed_ids(9, at(900)).await.is_empty());
        assert_eq!(desk.start_again(at(901)).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_result_is_checked_once_at_a_time_and_stays_what_it_is() {
    on_each(async |mut desk| {
        desk.end("a", "p", VOIDED, at(4)).await;
        let before = desk.seen("a").await;
        assert_eq!(desk.hear(&["p"], asks_at(50)).await, [Heard::Checking]);
        assert_eq!(desk.hear(&["p"], says_the_same()).await, [Heard::Known]);
        desk.reopen().await;
        assert!(desk.stats().await.unwrap().open.is_empty());

        let check = desk.only_claim(at(50), checks()).await;
        assert_eq!(check.outcome, Some(VOIDED));
        assert_eq!(desk.hear(&["p"], says_the_same()).await, [Heard::Known]);
        assert!(desk.claimed_ids(9, at(99)).await.is_empty());
        // The worker dies during the question, and asks it again.
        assert_eq!(desk.start_again(at(60)).await, 1);
        assert_eq!(desk.settle(checked(&check, at(61))).await, Committed::Lost);
        let check = desk.only_claim(at(61), checks()).await;
        assert_eq!(desk.settle(checked(&check, at(62))).await, Committed::Done);
        assert_eq!(desk.settle(checked(&check, at(63))).await, Committed::Lost);

        let seen = desk.seen("a").await;
        assert_eq!(seen.outcome, before.outcome);
        assert_eq!(seen.finished_at, before.finished_at);
        assert_eq!(seen.calls.len(), 3);
        assert_eq!(seen.calls[2].finished_at, Some(at(62)));
        let kinds: Vec<_> = seen.messages.iter().map(|m| m.kind.as_str()).collect();
        assert_eq!(kinds, ["result", "correction"]);
        assert_eq!(desk.start_again(at(900)).await, 0);
        assert!(desk.claimed_ids(9, at(900)).await.is_empty());
        assert_eq!(desk.hear(&["p"], asks_at(950)).await, [Heard::Checking]);
    })
    .await;
}

/// Of many requests on one payment, the last ones: a flood of notifications must not ask about all.
#[tokio::test]
async fn the_last_four_requests_on_a_payment_hear_of_a_notification() {
    on_each(async |desk| {
        for id in ["a", "b", "c", "d", "e"] {
            desk.end(id, "p", VOIDED, at(4)).await;
        }
        let checking = [Heard::Checking; 4];
        assert_eq!(desk.hear(&["p"], asks_at(50)).await, checking);
        assert_eq!(desk.seen("a").await.progress.due_at, None);
        desk.begin("open", "p").await;
        let expected = [&[Heard::Open], &checking[..3]].concat();
        assert_eq!(desk.hear(&["p"], asks_at(60)).await, expected);
        for (id, due) in [("b", 50), ("c", 60), ("d", 60), ("e", 60)] {
            let found = desk.seen(id).await.progress.due_at;
            assert_eq!(found, Some(at(due)), "{id}");
        }
    })
    .await;
}

/// The provider may have been asked before what the notification tells of was so.
#[tokio::test]
async fn a_notification_during_a_check_makes_another_one_follow() {
    on_each(async |mut desk| {
        desk.end("a", "p", VOIDED, at(4)).await;
        desk.hear(&["p"], asks_at(50)).await;
        let check = desk.only_claim(at(50), checks()).await;
        assert_eq!(desk.hear(&["p"], asks_at(70)).await, [Heard::Checking]);
        assert_eq!(desk.settle(checked(&check, at(51))).await, Committed::Lost);
        assert_eq!(desk.start_again(at(60)).await, 0, "nobody works on it");
        assert!(desk.claimed_ids(9, at(69)).await.is_empty());
        let check = desk.only_claim(at(70), checks()).await;
        assert_eq!(desk.settle(checked(&check, at(71))).await, Committed::Done);
        assert!(desk.claimed_ids(9, at(999)).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn a_repeated_request_gets_the_stored_result_once_more() {
    on_each(async |desk| {
        let claim = desk.begin("a", "p").await;
        assert_eq!(desk.take_in(request("a", "p")).await, Accepted::Repeated);
        assert!(desk.outbox().await.is_empty(), "there is no result yet");
        desk.settle(finish(&claim, GIVEN_UP, at(4))).await;
        let first = desk.outbox().await;
        let about = first[0].about.as_ref().unwrap();
        assert_eq!(
            (about.provider.as_str(), about.outcome.as_str()),
            (ACCOUNT, "failed")
        );
        assert_eq!(about.received_at, at(0));
        assert!(first[1].about.is_none(), "a dead letter is no result");
        desk.publish_all(at(5)).await;
        assert!(desk.outbox().await.is_empty());
        for _ in 0..2 {
            assert_eq!(desk.take_in(request("a", "p")).await, Accepted::Repeated);
        }
        let again = desk.outbox().await;
        assert_eq!(again.len(), 1, "the result alone, and once");
        assert_eq!(again[0].message, first[0].message);
        assert!(again[0].about.is_none(), "it was confirmed before");
        let mut other = request("a", "p");
        other.digest = [8; 32];
        desk.publish_all(at(6)).await;
        assert_eq!(desk.take_in(other).await, Accepted::Conflicting);
        assert!(
            desk.outbox().await.is_empty(),
            "the stranger sees nothing of it"
        );
    })
    .await;
}

/// A thousand of the largest would be more than a worker has memory for.
#[tokio::test]
async fn so_many_messages_are_read_at_once_as_there_is_room_for() {
    on_each(async |desk| {
        for n in 0..4 {
            let claim = desk.begin(&format!("r{n}"), &format!("p{n}")).await;
            let mut change = finish(&claim, VOIDED, at(n));
            change.messages[0].body = vec![b' '; PENDING_BYTES_MAX * 3 / 4];
            desk.settle(change).await;
        }
        let seqs = async |after| {
            let found = desk.pending(after, 100).await.unwrap();
            found.iter().map(|p| p.seq).collect::<Vec<_>>()
        };
        let first = seqs(0).await;
        assert_eq!(first.len(), 2);
        let rest = seqs(first[1]).await;
        assert_eq!(rest.len(), 2);
        assert!(rest[0] > first[1]);
        assert!(seqs(rest[1]).await.is_empty());
    })
    .await;
}

#[tokio::test]
async fn messages_are_pending_in_their_order_until_they_are_confirmed() {
    on_each(async |desk| {
        for n in 0..5 {
            desk.end(&format!("r{n}"), &format!("p{n}"), VOIDED, at(n))
                .await;
        }
        let ids = async |after, most| {
            let found = desk.pending(after, most).await.unwrap();
            let row = |p: &rescind::ledger::Pending| {
                (p.seq, p.message.properties.correlation_id.clone().unwrap())
            };
            found.iter().map(row).collect::<Vec<_>>()
        };
        let all = ids(0, 100).await;
        let names: Vec<_> = all.iter().map(|(_, id)| id.as_str()).collect();
        assert_eq!(names, ["r0", "r1", "r2", "r3", "r4"]);
        assert_eq!(ids(0, 2).await, all[..2]);
        assert_eq!(ids(all[1].0, 2).await, all[2..4]);
        assert!(ids(all[4].0, 2).await.is_empty());
        desk.publish([all[0].0, all[3].0], at(50)).await;
        assert_eq!(ids(0, 100).await, [&all[1..3], &all[4..]].concat());
        assert_eq!(desk.seen("r3").await.messages[0].published_at, Some(at(50)));
        assert_eq!(desk.seen("r2").await.messages[0].published_at, None);
        let stats = desk.stats().await.unwrap();
        assert_eq!(stats.outbox, 3);
        assert_eq!(stats.oldest_result, Some(at(1)), "not the published one");
        assert_eq!(desk.unpublished(100).await.unwrap(), 3);
        assert_eq!(desk.unpublished(2).await.unwrap(), 2, "counted no further");
    })
    .await;
}

#[tokio::test]
async fn an_invalid_message_has_one_dead_letter_however_often_it_arrives() {
    on_each(async |desk| {
        desk.take_in_invalid(b"{", at(1)).await;
        let first = desk.outbox().await;
        let kinds: Vec<_> = first.iter().map(|p| p.message.kind).collect();
        assert_eq!(kinds, [Kind::Result, Kind::DeadLetter]);
        let about = first[0].about.as_ref().unwrap();
        let timed = (&*about.provider, &*about.outcome, about.received_at);
        assert_eq!(timed, ("unknown", "invalid", at(1)));
        assert!(first[1].about.is_none());
        desk.publish_all(at(2)).await;
        // Later: the stored bytes are repeated all the same, with the first time in them.
        let same = desk.take_in_all_invalid(&[b"{"], at(3)).await;
        assert_eq!(same, [Accepted::Repeated]);
        let again = desk.outbox().await;
        assert_eq!(again[0].message, first[0].message);
        assert!(again[0].about.is_none(), "timed once");
        let stats = desk.stats().await.unwrap();
        assert_eq!(
            stats.dead,
            [("unknown".to_owned(), "not_json".to_owned(), 1)]
        );
        assert_eq!(stats.oldest_dead, Some(at(1)));
        desk.take_in_invalid(b"{{", at(4)).await;
        assert_eq!(
            desk.stats().await.unwrap().dead[0].2,
            2,
            "another message is another one"
        );
        // Also in one batch.
        let batch: [&[u8]; 4] = [b"[", b"{", b"[", b"]"];
        let answers = desk.take_in_all_invalid(&batch, at(5)).await;
        let (new, known) = (Accepted::Recorded, Accepted::Repeated);
        assert_eq!(answers, [new.clone(), known.clone(), known, new]);
    })
    .await;
}

#[tokio::test]
async fn after_a_start_what_was_on_the_wire_is_in_doubt() {
    on_each(async |mut desk| {
        let cancelling = desk.begin("cancelling", "p1").await;
        desk.take_in(request("looking", "p2")).await;
        let looking = desk.only_claim(at(1), calls(Operation::Lookup)).await;
        desk.take_in(request("ending", "p3")).await;
        let ending = desk.only_claim(at(1), gives_up()).await;
        let before = desk.everything().await;
        desk.reopen().await;
        assert_eq!(desk.everything().await, before);
        assert_eq!(desk.start_again(at(7)).await, 3);

        let seen = desk.seen("cancelling").await.progress;
        assert_eq!((seen.state, seen.due_at), (State::InDoubt, Some(at(7))));
        assert!(seen.doubtful && seen.exposed && seen.operation.is_none());
        assert_eq!(seen.attempts, 1, "the send is not forgotten");
        let seen = desk.seen("looking").await.progress;
        assert_eq!(
            (seen.state, seen.due_at),
            (State::WaitingRetry, Some(at(7)))
        );
        assert!(
            !seen.doubtful && !seen.exposed,
            "a question changes nothing"
        );
        let seen = desk.seen("ending").await.progress;
        assert_eq!((seen.state, seen.due_at), (State::Due, Some(at(7))));
        for old in [&cancelling, &looking, &ending] {
            assert_eq!(
                desk.settle(finish(old, VOIDED, at(8))).await,
                Committed::Lost
            );
        }
        assert_eq!(desk.claimed_ids(9, at(7)).await.len(), 3);
    })
    .await;
}

/// It left just before the worker died: what a look-up does not see yet may still come.
#[tokio::test]
async fn after_a_start_what_was_sent_may_still_arrive() {
    on_each(async |mut desk| {
        desk.begin("a", "p").await;
        desk.reopen().await;
        let quiet = Arc::new(|_: &str| Duration::from_millis(500));
        assert_eq!(desk.recover(at(7), quiet).await.unwrap(), 1);
        let seen = desk.seen("a").await.progress;
        assert_eq!(seen.quiet_until, Some(at(507)));
        assert_eq!(seen.due_at, Some(at(7)), "it is asked about at once");
    })
    .await;
}

#[tokio::test]
async fn a_question_that_was_cut_short_leaves_the_doubt_as_it_was() {
    on_each(async |mut desk| {
        desk.begin("a", "p").await;
        desk.start_again(at(1)).await;
        desk.only_claim(at(1), calls(Operation::Lookup)).await;
        desk.start_again(at(2)).await;
        let seen = desk.seen("a").await.progress;
        assert_eq!((seen.state, seen.due_at), (State::InDoubt, Some(at(2))));
        assert!(seen.doubtful && seen.exposed);
        assert_eq!((seen.attempts, seen.lookups, seen.calls), (1, 1, 2));
    })
    .await;
}

#[tokio::test]
async fn a_start_touches_nothing_that_was_not_on_the_wire() {
    on_each(async |mut desk| {
        desk.done("finished", VOIDED, at(0)).await;
        desk.take_in(arriving("due", "p1", at(900))).await;
        desk.take_in(arriving("waiting", "p2", at(1))).await;
        let claim = desk.only_claim(at(1), sends()).await;
        desk.settle(wait(&claim, at(500))).await;
        desk.take_in(request("parked", "p2")).await;
        let before = desk.everything().await;
        assert_eq!(desk.start_again(at(7)).await, 0);
        assert_eq!(desk.everything().await, before);
    })
    .await;
}

#[tokio::test]
async fn only_what_is_finished_published_and_closed_is_purged() {
    on_each(async |desk| {
        desk.done("old", VOIDED, at(10)).await;
        desk.done("older", VOIDED, at(9)).await;
        desk.done("recent", VOIDED, at(30)).await;
        desk.done("dead", GIVEN_UP, at(10)).await;
        desk.done("checked", VOIDED, at(10)).await;
        let heard = desk.hear(&["checked"], asks_at(50)).await;
        assert_eq!(heard, [Heard::Checking]);
        desk.begin("open", "open").await;
        desk.take_in(request("parked", "open")).await;
        desk.end("unpublished", "unpublished", VOIDED, at(10)).await;

        assert_eq!(desk.purge(at(9), 100).await.unwrap(), 0, "before, not at");
        assert_eq!(
            desk.purge(at(20), 1).await.unwrap(),
            1,
            "at most as many as asked for"
        );
        assert_eq!(desk.purge(at(20), 100).await.unwrap(), 1);
        assert_eq!(desk.purge(at(20), 100).await.unwrap(), 0);
        for gone in ["old", "older"] {
            assert!(!desk.is_known(gone).await, "{gone}");
        }
        for kept in ["recent", "dead", "open", "parked", "unpublished", "checked"] {
            assert!(desk.is_known(kept).await, "{kept}");
        }
        // Nothing of the old one is left: the id begins anew.
        desk.begin("old", "old").await;
        let seen = desk.seen("old").await;
        assert_eq!((seen.calls.len(), seen.messages.len()), (1, 0));
    })
    .await;
}

#[tokio::test]
async fn a_claim_on_a_purged_request_is_good_for_no_other() {
    on_each(async |desk| {
        let old = desk.begin("a", "p").await;
        desk.settle(finish(&old, VOIDED, at(1))).await;
        let message = desk.outbox().await[0].delivered();
        desk.publish_all(at(1)).await;
        assert_eq!(desk.purge(at(9), 9).await.unwrap(), 1);

        let new = desk.begin("b", "q").await;
        assert_eq!(
            desk.settle(finish(&old, GIVEN_UP, at(10))).await,
            Committed::Lost
        );
        assert_eq!(
            desk.settle(finish(&new, VOIDED, at(10))).await,
            Committed::Done
        );
        // And a confirmation that comes late confirms no other message.
        desk.published(vec![message], at(11)).await.unwrap();
        assert_eq!(desk.outbox().await.len(), 1);
    })
    .await;
}

#[tokio::test]
async fn counts_say_what_is_open_dead_and_unpublished() {
    on_each(async |desk| {
        let empty = desk.stats().await.unwrap();
        assert!(empty.open.is_empty() && empty.dead.is_empty());
        assert_eq!((empty.oldest_dead, empty.outbox), (None, 0));
        desk.take_in(arriving("a", "a", at(30))).await;
        desk.take_in(arriving("b", "b", at(20))).await;
        desk.take_in(arriving("c", "a", at(40))).await;
        desk.begin("d", "d").await;
        desk.done("e", GIVEN_UP, at(50)).await;
        desk.done("f", GIVEN_UP, at(45)).await;
        desk.done("g", VOIDED, at(45)).await;
        let mut other = request("h", "h");
        other.provider = "another".into();
        desk.take_in(other).await;
        let stats = desk.stats().await.unwrap();
        let mut open = stats.open;
        open.sort_by_key(|(provider, state, ..)| (provider.clone(), state.as_str()));
        let row = |provider: &str, state, count, oldest| {
            (provider.to_owned(), state, count, Some(at(oldest)))
        };
        let expected = [
            row("another", State::Due, 1, 0),
            row(ACCOUNT, State::Calling, 1, 0),
            row(ACCOUNT, State::Due, 3, 20),
        ];
        assert_eq!(open, expected);
        assert_eq!(
            stats.dead,
            [(ACCOUNT.to_owned(), "deadline_passed".to_owned(), 2)]
        );
        assert_eq!((stats.oldest_dead, stats.outbox), (Some(at(45)), 0));
    })
    .await;
}

/// Its age is not that of something that should have moved: the other one may wait for its provider.
#[tokio::test]
async fn one_that_waits_for_another_on_its_payment_is_open_and_has_no_age() {
    on_each(async |desk| {
        desk.begin("a", "p").await;
        desk.take_in(arriving("b", "p", at(1))).await;
        let counts = async || {
            let mut open = desk.stats().await.unwrap().open;
            open.sort_by_key(|(_, state, ..)| state.as_str());
            let counts = open
                .into_iter()
                .map(|(_, state, count, oldest)| (state, count, oldest));
            counts.collect::<Vec<_>>()
        };
        let calling = (State::Calling, 1, Some(at(0)));
        assert_eq!(counts().await, [calling, (State::Due, 1, None)]);
        desk.take_in(arriving("c", "q", at(7))).await;
        assert_eq!(counts().await, [calling, (State::Due, 2, Some(at(7)))]);
    })
    .await;
}

#[tokio::test]
async fn requests_are_listed_by_state_outcome_account_and_age() {
    on_each(async |desk| {
        desk.done("a", VOIDED, at(1)).await;
        desk.take_in(arriving("b", "b", at(10))).await;
        desk.take_in(arriving("c", "b", at(20))).await;
        let mut other = arriving("d", "d", at(30));
        other.provider = "another".into();
        desk.take_in(other).await;
        let ids = async |filter: Filter| {
            let found = desk.list(filter).await.unwrap();
            found.into_iter().map(|s| s.request_id).collect::<Vec<_>>()
        };
        let all = || Filter {
            most: 100,
            ..Filter::default()
        };
        assert_eq!(ids(all()).await, ["a", "b", "c", "d"]);
        assert_eq!(ids(Filter { most: 2, ..all() }).await, ["a", "b"]);
        let most = usize::MAX;
        assert_eq!(ids(Filter { most, ..all() }).await, ["a", "b", "c", "d"]);
        let state = |name: &str| Filter {
            state: Some(name.into()),
            ..all()
        };
        assert_eq!(ids(state("finished")).await, ["a"]);
        assert_eq!(ids(state("cancelled")).await, ["a"]);
        assert_eq!(ids(state("due")).await, ["b", "c", "d"]);
        assert_eq!(ids(state("open")).await, ["b", "c", "d"]);
        assert!(ids(state("refused")).await.is_empty());
        let provider = Filter {
            provider: Some(ACCOUNT.into()),
            ..state("due")
        };
        assert_eq!(ids(provider).await, ["b", "c"]);
        let before = Filter {
            received_before: Some(at(20)),
            ..all()
        };
        assert_eq!(ids(before).await, ["a", "b"]);
        let after = Filter {
            received_after: Some(at(10)),
            ..all()
        };
        assert_eq!(ids(after).await, ["c", "d"]);
        let containing = Filter {
            containing: Some("{\"request_id\":\"b\"".into()),
            ..all()
        };
        assert_eq!(ids(containing).await, ["b"]);

        let found = desk.list(all()).await.unwrap();
        assert_eq!(
            found[0].outcome,
            Some(("cancelled".into(), "voided".into()))
        );
        assert_eq!((found[0].attempts, found[0].lookups), (1, 0));
        assert_eq!(
            (found[0].state.as_str(), found[0].due_at),
            ("finished", None)
        );
        assert_eq!(
            (found[1].received_at, found[1].due_at),
            (at(10), Some(at(10)))
        );
        assert_eq!(found[2].due_at, None, "it is parked");
        assert!(!desk.is_known("nobody").await);
    })
    .await;
}

#[tokio::test]
async fn values_come_back_as_they_went_in() {
    on_each(async |mut desk| {
        let strange = "Zürich ✓ 東京 🦀 'quoted' \"; --\n\t%00";
        let envelopes = [
            Envelope {
                body: (0..=255).cycle().take(64 * 1024).collect(),
                correlation_id: Some(strange.into()),
                reply_to: Some(strange.into()),
                traceparent: Some(strange.into()),
                tracestate: Some(String::new()),
                received_at: at(123),
            },
            Envelope {
                received_at: at(-1),
                ..Envelope::default()
            },
        ];
        for (n, envelope) in envelopes.iter().enumerate() {
            let id = format!("r{n}");
            let mut new = arriving(&id, strange, envelope.received_at);
            new.envelope = envelope.clone();
            new.provider = format!("account{n}");
            new.progress.learned.insert(strange.into(), strange.into());
            new.progress.begin(Operation::Cancel, at(124));
            let Accepted::New(Some(claim)) = desk.take_in(new.clone()).await else {
                panic!("{id} was not new");
            };
            let mut change = finish(&held(&new, claim), GIVEN_UP, at(125));
            change.call.as_mut().unwrap().evidence = Evidence {
                message: Some(strange.into()),
                reference: [(strange.to_owned(), strange.to_owned())].into(),
                ..Evidence::default()
            };
            desk.settle(change.clone()).await;
            desk.reopen().await;
            let seen = desk.seen(&id).await;
            assert_eq!(seen.stored.envelope, *envelope);
            assert_eq!(seen.stored.provider, new.provider);
            assert_eq!(seen.progress, change.progress);
            assert_eq!(seen.calls[0].evidence.message.as_deref(), Some(strange));
            assert_eq!(seen.calls[0].evidence.reference[strange], strange);
            assert_eq!(seen.calls[0].finished_at, Some(at(125)));
            let outbox: Vec<_> = desk.outbox().await.into_iter().map(|p| p.message).collect();
            assert_eq!(outbox, change.messages);
            desk.publish_all(at(126)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_crowd_loses_nothing_and_does_nothing_twice() {
    const REQUESTS: usize = 200;
    const PAYMENTS: usize = 60;
    on_each(async |desk| {
        let payment = |id: &str| id.strip_prefix('r').unwrap().parse::<usize>().unwrap() % PAYMENTS;
        let arrivals = (0..2 * REQUESTS).map(|n| {
            let ledger = desk.shared();
            let id = format!("r{}", n % REQUESTS);
            let arrival = Arrival::Request(Box::new(request(&id, &format!("p{}", payment(&id)))));
            tokio::spawn(
                async move { ledger.accept(vec![arrival].into()).await.unwrap().remove(0) },
            )
        });
        // The payments that a call is under way for: never two at once.
        let busy = Arc::new(Mutex::new(BTreeSet::new()));
        let workers = (0..8).map(|_| {
            let (ledger, busy) = (desk.shared(), Arc::clone(&busy));
            tokio::spawn(async move {
                let (mut ended, mut idle) = (0, 0);
                while idle < 40 {
                    let claims = ledger
                        .claim(ACCOUNT, Which::due(9), at(1000), sends())
                        .await
                        .unwrap()
                        .claims;
                    idle = if claims.is_empty() { idle + 1 } else { 0 };
                    for claim in &claims {
                        assert!(
                            busy.lock()
                                .unwrap()
                                .insert(payment(&claim.stored.request_id))
                        );
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                    for claim in &claims {
                        busy.lock()
                            .unwrap()
                            .remove(&payment(&claim.stored.request_id));
                        let change = match claim.progress.attempts {
                            1 => wait(claim, at(900)),
                            _ => finish(claim, VOIDED, at(1000)),
                        };
                        ended += usize::from(change.outcome.is_some());
                        let done = ledger.commit(vec![change].into()).await.unwrap();
                        assert_ne!(outcomes(&done), [Committed::Lost]);
                    }
                }
                ended
            })
        });
        let (arrivals, workers): (Vec<_>, Vec<_>) = (arrivals.collect(), workers.collect());
        let (mut new, mut ended) = (0, 0);
        for arrival in arrivals {
            new += usize::from(arrival.await.unwrap() == Accepted::New(None));
        }
        for worker in workers {
            ended += worker.await.unwrap();
        }
        assert_eq!((new, ended), (REQUESTS, REQUESTS));
        let stats = desk.stats().await.unwrap();
        assert!(stats.open.is_empty());
        let results: BTreeSet<_> = desk.outbox().await.iter().map(|p| p.message.id).collect();
        assert_eq!((stats.outbox, results.len()), (REQUESTS as u64, REQUESTS));
        for n in 0..REQUESTS {
            let seen = desk.seen(&format!("r{n}")).await;
            assert_eq!((seen.calls.len(), seen.messages.len()), (2, 1));
            assert!(seen.calls.iter().all(|call| call.finished_at.is_some()));
        }
    })
    .await;
}

/// It goes through them in batches.
#[tokio::test]
async fn however_many_are_open_all_are_put_in_doubt() {
    on_each(async |desk| {
        let ids = (0..5_001).map(|n| n.to_string());
        let open = ids.map(|id| Arrival::Request(Box::new(request(&id, &id))));
        desk.accept(open.collect()).await.unwrap();
        assert_eq!(desk.reconcile(at(9), at_once()).await.unwrap(), 5_001);
        let last = desk.seen("5000").await.progress;
        assert_eq!(last.state, State::InDoubt);
    })
    .await;
}

#[tokio::test]
async fn a_ledger_that_may_have_forgotten_asks_about_all_that_is_open() {
    on_each(async |mut desk| {
        let held = desk.begin("held", "p").await;
        desk.take_in(request("parked", "p")).await;
        desk.take_in(request("due", "q")).await;
        let done = desk.begin("done", "r").await;
        desk.settle(finish(&done, VOIDED, at(1))).await;

        let quiet = Arc::new(|_: &str| Duration::from_millis(500));
        assert_eq!(desk.reconcile(at(9), quiet).await.unwrap(), 3);
        let claimed = desk.seen("held").await.progress;
        assert_eq!((claimed.state, claimed.due_at), (State::Calling, None));
        assert_eq!(desk.seen("done").await.progress.state, State::Finished);
        let due = desk.seen("due").await.progress;
        assert_eq!((due.state, due.due_at), (State::InDoubt, Some(at(9))));
        assert_eq!(due.quiet_until, Some(at(509)));
        let parked = desk.seen("parked").await;
        assert!(parked.parked && parked.progress.doubtful);
        assert_eq!(parked.progress.due_at, None, "its turn comes later");

        assert_eq!(
            desk.settle(finish(&held, VOIDED, at(10))).await,
            Committed::Freed
        );
        let claims = desk.claimed_ids(9, at(10)).await;
        assert_eq!(claims, ["due", "parked"]);
        assert_eq!(desk.start_again(at(11)).await, 2);
    })
    .await;
}

/// What its owner has forgotten to say was perhaps sent, before the ledger forgot it.
#[tokio::test]
async fn a_claimed_request_of_such_a_ledger_is_in_doubt_for_who_takes_it_over() {
    on_each(async |mut desk| {
        desk.take_in(request("a", "p")).await;
        let asked = desk.only_claim(at(1), calls(Operation::Lookup)).await;
        assert!(!asked.progress.doubtful);
        desk.reconcile(at(2), at_once()).await.unwrap();
        assert_eq!(desk.start_again(at(3)).await, 1);
        let found = desk.seen("a").await.progress;
        assert_eq!(found.state, State::InDoubt);
        assert!(found.doubtful && found.exposed);
    })
    .await;
}
