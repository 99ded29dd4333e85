//! What the ledger keeps of a request: all that the lifecycle remembers, and nothing unset.

use rescind::lifecycle::{Hints, Progress, Replays, Seen};
use rescind::outcome::{Operation, State};
use serde_json::json;

use super::{now, seen};

/// No field may be left to its default: a new one has to be set here.
fn full() -> Progress {
    let mut progress = Progress {
        state: State::InDoubt,
        operation: Some(Operation::Cancel),
        due_at: Some(now()),
        calls: 1,
        attempts: 2,
        lookups: 3,
        retries: 4,
        polls: 5,
        refusals: 6,
        sighting: None,
        doubtful: true,
        exposed: true,
        presumed: true,
        accepted: true,
        under_way: true,
        was_there: true,
        asked_again: true,
        looked: true,
        first_sent_at: Some(now()),
        retrying_since: Some(now()),
        quiet_until: Some(now()),
        quiet_ms: 1,
        blind: true,
        waiting_since: Some(now()),
        asked_at: Some(now()),
        learned: [("id".to_owned(), "7".to_owned())].into(),
        hints: Hints {
            waiting: true,
            at: Some(now()),
            events: vec!["event".into()],
            checked_at: Some(now()),
            checking_since: Some(now()),
            restarts: 9,
            corrected: Some(("refused".into(), "settled".into())),
            correction: Some(uuid::Uuid::from_u128(9)),
        },
        replays: Replays {
            begun: 7,
            letters: 8,
        },
    };
    seen(&mut progress, Seen::NotFound);
    progress
}

#[test]
fn everything_that_is_remembered_is_read_back() {
    let text = serde_json::to_string(&full()).unwrap();
    assert_eq!(serde_json::from_str::<Progress>(&text).unwrap(), full());
}

#[test]
fn what_is_not_set_is_not_written() {
    let mut progress = Progress::new(now());
    progress.finish();
    let kept = serde_json::to_value(&progress).unwrap();
    assert_eq!(
        kept,
        json!({"state": "finished", "hints": {"waiting": false}})
    );
}
