//! The content of a provider's notification, and whether it may be believed to come from there. Pure.
//!
//! A notification is a hint. It decides when the provider is asked, and is never believed itself: not
//! even a genuine signature covers the facts that matter (Midtrans' covers neither the status nor a
//! time). No kind both signs its notifications and lacks a look-up, so none is ever evidence by itself;
//! one that did would be evidence for exactly what it signs.

use hmac::{Hmac, Mac};
use jiff::Timestamp;
use sha2::{Digest, Sha256, Sha512};
use subtle::{Choice, ConstantTimeEq};

use crate::outcome::Verdict;

/// Largest notification that is read, in bytes.
pub const NOTIFICATION_BYTES_MAX: usize = 64 * 1024;

/// Most signatures of one notification that are compared; a rotation needs two.
const SIGNATURES_MAX: usize = 16;

/// Where a notification was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// From the network, at the worker's own endpoint.
    Endpoint,
    /// From the broker: it passed an endpoint, ours or a gateway's, and a secret that is no
    /// signature was left there.
    Queue,
}

/// A notification as it was received.
#[derive(Clone, Copy)]
pub struct Arrived<'a> {
    /// The raw bytes.
    pub body: &'a [u8],
    /// A header by its name in lower case.
    pub header: &'a dyn Fn(&str) -> Option<&'a str>,
    /// When it was received.
    pub at: Timestamp,
    /// Where.
    pub via: Via,
}

/// How a notification was read: a closed set.
#[derive(Debug, Clone, PartialEq)]
pub enum Notification {
    /// The provider documents none.
    Unsupported,
    /// It does not prove that it comes from the provider; why, for the log.
    Forged(&'static str),
    /// It is not signed and cannot be read; why, for the log.
    Unreadable(&'static str),
    /// A reason to ask.
    Hint(Hint),
}

/// What a notification hints at.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hint {
    /// Its signature is the provider's. Nothing is decided by it; it lets the tests of the adapters tell what
    /// was signed from what anybody may have sent.
    pub authenticated: bool,
    /// [`crate::job::Payment::key`]s of the payment that it names, one for each way to name
    /// it; none where it is about something else.
    pub payments: Vec<String>,
    /// The state that it reports, as a look-up would be read. Used only to see that there is nothing to
    /// ask.
    pub reported: Option<Verdict>,
    /// The provider's key against repeats.
    pub event: Option<String>,
}

/// Whether two texts are the same, in a time that does not depend on where they differ.
pub(crate) fn same(a: &[u8], b: &[u8]) -> Choice {
    a.ct_eq(b)
}

/// Whether one of the keys makes the lower-case hex SHA-512 of `parts` and the key.
pub(crate) fn is_sha512_of<'k>(
    signature: &str,
    parts: &[&str],
    keys: impl Iterator<Item = &'k str>,
) -> bool {
    let expected = keys.map(|key| {
        let mut hash = Sha512::new();
        parts.iter().for_each(|part| hash.update(part));
        hash.update(key);
        hex::encode(hash.finalize())
    });
    any(expected, std::iter::once(signature))
}

/// Whether one of the comma-separated signatures is the lower-case hex HMAC-SHA256 of
/// `parts` under one of the secrets.
pub(crate) fn is_hmac_of<'k>(
    signatures: &str,
    parts: &[&[u8]],
    secrets: impl Iterator<Item = &'k str>,
) -> bool {
    let expected = secrets.filter_map(|secret| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).ok()?;
        parts.iter().for_each(|part| mac.update(part));
        Some(hex::encode(mac.finalize().into_bytes()))
    });
    any(
        expected,
        signatures.split(',').map(str::trim).take(SIGNATURES_MAX),
    )
}

/// Compares every expected signature with every given one, even after a match: the time says nothing.
fn any<'a>(
    expected: impl Iterator<Item = String>,
    given: impl Iterator<Item = &'a str> + Clone,
) -> bool {
    let mut found = Choice::from(0);
    for expected in expected {
        for given in given.clone() {
            found |= same(expected.as_bytes(), given.as_bytes());
        }
    }
    found.into()
}
