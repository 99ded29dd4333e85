//! JSON read more strictly than serde does: a text that two readers could understand in different ways is
//! refused. Pure.

use std::fmt;

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// JSON without duplicate keys: in a text with one, two readers may see two payments.
pub(crate) fn json(bytes: &[u8]) -> Option<Value> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader).ok()?;
    reader.end().ok()?;
    Some(value)
}

/// The same, for a field that has to be an object.
pub(crate) fn object<'de, D: Deserializer<'de>>(reader: D) -> Result<Map<String, Value>, D::Error> {
    match Strict.deserialize(reader)? {
        Value::Object(object) => Ok(object),
        _ => Err(D::Error::custom("it is not an object")),
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without a repeated key")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            array.push(item);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Strict)?;
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("duplicate key {key:?}")));
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

/// A member that may be left out. `null` is not the same: an amount that a publisher lost on the way must
/// not become the whole payment.
#[derive(Default)]
pub(crate) enum Member<T> {
    #[default]
    Absent,
    Null,
    Given(T),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Member<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Option::deserialize(deserializer)?;
        Ok(value.map_or(Self::Null, Self::Given))
    }
}

impl<T> Member<T> {
    pub(crate) fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    pub(crate) fn get(&self) -> Option<&T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    pub(crate) fn into_option(self) -> Option<T> {
        match self {
            Self::Given(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }
}

/// Whether it is an object: serde would fill named members from a list as well, by position.
pub(crate) fn is_object(json: &[u8]) -> bool {
    json.trim_ascii_start().starts_with(b"{")
}

/// Whether a text has the form of RFC 3339's `date-time`; whether there is such a day is not checked.
pub(crate) fn is_date_time(text: &str) -> bool {
    let fits = |bytes: &[u8], form: &[u8]| {
        let fit = |(byte, form): (&u8, &u8)| match form {
            b'0' => byte.is_ascii_digit(),
            _ => byte.eq_ignore_ascii_case(form),
        };
        bytes.len() == form.len() && bytes.iter().zip(form).all(fit)
    };
    let Some((time, rest)) = text.as_bytes().split_at_checked(19) else {
        return false;
    };
    let zone = match rest.strip_prefix(b".") {
        Some(fraction) => {
            let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit());
            match digits.count() {
                0 => return false,
                count => &fraction[count..],
            }
        }
        None => rest,
    };
    let is_offset = [b"+00:00", b"-00:00"].iter().any(|form| fits(zone, *form))
        && zone[1..3] <= *b"23".as_slice()
        && zone[4..] <= *b"59".as_slice();
    fits(time, b"0000-00-00T00:00:00") && (fits(zone, b"Z") || is_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strict_json_is_what_any_reader_sees() {
        let text = r#"{"a":[null,true,-1,18446744073709551615,1.5,"b",{"c":[]}],"d":{"a":false}}"#;
        let any = serde_json::from_str(text).ok();
        assert!(any.is_some());
        assert_eq!(json(text.as_bytes()), any);
        for twice in [r#"{"a":1,"a":1}"#, r#"[{"b":{"a":1,"a":2}}]"#, "{} {}"] {
            assert_eq!(json(twice.as_bytes()), None, "{twice}");
        }
    }

    #[test]
    fn a_member_that_is_null_is_not_one_that_is_left_out() {
        #[derive(serde::Deserialize)]
        struct Text<'a> {
            #[serde(default, borrow)]
            a: Member<&'a str>,
        }
        let read = |json| serde_json::from_str::<Text<'_>>(json).unwrap().a;
        assert!(!read("{}").is_null() && read("{}").get().is_none());
        assert!(read(r#"{"a":null}"#).is_null());
        assert_eq!(read(r#"{"a":"b"}"#).into_option(), Some("b"));
    }

    #[test]
    fn a_point_in_time_has_the_form_of_rfc_3339() {
        for right in [
            "2026-11-29T18:00:00Z",
            "2026-11-29t18:00:00z",
            "2026-11-29T18:00:00.123456789+07:00",
            "9999-12-31T23:59:59.9-12:30",
            "2026-11-29T18:00:00+23:59",
        ] {
            assert!(is_date_time(right), "{right}");
        }
        for wrong in [
            "",
            "2026-11-29",
            "2026-11-29T18Z",
            "2026-11-29T18:00:00",
            "2026-11-29 18:00:00Z",
            "2026-11-29T18:00:00.Z",
            "2026-11-29T18:00:00,5Z",
            "2026-11-29T18:00:00+07",
            "2026-11-29T18:00:00+24:00",
            "2026-11-29T18:00:00-25:00",
            "2026-11-29T18:00:00+07:60",
            "2026-11-29T18:00:00Z[UTC]",
            "2026-11-29T18:00:0\u{660}Z",
        ] {
            assert!(!is_date_time(wrong), "{wrong}");
        }
    }
}
