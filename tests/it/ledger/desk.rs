//! A worker's desk: what the tests do to a ledger, in words.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use rescind::finding::{Finding, Source};
use rescind::ledger::{
    Accepted, Arrival, CallEnd, Change, Claim, ClaimId, Claims, Closing, CommitAnswer, Committed,
    DeadFilter, DeadLetter, DeadRecord, Delivered, Hear, Heard, History, Ledger, NewRequest,
    Pending, Planner, Quiet, Reopen, Resolution, Stored, Which,
};
use rescind::lifecycle::{Plan, Progress};
use rescind::outcome::{Cancelled, Failed, Operation, Outcome, State};
use rescind::providers::Evidence;
use rescind::wire::{Envelope, Kind, Outgoing};

/// Opens one ledger, as often as it is asked to.
pub(super) type Opener = Box<dyn Fn() -> BoxFuture<'static, Arc<dyn Ledger>> + Send + Sync>;

/// A ledger that can be closed and opened again, as by a crash and a start.
pub(super) struct Desk {
    ledger: Option<Arc<dyn Ledger>>,
    opener: Opener,
}

impl Deref for Desk {
    type Target = dyn Ledger;

    fn deref(&self) -> &Self::Target {
        &**self.ledger.as_ref().unwrap()
    }
}

pub(super) const ACCOUNT: &str = "migo";
pub(super) const VOIDED: Outcome = Outcome::Cancelled {
    reason: Cancelled::Voided,
    already: false,
};
pub(super) const GIVEN_UP: Outcome = Outcome::Failed(Failed::DeadlinePassed);

/// A time so many milliseconds into the test.
pub(super) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(1_790_000_000_000 + millis).unwrap()
}

pub(super) fn request(id: &str, payment: &str) -> NewRequest {
    arriving(id, payment, at(0))
}

pub(super) fn arriving(id: &str, payment: &str, received_at: Timestamp) -> NewRequest {
    NewRequest {
        request_id: id.to_owned(),
        provider: ACCOUNT.to_owned(),
        payment_key: payment.to_owned(),
        digest: [7; 32],
        deadline: None,
        envelope: Envelope {
            body: format!("{{\"request_id\":{id:?}}}").into_bytes(),
            received_at,
            ..Envelope::default()
        },
        progress: Progress::new(received_at),
    }
}

/// The same, with room for its call at once.
pub(super) fn admitted(id: &str, payment: &str) -> NewRequest {
    let mut request = request(id, payment);
    request.progress.begin(Operation::Cancel, at(0));
    request
}

/// Every due request is called upon.
pub(super) fn calls(operation: Operation) -> Planner {
    Arc::new(move |_, progress| {
        progress.begin(operation, at(0));
        Plan::Call(operation)
    })
}

/// Nothing of a lost call is still on its way.
pub(super) fn at_once() -> Quiet {
    Arc::new(|_| Duration::ZERO)
}

pub(super) fn sends() -> Planner {
    calls(Operation::Cancel)
}

/// Every due request is at its end.
pub(super) fn gives_up() -> Planner {
    Arc::new(|_, _| Plan::Finish(GIVEN_UP))
}

/// What became of changes, apart from where their messages are.
pub(super) fn outcomes(answers: &[CommitAnswer]) -> Vec<Committed> {
    answers.iter().map(|answer| answer.committed).collect()
}

pub(super) fn finish(claim: &Claim, outcome: Outcome, now: Timestamp) -> Change {
    let evidence = Evidence {
        http_status: Some(200),
        message: Some("done".into()),
        ..Evidence::default()
    };
    let mut progress = claim.progress.clone();
    progress.finish();
    let finding = Finding {
        request_id: &claim.stored.request_id,
        provider: &claim.stored.provider,
        title: "Migo",
        envelope: &claim.stored.envelope,
        outcome,
        detail: None,
        source: Source::Response,
        evidence: &evidence,
        attempts: progress.attempts,
        lookups: progress.lookups,
        completed_at: now,
        letters: progress.replays.letters,
    };
    Change {
        id: claim.id,
        progress,
        hinted: None,
        call: matches!(claim.plan, Plan::Call(_)).then(|| CallEnd {
            verdict: outcome.as_str(),
            evidence: evidence.clone(),
        }),
        outcome: Some(outcome),
        messages: finding.messages(),
        dead_letter: outcome.is_dead_letter().then(|| DeadLetter::of(&finding)),
        at: now,
    }
}

/// To be sent again at `due`.
pub(super) fn wait(claim: &Claim, due: Timestamp) -> Change {
    let mut progress = claim.progress.clone();
    progress.state = State::WaitingRetry;
    progress.operation = None;
    progress.due_at = Some(due);
    Change {
        progress,
        call: Some(CallEnd {
            verdict: "again",
            evidence: Evidence::default(),
        }),
        outcome: None,
        messages: Vec::new(),
        dead_letter: None,
        ..finish(claim, VOIDED, due)
    }
}

/// What `who` does about a dead letter.
pub(super) fn by(who: &str, resolution: Resolution, at: Timestamp) -> Closing {
    Closing {
        resolution,
        who: who.to_owned(),
        why: "the provider is well again".to_owned(),
        at,
    }
}

/// A replay begins with whatever is due.
pub(super) fn reopens(now: Timestamp) -> Reopen {
    Arc::new(move |_, progress, _, _| {
        let mut again = progress.clone();
        again.state = State::Due;
        again.due_at = Some(now);
        again.replays.begun += 1;
        again.replays.letters = again.replays.letters.max(1);
        Ok(again)
    })
}

/// The end of a replay: the result stays, and what was found is beside it.
pub(super) fn finish_again(claim: &Claim, outcome: Outcome, now: Timestamp) -> Change {
    let mut change = finish(claim, outcome, now);
    change
        .messages
        .retain(|message| message.kind == Kind::DeadLetter);
    change.progress.replays.letters += u32::from(outcome.is_dead_letter());
    change
}

/// Every due result is checked.
pub(super) fn checks() -> Planner {
    Arc::new(|_, progress| {
        progress.begin_check(at(0));
        Plan::Check
    })
}

/// The check of a result contradicts it.
pub(super) fn checked(claim: &Claim, now: Timestamp) -> Change {
    let finding = Finding {
        request_id: &claim.stored.request_id,
        provider: &claim.stored.provider,
        title: "Migo",
        envelope: &claim.stored.envelope,
        outcome: GIVEN_UP,
        detail: None,
        source: Source::Lookup,
        evidence: &Evidence::default(),
        attempts: 1,
        lookups: 1,
        completed_at: now,
        letters: 0,
    };
    let mut progress = claim.progress.clone();
    progress.operation = None;
    let correction = finding.correction(finding.result_id());
    Change {
        progress,
        call: Some(CallEnd {
            verdict: "refused",
            evidence: Evidence::default(),
        }),
        outcome: None,
        messages: vec![correction],
        dead_letter: None,
        ..finish(claim, VOIDED, now)
    }
}

/// A message that was not understood.
pub(super) fn invalid(body: &[u8], now: Timestamp) -> (DeadLetter, Vec<Outgoing>) {
    let envelope = Envelope {
        body: body.to_vec(),
        received_at: now,
        ..Envelope::default()
    };
    let finding = Finding {
        request_id: "x",
        provider: "unknown",
        title: "",
        envelope: &envelope,
        outcome: Outcome::Invalid(rescind::outcome::Invalid::NotJson),
        detail: Some("it is no JSON"),
        source: Source::Worker,
        evidence: &Evidence::default(),
        attempts: 0,
        lookups: 0,
        completed_at: now,
        letters: 0,
    };
    (DeadLetter::of(&finding), finding.messages())
}

impl Desk {
    pub(super) async fn new(opener: Opener) -> Self {
        let ledger = Some(opener().await);
        Self { ledger, opener }
    }

    /// Closes the ledger and opens it again.
    pub(super) async fn reopen(&mut self) {
        self.ledger = None;
        self.ledger = Some((self.opener)().await);
    }

    /// As after a crash: what was claimed is in doubt. Says how many requests.
    pub(super) async fn start_again(&mut self, now: Timestamp) -> u64 {
        self.reopen().await;
        let found = self.recover(now, at_once()).await.unwrap();
        let twice = self.recover(now, at_once()).await.unwrap();
        assert_eq!(twice, 0, "only what was claimed before the start");
        found
    }

    /// For tasks of their own.
    pub(super) fn shared(&self) -> Arc<dyn Ledger> {
        Arc::clone(self.ledger.as_ref().unwrap())
    }

    pub(super) async fn take_in(&self, request: NewRequest) -> Accepted {
        let arrival = Arrival::Request(Box::new(request));
        let mut answers = self.accept(vec![arrival].into()).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers.remove(0)
    }

    /// One that comes for the first time.
    pub(super) async fn take_in_invalid(&self, body: &[u8], now: Timestamp) {
        let answers = self.take_in_all_invalid(&[body], now).await;
        assert_eq!(answers, [Accepted::Recorded]);
    }

    pub(super) async fn take_in_all_invalid(&self, all: &[&[u8]], now: Timestamp) -> Vec<Accepted> {
        let arrivals = all.iter().map(|body| {
            let (dead, messages) = invalid(body, now);
            Arrival::Invalid(Box::new(dead), messages)
        });
        self.accept(arrivals.collect()).await.unwrap()
    }

    /// Takes in a request that begins at once.
    pub(super) async fn begin(&self, id: &str, payment: &str) -> Claim {
        let request = admitted(id, payment);
        match self.take_in(request.clone()).await {
            Accepted::New(Some(claim)) => held(&request, claim),
            other => panic!("{id} was not given a claim: {other:?}"),
        }
    }

    pub(super) async fn claims(&self, most: usize, now: Timestamp) -> Claims {
        self.claim(ACCOUNT, Which::due(most), now, sends())
            .await
            .unwrap()
    }

    /// Ids of the requests that are claimed.
    pub(super) async fn claimed_ids(&self, most: usize, now: Timestamp) -> Vec<String> {
        let claims = self.claims(most, now).await.claims;
        claims.into_iter().map(|c| c.stored.request_id).collect()
    }

    /// The one request that is due.
    pub(super) async fn only_claim(&self, now: Timestamp, planner: Planner) -> Claim {
        let mut claims = self
            .claim(ACCOUNT, Which::due(100), now, planner)
            .await
            .unwrap()
            .claims;
        assert_eq!(claims.len(), 1, "{claims:?}");
        claims.remove(0)
    }

    /// A notification about the payment of these names.
    pub(super) async fn hear(&self, payments: &[&str], hear: Hear) -> Vec<Heard> {
        let payments = payments.iter().map(|&key| key.to_owned()).collect();
        self.notified(ACCOUNT, payments, hear).await.unwrap()
    }

    pub(super) async fn settle(&self, change: Change) -> Committed {
        let answers = self.commit(vec![change].into()).await.unwrap();
        assert_eq!(answers.len(), 1);
        answers[0].committed
    }

    /// Begins and finishes a request at `now`.
    pub(super) async fn end(&self, id: &str, payment: &str, outcome: Outcome, now: Timestamp) {
        let claim = self.begin(id, payment).await;
        let done = self.settle(finish(&claim, outcome, now)).await;
        assert_eq!(done, Committed::Done);
    }

    /// Begins, finishes and publishes a request at `now`.
    pub(super) async fn done(&self, id: &str, outcome: Outcome, now: Timestamp) {
        self.end(id, id, outcome, now).await;
        self.publish_all(now).await;
    }

    pub(super) async fn outbox(&self) -> Vec<Pending> {
        self.pending(0, 1000).await.unwrap()
    }

    /// Confirms messages that never entered the outbox again.
    pub(super) async fn publish(&self, rows: impl IntoIterator<Item = i64>, now: Timestamp) {
        let rows: Vec<i64> = rows.into_iter().collect();
        let waiting = self.outbox().await;
        let waiting = waiting.iter().filter(|row| rows.contains(&row.seq));
        let delivered: Vec<Delivered> = waiting.map(Pending::delivered).collect();
        assert_eq!(delivered.len(), rows.len());
        self.published(delivered, now).await.unwrap();
    }

    pub(super) async fn publish_all(&self, now: Timestamp) {
        let rows = self.outbox().await.iter().map(Pending::delivered).collect();
        self.published(rows, now).await.unwrap();
    }

    pub(super) async fn seen(&self, id: &str) -> History {
        let history = self.history(id).await.unwrap();
        history.unwrap_or_else(|| panic!("{id} is not in the ledger"))
    }

    pub(super) async fn is_known(&self, id: &str) -> bool {
        self.history(id).await.unwrap().is_some()
    }

    /// Every dead letter, oldest first.
    pub(super) async fn letters(&self) -> Vec<DeadRecord> {
        let filter = DeadFilter {
            with_body: true,
            most: 10_000,
            ..DeadFilter::default()
        };
        self.dead(filter).await.unwrap()
    }

    /// The last dead letter of a request.
    pub(super) async fn letter_of(&self, id: &str) -> Option<DeadRecord> {
        self.dead(DeadFilter::with_id(id)).await.unwrap().pop()
    }

    /// Everything there is, to be compared.
    pub(super) async fn everything(&self) -> String {
        let filter = rescind::ledger::Filter {
            most: 10_000,
            ..Default::default()
        };
        let mut text = String::new();
        for summary in self.list(filter).await.unwrap() {
            text += &format!("{summary:?}\n{:?}\n", self.seen(&summary.request_id).await);
        }
        format!(
            "{text}{:?}\n{:?}\n{:?}",
            self.letters().await,
            self.stats().await.unwrap(),
            self.outbox().await
        )
    }
}

/// The claim of a request that was given one as it arrived.
pub(super) fn held(request: &NewRequest, id: ClaimId) -> Claim {
    Claim {
        id,
        stored: Stored {
            request_id: request.request_id.clone(),
            provider: request.provider.clone(),
            envelope: request.envelope.clone(),
        },
        progress: request.progress.clone(),
        plan: Plan::Call(Operation::Cancel),
        outcome: None,
    }
}
