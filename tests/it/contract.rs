//! The public names: messages here, topology, metrics and settings in `contract/names.rs`.
//!
//! The promise is written down in the files of the folder `contract`, for people to review;
//! a change of one of them is a new version.

use std::collections::BTreeSet;

use jiff::Timestamp;
use rescind::finding::{Finding, Source};
use rescind::outcome::{Cancelled, Failed, Invalid, Nothing, Outcome, Refused, Unresolved};
use rescind::providers::{self, Evidence};
use rescind::wire::{Envelope, Header, Kind, Outgoing, idempotency_key, read_new_request};
use serde_json::{Value, json};

mod names;
mod notification;
mod request;
mod schema;

const OUTCOMES: &str = include_str!("contract/outcomes.txt");
pub(crate) const REQUESTS: [&str; 3] = [
    include_str!("contract/request.midtrans.json"),
    include_str!("contract/request.pismo-partial.json"),
    include_str!("contract/request.tingg.json"),
];
const RESULTS: [&str; 2] = [
    include_str!("contract/result.cancelled.json"),
    include_str!("contract/result.refused.json"),
];

pub(crate) fn lines(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| line.split_whitespace().collect())
}

fn every_outcome() -> Vec<Outcome> {
    let cancelled = Cancelled::ALL
        .iter()
        .flat_map(|&reason| [true, false].map(|already| Outcome::Cancelled { reason, already }));
    cancelled
        .chain(Nothing::ALL.iter().copied().map(Outcome::NothingToCancel))
        .chain(Refused::ALL.iter().copied().map(Outcome::Refused))
        .chain(Failed::ALL.iter().copied().map(Outcome::Failed))
        .chain(Unresolved::ALL.iter().copied().map(Outcome::Unresolved))
        .chain(Invalid::ALL.iter().copied().map(Outcome::Invalid))
        .collect()
}

#[test]
fn outcomes_and_reasons_are_those_that_consumers_know() {
    let mut promised = BTreeSet::new();
    for line in lines(OUTCOMES) {
        let dead = line[1] == "dead";
        promised.extend(line[2..].iter().map(|reason| (line[0], *reason, dead)));
    }
    let real: BTreeSet<_> = every_outcome()
        .into_iter()
        .map(|o| (o.as_str(), o.reason(), o.is_dead_letter()))
        .collect();
    assert_eq!(real, promised);
    let names: BTreeSet<_> = promised.iter().map(|(outcome, ..)| *outcome).collect();
    assert_eq!(names, Outcome::NAMES.into());
}

fn envelope(body: &str) -> Envelope {
    Envelope {
        body: body.into(),
        correlation_id: Some("order 7".into()),
        reply_to: Some("reply.here".into()),
        traceparent: Some("00-a-b-01".into()),
        tracestate: Some("c=d".into()),
        received_at: "2026-11-20T09:00:00.101Z".parse().unwrap(),
    }
}

fn finding<'a>(envelope: &'a Envelope, evidence: &'a Evidence, outcome: Outcome) -> Finding<'a> {
    Finding {
        request_id: "ord-1424936368-cancel",
        provider: "midtrans",
        title: "Midtrans",
        envelope,
        outcome,
        detail: None,
        source: Source::Lookup,
        evidence,
        attempts: 2,
        lookups: 3,
        completed_at: "2026-11-20T09:00:00.352Z".parse().unwrap(),
        letters: 0,
    }
}

fn full() -> Evidence {
    Evidence {
        http_status: Some(200),
        code: Some("200".into()),
        status: Some("cancel".into()),
        message: Some("Success".into()),
        reference: [("transaction_id".to_owned(), "t".to_owned())].into(),
        amount: Some("50.00".into()),
        currency: Some("BRL".into()),
    }
}

fn voided() -> Outcome {
    Outcome::Cancelled {
        reason: Cancelled::Voided,
        already: false,
    }
}

fn body(message: &Outgoing) -> Value {
    serde_json::from_slice(&message.body).unwrap()
}

#[test]
fn kinds_of_messages_have_the_names_of_ledger_and_metrics() {
    let names = Kind::ALL.iter().map(|kind| kind.as_str());
    let known = ["result", "correction", "dead_letter", "notification"];
    assert!(names.eq(known));
}

#[test]
fn the_trace_is_the_one_that_the_publisher_named() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let of = |traceparent: &str| {
        let traceparent = Some(traceparent.to_owned());
        let envelope = Envelope {
            traceparent,
            ..envelope("")
        };
        envelope.trace_id().map(str::to_owned)
    };
    assert_eq!(
        of(&format!("00-{trace}-b7ad6b7169203331-01")).as_deref(),
        Some(trace)
    );
    let long = format!("{trace}0");
    let other = trace.replace('0', "g");
    for id in ["", "a", &long, &other] {
        assert_eq!(of(&format!("00-{id}-b7ad6b7169203331-01")), None, "{id}");
    }
    assert_eq!(Envelope::default().trace_id(), None);
}

#[test]
fn the_examples_of_requests_are_understood() {
    let jobs = REQUESTS.map(|text| {
        read_new_request(text.as_bytes(), providers::by_kind)
            .unwrap()
            .job
    });
    assert_eq!(jobs[0].request_id, "ord-1424936368-cancel");
    assert_eq!(jobs[0].payment.id("order_id"), "example-1424936368");
    assert_eq!(jobs[1].amount.unwrap().to_string(), "50.00");
    assert_eq!(jobs[1].currency.unwrap().as_str(), "BRL");
    let midnight: Timestamp = "2026-11-21T00:00:00Z".parse().unwrap();
    assert_eq!(jobs[1].deadline, Some(midnight));
    assert_eq!(jobs[1].reason.as_deref(), Some("one_item_out_of_stock"));
    assert_eq!(jobs[2].provider, "tingg");
    assert_eq!(jobs[2].payment.id("checkout_request_id"), "12345");
}

#[test]
fn a_request_may_be_as_long_as_is_documented_and_no_longer() {
    let read =
        |text: &str| read_new_request(text.as_bytes(), providers::by_kind).map_err(|e| e.reason);
    // Space after the object is JSON too.
    let padded = |bytes: usize| {
        let request = REQUESTS[0].trim_end();
        format!("{request}{}", " ".repeat(bytes - request.len()))
    };
    assert!(read(&padded(65_536)).is_ok());
    assert_eq!(read(&padded(65_537)).unwrap_err(), Invalid::TooLarge);
    let reasoned = |characters: usize| {
        let mut request: Value = serde_json::from_str(REQUESTS[0]).unwrap();
        request["reason"] = "é".repeat(characters).into();
        request.to_string()
    };
    assert!(read(&reasoned(255)).is_ok());
    for longer in [256, 300] {
        assert_eq!(read(&reasoned(longer)).unwrap_err(), Invalid::Schema);
    }
}

#[test]
fn a_provider_has_a_name_of_the_documented_form() {
    let read = |name: &str| {
        let mut request: Value = serde_json::from_str(REQUESTS[0]).unwrap();
        request["provider"] = name.into();
        let read = read_new_request(request.to_string().as_bytes(), providers::by_kind);
        read.unwrap_err().reason
    };
    for fits in ["a", "bento-2", "b_9", "7", &"x".repeat(64)] {
        assert_eq!(read(fits), Invalid::UnknownProvider, "{fits}");
    }
    for other in ["", "Midtrans", "a b", "a.b", "é", &"x".repeat(65)] {
        assert_eq!(read(other), Invalid::Schema, "{other}");
    }
}

#[test]
fn every_result_is_of_the_form_that_consumers_check() {
    for body_sent in [
        REQUESTS[0],
        REQUESTS[1],
        "no JSON",
        "[1]",
        r#"{"payment":7,"metadata":[]}"#,
    ] {
        for evidence in [Evidence::default(), full()] {
            for outcome in every_outcome() {
                let envelope = envelope(body_sent);
                let messages = finding(&envelope, &evidence, outcome).messages();
                let result = body(&messages[0]);
                assert_eq!(schema::complaints(&result), [""; 0], "{result}");
                assert_eq!(result["outcome"], outcome.as_str());
                assert_eq!(result["reason"], outcome.reason());
                let cancelled = outcome.as_str() == "cancelled";
                assert_eq!(result.get("already").is_some(), cancelled, "{result}");
                assert!(
                    result["message"].as_str().unwrap().ends_with('.'),
                    "{result}"
                );
                assert_eq!(messages.len(), 1 + usize::from(outcome.is_dead_letter()));
            }
        }
    }
}

#[test]
fn what_is_wrong_with_a_message_is_a_sentence_like_any_other() {
    let (sent, evidence) = (envelope("no JSON"), Evidence::default());
    let invalid = Outcome::Invalid(rescind::outcome::Invalid::Schema);
    for (detail, message) in [
        ("payment is empty", "payment is empty."),
        ("It has a stop.", "It has a stop."),
    ] {
        let mut found = finding(&sent, &evidence, invalid);
        found.detail = Some(detail);
        assert_eq!(body(&found.messages()[0])["message"], message);
    }
}

#[test]
fn a_correction_is_a_result_with_an_id_of_its_own_that_names_the_other() {
    let (sent, evidence) = (envelope(REQUESTS[0]), full());
    let mut ids = BTreeSet::new();
    for outcome in every_outcome() {
        let found = finding(&sent, &evidence, outcome);
        let message = found.correction(found.result_id());
        assert_eq!(message, found.correction(found.result_id()));
        let told = body(&message);
        assert_eq!(schema::complaints(&told), [""; 0], "{told}");
        assert_eq!(told["supersedes"], found.result_id().to_string());
        assert_eq!(told["result_id"], message.id.to_string());
        assert_eq!(message.kind, Kind::Correction);
        let key = format!("correction.midtrans.{}", outcome.as_str());
        assert_eq!(message.routing_key, key);
        let message_type = message.properties.message_type.as_deref();
        assert_eq!(message_type, Some("cancellation.correction"));
        assert_ne!(message.id, found.result_id());
        ids.insert((outcome.as_str(), outcome.reason(), message.id));
    }
    let distinct: BTreeSet<_> = ids.iter().map(|(.., id)| id).collect();
    assert_eq!(distinct.len(), ids.len(), "one id for each finding");
}

#[test]
fn the_form_of_a_result_can_be_missed() {
    for text in RESULTS {
        let result: Value = serde_json::from_str(text).unwrap();
        assert_eq!(schema::complaints(&result), [""; 0]);
        let broken = |key: &str, value: Value| {
            let mut result = result.clone();
            result[key] = value;
            schema::complaints(&result).len()
        };
        assert_eq!(broken("result_id", json!("7")), 1);
        assert_eq!(broken("outcome", json!("done")), 1);
        assert_eq!(broken("reason", json!("Voided!")), 1);
        assert_eq!(broken("attempts", json!(-1)), 1);
        assert_eq!(broken("completed_at", json!("yesterday")), 1);
        assert_eq!(broken("payment", json!("o-9")), 1);
        assert_eq!(broken("evidence", json!({})), 1);
        assert_eq!(broken("evidence", json!({"source": "hearsay"})), 1);
        assert_eq!(broken("surprise", json!(1)), 1);
        let mut result = result.clone();
        result.as_object_mut().unwrap().remove("lookups");
        assert_eq!(schema::complaints(&result).len(), 1);
    }
}

#[test]
fn a_result_says_what_was_asked_and_what_was_found() {
    let (envelope, evidence) = (envelope(REQUESTS[0]), full());
    let messages = finding(&envelope, &evidence, voided()).messages();
    let [message] = &messages[..] else {
        panic!("{messages:?}");
    };
    assert_eq!(message.kind, Kind::Result);
    assert_eq!(message.routing_key, "result.midtrans.cancelled");
    assert_eq!(
        message.properties.message_type.as_deref(),
        Some("cancellation.result")
    );
    assert_eq!(
        message.properties.correlation_id.as_deref(),
        Some("order 7")
    );
    assert_eq!(message.properties.reply_to.as_deref(), Some("reply.here"));
    assert_eq!(message.properties.timestamp, 1_795_165_200);
    let trace = [("traceparent", "00-a-b-01"), ("tracestate", "c=d")];
    let trace = trace.map(|(name, value)| (name.to_owned(), Header::Text(value.into())));
    assert_eq!(message.properties.headers, trace.into());
    let expected = json!({
        "result_id": message.id.to_string(),
        "request_id": "ord-1424936368-cancel",
        "provider": "midtrans",
        "payment": { "order_id": "example-1424936368" },
        "outcome": "cancelled",
        "reason": "voided",
        "already": false,
        "message": "Midtrans voided the payment.",
        "amount": "50.00",
        "currency": "BRL",
        "evidence": {
            "source": "lookup",
            "http_status": 200,
            "code": "200",
            "status": "cancel",
            "message": "Success",
            "reference": { "transaction_id": "t" },
        },
        "attempts": 2,
        "lookups": 3,
        "received_at": "2026-11-20T09:00:00.101Z",
        "completed_at": "2026-11-20T09:00:00.352Z",
        "metadata": { "order": "1424936368" },
    });
    assert_eq!(body(message), expected);

    let bare = Envelope::default();
    let messages = finding(&bare, &evidence, voided()).messages();
    let correlation = messages[0].properties.correlation_id.as_deref();
    assert_eq!(
        correlation,
        Some("ord-1424936368-cancel"),
        "where there was none"
    );
}

#[test]
fn a_dead_letter_is_the_request_with_flat_headers() {
    // Neither is JSON as anybody here would write it.
    let bodies = ["exactly \u{0} as received ✓", "{\"b\" :1.50,\n\"a\": null}"];
    let outcomes = every_outcome().into_iter().filter(|o| o.is_dead_letter());
    for (outcome, sent) in outcomes.flat_map(|outcome| bodies.map(|sent| (outcome, sent))) {
        let (mut envelope, evidence) = (envelope(sent), full());
        (envelope.traceparent, envelope.tracestate) = (None, None);
        let messages = finding(&envelope, &evidence, outcome).messages();
        let dead = &messages[1];
        assert_eq!(dead.kind, Kind::DeadLetter);
        assert_eq!(dead.body, sent.as_bytes());
        assert_eq!(
            dead.routing_key,
            format!("dead.midtrans.{}", outcome.reason())
        );
        assert_ne!(dead.id, messages[0].id);
        assert_eq!(
            dead.properties.reply_to, None,
            "the publisher gets the result only"
        );
        let detail = body(&messages[0])["message"].as_str().unwrap().to_owned();
        let expected = [
            ("rescind-reason", Header::Text(outcome.reason().into())),
            ("rescind-outcome", Header::Text(outcome.as_str().into())),
            (
                "rescind-request-id",
                Header::Text("ord-1424936368-cancel".into()),
            ),
            ("rescind-provider", Header::Text("midtrans".into())),
            ("rescind-attempts", Header::Count(2)),
            ("rescind-lookups", Header::Count(3)),
            ("rescind-detail", Header::Text(detail)),
            (
                "rescind-received-at",
                Header::Text("2026-11-20T09:00:00.101Z".into()),
            ),
            (
                "rescind-dead-at",
                Header::Text("2026-11-20T09:00:00.352Z".into()),
            ),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(dead.properties.headers, expected.into());
    }
}

#[test]
fn one_finding_has_one_id_and_the_same_bytes_for_ever() {
    let (sent, evidence) = (envelope(REQUESTS[0]), full());
    let first = finding(&sent, &evidence, voided());
    assert_eq!(first.messages(), first.clone().messages());
    let id = first.result_id();
    let other = |change: fn(&mut Finding<'_>)| {
        let mut other = first.clone();
        change(&mut other);
        other.result_id()
    };
    assert_ne!(other(|f| f.request_id = "another"), id);
    assert_ne!(other(|f| f.provider = "another"), id);
    // One request has one result, whatever it says.
    for outcome in every_outcome() {
        let found = finding(&sent, &evidence, outcome).result_id();
        assert_eq!(found != id, outcome.as_str() == "invalid", "{outcome:?}");
    }
    // An invalid message is told apart by its bytes.
    let invalid = Outcome::Invalid(Invalid::RequestIdConflict);
    let [one, two] = ["{1", "{2"].map(|text| {
        let envelope = envelope(text);
        let finding = finding(&envelope, &evidence, invalid);
        assert_eq!(finding.result_id(), finding.result_id());
        (finding.result_id(), finding.dead_letter().id)
    });
    assert!(one.0 != two.0 && one.1 != two.1);
}

#[test]
fn each_dead_letter_of_a_request_has_an_id_of_its_own() {
    let (sent, evidence) = (envelope(REQUESTS[0]), full());
    let unknown = finding(&sent, &evidence, Outcome::Unresolved(Unresolved::NoLookup));
    let ids = [0, 1, 2, 12].map(|letters| {
        Finding {
            letters,
            ..unknown.clone()
        }
        .dead_letter()
        .id
    });
    assert_eq!(BTreeSet::from(ids).len(), ids.len());
}

/// What is in a ledger or at a provider was named by an earlier version.
#[test]
fn ids_are_the_same_in_every_version() {
    let (sent, evidence) = (envelope(REQUESTS[0]), full());
    let result = finding(&sent, &evidence, voided());
    assert_eq!(
        result.result_id().to_string(),
        "3ca47c6c-719d-558d-ab51-930f3611727e"
    );
    assert_eq!(
        result.dead_letter().id.to_string(),
        "1c4dbf2a-68e4-5b3b-b4f7-7037eba03ac3"
    );
    let key = idempotency_key("midtrans", "ord-1424936368-cancel");
    assert_eq!(key, "5b552704-a2a3-5be7-9cc2-fd4e63514dd3");
    let understood = read_new_request(REQUESTS[0].as_bytes(), providers::by_kind).unwrap();
    assert_eq!(
        hex::encode(understood.digest),
        "9526ec5b4863106066e1013dea19190e9944c5e428e5197e844789b678e7838f"
    );
}

/// What a person reads is true of every request that can end so.
#[test]
fn a_sentence_says_no_more_than_is_known() {
    let (sent, evidence) = (envelope(REQUESTS[0]), full());
    let said = |outcome, attempts| {
        let finding = finding(&sent, &evidence, outcome);
        Finding {
            attempts,
            ..finding
        }
        .sentence()
    };
    let late = Outcome::Failed(Failed::DeadlinePassed);
    // An earlier request may have cancelled it, or be in doubt.
    assert_eq!(
        said(late, 0),
        "No cancel was sent: the request's deadline passed."
    );
    assert_eq!(
        said(late, 1),
        "Nothing was cancelled: the request's deadline passed."
    );
    let reversed = Outcome::Cancelled {
        reason: Cancelled::Reversed,
        already: false,
    };
    assert_eq!(said(reversed, 1), "Midtrans reversed the requested amount.");
    // A part may have been refunded before.
    let settled = said(Outcome::Refused(Refused::Settled), 1);
    assert!(settled.contains("refund what is left of it"), "{settled}");
    // At Migo it may be paid or cancelled before.
    let not_eligible = said(Outcome::Refused(Refused::NotEligible), 1);
    assert!(not_eligible.contains("look at it before"), "{not_eligible}");
    // A proxy's 407, a gateway's page.
    let rejected = said(Outcome::Failed(Failed::RejectedByProvider), 1);
    assert!(
        rejected.contains("gateway") && rejected.contains("address"),
        "{rejected}"
    );
    // One answer may be about a newer payment.
    let contradictory = Outcome::Unresolved(Unresolved::ContradictoryEvidence);
    assert!(!said(contradictory, 1).contains("each other"));
}
