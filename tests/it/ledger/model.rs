//! Any sequence of operations, on a ledger and on a model of it that fits on a page.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use rescind::ledger::{Accepted, Claim, Closed, Committed, Hear, Heard, Resolution, Which};
use rescind::outcome::Operation;

use super::desk::{
    ACCOUNT, Desk, GIVEN_UP, VOIDED, arriving, at, by, finish, finish_again, held, reopens, sends,
    wait,
};
use super::{BACKENDS, Opener};

#[derive(Debug, Clone)]
enum Act {
    Accept { id: u8, digest: u8, begins: bool },
    Claim { most: usize },
    Wait { claim: usize, millis: i64 },
    Finish { claim: usize, well: bool },
    Replay { id: u8 },
    Discard { id: u8 },
    TakeBack { id: u8 },
    Stale { claim: usize },
    Notify { payment: u8 },
    Publish,
    Recover,
    Reopen,
    Purge,
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => (0..9_u8, prop_oneof![9 => Just(0_u8), 1 => Just(1)], any::<bool>())
            .prop_map(|(id, digest, begins)| Act::Accept { id, digest, begins }),
        4 => (0..4_usize).prop_map(|most| Act::Claim { most }),
        2 => (0..9_usize, 0..6_i64).prop_map(|(claim, millis)| Act::Wait { claim, millis }),
        4 => (0..9_usize, any::<bool>()).prop_map(|(claim, well)| Act::Finish { claim, well }),
        3 => (0..9_u8).prop_map(|id| Act::Replay { id }),
        1 => (0..9_u8).prop_map(|id| Act::Discard { id }),
        1 => (0..9_u8).prop_map(|id| Act::TakeBack { id }),
        2 => (0..9_usize).prop_map(|claim| Act::Stale { claim }),
        2 => (0..4_u8).prop_map(|payment| Act::Notify { payment }),
        1 => Just(Act::Publish),
        1 => Just(Act::Recover),
        1 => Just(Act::Reopen),
        1 => Just(Act::Purge),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stand {
    Parked,
    Due(i64),
    Held,
    Finished { at: i64 },
}

/// The last dead letter of a request; those before it are closed.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Letter {
    None,
    Open,
    Replayed,
    Discarded,
}

struct Row {
    id: String,
    payment: String,
    digest: u8,
    stand: Stand,
    /// It has its result, which a replay does not take away.
    told: bool,
    published: bool,
    letter: Letter,
    /// When its dead letters were closed that still are.
    closed: Vec<i64>,
}

/// In the order of arrival.
#[derive(Default)]
struct Model {
    rows: Vec<Row>,
    now: i64,
}

impl Model {
    fn row(&mut self, id: &str) -> &mut Row {
        self.rows.iter_mut().find(|row| row.id == id).unwrap()
    }

    /// What accepting answers: `None` for a claim.
    fn accept(&mut self, id: &str, payment: &str, digest: u8, begins: bool) -> Option<Accepted> {
        if let Some(row) = self.rows.iter_mut().find(|row| row.id == id) {
            if row.digest != digest {
                return Some(Accepted::Conflicting);
            }
            row.published &= !row.told;
            return Some(Accepted::Repeated);
        }
        let active = |row: &Row| matches!(row.stand, Stand::Due(_) | Stand::Held);
        let taken = self
            .rows
            .iter()
            .any(|row| row.payment == payment && active(row));
        let stand = match (taken, begins) {
            (true, _) => Stand::Parked,
            (false, true) => Stand::Held,
            (false, false) => Stand::Due(self.now),
        };
        self.rows.push(Row {
            id: id.to_owned(),
            payment: payment.to_owned(),
            digest,
            stand,
            told: false,
            published: true,
            letter: Letter::None,
            closed: Vec::new(),
        });
        (stand != Stand::Held).then_some(Accepted::New(None))
    }

    /// Due times of what a claim takes.
    fn due(&self, most: usize) -> Vec<i64> {
        let due = |row: &Row| match row.stand {
            Stand::Due(at) if at <= self.now => Some(at),
            _ => None,
        };
        let mut due: Vec<i64> = self.rows.iter().filter_map(due).collect();
        due.sort_unstable();
        due.truncate(most);
        due
    }

    /// What a resolution answers: whether it is done.
    fn close(&mut self, id: &str, resolution: &Resolution) -> bool {
        let now = self.now;
        let payment = self.row(id).payment.clone();
        let active = |row: &Row| matches!(row.stand, Stand::Due(_) | Stand::Held);
        let mut rows = self.rows.iter();
        let taken = rows.any(|row| row.payment == payment && active(row));
        let row = self.row(id);
        match (resolution, row.letter) {
            (Resolution::Replay(_), Letter::Open) => {
                row.letter = Letter::Replayed;
                row.closed.push(now);
                row.stand = if taken {
                    Stand::Parked
                } else {
                    Stand::Due(now)
                };
            }
            (Resolution::Discard, Letter::Open) => {
                row.letter = Letter::Discarded;
                row.closed.push(now);
            }
            (Resolution::TakeBack, Letter::Discarded) => {
                row.letter = Letter::Open;
                row.closed.pop();
            }
            _ => return false,
        }
        true
    }

    fn finish(&mut self, id: &str, well: bool) -> Committed {
        let now = self.now;
        let row = self.row(id);
        let payment = row.payment.clone();
        row.stand = Stand::Finished { at: now };
        if !well {
            row.letter = Letter::Open;
        }
        row.published &= row.told && well;
        row.told = true;
        let next = |row: &&mut Row| row.payment == payment && row.stand == Stand::Parked;
        match self.rows.iter_mut().find(next) {
            Some(row) => {
                row.stand = Stand::Due(now);
                Committed::Freed
            }
            None => Committed::Done,
        }
    }
}

struct Both {
    desk: Desk,
    model: Model,
    held: Vec<Claim>,
    stale: Vec<Claim>,
}

impl Both {
    async fn act(&mut self, act: &Act) {
        self.model.now += 1;
        let now = at(self.model.now);
        match *act {
            Act::Accept { id, digest, begins } => self.accept(id, digest, begins).await,
            Act::Claim { most } => self.claim(most).await,
            Act::Wait { claim, millis } => {
                if let Some(claim) = take(&mut self.held, claim) {
                    let due = self.model.now + millis;
                    let done = self.desk.settle(wait(&claim, at(due))).await;
                    assert_eq!(done, Committed::Done);
                    self.model.row(&claim.stored.request_id).stand = Stand::Due(due);
                    self.stale.push(claim);
                }
            }
            Act::Finish { claim, well } => {
                if let Some(claim) = take(&mut self.held, claim) {
                    let outcome = if well { VOIDED } else { GIVEN_UP };
                    let change = if self.model.row(&claim.stored.request_id).told {
                        finish_again(&claim, outcome, now)
                    } else {
                        finish(&claim, outcome, now)
                    };
                    let done = self.desk.settle(change).await;
                    let expected = self.model.finish(&claim.stored.request_id, well);
                    assert_eq!(done, expected);
                    self.stale.push(claim);
                }
            }
            Act::Replay { id } => self.close(id, Resolution::Replay(reopens(now))).await,
            Act::Discard { id } => self.close(id, Resolution::Discard).await,
            Act::TakeBack { id } => self.close(id, Resolution::TakeBack).await,
            Act::Stale { claim } => {
                if let Some(claim) = take(&mut self.stale, claim) {
                    let lost = self.desk.settle(finish(&claim, VOIDED, now)).await;
                    assert_eq!(lost, Committed::Lost);
                }
            }
            Act::Notify { payment } => self.notify(payment).await,
            Act::Publish => {
                self.desk.publish_all(now).await;
                for row in &mut self.model.rows {
                    row.published = true;
                }
            }
            Act::Recover => self.recover().await,
            Act::Reopen => self.desk.reopen().await,
            Act::Purge => self.purge().await,
        }
    }

    async fn accept(&mut self, id: u8, digest: u8, begins: bool) {
        // Three ids for each payment.
        let (id, payment) = (format!("r{id}"), format!("p{}", id % 3));
        let mut request = arriving(&id, &payment, at(self.model.now));
        request.digest = [digest; 32];
        if begins {
            request
                .progress
                .begin(Operation::Cancel, at(self.model.now));
        }
        let answer = self.desk.take_in(request.clone()).await;
        match self.model.accept(&id, &payment, digest, begins) {
            Some(expected) => assert_eq!(answer, expected),
            None => match answer {
                Accepted::New(Some(claim)) => self.held.push(held(&request, claim)),
                other => panic!("{id} was not given a claim: {other:?}"),
            },
        }
    }

    async fn close(&mut self, id: u8, resolution: Resolution) {
        let id = format!("r{id}");
        let Some(letter) = self.desk.letter_of(&id).await else {
            let mut rows = self.model.rows.iter();
            assert!(rows.all(|row| row.id != id || row.letter == Letter::None));
            return;
        };
        let done = self.model.close(&id, &resolution);
        let closing = by("ana", resolution, at(self.model.now));
        match self.desk.close(&letter.id, closing).await.unwrap() {
            Closed::Done => assert!(done, "{id}"),
            Closed::Changed(_) => assert!(!done, "{id}"),
            other => panic!("{id}: {other:?}"),
        }
    }

    async fn claim(&mut self, most: usize) {
        let now = at(self.model.now);
        let claims = self
            .desk
            .claim(ACCOUNT, Which::due(most), now, sends())
            .await
            .unwrap()
            .claims;
        let mut due = Vec::new();
        for claim in claims {
            let row = self.model.row(&claim.stored.request_id);
            match std::mem::replace(&mut row.stand, Stand::Held) {
                Stand::Due(at) => due.push((at, claim)),
                other => panic!("{} was claimed while {other:?}", row.id),
            }
        }
        let times: Vec<i64> = due.iter().map(|(at, _)| *at).collect();
        for (at, claim) in &due {
            self.model.row(&claim.stored.request_id).stand = Stand::Due(*at);
        }
        assert_eq!(times, self.model.due(most));
        for (_, claim) in due {
            self.model.row(&claim.stored.request_id).stand = Stand::Held;
            self.held.push(claim);
        }
    }

    /// An idle request becomes due; a held one stays as it is, and so does a finished one.
    async fn notify(&mut self, payment: u8) {
        let (payment, now) = (format!("p{payment}"), self.model.now);
        let hear: Hear = Arc::new(move |_, progress, outcome| match outcome {
            Some(_) => Heard::Known,
            None => {
                progress.due_at = Some(at(now));
                Heard::Open
            }
        });
        let heard = self.desk.hear(&[&payment], hear).await;
        let of_it = |row: &&mut Row| row.payment == payment;
        let mut rows: Vec<&mut Row> = self.model.rows.iter_mut().filter(of_it).collect();
        let ended = |row: &&&mut Row| matches!(row.stand, Stand::Finished { .. });
        let ended = rows.iter().filter(ended).count();
        let active = |row: &&mut &mut Row| matches!(row.stand, Stand::Due(_) | Stand::Held);
        let open = rows.iter_mut().find(active).map(|row| {
            if let Stand::Due(due) = &mut row.stand {
                *due = now;
            }
            Heard::Open
        });
        let ended = std::iter::repeat_n(Heard::Known, ended);
        let expected: Vec<Heard> = open.into_iter().chain(ended).take(4).collect();
        assert_eq!(heard, expected);
    }

    async fn recover(&mut self) {
        let found = self.desk.start_again(at(self.model.now)).await;
        assert_eq!(found, self.held.len() as u64);
        for claim in self.held.drain(..) {
            self.model.row(&claim.stored.request_id).stand = Stand::Due(self.model.now);
            self.stale.push(claim);
        }
    }

    async fn purge(&mut self) {
        let (before, count) = (self.model.now - 3, self.model.rows.len());
        let ended = |row: &Row| matches!(row.stand, Stand::Finished { at } if at < before);
        let closed =
            |row: &Row| row.letter != Letter::Open && row.closed.iter().all(|at| *at < before);
        // A dead letter that can still be replayed keeps what came on its payment since.
        let mut replayable = BTreeSet::new();
        self.model.rows.retain(|row| {
            if !closed(row) {
                replayable.insert(row.payment.clone());
            }
            !(ended(row) && row.published && !replayable.contains(&row.payment))
        });
        let purged = self.desk.purge(at(before), 1000).await.unwrap();
        assert_eq!(purged, (count - self.model.rows.len()) as u64);
    }

    async fn agree(&self) {
        let mut active = BTreeMap::<&str, u32>::new();
        for n in 0..9 {
            let id = format!("r{n}");
            let row = self.model.rows.iter().find(|row| row.id == id);
            let (Some(row), true) = (row, self.desk.is_known(&id).await) else {
                assert!(row.is_none() && !self.desk.is_known(&id).await, "{id}");
                continue;
            };
            let seen = self.desk.seen(&id).await;
            let stand = match (seen.finished_at, seen.parked, seen.progress.due_at) {
                (Some(end), false, None) => Stand::Finished {
                    at: end.as_millisecond() - at(0).as_millisecond(),
                },
                (None, true, None) => Stand::Parked,
                (None, false, Some(due)) => {
                    Stand::Due(due.as_millisecond() - at(0).as_millisecond())
                }
                (None, false, None) => Stand::Held,
                other => panic!("{id}: {other:?}"),
            };
            assert_eq!(stand, row.stand, "{id}");
            let results = seen.messages.iter().filter(|m| m.kind == "result").count();
            assert_eq!(results, usize::from(row.told), "{id}");
            assert_eq!(seen.outcome.is_some(), row.told, "{id}");
            let published = seen.messages.iter().all(|m| m.published_at.is_some());
            assert_eq!(published, row.published, "{id}");
            let open = seen
                .letters
                .iter()
                .filter(|l| l.closed_at.is_none())
                .count();
            assert_eq!(open, usize::from(row.letter == Letter::Open), "{id}");
            if matches!(stand, Stand::Due(_) | Stand::Held) {
                *active.entry(row.payment.as_str()).or_default() += 1;
            }
        }
        assert!(active.values().all(|count| *count == 1), "{active:?}");
    }
}

fn take(claims: &mut Vec<Claim>, which: usize) -> Option<Claim> {
    (!claims.is_empty()).then(|| claims.remove(which % claims.len()))
}

async fn play(opener: Opener, acts: &[Act]) {
    let mut both = Both {
        desk: Desk::new(opener).await,
        model: Model::default(),
        held: Vec::new(),
        stale: Vec::new(),
    };
    for act in acts {
        both.act(act).await;
        both.agree().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_ledger_does_what_its_model_does(acts in vec(act(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (_, fresh) in BACKENDS {
            runtime.block_on(play(fresh(), &acts));
        }
    }
}
