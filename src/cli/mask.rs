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
/// The second is Python's.
const QUOTES: [char; 2] = ['"', '\''];

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

/// The text with every card number in it masked, and what stands behind the name of a secret: as in JSON
/// that cannot be read, or that is a string in JSON, as in a form, and as in XML.
pub(super) fn masked_text(text: &str) -> String {
    let ways = [quoted, assigned, tagged];
    let shown = ways.into_iter().fold(text.to_owned(), |text, around| {
        without_secrets(&text, around)
    });
    without_cards(&shown)
}

/// What stands before the first value that is secret, with its name, and what stands behind it.
type Around = fn(&str) -> Option<(&str, &str)>;

fn without_secrets(text: &str, around: Around) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = around(rest) {
        shown += before;
        shown += HIDDEN;
        rest = after;
    }
    shown + rest
}

/// `name=value`
fn assigned(text: &str) -> Option<(&str, &str)> {
    let is_name = |c: char| c.is_alphanumeric() || "_-.[]%".contains(c);
    let ends = |c: char| c.is_whitespace() || "&;,<".contains(c) || QUOTES.contains(&c);
    text.match_indices('=').find_map(|(at, _)| {
        let (before, value) = text.split_at_checked(at + 1)?;
        let name = text.get(..at)?.rsplit(|c| !is_name(c)).next()?;
        if !is_secret(name) {
            return None;
        }
        let length = || value.find(ends).unwrap_or(value.len());
        let length = string_length(value).unwrap_or_else(length);
        (length > 0).then_some((before, value.get(length..)?))
    })
}

/// `<name>value</name>`
fn tagged(text: &str) -> Option<(&str, &str)> {
    text.match_indices('<').find_map(|(at, _)| {
        let tag = text.get(at + 1..)?;
        let (tag, value) = tag.split_at_checked(tag.find(['<', '>'])?)?;
        let value = value.strip_prefix('>')?;
        let name = tag.split_whitespace().next()?;
        if !is_secret(name) || tag.starts_with('/') || tag.ends_with('/') {
            return None;
        }
        let length = value.find("</").unwrap_or(value.len());
        (length > 0).then_some((text.strip_suffix(value)?, value.get(length..)?))
    })
}

/// `"name": value`
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quotes = text.match_indices(QUOTES);
    // Each may open a name: in what cannot be read they need not come in pairs.
    let value = quotes.filter_map(|(at, quote)| {
        let (name, rest) = text.get(at + 1..)?.split_once(quote)?;
        let value = rest.trim_start().strip_prefix(':')?.trim_start();
        is_secret(name).then_some(value)
    });
    let value = value.into_iter().next()?;
    let before = text.strip_suffix(value)?;
    Some((before, value.get(value_length(value)..)?))
}

/// The length of the value at the start: of all the text, where it has no end.
fn value_length(text: &str) -> usize {
    let mut open = 0_usize;
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let mut taken = first.len_utf8();
        match first {
            '{' | '[' => open += 1,
            '}' | ']' | ',' | '\n' if open == 0 => break,
            '}' | ']' => open -= 1,
            _ => taken = string_length(rest).unwrap_or(taken),
        }
        rest = rest.get(taken..).unwrap_or_default();
    }
    text.len() - rest.len()
}

/// The length of the string at the start, if one begins there. In a string in JSON its quotes have
/// backslashes, and the quotes in it have more.
fn string_length(text: &str) -> Option<usize> {
    let inner = text.trim_start_matches('\\');
    let depth = text.len() - inner.len();
    let quote = inner.chars().next().filter(|c| QUOTES.contains(c))?;
    let mut slashes = 0;
    for (at, c) in inner.char_indices().skip(1) {
        if c == quote && slashes % (2 * (depth + 1)) == depth {
            return Some(depth + at + 1);
        }
        slashes = if c == '\\' { slashes + 1 } else { 0 };
    }
    Some(text.len())
}

/// Digits that are part of a longer word, as in `order-4111111111111111`, are an id.
fn without_cards(text: &str) -> String {
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
    fn what_is_secret_is_hidden_in_what_cannot_be_read_too() {
        for (text, shown) in [
            (r#"{"a_token":"s3"},}"#, r#"{"a_token":***},}"#),
            (
                r#"{"a":1,"pass-word" : "x\"y\\", b}"#,
                r#"{"a":1,"pass-word" : ***, b}"#,
            ),
            (
                r#"{"token":{"a":["s}",3]},"b":2,}"#,
                r#"{"token":***,"b":2,}"#,
            ),
            (
                r#"{"cvv":123,"b":["cvc",{"cvc":7}]"#,
                r#"{"cvv":***,"b":["cvc",{"cvc":***}]"#,
            ),
            ("{'api_key': 's3', 'b': 1}", "{'api_key': ***, 'b': 1}"),
            (
                r#"{"x":"{\"token\":\"s\\\"3\"}",}"#,
                r#"{"x":"{\"token\":***}",}"#,
            ),
            (r#"{"a":"x,"token":"s3"}"#, r#"{"a":"x,"token":***}"#),
            (r#"{"cookie":"s3"#, r#"{"cookie":***"#),
            (r#"{"token":"#, r#"{"token":***"#),
            (r#""the token": is "#, r#""the token": ***"#),
            (
                r#"{"id":"token","a":"secret"}"#,
                r#"{"id":"token","a":"secret"}"#,
            ),
            ("the token: don't", "the token: don't"),
        ] {
            assert_eq!(masked_text(text), shown);
        }
    }

    #[test]
    fn what_is_secret_is_hidden_behind_an_equals_sign_and_between_tags() {
        for (text, shown) in [
            (
                "server_key=s3&id=7&token=s3",
                "server_key=***&id=7&token=***",
            ),
            (
                "card[cvv]=123;a=b, x%5Btoken%5D=s3",
                "card[cvv]=***;a=b, x%5Btoken%5D=***",
            ),
            ("the password=s3+/== is wrong", "the password=*** is wrong"),
            ("<a>access_token=s3</a>", "<a>access_token=***</a>"),
            (
                r#"<card token="s3 s3" id='7'/>"#,
                r#"<card token=*** id='7'/>"#,
            ),
            (r#"{"x":"token=s3","y":1,}"#, r#"{"x":"token=***","y":1,}"#),
            (
                "<token>s3</token><id>7</id>",
                "<token>***</token><id>7</id>",
            ),
            (
                "<a:Token x='1'>\n<![CDATA[s3]]></a:Token>",
                "<a:Token x='1'>***</a:Token>",
            ),
            ("<token>s3", "<token>***"),
            ("<cvv><b>s3</b></cvv>", "<cvv>***</b></cvv>"),
        ] {
            assert_eq!(masked_text(text), shown);
        }
        for other in [
            "token=&a=1",
            "total=5",
            "<token/>7",
            "<token></token>7",
            "token<7>6",
            "<a token",
        ] {
            assert_eq!(masked_text(other), other);
        }
        let link = masked(&json!({"url": "https://h/?token=s3&a=1"}));
        assert_eq!(link, json!({"url": "https://h/?token=***&a=1"}));
    }

    /// As where a publisher encodes twice.
    #[test]
    fn what_is_secret_is_hidden_in_a_string_of_json() {
        let inner = json!({"a": "b", "token": "s\"3", "c": {"cvv": 1}}).to_string();
        let hidden = r#"{"a":"b","c":{"cvv":***},"token":***}"#;
        assert_eq!(masked(&json!({"raw": inner})), json!({"raw": hidden}));
        let twice = masked_text(&json!(inner).to_string());
        assert!(!twice.contains(['s', '3', '1']), "{twice}");
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
