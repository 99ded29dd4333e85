//! As much of JSON Schema as the contract uses; a keyword that is not known here fails.

use jiff::Timestamp;
use serde_json::Value;
use uuid::Uuid;

const RESULT: &str = include_str!("../../../docs/schemas/result.schema.json");
const REQUEST: &str = include_str!("../../../docs/schemas/request.schema.json");

/// What is wrong with a result. Stricter than the schema: where the fields of an object are
/// listed, no other one may be there.
pub(super) fn complaints(result: &Value) -> Vec<String> {
    let root = serde_json::from_str(RESULT).unwrap();
    let schema = Schema {
        root: &root,
        is_closed: true,
    };
    let mut found = Vec::new();
    schema.check(&root, result, "result", &mut found);
    found
}

/// What is wrong with a request to an account of this kind.
pub(super) fn complaints_of_request(request: &Value, kind: &str) -> Vec<String> {
    let root: Value = serde_json::from_str(REQUEST).unwrap();
    let schema = Schema {
        root: &root,
        is_closed: false,
    };
    let mut found = Vec::new();
    schema.check(&root, request, "request", &mut found);
    let of_kind = &root["$defs"][kind];
    assert!(of_kind.is_object(), "{kind}");
    schema.check(of_kind, request, kind, &mut found);
    found
}

struct Schema<'s> {
    root: &'s Value,
    /// A field that is not listed is one too many.
    is_closed: bool,
}

impl Schema<'_> {
    fn fits(&self, rule: &Value, value: &Value) -> bool {
        let mut found = Vec::new();
        self.check(rule, value, "", &mut found);
        found.is_empty()
    }

    fn check(&self, schema: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        let Some(rules) = schema.as_object() else {
            assert_eq!(schema, false, "{at}: neither rules nor a `false`");
            return found.push(format!("{at} may not be there"));
        };
        for (keyword, rule) in rules {
            let fine = match keyword.as_str() {
                "$ref" => {
                    let name = rule.as_str().unwrap().strip_prefix('#').unwrap();
                    self.check(self.root.pointer(name).unwrap(), value, at, found);
                    true
                }
                "not" => !self.fits(rule, value),
                "anyOf" => self.fitting(rule, value) > 0,
                "oneOf" => self.fitting(rule, value) == 1,
                "properties" => {
                    self.check_fields(rule, value, at, found);
                    true
                }
                simple => is_fine(simple, rule, value),
            };
            if !fine {
                found.push(format!("{at}: {keyword}"));
            }
        }
    }

    fn fitting(&self, rules: &Value, value: &Value) -> usize {
        let rules = rules.as_array().unwrap().iter();
        rules.filter(|rule| self.fits(rule, value)).count()
    }

    fn check_fields(&self, rule: &Value, value: &Value, at: &str, found: &mut Vec<String>) {
        for (name, value) in value.as_object().into_iter().flatten() {
            let place = format!("{at}.{name}");
            match rule.get(name) {
                Some(schema) => self.check(schema, value, &place, found),
                None if self.is_closed => found.push(format!("{place} is not promised")),
                None => {}
            }
        }
    }
}

/// A rule on a value that is of another type than the rule's is kept.
fn is_fine(keyword: &str, rule: &Value, value: &Value) -> bool {
    let has_all = |names: &Value| {
        let mut names = names.as_array().unwrap().iter();
        names.all(|name| value.get(name.as_str().unwrap()).is_some())
    };
    match keyword {
        "$schema" | "$id" | "$defs" | "title" | "description" | "additionalProperties" => true,
        "type" => is_of_type(value, rule.as_str().unwrap()),
        "enum" => rule.as_array().unwrap().contains(value),
        "minimum" => value.as_i64().is_none_or(|n| Some(n) >= rule.as_i64()),
        "maximum" => value.as_u64().is_none_or(|n| Some(n) <= rule.as_u64()),
        "maxLength" => value.as_str().is_none_or(|text| {
            let length = u64::try_from(text.chars().count()).unwrap();
            Some(length) <= rule.as_u64()
        }),
        "minProperties" => value.as_object().is_none_or(|object| {
            let count = u64::try_from(object.len()).unwrap();
            Some(count) >= rule.as_u64()
        }),
        "pattern" => value
            .as_str()
            .is_none_or(|text| matches(text, rule.as_str().unwrap())),
        "format" => value
            .as_str()
            .is_none_or(|text| is_of_format(text, rule.as_str().unwrap())),
        "required" => !value.is_object() || has_all(rule),
        "dependentRequired" => {
            let rules = rule.as_object().unwrap().iter();
            rules.fold(true, |all, (name, others)| {
                all & (value.get(name).is_none() || has_all(others))
            })
        }
        other => panic!("{other} is not known here"),
    }
}

/// The patterns that are used, by hand.
fn matches(text: &str, pattern: &str) -> bool {
    let of = |most: usize, allowed: fn(char) -> bool| {
        (1..=most).contains(&text.chars().count()) && text.chars().all(allowed)
    };
    let digits = |part: &str, most: usize| {
        (1..=most).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit())
    };
    let (whole, fraction) = text
        .split_once('.')
        .map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let zeros = |part: &str| !part.is_empty() && part.bytes().all(|b| b == b'0');
    match pattern {
        "^[a-z_]+$" => of(usize::MAX, |c| c.is_ascii_lowercase() || c == '_'),
        "^[A-Za-z0-9._:-]{1,128}$" => of(128, |c| c.is_ascii_alphanumeric() || "._:-".contains(c)),
        "^[a-z0-9_-]{1,64}$" => of(64, |c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c)
        }),
        "^[A-Z]{3}$" => text.len() == 3 && of(3, |c| c.is_ascii_uppercase()),
        r"^[^\u0000-\u001f\u007f-\u009f]+$" => of(usize::MAX, |c| !c.is_control()),
        r"^[0-9]{1,18}(\.[0-9]{1,6})?$" => {
            digits(whole, 18) && fraction.is_none_or(|fraction| digits(fraction, 6))
        }
        r"^0+(\.0+)?$" => zeros(whole) && fraction.is_none_or(zeros),
        other => panic!("the pattern {other} is not known here"),
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
        "date-time" => {
            // What is parsed may lack minutes and seconds, and RFC 3339 does not let it.
            let is_full = text.bytes().filter(|byte| *byte == b':').count() >= 2;
            is_full && text.parse::<Timestamp>().is_ok()
        }
        other => panic!("{other} is not known here"),
    }
}
