//! What the laws are tried with: the answers of every table, altered, damaged and made up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Value};

use rescind::outcome::Operation;
use rescind::providers::{ALL, Abilities, Ask, Learned, Provider, Reading, Response};

use super::table::{Table, answers, ask, default_job, job, read, table};

/// Bodies that occur in any table: an adapter is also shown the answers of the others.
pub(super) fn example_bodies() -> Vec<String> {
    let bodies: BTreeSet<String> = ALL
        .iter()
        .flat_map(|p| {
            answers(&table(p.kind()))
                .map(|a| a.body.clone())
                .collect::<Vec<_>>()
        })
        .chain([
            "{}".to_owned(),
            "OK".to_owned(),
            "<html>502</html>".to_owned(),
        ])
        .collect();
    bodies.into_iter().collect()
}

/// Field names and plain values that occur in any table.
pub(super) fn words() -> (Vec<String>, Vec<Value>) {
    let (mut keys, mut values) = (BTreeSet::new(), BTreeMap::new());
    for body in example_bodies() {
        if let Ok(body) = serde_json::from_str(&body) {
            gather(&body, &mut keys, &mut values);
        }
    }
    for odd in [
        Value::Null,
        true.into(),
        "..".into(),
        (-1).into(),
        "".into(),
    ] {
        values.insert(odd.to_string(), odd);
    }
    keys.insert("status".to_owned());
    (keys.into_iter().collect(), values.into_values().collect())
}

pub(super) fn gather(
    value: &Value,
    keys: &mut BTreeSet<String>,
    values: &mut BTreeMap<String, Value>,
) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                keys.insert(key.clone());
                gather(value, keys, values);
            }
        }
        Value::Array(items) => items.iter().for_each(|v| gather(v, keys, values)),
        plain => {
            values.insert(plain.to_string(), plain.clone());
        }
    }
}

/// Small JSON made of the words of the tables.
pub(super) fn worded() -> impl Strategy<Value = Vec<u8>> {
    let (keys, values) = words();
    let json = select(values).prop_recursive(3, 16, 5, move |inner| {
        let field = (select(keys.clone()), inner.clone());
        prop_oneof![
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::Array),
            4 => prop::collection::vec(field, 0..6).prop_map(|f| Value::Object(f.into_iter().collect())),
        ]
    });
    json.prop_map(|json| json.to_string().into_bytes())
}

/// An example with one plain value replaced by another: nearly an answer of the provider's.
pub(super) fn altered() -> impl Strategy<Value = Vec<u8>> {
    let examples: Vec<Value> = example_bodies()
        .iter()
        .filter_map(|body| serde_json::from_str(body).ok())
        .collect();
    (select(examples), any::<Index>(), select(words().1)).prop_map(|(mut body, at, value)| {
        let mut places = Vec::new();
        plain_values(&mut body, &mut places);
        if !places.is_empty() {
            *places.swap_remove(at.index(places.len())) = value;
        }
        body.to_string().into_bytes()
    })
}

pub(super) fn plain_values<'a>(value: &'a mut Value, places: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|v| plain_values(v, places)),
        Value::Array(items) => items.iter_mut().for_each(|v| plain_values(v, places)),
        plain => places.push(plain),
    }
}

/// An example with one byte changed, or cut short.
pub(super) fn damaged() -> impl Strategy<Value = Vec<u8>> {
    (
        select(example_bodies()),
        any::<Index>(),
        any::<Option<u8>>(),
    )
        .prop_map(|(body, at, byte)| {
            let mut bytes = body.into_bytes();
            let at = at.index(bytes.len().max(1));
            match byte {
                Some(byte) if at < bytes.len() => bytes[at] = byte,
                _ => bytes.truncate(at),
            }
            bytes
        })
}

pub(super) fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..64),
        2 => select(example_bodies()).prop_map(String::into_bytes),
        2 => damaged(),
        3 => altered(),
        3 => worded(),
    ]
}

/// A body that no provider can have meant.
pub(super) fn unwritten_body() -> impl Strategy<Value = Vec<u8>> {
    any_body().prop_map(|mut body| {
        if is_written(&body) {
            body.insert(0, b'<');
        }
        body
    })
}

/// The statuses that adapters tell apart, and any other.
pub(super) fn any_status() -> impl Strategy<Value = u16> {
    prop_oneof![
        3 => 200u16..210,
        1 => 300u16..310,
        4 => 400u16..432,
        3 => 500u16..512,
        1 => any::<u16>(),
    ]
}

/// An id of printable characters, with those that mean something in a URL in the foreground.
pub(super) fn any_id() -> impl Strategy<Value = String> {
    let odd = select(vec![
        "/", "..", ".", "?", "#", "%2e", "%2F", "\\", ";", "&", " ", "@", ":", "é", "😀",
    ]);
    let letter = any::<char>().prop_filter("printable", |c| !c.is_control());
    let part = prop_oneof![3 => odd.prop_map(str::to_owned), 2 => letter.prop_map(String::from)];
    prop::collection::vec(part, 1..6).prop_map(|parts| parts.concat())
}

/// True for a body that can be the provider's own writing: a JSON object, or Migo's `OK`.
pub(super) fn is_written(body: &[u8]) -> bool {
    serde_json::from_slice::<Map<String, Value>>(body).is_ok() || body.trim_ascii() == b"OK"
}

/// Every adapter, every operation it offers: what it says to this answer.
pub(super) fn readings(
    status: u16,
    body: &[u8],
    (exposed, accepted): (bool, bool),
) -> Vec<(String, Operation, Reading)> {
    let response = Response {
        status,
        retry_after: Some(Duration::from_secs(7)),
        body,
    };
    let mut found = Vec::new();
    for (provider, table) in tables() {
        let job = job(*provider, &default_job(*provider, table)).expect("the default job");
        let none = Learned::new();
        let ask = Ask {
            exposed,
            accepted,
            ..ask(&table.account, &job, &none)
        };
        for operation in operations(*provider, table) {
            let name = format!("{} {}", provider.kind(), operation.as_str());
            let reading = read(*provider, &ask, operation, &response);
            assert_eq!(
                reading,
                read(*provider, &ask, operation, &response),
                "{name}"
            );
            found.push((name, operation, reading));
        }
    }
    found
}

/// Each adapter with its table, read once.
pub(super) fn tables() -> &'static [(&'static dyn Provider, Table)] {
    static TABLES: std::sync::OnceLock<Vec<(&'static dyn Provider, Table)>> =
        std::sync::OnceLock::new();
    TABLES.get_or_init(|| ALL.iter().map(|p| (*p, table(p.kind()))).collect())
}

/// For the first request of its table.
pub(super) fn abilities(provider: &dyn Provider, table: &Table) -> Abilities {
    let job = job(provider, &default_job(provider, table)).expect("the default job");
    provider.abilities(&table.account, &job)
}

pub(super) fn operations(provider: &dyn Provider, table: &Table) -> Vec<Operation> {
    if abilities(provider, table).lookup {
        vec![Operation::Cancel, Operation::Lookup]
    } else {
        vec![Operation::Cancel]
    }
}

pub(super) fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 2048,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}
