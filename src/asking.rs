//! What an adapter asks for: the call to its provider, and how it authenticates. Pure.

use std::fmt;
use std::time::Duration;

use secrecy::SecretString;

use crate::names::names;

names! {
    /// An HTTP method that an adapter uses.
    Method {
        /// A question.
        Get = "GET",
        /// What most calls are.
        Post = "POST",
        /// Bento's cancel.
        Put = "PUT",
    }
}

/// A call to be made, relative to the account's base URL and without its login.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// Method.
    pub method: Method,
    /// Path below the base URL, starting with `/`, ids percent-encoded by [`segment`].
    /// A token endpoint may give an absolute URL instead.
    pub path: String,
    /// Headers beside the login's.
    pub headers: Vec<(&'static str, String)>,
    /// JSON, unless a `content-type` among the headers says otherwise.
    pub body: Option<String>,
}

impl fmt::Debug for Request {
    /// Method and path only: the call that fetches a token carries a secret in its body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.body.as_ref().map_or(0, String::len);
        write!(f, "Request({:?} {}, {size} bytes)", self.method, self.path)
    }
}

impl Request {
    /// A GET without a body.
    pub fn get(path: String) -> Self {
        Self {
            method: Method::Get,
            path,
            headers: Vec::new(),
            body: None,
        }
    }

    /// A POST with or without a body.
    pub fn post(path: String, body: Option<String>) -> Self {
        Self {
            method: Method::Post,
            path,
            headers: Vec::new(),
            body,
        }
    }

    /// The same call with one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }
}

/// Percent-encodes an id as one path segment: everything but unreserved characters, so
/// that no id can change the path. `.` and `..` are beyond help: URL parsers resolve them
/// away even as `%2E`, so [`Asked`](crate::providers::Asked) refuses them.
pub fn segment(id: &str) -> String {
    const KEPT: percent_encoding::AsciiSet = percent_encoding::NON_ALPHANUMERIC
        .remove(b'-')
        .remove(b'_')
        .remove(b'.')
        .remove(b'~');
    percent_encoding::utf8_percent_encode(id, &KEPT).to_string()
}

/// Whether a text can stand in a header as it is: some visible ASCII, and no space.
pub(crate) fn is_visible(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// How a call authenticates.
pub enum Login {
    /// Value of the `Authorization` header, for as long as the settings stay.
    Static(SecretString),
    /// A token made here.
    Minted(Token),
    /// A token must be fetched with this call.
    Fetch(Request),
}

/// A token and its life.
#[derive(Clone)]
pub struct Token {
    /// Value of the `Authorization` header.
    pub authorization: SecretString,
    /// Life from the moment it was issued.
    pub life: Duration,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(life {:?})", self.life)
    }
}
