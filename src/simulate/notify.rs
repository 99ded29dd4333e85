//! The notifications that the simulated providers send: when, how often, and how signed.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256, Sha512};
use tokio::time::sleep;
use uuid::Uuid;

use super::behaviour::has_word;
use super::dialect::{Dialect, Provider, Subject};
use super::logins::{GR4VY_WEBHOOK_SECRET, MIDTRANS_SERVER_KEY, MIGO_NOTIFICATION_TOKEN};
use super::payment::Payment;
use super::{Simulator, now};

/// A real provider's notification takes its time as well.
const SOON: Duration = Duration::from_millis(20);
/// How much later a late one comes.
const LATE: Duration = Duration::from_secs(2);
/// Between a refused one and the next try.
const AGAIN: Duration = Duration::from_millis(500);
/// Tries of one notification.
const TRIES: usize = 10;

/// Where notifications go.
pub(super) struct Notifier {
    /// Base URL of a worker's endpoints.
    pub(super) base: String,
    pub(super) http: reqwest::Client,
}

/// What a word in the payment's id makes of its notification, the longer words first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    Late,
    Twice,
    /// Before the answer to the cancel.
    Early,
    /// Signed with another secret.
    Forged,
    /// Never.
    Lost,
    /// After the effect, once.
    Soon,
}

const WORDS: [(&str, When); 6] = [
    ("notified-late", When::Late),
    ("notified-twice", When::Twice),
    ("notified-early", When::Early),
    ("notified-forged", When::Forged),
    ("notified-lost", When::Lost),
    ("notified", When::Soon),
];

impl When {
    pub(super) fn of(ids: &[String]) -> Option<Self> {
        let named = |word: &str| ids.iter().any(|id| has_word(id, word));
        let found = WORDS.iter().find(|(word, _)| named(word));
        found.map(|(_, when)| *when)
    }

    /// How long after the effect.
    pub(super) fn delay(self) -> Duration {
        match self {
            Self::Late => LATE,
            Self::Early => Duration::ZERO,
            _ => SOON,
        }
    }
}

/// A notification that is due, once for each payment whose state has moved.
pub(super) fn due(
    simulator: &Simulator,
    dialect: &dyn Dialect,
    subject: &Subject,
) -> Option<(When, Value)> {
    let mut book = simulator.book();
    let payment = book.payment(dialect, subject);
    let when = When::of(&payment.ids).filter(|_| !payment.effects.is_empty())?;
    let body = dialect.notification(payment)?;
    let first = !std::mem::replace(&mut payment.announced, true);
    first.then_some((when, body))
}

/// Whether a payment waits for its notification, and there is somebody to get it.
pub(super) fn is_expected(simulator: &Simulator, payment: &Payment) -> bool {
    let when = When::of(&payment.ids);
    simulator.notifier.is_some() && when.is_some_and(|when| when != When::Lost)
}

/// Sends it as often as its word says; the first time before this answers.
pub(super) async fn send(simulator: Arc<Simulator>, provider: Provider, when: When, body: Value) {
    sleep(when.delay()).await;
    let times = match when {
        When::Lost => 0,
        When::Twice => 2,
        _ => 1,
    };
    let event = Uuid::new_v4().to_string();
    for _ in 0..times {
        deliver(&simulator, provider, when == When::Forged, &body, &event).await;
    }
}

/// Until it is taken, as providers do where they are told to come again.
async fn deliver(
    simulator: &Simulator,
    provider: Provider,
    forged: bool,
    body: &Value,
    event: &str,
) {
    let Some(notifier) = &simulator.notifier else {
        return;
    };
    let url = format!("{}/notifications/{}", notifier.base, provider.as_str());
    for _ in 0..TRIES {
        let (headers, body) = signed(provider, forged, body.clone(), event);
        let mut call = notifier.http.post(&url).body(body.to_string());
        for (name, value) in headers {
            call = call.header(name, value);
        }
        match call.send().await {
            Ok(answer) if !answer.status().is_server_error() => return,
            _ => sleep(AGAIN).await,
        }
    }
}

type Headers = Vec<(&'static str, String)>;

fn signed(provider: Provider, forged: bool, mut body: Value, event: &str) -> (Headers, Value) {
    let secret = |genuine: &str| if forged { "another" } else { genuine }.to_owned();
    let headers = match provider {
        Provider::Midtrans => {
            body["signature_key"] = json!(midtrans_signature(&body, &secret(MIDTRANS_SERVER_KEY)));
            Vec::new()
        }
        Provider::Gr4vy => {
            let at = now().as_second().to_string();
            let text = format!("{at}.{body}");
            let signature = hmac(&secret(GR4VY_WEBHOOK_SECRET), &text);
            vec![
                ("x-gr4vy-webhook-signatures", signature),
                ("x-gr4vy-webhook-timestamp", at),
                ("x-gr4vy-webhook-id", event.to_owned()),
            ]
        }
        Provider::Migo => vec![("authorization", secret(MIGO_NOTIFICATION_TOKEN))],
        Provider::Bento | Provider::Pismo | Provider::Tingg => Vec::new(),
    };
    (headers, body)
}

fn midtrans_signature(body: &Value, key: &str) -> String {
    let mut hash = Sha512::new();
    for field in ["order_id", "status_code", "gross_amount"] {
        hash.update(body[field].as_str().unwrap_or_default());
    }
    hash.update(key);
    hex::encode(hash.finalize())
}

fn hmac(secret: &str, text: &str) -> String {
    // A key of any length is taken.
    Hmac::<Sha256>::new_from_slice(secret.as_bytes()).map_or_else(
        |_| String::new(),
        |mac| hex::encode(mac.chain_update(text).finalize().into_bytes()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_word_counts() {
        let of = |id: &str| When::of(&[id.to_owned()]);
        assert_eq!(of("order-notified-late-1"), Some(When::Late));
        assert_eq!(of("accepted-until-notified-1"), Some(When::Soon));
        assert_eq!(of("order-1"), None);
    }

    #[test]
    fn signatures_are_the_documented_ones() {
        let body = json!({"order_id": "order-1", "status_code": "202", "gross_amount": "10000.00"});
        let signature = midtrans_signature(&body, "SB-Mid-server-TEST");
        assert!(signature.starts_with("5ee458baa97a651f4ab86e26572444a3"));
        let signature = hmac("secret", "1700000000.{\"a\":1}");
        assert!(signature.starts_with("49f24e537407743fa4a0242bb63b94b9"));
    }
}
