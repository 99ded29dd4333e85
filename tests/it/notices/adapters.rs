//! What the adapters believe: the documented vectors, a table of examples, and every flip.
//!
//! A line of `notifications.txt` is
//! ```text
//! account <kind> {"webhook_secrets":["a","b"]}   for the lines that follow
//! [<header>: <value>] … <body> => <meaning>
//! ```
//! `@MIDTRANS(key)` and `@GR4VY(secret)` stand for the genuine signature of the line, `@NOW`
//! and `@NOW-301` for times.

use std::collections::BTreeMap;

use jiff::Timestamp;
use proptest::prelude::*;
use rescind::outcome::Verdict;
use rescind::providers::{
    ALL, Account, Arrived, NOTIFICATION_BYTES_MAX, Notification, Via, by_kind,
};
use serde_json::Value;

use super::{gr4vy_signature, midtrans, midtrans_signature};

const NOW: i64 = 1_700_000_000;
const KEY: &str = "SB-Mid-server-TEST";

fn account(secrets: &[(&str, &[&str])]) -> Account {
    let many = |values: &[&str]| values.iter().map(|&v| v.to_owned().into()).collect();
    Account {
        secrets: secrets
            .iter()
            .map(|(key, values)| ((*key).to_owned(), many(values)))
            .collect(),
        ..Account::default()
    }
}

fn read(
    kind: &str,
    account: &Account,
    headers: &BTreeMap<String, String>,
    body: &[u8],
    via: Via,
) -> Notification {
    let arrived = Arrived {
        body,
        header: &|name| headers.get(name).map(String::as_str),
        at: Timestamp::from_second(NOW).unwrap(),
        via,
    };
    by_kind(kind).unwrap().notification(account, &arrived)
}

fn meaning(notification: &Notification) -> String {
    let hint = match notification {
        Notification::Unsupported => return "unsupported".into(),
        Notification::Forged(_) => return "forged".into(),
        Notification::Unreadable(_) => return "unreadable".into(),
        Notification::Hint(hint) => hint,
    };
    let signed = if hint.authenticated {
        "signed"
    } else {
        "unsigned"
    };
    let claim = hint.reported.as_ref().map_or("-", Verdict::as_str);
    let event = hint.event.as_deref().unwrap_or("-");
    format!("{signed} {} {claim} {event}", hint.payments.join(","))
}

#[test]
fn the_documented_vectors_hold() {
    let signature = "5ee458baa97a651f4ab86e26572444a3455d5645026ca6d8cc67bbe8e687af989f8c37bed88db6408ac727047752ac2ea5e9073e3dead1469f7e7c954385b683";
    assert_eq!(
        midtrans_signature("order-1", "202", "10000.00", KEY),
        signature
    );
    let body = format!(
        r#"{{"order_id":"order-1","status_code":"202","gross_amount":"10000.00","signature_key":"{signature}"}}"#
    );
    let midtrans = account(&[("server_key", &[KEY])]);
    let read_it = read(
        "midtrans",
        &midtrans,
        &BTreeMap::new(),
        body.as_bytes(),
        Via::Endpoint,
    );
    assert_eq!(meaning(&read_it), "signed order_id:order-1 - -");

    let signature = "49f24e537407743fa4a0242bb63b94b9a47ee99cbbe071ccd8a22550ae411686";
    let headers = gr4vy_headers(signature);
    let gr4vy = account(&[("webhook_secrets", &["secret"])]);
    let read_it = read("gr4vy", &gr4vy, &headers, br#"{"a":1}"#, Via::Endpoint);
    assert_eq!(meaning(&read_it), "signed  - -");
}

fn gr4vy_headers(signature: &str) -> BTreeMap<String, String> {
    [
        ("x-gr4vy-webhook-signatures", signature),
        ("x-gr4vy-webhook-timestamp", "1700000000"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The table, with its signatures made.
#[test]
fn the_table_of_examples_holds() {
    let (mut kind, mut settings) = (String::new(), Account::default());
    let mut kinds = std::collections::BTreeSet::new();
    for (index, line) in include_str!("notifications.txt").lines().enumerate() {
        let place = format!("notifications.txt:{}: {line}", index + 1);
        if let Some(rest) = line.strip_prefix("account ") {
            let (name, given) = rest.split_once(' ').expect(&place);
            let given: BTreeMap<String, Vec<String>> = serde_json::from_str(given).expect(&place);
            kind = name.to_owned();
            let many = |values: Vec<String>| values.into_iter().map(Into::into).collect();
            settings.secrets = given.into_iter().map(|(k, v)| (k, many(v))).collect();
            continue;
        }
        let Some((example, expected)) = line.rsplit_once(" => ") else {
            assert!(line.is_empty() || line.starts_with('#'), "{place}");
            continue;
        };
        let (headers, body) = parse(example);
        for via in [Via::Endpoint, Via::Queue] {
            let read_it = read(&kind, &settings, &headers, body.as_bytes(), via);
            // A secret that is no signature is asked for at the door only.
            let expected = match (expected.split_once(" | "), via) {
                (Some((endpoint, _)), Via::Endpoint) => endpoint,
                (Some((_, queue)), Via::Queue) => queue,
                (None, _) => expected,
            };
            assert_eq!(meaning(&read_it), expected, "{place} ({via:?})");
        }
        kinds.insert(kind.clone());
    }
    let all: Vec<&str> = ALL.iter().map(|provider| provider.kind()).collect();
    assert_eq!(Vec::from_iter(kinds), all);
}

fn parse(example: &str) -> (BTreeMap<String, String>, String) {
    let mut rest = example.to_owned();
    for (word, shift) in [
        ("@NOW-301", -301),
        ("@NOW+301", 301),
        ("@NOW-300", -300),
        ("@NOW", 0),
    ] {
        rest = rest.replace(word, &(NOW + shift).to_string());
    }
    let mut headers = BTreeMap::new();
    while let Some((header, after)) = rest.strip_prefix('[').and_then(|r| r.split_once("] ")) {
        let (name, value) = header.split_once(": ").expect(example);
        headers.insert(name.to_owned(), value.to_owned());
        rest = after.to_owned();
    }
    if let Some((_, key)) = between(&rest, "@MIDTRANS(") {
        let body: Value = serde_json::from_str(&rest).expect(example);
        let field = |name: &str| body[name].as_str().unwrap_or_default();
        let (order, code, amount) = (
            field("order_id"),
            field("status_code"),
            field("gross_amount"),
        );
        let signature = midtrans_signature(order, code, amount, &key);
        rest = rest.replace(&format!("@MIDTRANS({key})"), &signature);
    }
    let timestamp = ["x-gr4vy-webhook-timestamp", "x-gr4vy-timestamp"]
        .iter()
        .find_map(|name| headers.get(*name).cloned());
    for value in headers.values_mut() {
        while let Some((_, secret)) = between(value, "@GR4VY(") {
            let at = timestamp.clone().unwrap_or_default();
            let signature = gr4vy_signature(&at, rest.as_bytes(), &secret);
            *value = value.replace(&format!("@GR4VY({secret})"), &signature);
        }
    }
    (headers, rest)
}

/// What stands before a mark, and from it to the next bracket.
fn between(text: &str, mark: &str) -> Option<(String, String)> {
    let (before, after) = text.split_once(mark)?;
    Some((before.to_owned(), after.split_once(')')?.0.to_owned()))
}

#[test]
fn no_flip_of_a_signed_byte_is_believed() {
    let gr4vy = account(&[("webhook_secrets", &["secret"])]);
    let body = br#"{"type":"event","target":{"type":"transaction","id":"t-1"}}"#;
    let signature = gr4vy_signature("1700000000", body, "secret");
    let believed = |signature: &str, body: &[u8]| {
        let headers = gr4vy_headers(signature);
        !matches!(
            read("gr4vy", &gr4vy, &headers, body, Via::Queue),
            Notification::Forged(_)
        )
    };
    assert!(believed(&signature, body));
    for (at, bit) in (0..body.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
        let mut flipped = body.to_vec();
        flipped[at] ^= 1 << bit;
        assert!(!believed(&signature, &flipped), "byte {at}, bit {bit}");
    }
    for (at, bit) in (0..signature.len()).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
        let mut flipped = signature.clone().into_bytes();
        flipped[at] ^= 1 << bit;
        let flipped = String::from_utf8(flipped).unwrap();
        assert!(!believed(&flipped, body), "signature {at}, bit {bit}");
    }
}

/// What is not signed may be flipped: then the hint is about nothing that is believed. What
/// is signed may not.
#[test]
fn no_flip_of_a_field_that_midtrans_signs_is_believed() {
    let settings = account(&[("server_key", &[KEY])]);
    let genuine = midtrans("order-1", "202", "10000.00", "cancel", KEY).to_string();
    let signed: Vec<usize> = ["order-1", "\"202\"", "10000.00"]
        .iter()
        .map(|field| genuine.find(field).unwrap())
        .chain([genuine.find("signature_key").unwrap() + 16])
        .collect();
    let lengths = [7, 5, 8, 128];
    for (start, length) in signed.into_iter().zip(lengths) {
        for (at, bit) in (start..start + length).flat_map(|at| (0..8).map(move |b| (at, b))) {
            let mut flipped = genuine.clone().into_bytes();
            flipped[at] ^= 1 << bit;
            let told = read(
                "midtrans",
                &settings,
                &BTreeMap::new(),
                &flipped,
                Via::Endpoint,
            );
            assert!(
                matches!(told, Notification::Forged(_)),
                "byte {at}, bit {bit}: {told:?}"
            );
        }
    }
}

/// One signature, two payments: both are hints, and a hint is all they are.
#[test]
fn a_signature_without_separators_names_two_payments() {
    let signature = midtrans_signature("A", "200", "20010000.00", KEY);
    assert_eq!(
        signature,
        midtrans_signature("A200", "200", "10000.00", KEY)
    );
}

#[test]
fn a_notification_has_at_most_as_many_bytes_as_is_documented() {
    assert_eq!(NOTIFICATION_BYTES_MAX, 65_536);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_and_none_are_believed(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        header in "[ -~]{0,80}",
    ) {
        let settings = account(&[
            ("server_key", &[KEY]), ("webhook_secrets", &["s"]), ("notification_token", &["t0ken"]),
        ]);
        for provider in ALL {
            let names = provider.notification_headers().iter().copied().chain(["authorization"]);
            let headers = names.map(|name| (name.to_owned(), header.clone())).collect();
            let told = read(provider.kind(), &settings, &headers, &body, Via::Endpoint);
            prop_assert!(!matches!(told, Notification::Hint(hint) if hint.authenticated));
        }
    }

    #[test]
    fn deep_json_is_refused_and_not_followed(depth in 200..20_000_usize) {
        let told = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            let body = format!(
                r#"{{"serviceCode":"s","merchantTransactionID":"m","more":{open}{close}}}"#
            );
            read("tingg", &account(&[]), &BTreeMap::new(), body.as_bytes(), Via::Queue)
        };
        prop_assert!(matches!(told(depth), Notification::Unreadable(_)));
        prop_assert!(matches!(told(9), Notification::Hint(_)));
    }
}
