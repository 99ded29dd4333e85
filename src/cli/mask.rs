//! Masking for screens: no whole card number, no token, no key is shown.

use serde_json::Value;

/// Parts of the names of fields whose values are hidden, at every depth.
const SECRET: [&str; 14] = [
    "token",
    "secret",
    "signature",
    "password",
    "passwd",
    "authorization",
    "apikey",
    "accesskey",
    "privatekey",
    "serverkey",
    "clientkey",
    "cvv",
    "cvc",
    "cookie",
];
const HIDDEN: &str = "***";

/// The value without what looks like a card number or a secret.
pub(super) fn masked(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(masked_text(text)),
        Value::Number(number) => {
            mask_card(&number.to_string()).map_or_else(|| value.clone(), Value::String)
        }
        Value::Array(items) => items.iter().map(masked).collect(),
        Value::Object(fields) => {
            let fields = fields.iter().map(|(key, value)| {
                let shown = if is_secret(key) {
                    Value::String(HIDDEN.into())
                } else {
                    masked(value)
                };
                (key.clone(), shown)
            });
            Value::Object(fields.collect())
        }
        _ => value.clone(),
    }
}

fn is_secret(key: &str) -> bool {
    let key: String = key.chars().filter(char::is_ascii_alphanumeric).collect();
    let key = key.to_ascii_lowercase();
    SECRET.iter().any(|secret| key.contains(secret))
}

/// The text with every card number in it masked. Digits that are part of a longer word, as in
/// `order-4111111111111111`, are an id.
pub(super) fn masked_text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(first) = rest.chars().next() {
        let (taken, tail) = rest.split_at(digits(rest).max(first.len_utf8()));
        let free = |c: Option<char>| !c.is_some_and(|c| c.is_alphanumeric() || "-_.".contains(c));
        let ends = tail.chars().next().filter(|c| *c != '.');
        if free(before) && free(ends) {
            shown += &masked_run(taken)
        } else {
            shown += taken
        }
        before = taken.chars().last();
        rest = tail;
    }
    shown
}

/// A run of digits, spaces and dashes, masked: a card number may be one word of it or several.
fn masked_run(run: &str) -> String {
    let words: Vec<&str> = run.split(' ').collect();
    let mut shown = Vec::new();
    let mut at = 0;
    while let Some(word) = words.get(at) {
        // The longest first: none has more digits than this.
        let longest = (words.len() - at).min(19);
        let card = (1..=longest).rev().find_map(|count| {
            let text = words.get(at..at + count)?.join(" ");
            Some((count, mask_card(&text)?))
        });
        let (count, text) = card.unwrap_or_else(|| (1, (*word).to_owned()));
        shown.push(text);
        at += count;
    }
    shown.join(" ")
}

/// The length of the digits at the start, with single spaces and dashes between them.
fn digits(text: &str) -> usize {
    let mut end = 0;
    let mut gap = true;
    for (at, c) in text.char_indices() {
        match c {
            '0'..='9' => {
                end = at + 1;
                gap = false;
            }
            ' ' | '-' if !gap => gap = true,
            _ => break,
        }
    }
    end
}

/// The first six and the last four digits, if it has the form and the check digit of a card.
fn mask_card(text: &str) -> Option<String> {
    let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
    let form = (13..=19).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    if !form || !has_check_digit(&digits) {
        return None;
    }
    let (first, rest) = digits.split_at_checked(6)?;
    let (hidden, last) = rest.split_at_checked(rest.len() - 4)?;
    Some(format!("{first}{}{last}", "*".repeat(hidden.len())))
}

/// Luhn's.
fn has_check_digit(digits: &str) -> bool {
    let sum: u32 = digits
        .bytes()
        .rev()
        .enumerate()
        .map(|(at, byte)| match (at % 2, u32::from(byte - b'0')) {
            (1, digit) if digit > 4 => digit * 2 - 9,
            (1, digit) => digit * 2,
            (_, digit) => digit,
        })
        .sum();
    sum.is_multiple_of(10)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn card_numbers_are_masked_and_other_numbers_are_not() {
        for (text, shown) in [
            ("4111111111111111", "411111******1111"),
            ("4111 1111-1111 1111", "411111******1111"),
            ("4222222222222", "422222***2222"),
            (
                "card 4111 1111 1111 1111, gone",
                "card 411111******1111, gone",
            ),
            ("pan:4111111111111111.", "pan:411111******1111."),
            ("2 4111111111111111", "2 411111******1111"),
            ("4111 1111 1111 1111 12/29", "411111******1111 12/29"),
            ("7 4111 1111 1111 1111 123", "7 411111******1111 123"),
            ("é4111111111111111", "é4111111111111111"),
        ] {
            assert_eq!(masked_text(text), shown);
        }
        for other in [
            "4111111111111112",
            "411111111111",
            "order-4111111111111111",
            "4111111111111111-order",
            "",
        ] {
            assert_eq!(masked_text(other), other);
        }
    }

    #[test]
    fn masking_reaches_every_value_and_hides_what_is_secret() {
        let payment = json!({
            "a": 4_111_111_111_111_111_u64, "b": [{"c": "4111111111111111"}], "d": "x",
            "signature_key": "abc", "Api-Key": 7, "metadata": {"accessToken": {"x": 1}},
        });
        let hidden = "411111******1111";
        assert_eq!(
            masked(&payment),
            json!({
                "a": hidden, "b": [{"c": hidden}], "d": "x",
                "signature_key": HIDDEN, "Api-Key": HIDDEN, "metadata": {"accessToken": HIDDEN},
            })
        );
    }
}
