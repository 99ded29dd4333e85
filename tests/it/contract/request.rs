//! The schema of requests says what the worker says, but for what a schema cannot say; and what the
//! page of the messages shows has the form that it promises.

use rescind::providers;
use rescind::wire::read_new_request;
use serde_json::{Value, json};

use super::{REQUESTS, schema};
use crate::flow::intake::broken;
use crate::rig::stage::request;

/// What the worker finds wrong with it.
fn refusal(request: &Value) -> Option<String> {
    let bytes = request.to_string().into_bytes();
    let refused = read_new_request(&bytes, providers::by_kind).err()?;
    Some(refused.detail)
}

#[track_caller]
fn both_say_the_same(request: &Value, kind: &str) -> bool {
    let complaints = schema::complaints_of_request(request, kind);
    let refusal = refusal(request);
    assert_eq!(
        complaints.is_empty(),
        refusal.is_none(),
        "the schema says {complaints:?} and the worker {refusal:?} of {request}"
    );
    complaints.is_empty()
}

/// Each field with what may and what may not be in it.
fn fields() -> Vec<(&'static str, Vec<Value>)> {
    let times = [
        "2026-11-29T18:00:00Z",
        "2026-11-29t18:00:00.5+07:00",
        "2026-11-29",
        "2026-11-29T18Z",
        "2099-13-29T18:00:00Z",
        "tomorrow",
    ];
    let amounts = [
        "1",
        "50.00",
        "99999999999999.99",
        "1,50",
        "1.5000000",
        "9999999999999999999",
        "0",
        "0.00",
        "-1",
        "+1",
        "1e3",
        "1.",
        ".5",
        "",
    ];
    let ids = ["a", "A.b_c:d-9", "", "a b", "é"];
    let texts = |list: &[&str]| list.iter().map(|text| json!(text)).collect::<Vec<_>>();
    let of_any_type = [
        json!(7),
        json!(1.5),
        json!([]),
        json!({}),
        json!(true),
        Value::Null,
    ];
    let long = |length: usize| json!("x".repeat(length));
    let mut fields = vec![
        (
            "request_id",
            [texts(&ids), vec![long(128), long(129)]].concat(),
        ),
        ("provider", texts(&["", "Migo", "a b", "a.b"])),
        ("payment", texts(&["text"])),
        ("amount", texts(&amounts)),
        ("currency", texts(&["BRL", "brl", "R$", "", "BRLX"])),
        (
            "reason",
            vec![json!(""), long(255), long(256), json!("é".repeat(255))],
        ),
        ("deadline", texts(&times)),
        ("metadata", vec![json!({"a": [1, null]}), json!("text")]),
        ("an unknown field", texts(&["anything"])),
    ];
    for (_, values) in &mut fields {
        values.extend(of_any_type.iter().cloned());
    }
    fields
}

/// Every kind's payment with another value in each field, and without it.
fn payments(plain: &Value) -> Vec<Value> {
    let names = [
        "order_id",
        "transaction_id",
        "merchant_transaction_id",
        "service_code",
        "checkout_request_id",
        "authorization_id",
        "original_tracking_id",
        "an unknown one",
    ];
    let values = [
        json!("an id, ünlike others"),
        json!(""),
        json!("."),
        json!(".."),
        json!("..."),
        json!("a\u{7f}"),
        json!("a\u{9f}"),
        json!("a\nb"),
        json!(0),
        json!(1),
        json!(-1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1.5),
        json!(["a"]),
    ];
    let mut all = Vec::new();
    for name in names {
        let mut without = plain.clone();
        if without["payment"]
            .as_object_mut()
            .unwrap()
            .remove(name)
            .is_some()
        {
            all.push(without);
        }
        for value in &values {
            let mut other = plain.clone();
            other["payment"][name] = value.clone();
            all.push(other);
        }
    }
    all
}

#[test]
fn the_schema_takes_what_the_worker_takes_and_refuses_what_it_refuses() {
    let mut taken = 0;
    let mut refused = 0;
    for provider in providers::ALL {
        let kind = provider.kind();
        let plain = request(kind, "success");
        assert!(both_say_the_same(&plain, kind), "{plain}");
        let mut others = payments(&plain);
        for (name, values) in fields() {
            let mut without = plain.clone();
            without.as_object_mut().unwrap().remove(name);
            others.push(without);
            others.extend(values.into_iter().map(|value| {
                let mut other = plain.clone();
                other[name] = value;
                other
            }));
        }
        for other in others {
            if both_say_the_same(&other, kind) {
                taken += 1
            } else {
                refused += 1
            }
        }
    }
    assert!(taken > 200 && refused > 500, "{taken} and {refused}");
}

#[test]
fn the_schema_takes_the_examples_and_refuses_what_the_worker_is_shown_to_refuse() {
    for text in REQUESTS {
        let request: Value = serde_json::from_str(text).unwrap();
        assert!(both_say_the_same(
            &request,
            request["provider"].as_str().unwrap()
        ));
    }
    let of_the_form = broken().into_iter().filter(|one| one.reason == "schema");
    let mut count = 0;
    for one in of_the_form {
        let request: Value = serde_json::from_slice(&one.body).unwrap();
        let kind = request["provider"].as_str().unwrap_or("migo");
        let complaints = schema::complaints_of_request(&request, kind);
        assert!(!complaints.is_empty(), "{}", one.what);
        count += 1;
    }
    assert!(count > 20, "{count}");
}

/// What its description names.
#[test]
fn what_a_schema_cannot_say_is_for_the_worker() {
    let with = |kind: &str, edit: &dyn Fn(&mut Value)| {
        let mut request = request(kind, "success");
        edit(&mut request);
        let complaints = schema::complaints_of_request(&request, kind);
        assert!(complaints.is_empty(), "{complaints:?}");
        assert!(refusal(&request).is_some(), "{request}");
    };
    with("migo", &|request| request["provider"] = json!("nobody"));
    with("migo", &|request| request["currency"] = json!("XQX"));
    with("pismo", &|request| request["amount"] = json!("50.001"));
    with("migo", &|request| {
        request["payment"]["transaction_id"] = json!("x".repeat(1025));
    });
}

#[test]
fn the_examples_on_the_page_have_the_promised_form() {
    let page = std::fs::read_to_string(crate::rig::project("docs/messages.md")).unwrap();
    let blocks = page.split("```json\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().unwrap());
    let (mut requests, mut results) = (0, 0);
    for block in blocks {
        let example: Value = serde_json::from_str(block).unwrap();
        if example.get("result_id").is_some() {
            assert_eq!(schema::complaints(&example), [""; 0], "{example}");
            results += 1;
        } else {
            let kind = example["provider"].as_str().unwrap();
            assert!(both_say_the_same(&example, kind), "{example}");
            requests += 1;
        }
    }
    assert_eq!((requests, results), (1, 4));
}
