//! Client credentials of OAuth 2.0, for the providers that use them. Pure.

use std::time::Duration;

use serde_json::Value;

use crate::asking::{Request, Token, is_visible};
use crate::reading::{Response, loose_text};

/// A token that outlives a day is fetched anew anyway.
const LONGEST: Duration = Duration::from_secs(86_400);

/// The call that asks for a token: form-encoded, as
/// <https://www.rfc-editor.org/rfc/rfc6749#section-4.4.2> has it.
pub(crate) fn ask(path: &str, fields: &[(&str, &str)]) -> Request {
    let form = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs(fields)
        .finish();
    Request::post(path.to_owned(), Some(form))
        .header("content-type", "application/x-www-form-urlencoded")
}

/// The answer, <https://www.rfc-editor.org/rfc/rfc6749#section-5.1>. `expires_in` is only
/// recommended there: without it the token is used for `unless_told`.
pub(crate) fn read(response: &Response<'_>, unless_told: Duration) -> Result<Token, String> {
    let body = response.json();
    if !response.is_success() {
        return Err(refusal(response.status, &body));
    }
    let token = body["access_token"].as_str().unwrap_or_default();
    let kind = body["token_type"].as_str().unwrap_or("bearer");
    // A header value holds visible ASCII; anything else could not be sent.
    if !is_visible(token) {
        return Err("the token endpoint's answer holds no usable access_token".to_owned());
    }
    if !kind.eq_ignore_ascii_case("bearer") {
        return Err("the token endpoint gave another token than a bearer token".to_owned());
    }
    let life = loose_text(&body["expires_in"])
        .and_then(|seconds| seconds.parse().ok())
        .map_or(unless_told, Duration::from_secs);
    Ok(Token {
        authorization: format!("Bearer {token}").into(),
        life: life.min(LONGEST),
    })
}

/// A refusal of the client, its grant or its scope has one of the first two
/// (<https://www.rfc-editor.org/rfc/rfc6749#section-5.2>), one of the caller's address the last one. A 404 is a
/// wrong address, and a gateway's own statuses are no word on the client.
pub(crate) fn is_refusal(response: &Response<'_>) -> bool {
    matches!(response.status, 400 | 401 | 403)
}

/// Only the code of <https://www.rfc-editor.org/rfc/rfc6749#section-5.2>: a description may
/// repeat what was sent.
fn refusal(status: u16, body: &Value) -> String {
    if status == 404 {
        return "the token endpoint answered 404: is its address right?".to_owned();
    }
    let code = body["error"].as_str().unwrap_or_default();
    let known = code.len() <= 40 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if known && !code.is_empty() {
        format!("the token endpoint answered {status}, {code}")
    } else {
        format!("the token endpoint answered {status}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret as _;

    fn read_body(status: u16, body: &str) -> Result<Token, String> {
        let response = Response {
            status,
            retry_after: None,
            body: body.as_bytes(),
        };
        read(&response, Duration::from_secs(300))
    }

    #[test]
    fn the_form_is_encoded() {
        let request = ask("/token", &[("client_secret", "a&b=c d+é")]);
        assert_eq!(
            request.body.as_deref(),
            Some("client_secret=a%26b%3Dc+d%2B%C3%A9")
        );
    }

    #[test]
    fn the_life_is_what_the_answer_says() {
        let life = |body| read_body(200, body).expect(body).life.as_secs();
        assert_eq!(life(r#"{"access_token":"t","expires_in":120}"#), 120);
        assert_eq!(life(r#"{"access_token":"t","expires_in":"60"}"#), 60);
        assert_eq!(life(r#"{"access_token":"t"}"#), 300);
        assert_eq!(
            life(r#"{"access_token":"t","expires_in":18446744073709551615}"#),
            86_400
        );
        let token =
            read_body(200, r#"{"access_token":"t","token_type":"bearer"}"#).expect("a token");
        assert_eq!(token.authorization.expose_secret(), "Bearer t");
    }

    #[test]
    fn an_answer_without_a_usable_token_is_an_error() {
        for (status, body) in [
            (200, ""),
            (200, "{}"),
            (200, r#"{"access_token":""}"#),
            (200, r#"{"access_token":"a\nb"}"#),
            (200, r#"{"access_token":"t","token_type":"mac"}"#),
            (
                401,
                r#"{"error":"invalid_client","error_description":"hunter2"}"#,
            ),
            (400, r#"{"error":"Hunter2 is wrong"}"#),
        ] {
            let error = read_body(status, body).expect_err(body);
            assert!(!error.to_lowercase().contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_refusal_says_its_status_and_a_code_that_is_one() {
        let refused = |body: &str| read_body(400, body).expect_err(body);
        let alone = "the token endpoint answered 400";
        let code = |code: &str| refused(&format!(r#"{{"error":"{code}"}}"#));
        assert_eq!(code("invalid_client"), format!("{alone}, invalid_client"));
        let longest = "x".repeat(40);
        assert_eq!(code(&longest), format!("{alone}, {longest}"));
        for other in ["", "Invalid client", &"x".repeat(41)] {
            assert_eq!(code(other), alone);
        }
        assert_eq!(refused("<html>"), alone);
        let not_there = read_body(404, "<html>").expect_err("no token");
        assert!(
            not_there.ends_with("404: is its address right?"),
            "{not_there}"
        );
    }
}
