//! As much of JSON Schema as the contract uses; a keyword that is not known here fails.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

const RESULT: &str = include_str!("result.schema.json");

/// What is wrong with a result. Stricter than the schema: where the fields of an object are
/// listed, no other one may be there.
pub(super) fn complaints(result: &Value) -> Vec<String> {
    let schema = serde_json::from_str(RESULT).unwrap();
    let mut found = Vec::new();
    check(&schema, result, "result", &mut found);
    found
}

fn check(schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
    let rules = schema.as_object().unwrap();
    for (keyword, rule) in rules {
        let fine = match keyword.as_str() {
            "$schema" | "$id" | "title" | "description" | "additionalProperties" => true,
            "type" => is_of_type(value, rule.as_str().unwrap()),
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => value.as_i64() >= rule.as_i64(),
            "pattern" => {
                assert_eq!(rule, "^[a-z_]+$", "only this pattern is known");
                let name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                value
                    .as_str()
                    .is_some_and(|text| !text.is_empty() && name(text))
            }
            "format" => is_of_format(value.as_str().unwrap_or_default(), rule.as_str().unwrap()),
            "required" => {
                let names = rule.as_array().unwrap().iter();
                names.fold(true, |all, name| {
                    all & value.get(name.as_str().unwrap()).is_some()
                })
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let place = format!("{at}.{name}");
                    match rule.get(name) {
                        Some(schema) => check(schema, value, &place, found),
                        None => found.push(format!("{place} is not promised")),
                    }
                }
                true
            }
            other => panic!("{other} is not known here"),
        };
        if !fine {
            found.push(format!("{at}: {keyword}"));
        }
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "object" => value.is_object(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        other => panic!("{other} is not known here"),
    }
}

fn is_of_format(text: &str, name: &str) -> bool {
    match name {
        "uuid" => Uuid::parse_str(text).is_ok(),
        "date-time" => text.parse::<Timestamp>().is_ok(),
        other => panic!("{other} is not known here"),
    }
}
