//! JSON Web Tokens signed with ES512, made from nothing but the key and the claims. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use p521::ecdsa::signature::Signer as _;
use p521::ecdsa::{self, Signature};
use p521::elliptic_curve::sec1::ToSec1Point as _;
use p521::pkcs8::DecodePrivateKey as _;
use p521::{FieldBytes, SecretKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

/// First line of a SEC1 key; OpenSSL writes a block of curve parameters before it.
const SEC1: &str = "-----BEGIN EC PRIVATE KEY-----";

/// A private key on P-521.
pub(crate) struct SigningKey(SecretKey);

impl SigningKey {
    /// Reads PEM, either PKCS#8 (`BEGIN PRIVATE KEY`) or SEC1 (`BEGIN EC PRIVATE KEY`). The
    /// error never repeats what was given.
    pub(crate) fn from_pem(pem: &str) -> Result<Self, String> {
        let sec1 = pem.find(SEC1).and_then(|start| pem.get(start..));
        let key = match sec1 {
            Some(sec1) => SecretKey::from_sec1_pem(sec1).ok(),
            None => SecretKey::from_pkcs8_pem(pem.trim_start()).ok(),
        };
        key.map(Self).ok_or_else(|| {
            "is no EC P-521 private key in PEM (PKCS#8 or SEC1, unencrypted)".to_owned()
        })
    }

    /// RFC 7638: SHA-256 over the required members of the public JWK in their order.
    pub(crate) fn thumbprint(&self) -> String {
        let point = self.0.public_key().to_sec1_point(false);
        let coordinate =
            |bytes: Option<&FieldBytes>| BASE64URL.encode(bytes.copied().unwrap_or_default());
        let jwk = format!(
            r#"{{"crv":"P-521","kty":"EC","x":"{}","y":"{}"}}"#,
            coordinate(point.x()),
            coordinate(point.y())
        );
        BASE64URL.encode(Sha256::digest(jwk))
    }

    /// A signed token with these claims, in compact form (RFC 7515, RFC 7518 section 3.4).
    pub(crate) fn token(&self, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES512", "typ": "JWT", "kid": self.thumbprint()});
        let part = |json: &Value| BASE64URL.encode(json.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.sign(signed.as_bytes())?;
        Ok(format!(
            "{signed}.{}",
            BASE64URL.encode(signature.to_bytes())
        ))
    }

    /// Its one-time number is derived from the key and the message (RFC 6979): no random source that could fail
    /// or repeat itself.
    fn sign(&self, message: &[u8]) -> Result<Signature, String> {
        let signature = ecdsa::SigningKey::from(&self.0).try_sign(message);
        signature.map_err(|_| "could not be used to sign".to_owned())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use p521::ecdsa::VerifyingKey;
    use p521::ecdsa::signature::Verifier as _;

    /// Made for this test and used nowhere else.
    pub(crate) const PKCS8: &str = "-----BEGIN PRIVATE KEY-----
MIHuAgEAMBAGByqGSM49AgEGBSuBBAAjBIHWMIHTAgEBBEIBq0S0fygw0MNzCEL9
zD2RUFe2mJOeYIYLALPN9+WWZjhBc4lyzKfTDln/bqvht4s28RzDtufHEZh8fMVZ
IBZje42hgYkDgYYABAA+ytevOk/ypLU/9nFTunPEhFpjAd40/xZwRERoBXnCNzme
abZ07AQPDJCajluix4w3KVfQICLPPiK1unSJJgJLWwGpMAzZa3chczcFMC0Vba6k
10Sbx9VVMcytuUT6bd1fwdpY6J+XgC4zLXkCOeZYwrCyDxaebLF0p8HUsoxpn4ox
mA==
-----END PRIVATE KEY-----
";

    /// The same key as `openssl ecparam -genkey` writes it.
    const SEC1_WITH_PARAMETERS: &str = "-----BEGIN EC PARAMETERS-----
BgUrgQQAIw==
-----END EC PARAMETERS-----
-----BEGIN EC PRIVATE KEY-----
MIHcAgEBBEIBq0S0fygw0MNzCEL9zD2RUFe2mJOeYIYLALPN9+WWZjhBc4lyzKfT
Dln/bqvht4s28RzDtufHEZh8fMVZIBZje42gBwYFK4EEACOhgYkDgYYABAA+ytev
Ok/ypLU/9nFTunPEhFpjAd40/xZwRERoBXnCNzmeabZ07AQPDJCajluix4w3KVfQ
ICLPPiK1unSJJgJLWwGpMAzZa3chczcFMC0Vba6k10Sbx9VVMcytuUT6bd1fwdpY
6J+XgC4zLXkCOeZYwrCyDxaebLF0p8HUsoxpn4oxmA==
-----END EC PRIVATE KEY-----
";

    /// Thumbprint and signatures of that key by another implementation: Python's
    /// `cryptography` over OpenSSL, with `deterministic_signing=True`.
    const THUMBPRINT: &str = "yqCt3pl_5Cde5H-6JQkVs7LOUwJWK1dWiBE0UzHE8eA";
    const SIGNED: [(&str, &str); 2] = [
        (
            "sample",
            "AFWqV6K0mCdekhJRR0oVqaVwGJUdb2SRYhQQggZZgBCLtLT6lWMB1nlROHK48FlbI_12dwY4rpsya0awkzDT\
             n6T6AGVEsvHsi5F0EVAAmvykP9oOF8abY79fHGwAfiq5YyfseavrQ4zj6NdTJmo6ebTVkppmoJms6Q3traK9\
             sEdMcsRh",
        ),
        (
            "test",
            "ABSb1cgClRy9x52dYEyGjEKnNFBLZSfAqTWLcI8pKSo3-3_eie9-Id2dOBnigftu4SDMVSmbt_Y5YkDVbA0d\
             -6MYAQYvMS-eRW7PEFu1EUD_zJc84EbcJilDIj58LunPFsa0yntuUUXEl_b6CB2LXYASoIdKOhGr0Iq6CYhN\
             3aNEeENR",
        ),
    ];

    #[test]
    fn both_forms_of_pem_give_the_same_key() {
        for pem in [PKCS8, SEC1_WITH_PARAMETERS] {
            let key = SigningKey::from_pem(pem).expect("a key");
            assert_eq!(key.thumbprint(), THUMBPRINT);
        }
    }

    #[test]
    fn signatures_are_those_of_another_implementation() {
        let key = SigningKey::from_pem(PKCS8).expect("a key");
        for (message, expected) in SIGNED {
            let signature = key.sign(message.as_bytes()).expect("signs");
            assert_eq!(
                BASE64URL.encode(signature.to_bytes()),
                expected,
                "{message}"
            );
        }
    }

    #[test]
    fn a_token_verifies_and_a_changed_one_does_not() {
        let key = SigningKey::from_pem(PKCS8).expect("a key");
        let token = key.token(&json!({"iss": "rescind"})).expect("signs");
        let (signed, signature) = token.rsplit_once('.').expect("three parts");
        let signature = BASE64URL.decode(signature).expect("base64url");
        assert_eq!(signature.len(), 132);
        let signature = Signature::from_slice(&signature).expect("r and s");
        let public = VerifyingKey::from_affine(*key.0.public_key().as_affine()).expect("a point");
        assert!(public.verify(signed.as_bytes(), &signature).is_ok());
        assert!(
            public
                .verify(format!("{signed}x").as_bytes(), &signature)
                .is_err()
        );
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_repeated() {
        let p256 = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg\n-----END PRIVATE KEY-----\n";
        for wrong in ["", "hunter2", p256, SEC1] {
            let error = SigningKey::from_pem(wrong).err().expect("refused");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
