//! The ledger: where everything meets, and the only truth after a crash.
//!
//! A request is accepted once, claimed with its intent, and committed with its messages; nothing
//! that was promised lives anywhere else.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use uuid::Uuid;

use crate::finding::Finding;
use crate::lifecycle::{Plan, Progress};
use crate::outcome::{Operation, Outcome, State};
use crate::reading::Evidence;
use crate::wire::{Envelope, Outgoing};

mod column;
mod dead;
mod error;
mod heard;
mod illegible;
mod location;
mod pending;
pub mod postgres;
mod read;
pub mod sqlite;

pub use dead::{Action, ActionRecord, Closed, Closing, DeadFilter, DeadRecord, Reopen, Resolution};
pub use error::LedgerError;
pub use location::Location;
pub use pending::{About, Delivered, PENDING_BYTES_MAX, Pending};
pub use read::{CallRecord, Filter, History, MessageRecord, Stats, Summary};

/// An operation's answer; it is durable when it arrives.
pub type Answer<'a, T> = BoxFuture<'a, Result<T, LedgerError>>;

/// The operations. Each is atomic, except [`reconcile`](Self::reconcile) and, on PostgreSQL,
/// [`hasten`](Self::hasten): these run in batches, and may be repeated.
pub trait Ledger: Send + Sync {
    /// Stores the messages that intake has read. Answers are in the order of the arrivals. Writes something
    /// also where there are none: then the answer says that there is room.
    fn accept(&self, arrivals: Arc<[Arrival]>) -> Answer<'_, Vec<Accepted>>;

    /// Takes requests of an account and commits what `planner` plans for each: a call's intent is
    /// on disk before this answers.
    fn claim(
        &self,
        provider: &str,
        which: Which,
        now: Timestamp,
        planner: Planner,
    ) -> Answer<'_, Claims>;

    /// The clock went back: requests of an account that are due later than `latest`, which no
    /// wait can reach, are due now. Answers their number.
    fn hasten(&self, provider: &str, latest: Timestamp, now: Timestamp) -> Answer<'_, u64>;

    /// Commits the changes that calls led to, with the messages that report them. Answers are in
    /// the order of the changes.
    fn commit(&self, changes: Arc<[Change]>) -> Answer<'_, Vec<CommitAnswer>>;

    /// A notification about the payment of these names. Of each name's requests the open one
    /// hears it, and so do the last finished ones. For a request without a claim `hear` decides,
    /// inside the transaction; a claimed request remembers the notification for its commit.
    /// Answers nothing, and writes nothing, for a payment that has no request.
    fn notified(
        &self,
        provider: &str,
        payment_keys: Vec<String>,
        hear: Hear,
    ) -> Answer<'_, Vec<Heard>>;

    /// Messages that the broker has not confirmed, oldest first, beginning behind row `after`: `most`
    /// of them, or fewer whose bodies reach [`PENDING_BYTES_MAX`], or all. A row that cannot be read is passed by.
    fn pending(&self, after: i64, most: usize) -> Answer<'_, Vec<Pending>>;

    /// How many messages the broker has not confirmed, counted up to `most`.
    fn unpublished(&self, most: u64) -> Answer<'_, u64>;

    /// Marks messages as confirmed by the broker, but for those that entered the outbox again
    /// since they were read. Answers the rows that somebody has locked: they are not marked yet.
    fn published(&self, messages: Vec<Delivered>, now: Timestamp) -> Answer<'_, Vec<i64>>;

    /// Puts in doubt the calls that a worker had on the wire before it was gone; answers the
    /// number of requests. Run at the start, and repeatedly where several workers share the ledger.
    fn recover(&self, now: Timestamp, quiet: Quiet) -> Answer<'_, u64>;

    /// Puts every open request in doubt; answers their number. A claimed one stays with its owner;
    /// the worker that takes it over finds it in doubt. For a ledger that may have forgotten calls.
    fn reconcile(&self, now: Timestamp, quiet: Quiet) -> Answer<'_, u64>;

    /// Removes up to `most` finished requests older than `before`, with all that is about them;
    /// answers their number. A dead letter keeps its request while it is open, and a while longer.
    fn purge(&self, before: Timestamp, most: usize) -> Answer<'_, u64>;

    /// Counts for the gauges.
    fn stats(&self) -> Answer<'_, Stats>;

    /// Everything that is known of one request.
    fn history(&self, request_id: &str) -> Answer<'_, Option<History>>;

    /// Requests by filter, oldest first.
    fn list(&self, filter: Filter) -> Answer<'_, Vec<Summary>>;

    /// Dead letters by filter, oldest first; by an id, see [`DeadFilter::with_id`].
    fn dead(&self, filter: DeadFilter) -> Answer<'_, Vec<DeadRecord>>;

    /// Carries out a person's decision about a dead letter: of several people who decide at once,
    /// one succeeds. A replay reopens its request in the same transaction.
    fn close(&self, letter: &str, closing: Closing) -> Answer<'_, Closed>;

    /// The worker stops and runs no more operations: it gives up its lease, so that other workers
    /// need not wait until the lease has run out.
    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// Plans a due request's next step, inside the claiming transaction. Pure.
pub type Planner = Arc<dyn Fn(&Stored, &mut Progress) -> Plan + Send + Sync>;

/// How long a call that an account has begun may still reach the provider, although its worker
/// can no longer reach the ledger.
pub type Quiet = Arc<dyn Fn(&str) -> Duration + Send + Sync>;

/// Decides what a notification means to a request, given its outcome if it is finished. Pure. A
/// new due time is when the provider is asked, also about a result.
pub type Hear = Arc<dyn Fn(&Stored, &mut Progress, Option<Outcome>) -> Heard + Send + Sync>;

/// The most requests on one payment that hear of a notification.
const HEARERS_MAX: usize = 4;

/// How one request took a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heard {
    /// Nothing changes: the request has its result, which says the same.
    Known,
    /// Nothing changes, and the request has a result that says something else: the provider has no way to ask.
    Contradicted,
    /// The result is checked.
    Checking,
    /// The request is open; if its next step is to ask the provider, that happens at once.
    Open,
}

/// A message that intake has read.
#[derive(Debug, Clone)]
pub enum Arrival {
    /// A request that was understood.
    Request(Box<NewRequest>),
    /// A message that was not understood: its dead letter and, where an id could be read, its result.
    Invalid(Box<DeadLetter>, Vec<Outgoing>),
}

/// A request as it enters the ledger.
#[derive(Debug, Clone)]
pub struct NewRequest {
    /// Unique for ever.
    pub request_id: String,
    /// Account name.
    pub provider: String,
    /// [`crate::job::Payment::key`].
    pub payment_key: String,
    /// SHA-256 of the content.
    pub digest: [u8; 32],
    /// No cancel is sent after this.
    pub deadline: Option<Timestamp>,
    /// The delivery.
    pub envelope: Envelope,
    /// How it starts: due, or already calling when there is room for it at once.
    pub progress: Progress,
}

/// The answer to an arrival.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accepted {
    /// Stored. With a claim when it entered as `calling` and its payment was free.
    New(Option<ClaimId>),
    /// The request is known, with the same content, or the invalid message with the same bytes; a stored
    /// result will be published again.
    Repeated,
    /// The id belongs to a request with other content. Nothing was stored.
    Conflicting,
    /// An invalid message was stored for the first time.
    Recorded,
}

/// The answer to a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitAnswer {
    /// Whether and how the change was written.
    pub committed: Committed,
    /// Rows of its messages in the outbox, in the order of the messages; none if the claim was lost.
    pub rows: Vec<i64>,
}

impl CommitAnswer {
    const LOST: Self = Self {
        committed: Committed::Lost,
        rows: Vec::new(),
    };
}

/// Whether and how a change was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Committed {
    /// The claim was no longer held; nothing was written.
    Lost,
    /// Written.
    Done,
    /// Written, and it made another request on the same payment due.
    Freed,
    /// Written as [`Change::hinted`] says.
    Hinted,
}

/// The right to change one request: lost when another worker takes the request over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClaimId {
    /// Row of the request.
    pub seq: i64,
    /// Fencing token.
    pub token: i64,
}

/// A request as stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The publisher's id.
    pub request_id: String,
    /// Account name.
    pub provider: String,
    /// The delivery.
    pub envelope: Envelope,
}

/// Which requests of an account a claim takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Up to `most` that are due, the longest due first. Before all others up to `questions` whose next step is to
    /// ask what became of a call.
    Due {
        /// All of them.
        most: usize,
        /// Of these.
        questions: usize,
    },
    /// Up to so many whose deadline has passed while they waited to be sent.
    Overdue(usize),
}

impl Which {
    /// Up to so many, the longest due first.
    pub fn due(most: usize) -> Self {
        Self::Due { most, questions: 0 }
    }

    /// How many at the most.
    fn most(self) -> usize {
        match self {
            Self::Due { most, .. } | Self::Overdue(most) => most,
        }
    }
}

/// A request that this worker may work on.
#[derive(Debug, Clone)]
pub struct Claim {
    /// The right to the request.
    pub id: ClaimId,
    /// The request.
    pub stored: Stored,
    /// Where it stands; `calling` when the plan is a call.
    pub progress: Progress,
    /// The next step.
    pub plan: Plan,
    /// The outcome that a request already has while its result is checked or it is replayed.
    pub outcome: Option<Outcome>,
}

impl Claim {
    /// The call that began with the claim.
    pub fn operation(&self) -> Option<Operation> {
        match self.plan {
            Plan::Call(operation) => Some(operation),
            Plan::Check => Some(Operation::Lookup),
            Plan::Finish(_) => None,
        }
    }
}

/// The answer to a claim.
#[derive(Debug, Clone, Default)]
pub struct Claims {
    /// At most as many as asked for.
    pub claims: Vec<Claim>,
    /// When the next one of this account is due, if none is due now. Not looked up for those that are overdue.
    pub next_due: Option<Timestamp>,
}

/// The consequence of a call, or of a decision without a call.
#[derive(Debug, Clone)]
pub struct Change {
    /// The right to the request; given up by this change.
    pub id: ClaimId,
    /// Where the request stands now. Finished without an outcome: its result was checked.
    pub progress: Progress,
    /// Where the request stands instead if a notification came since the claim.
    pub hinted: Option<Box<Progress>>,
    /// The call that ended, for the call log.
    pub call: Option<CallEnd>,
    /// The request's outcome, if the change ends it. A replay keeps the outcome of its result; this
    /// is the outcome that the replay found.
    pub outcome: Option<Outcome>,
    /// For the outbox.
    pub messages: Vec<Outgoing>,
    /// The dead letter beside a result that a person has to look at.
    pub dead_letter: Option<DeadLetter>,
    /// Now.
    pub at: Timestamp,
}

impl Change {
    /// A result was checked; the request had it before.
    pub fn is_check(&self) -> bool {
        self.progress.state == State::Finished && self.outcome.is_none()
    }

    /// The progress that is written, and whether that is because a notification came.
    fn written(&self, notified: bool) -> (&Progress, bool) {
        match &self.hinted {
            Some(hinted) if notified => (hinted, true),
            _ => (&self.progress, false),
        }
    }
}

/// How one call ended.
#[derive(Debug, Clone)]
pub struct CallEnd {
    /// The verdict's name, or `not_sent`.
    pub verdict: &'static str,
    /// The provider's words, or ours where there were none.
    pub evidence: Evidence,
}

/// A request or message that a person has to look at.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// Same as the id of its message.
    pub id: Uuid,
    /// Where it could be read.
    pub request_id: Option<String>,
    /// Account, or `unknown`.
    pub provider: String,
    /// Outcome and reason.
    pub outcome: Outcome,
    /// One sentence.
    pub detail: String,
    /// The message's bytes.
    pub body: Vec<u8>,
    /// When it was taken in.
    pub received_at: Timestamp,
    /// When it was given up.
    pub dead_at: Timestamp,
}

impl DeadLetter {
    /// The dead letter of a finding.
    pub fn of(finding: &Finding<'_>) -> Self {
        Self {
            id: finding.dead_letter_id(),
            request_id: Some(finding.request_id.to_owned()).filter(|id| !id.is_empty()),
            provider: finding.provider.to_owned(),
            outcome: finding.outcome,
            detail: finding.sentence(),
            body: finding.envelope.body.clone(),
            received_at: finding.envelope.received_at,
            dead_at: finding.completed_at,
        }
    }
}
