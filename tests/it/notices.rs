//! Notifications: what is believed of them, and what a worker does about them.

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};

mod adapters;
pub(crate) mod worker;

/// Midtrans' signature, by the words of its page.
fn midtrans_signature(order: &str, code: &str, amount: &str, key: &str) -> String {
    hex::encode(Sha512::digest(format!("{order}{code}{amount}{key}")))
}

/// A notification of Midtrans with a genuine signature.
fn midtrans(order: &str, code: &str, amount: &str, status: &str, key: &str) -> Value {
    json!({
        "order_id": order,
        "status_code": code,
        "gross_amount": amount,
        "transaction_status": status,
        "signature_key": midtrans_signature(order, code, amount, key),
    })
}

/// Gr4vy's signature, by the words of its page.
fn gr4vy_signature(timestamp: &str, body: &[u8], secret: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(timestamp.as_bytes());
    mac.update(b".");
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}
