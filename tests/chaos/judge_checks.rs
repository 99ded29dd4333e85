//! Shows that the judge can find each thing that is wrong: it is given histories that are.

use rescind::wire::idempotency_key;
use serde_json::json;

use crate::history::{Effect, Histories, Publication, Row, Said};
use crate::judge::{Wrong, judge};
use crate::load::Asked;

fn asked(provider: &str, number: &str, payment: &str, behaviour: &str) -> Publication {
    Publication {
        asked: Asked {
            request: json!({}),
            request_id: number.to_owned(),
            provider: provider.to_owned(),
            payment: payment.to_owned(),
            behaviour: behaviour.to_owned(),
        },
        confirmed: true,
    }
}

fn said(request_id: &str, outcome: &str, reason: &str) -> Said {
    Said {
        request_id: request_id.to_owned(),
        kind: "cancellation.result".to_owned(),
        id: format!("result-of-{request_id}"),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
        already: false,
        bytes: format!("{request_id} {outcome}").into_bytes(),
    }
}

fn row(outcome: &str, reason: &str) -> Row {
    Row {
        state: "finished".to_owned(),
        outcome: outcome.to_owned(),
        reason: reason.to_owned(),
    }
}

fn effect(provider: &str, payment: &str, key: Option<String>) -> Effect {
    Effect {
        provider: provider.to_owned(),
        payment: payment.to_owned(),
        key,
    }
}

/// Three requests that ended as they should.
fn good() -> Histories {
    let mut good = Histories {
        asked: vec![
            asked("midtrans", "a", "pay-a", "success"),
            asked("bento", "b", "pay-b", "settled"),
            asked("pismo", "c", "pay-c", "success"),
        ],
        said: vec![
            said("a", "cancelled", "voided"),
            said("a", "cancelled", "voided"),
            said("b", "refused", "settled"),
            said("c", "cancelled", "reversed"),
        ],
        money: vec![
            effect("midtrans", "pay-a", None),
            effect("pismo", "pay-c", Some(idempotency_key("pismo", "c"))),
        ],
        ..Histories::default()
    };
    good.rows.insert("a".into(), row("cancelled", "voided"));
    good.rows.insert("b".into(), row("refused", "settled"));
    good.rows.insert("c".into(), row("cancelled", "reversed"));
    good
}

/// Breaks the good histories and wants exactly this to be found.
fn finds(what: &str, wrong: Wrong, spoil: impl FnOnce(&mut Histories)) {
    let mut histories = good();
    spoil(&mut histories);
    let found = judge(&histories).violations;
    let kinds: Vec<Wrong> = found.iter().map(|violation| violation.wrong).collect();
    assert!(
        kinds.contains(&wrong),
        "{what}: {wrong:?} was not found but {found:?}"
    );
}

fn set(histories: &mut Histories, at: usize, outcome: &str, reason: &str) {
    let id = histories.said[at].request_id.clone();
    for one in histories
        .said
        .iter_mut()
        .filter(|said| said.request_id == id)
    {
        *one = said(&id, outcome, reason);
    }
    histories.rows.insert(id, row(outcome, reason));
}

/// Runs all of them; panics where the judge is blind. Answers how many there are.
pub(crate) fn run() -> usize {
    let fine = judge(&good());
    assert!(fine.violations.is_empty(), "{:?}", fine.violations);
    type Spoil = fn(&mut Histories);
    let spoiled: [(&str, Wrong, Spoil); 17] = [
        ("a lost request", Wrong::Lost, |h| {
            h.said.retain(|said| said.request_id != "b");
        }),
        ("another result_id", Wrong::Doubled, |h| {
            h.said[1].id.push('x')
        }),
        ("other bytes", Wrong::Doubled, |h| {
            h.said[1].bytes.push(b'x')
        }),
        ("two outcomes", Wrong::Contradictory, |h| {
            h.said[1].outcome = "refused".to_owned();
        }),
        ("the ledger says otherwise", Wrong::Contradictory, |h| {
            h.rows
                .insert("a".into(), row("failed", "retries_exhausted"));
        }),
        ("not in the ledger", Wrong::Contradictory, |h| {
            h.rows.remove("a");
        }),
        ("a correction turns it around", Wrong::Contradictory, |h| {
            let mut correction = said("a", "refused", "settled");
            correction.kind = "cancellation.correction".to_owned();
            h.said.push(correction);
        }),
        ("already, by itself", Wrong::Contradictory, |h| {
            h.said.iter_mut().for_each(|said| said.already = true);
        }),
        (
            "cancelled without an effect",
            Wrong::CancelledWithoutEffect,
            |h| {
                h.money.remove(0);
            },
        ),
        (
            "another's slice at Pismo",
            Wrong::CancelledWithoutEffect,
            |h| {
                h.money[1].key = Some(idempotency_key("pismo", "d"));
            },
        ),
        ("refused with an effect", Wrong::DeniedWithEffect, |h| {
            h.money.push(effect("bento", "pay-b", None));
        }),
        ("failed with an effect", Wrong::DeniedWithEffect, |h| {
            set(h, 0, "failed", "retries_exhausted");
        }),
        ("a doubled effect", Wrong::SecondEffect, |h| {
            h.money.push(effect("midtrans", "pay-a", None));
        }),
        ("a key used twice", Wrong::SecondEffect, |h| {
            let again = h.money[1].clone();
            h.money.push(again);
        }),
        (
            "unresolved where it can be asked",
            Wrong::Unexplained,
            |h| {
                set(h, 0, "unresolved", "lookups_exhausted");
            },
        ),
        ("unresolved where a repeat tells", Wrong::Unexplained, |h| {
            set(h, 3, "unresolved", "no_lookup");
        }),
        ("a result that nobody asked for", Wrong::Unasked, |h| {
            h.said.push(said("z", "refused", "settled"));
        }),
    ];
    let count = spoiled.len() + 1;
    for (what, wrong, spoil) in spoiled {
        finds(what, wrong, spoil);
    }
    finds("an outbox that is not empty", Wrong::LeftOver, |h| {
        h.left_over.insert("outbox".to_owned(), 1);
    });
    count
}
