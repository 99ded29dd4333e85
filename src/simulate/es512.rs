//! The demo signing key of Gr4vy calls, and the check of the ES512 tokens made with it.

use std::io;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use p521::SecretKey;
use p521::ecdsa::signature::Verifier as _;
use p521::ecdsa::{Signature, VerifyingKey};
use p521::elliptic_curve::sec1::ToSec1Point as _;
use p521::pkcs8::{EncodePrivateKey as _, LineEnding};
use serde::Deserialize;
use sha2::{Digest as _, Sha256, Sha512};

use super::now;

/// Clocks differ; more than this is refused.
const LEEWAY_SECONDS: i64 = 30;

/// The key in the form that a merchant downloads.
pub(super) fn pem() -> io::Result<String> {
    let key = secret_key().ok_or(io::ErrorKind::InvalidData)?;
    let pem = key.to_pkcs8_pem(LineEnding::LF).map_err(io::Error::other)?;
    Ok(pem.to_string())
}

/// Until when the token is good; nothing where it is not.
pub(super) fn verify(token: &str) -> Option<Timestamp> {
    let (signed, signature) = token.rsplit_once('.')?;
    let (header, claims) = signed.split_once('.')?;
    let key = PUBLIC.as_ref()?;
    let header: Header = part(header)?;
    if header.alg != "ES512" || header.kid != key.thumbprint {
        return None;
    }
    let signature = Signature::from_slice(&URL_SAFE_NO_PAD.decode(signature).ok()?).ok()?;
    key.point.verify(signed.as_bytes(), &signature).ok()?;
    part::<Claims>(claims)?.good_until()
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: i64,
    nbf: i64,
    iat: i64,
    scopes: Vec<String>,
}

impl Claims {
    fn good_until(&self) -> Option<Timestamp> {
        let now = now().as_second();
        let begun = self.nbf.max(self.iat) <= now + LEEWAY_SECONDS;
        let allowed = self.scopes.iter().any(|scope| {
            let (resource, _) = scope.split_once('.').unwrap_or_default();
            resource == "*" || resource == "transactions"
        });
        let until = Timestamp::from_second(self.exp).ok()?;
        (begun && allowed && self.exp > now).then_some(until)
    }
}

fn part<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

struct Public {
    point: VerifyingKey,
    /// RFC 7638, which Gr4vy wants as `kid`.
    thumbprint: String,
}

static PUBLIC: LazyLock<Option<Public>> = LazyLock::new(|| {
    let point = secret_key()?.public_key().to_sec1_point(false);
    let x = URL_SAFE_NO_PAD.encode(point.x()?);
    let y = URL_SAFE_NO_PAD.encode(point.y()?);
    let jwk = format!(r#"{{"crv":"P-521","kty":"EC","x":"{x}","y":"{y}"}}"#);
    Some(Public {
        point: VerifyingKey::from_sec1_point(&point).ok()?,
        thumbprint: URL_SAFE_NO_PAD.encode(Sha256::digest(jwk.as_bytes())),
    })
});

/// The same key everywhere and for ever: it opens nothing but a simulator.
fn secret_key() -> Option<SecretKey> {
    let mut scalar = [0; 66];
    let digest = Sha512::digest(b"rescind simulate: demo signing key");
    for (to, from) in scalar.iter_mut().skip(2).zip(digest) {
        *to = from;
    }
    SecretKey::from_slice(&scalar).ok()
}

/// A token signed with the demo key, as a merchant's software makes it.
#[cfg(test)]
pub(super) fn sign(claims: &serde_json::Value) -> String {
    use p521::ecdsa::SigningKey;
    use p521::ecdsa::signature::Signer as _;

    let kid = &PUBLIC.as_ref().unwrap().thumbprint;
    let header = serde_json::json!({"alg": "ES512", "typ": "JWT", "kid": kid}).to_string();
    let header = URL_SAFE_NO_PAD.encode(header);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
    let key = SigningKey::from_slice(&secret_key().unwrap().to_bytes()).unwrap();
    let signature: Signature = key.sign(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_token_is_good_between_its_times_and_with_its_signature_only() {
        let now = now().as_second();
        let claims = |from: i64, to: i64| json!({"iat": from, "nbf": from, "exp": to, "scopes": ["*.write"]});
        let good = sign(&claims(now, now + 60));
        assert_eq!(verify(&good).unwrap().as_second(), now + 60);
        assert!(verify(&sign(&claims(now - 60, now - 1))).is_none());
        assert!(verify(&sign(&claims(now + 60, now + 90))).is_none());
        let other = sign(&claims(now, now + 61));
        let (signed, _) = good.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert!(verify(&format!("{signed}.{signature}")).is_none());
    }
}
