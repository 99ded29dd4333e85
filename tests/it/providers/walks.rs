//! Whole requests to Bento, answer by answer: its adapter and the state machine together.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use rescind::backoff::Schedule;
use rescind::job::Job;
use rescind::lifecycle::{Plan, Progress, Step, Terms};
use rescind::outcome::{Failed, Operation, Outcome, Refused, Unresolved, Verdict};
use rescind::providers::{Account, Ask, Reading, Response, by_kind};

use super::table::{account, ask, job, read};

const DAY: Duration = Duration::from_secs(24 * 3600);
const SCHEDULE: Schedule = Schedule {
    first: Duration::from_secs(2),
    factor: 2.0,
    max: Duration::from_secs(600),
    give_up_after: DAY,
};

/// An answer: HTTP status and body. `None`: nobody answered.
type Said = Option<(u16, &'static str)>;

/// Of a request: how it ended, and what was sent until then.
#[derive(Debug)]
struct End {
    outcome: Outcome,
    cancels: u32,
    lookups: u32,
    /// Of the last answer.
    message: String,
}

/// What Bento does: `lookup_path` as it is set, the whole or 5.00 USD, and its answer to each call, by the
/// number of cancels sent so far.
struct Bento<A> {
    path: Option<&'static str>,
    is_part: bool,
    answer: A,
}

impl<A: Fn(Operation, u32) -> Said> Bento<A> {
    fn end(&self) -> End {
        self.end_of(Progress::new(Timestamp::UNIX_EPOCH))
    }

    /// A request that had failed and is replayed.
    fn end_of_replay(&self) -> End {
        let failed = Outcome::Failed(Failed::RetriesExhausted);
        let new = Progress::new(Timestamp::UNIX_EPOCH);
        let replayed = new.replay(failed, &self.terms(), Timestamp::UNIX_EPOCH);
        self.end_of(replayed.expect("it may be replayed"))
    }

    fn account(&self) -> Account {
        let mut settings = json!({"token": "t"});
        if let Some(path) = self.path {
            settings["lookup_path"] = path.into();
        }
        account("bento", settings)
    }

    fn job(&self) -> Job {
        let mut asked = json!({"payment": {"order_id": "or_1", "transaction_id": "tx_1"}});
        if self.is_part {
            asked["amount"] = "5.00".into();
            asked["currency"] = "USD".into();
        }
        job(by_kind("bento").expect("Bento"), &asked).expect("a job")
    }

    fn terms(&self) -> Terms {
        let bento = by_kind("bento").expect("Bento");
        Terms {
            abilities: bento.abilities(&self.account(), &self.job()),
            retry: SCHEDULE,
            poll: SCHEDULE,
            deadline: None,
        }
    }

    fn end_of(&self, mut progress: Progress) -> End {
        let (account, job, terms) = (self.account(), self.job(), self.terms());
        let mut message = String::new();
        loop {
            let now = progress.due_at.expect("it goes on");
            let step = match progress.plan(&terms, now) {
                Plan::Call(operation) => {
                    progress.begin(operation, now);
                    let reading = self.reading(&account, &job, &progress, operation);
                    let verdict = match reading {
                        Some(reading) => {
                            message = reading.evidence.message.unwrap_or_default();
                            progress.learned.extend(reading.learned);
                            reading.verdict
                        }
                        None => Verdict::Doubt,
                    };
                    progress.after(&verdict, &terms, now, 0.5)
                }
                Plan::Finish(outcome) => Step::Finish(outcome),
                Plan::Check => panic!("it has ended"),
            };
            if let Step::Finish(outcome) = step {
                return End {
                    outcome,
                    cancels: progress.attempts,
                    lookups: progress.lookups,
                    message,
                };
            }
        }
    }

    fn reading(
        &self,
        account: &Account,
        job: &Job,
        progress: &Progress,
        operation: Operation,
    ) -> Option<Reading> {
        let (status, body) = (self.answer)(operation, progress.attempts)?;
        let response = Response {
            status,
            retry_after: None,
            body: body.as_bytes(),
        };
        let ask = Ask {
            exposed: progress.exposed,
            presumed: progress.is_presumed(),
            accepted: progress.accepted,
            ..ask(account, job, &progress.learned)
        };
        Some(read(
            by_kind("bento").expect("Bento"),
            &ask,
            operation,
            &response,
        ))
    }
}

const OPEN: Said = Some((
    200,
    r#"{"data":{"state":"CaptureSucceeded","capturedAmount":20000,"refundedAmount":300,"history":[{"action":"Refund","result":"Success"}]}}"#,
));
const PART_GONE: Said = Some((
    200,
    r#"{"data":{"state":"CaptureSucceeded","capturedAmount":20000,"refundedAmount":800,"history":[{"action":"Refund","result":"Success"},{"action":"Refund","result":"Success"}]}}"#,
));
/// Without a history nobody can tell whose it is.
const SOMETHING_GONE: Said = Some((
    200,
    r#"{"data":{"state":"CaptureSucceeded","capturedAmount":20000,"refundedAmount":800}}"#,
));
const OWN_404: Said = Some((404, r#"{"message":"Resource Not Found","causes":[]}"#));
const NO_ROUTE: Said = Some((404, "<html>404</html>"));
const SET: Option<&str> = Some("/orders/{order_id}/{transaction_id}");

#[test]
fn a_part_that_is_shown_as_refunded_is_sent_once() {
    for (seen, expected) in [
        (PART_GONE, ("cancelled", "partially_refunded")),
        (SOMETHING_GONE, ("unresolved", "lookups_exhausted")),
    ] {
        for taken in [
            None,
            Some((202, r#"{"data":{"state":"CaptureSucceeded"}}"#)),
        ] {
            let bento = Bento {
                path: SET,
                is_part: true,
                answer: |operation, cancels| match (operation, cancels) {
                    (Operation::Lookup, 0) => OPEN,
                    (Operation::Lookup, _) => seen,
                    (Operation::Cancel, _) => taken,
                },
            };
            let end = bento.end();
            let told = end.outcome.names();
            assert_eq!((told, end.cancels), (expected, 1), "{end:?}");
        }
    }
}

#[test]
fn what_others_had_refunded_before_is_no_reason_not_to_send_again() {
    let bento = Bento {
        path: SET,
        is_part: true,
        answer: |operation, cancels| match (operation, cancels) {
            (Operation::Cancel, 1) => None,
            (Operation::Lookup, 0 | 1) => OPEN,
            (Operation::Cancel, _) => Some((202, "{\"data\":{\"state\":\"CaptureSucceeded\"}}")),
            (Operation::Lookup, _) => PART_GONE,
        },
    };
    let end = bento.end();
    let told = end.outcome.names();
    assert_eq!(told, ("cancelled", "partially_refunded"), "{end:?}");
    assert_eq!(end.cancels, 2, "{end:?}");
}

#[test]
fn where_the_look_up_has_no_path_nothing_is_asked_for_a_day() {
    let asked = |is_part, answer: Said| Bento {
        path: None,
        is_part,
        answer: move |_, _| answer,
    };
    for end in [
        asked(true, NO_ROUTE).end(),
        asked(true, NO_ROUTE).end_of_replay(),
        asked(false, NO_ROUTE).end_of_replay(),
    ] {
        let rejected = Outcome::Failed(Failed::RejectedByProvider);
        assert_eq!((end.outcome, end.cancels, end.lookups), (rejected, 0, 1));
        assert!(end.message.contains("set lookup_path"), "{end:?}");
    }
    let missing = Outcome::Refused(Refused::NotFound);
    for end in [
        asked(true, OWN_404).end(),
        asked(false, OWN_404).end_of_replay(),
    ] {
        assert_eq!((end.outcome, end.cancels, end.lookups), (missing, 0, 2));
    }
}

#[test]
fn a_payment_that_only_the_cancel_can_miss_is_missed_twice() {
    let whole = |second: Said| Bento {
        path: None,
        is_part: false,
        answer: move |operation, cancels| match (operation, cancels) {
            (Operation::Lookup, _) => NO_ROUTE,
            (Operation::Cancel, 1) => OWN_404,
            (Operation::Cancel, _) => second,
        },
    };
    let end = whole(OWN_404).end();
    let missing = Outcome::Refused(Refused::NotFound);
    assert_eq!((end.outcome, end.cancels), (missing, 2), "{end:?}");
    let end = whole(Some((202, r#"{"data":{"state":"AuthVoided"}}"#))).end();
    assert_eq!(end.outcome.names(), ("cancelled", "voided"), "{end:?}");
    // After a doubt, nobody can tell.
    let end = whole(None).end();
    let nobody = Outcome::Unresolved(Unresolved::LookupsExhausted);
    assert_eq!((end.outcome, end.cancels), (nobody, 2), "{end:?}");
}

#[test]
fn refunded_without_a_readable_amount_is_for_a_person() {
    for is_part in [false, true] {
        for said in [
            r#"{"data":{"state":"Refunded"}}"#,
            r#"{"data":{"state":"Refunded","capturedAmount":20000,"refundedAmount":0}}"#,
            r#"{"data":{"state":"Refunded","capturedAmount":20000,"refundedAmount":500.0}}"#,
        ] {
            let bento = Bento {
                path: SET,
                is_part,
                answer: |_, _| Some((200, said)),
            };
            let end = bento.end();
            let nobody = Outcome::Unresolved(Unresolved::LookupsExhausted);
            assert_eq!((end.outcome, end.cancels), (nobody, 0), "{said}");
        }
    }
}
