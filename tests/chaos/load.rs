//! What is asked: requests over all providers and behaviours, in an order that the seed decides.

use jiff::{SignedDuration, Timestamp};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::rig::stage::payment_id;

const PROVIDERS: [&str; 6] = ["bento", "gr4vy", "midtrans", "migo", "pismo", "tingg"];

/// Behaviours of the simulator that end by themselves, also after a call in doubt, and how often
/// each is drawn.
const BEHAVIOURS: [(&str, u32); 24] = [
    ("success", 30),
    ("accepted-then-done", 8),
    ("accepted-until-notified", 2),
    ("retryable-twice", 6),
    ("rate-limited", 3),
    ("error-after-effect", 6),
    ("error-before-effect", 6),
    ("timeout-after-effect", 3),
    ("timeout-before-effect", 3),
    ("reset-after-effect", 6),
    ("late-effect", 3),
    ("garbage", 5),
    ("slow", 4),
    ("stale-lookup", 2),
    ("wrong-token", 2),
    ("settled", 2),
    ("expired", 2),
    ("denied", 1),
    ("not-found", 2),
    ("refunded", 1),
    ("already-cancelled", 2),
    ("refund-failed", 1),
    ("nonretryable", 2),
    ("pending", 2),
];

/// Words that send a notification.
const NOTIFIED: [&str; 5] = [
    "notified",
    "notified-late",
    "notified-twice",
    "notified-forged",
    "notified-lost",
];

/// One request of the load.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) request: Value,
    pub(crate) request_id: String,
    pub(crate) provider: String,
    /// As the simulator names it.
    pub(crate) payment: String,
    /// The simulator's word for it.
    pub(crate) behaviour: String,
}

/// The load of a run, without an end.
pub(crate) struct Load {
    random: StdRng,
    number: u64,
    seed: u64,
    /// A second request on the same payment, to be asked next.
    twin: Option<Asked>,
}

impl Load {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            number: 0,
            seed,
            twin: None,
        }
    }

    /// Whether this one is published once more, and how many ticks later.
    pub(crate) fn repeat(&mut self) -> Option<u64> {
        let again = self.random.random_bool(0.04);
        let later = self.random.random_range(1..60);
        again.then_some(later)
    }

    fn draw(&mut self) -> Asked {
        self.number += 1;
        let provider = *PROVIDERS.choose(&mut self.random).expect("providers");
        let (behaviour, _) = BEHAVIOURS
            .choose_weighted(&mut self.random, |(_, weight)| *weight)
            .expect("behaviours");
        let mut words = (*behaviour).to_owned();
        let notified = self.random.random_bool(0.2);
        let notice = NOTIFIED.choose(&mut self.random).expect("words");
        if notified && *behaviour != "accepted-until-notified" {
            words = format!("{words}-{notice}");
        }
        let part = provider == "bento" && self.random.random_bool(0.25);
        if part {
            // Of every other payment a second part could be refunded: there two calls are two effects.
            let stays_open = if self.number.is_multiple_of(2) {
                "-parts"
            } else {
                ""
            };
            words = format!("captured{stays_open}-{words}");
        }
        let mut request = request(
            &format!("{}-{}", self.seed, self.number),
            provider,
            &words,
            part,
        );
        let seconds = self.random.random_range(1..20);
        // Where nobody can be asked a doubt ends at the deadline, and a person has to look: that is no fault.
        if self.random.random_bool(0.08) && !matches!(provider, "migo" | "pismo") {
            let deadline = Timestamp::now() + SignedDuration::from_secs(seconds);
            request["deadline"] = json!(deadline.to_string());
        }
        asked(request, provider, behaviour)
    }

    /// The same payment under another id.
    fn twin(&mut self, first: &Asked) -> Asked {
        self.number += 1;
        let mut request = first.request.clone();
        request["request_id"] = json!(format!("{}-{}-{}", first.provider, self.seed, self.number));
        asked(request, &first.provider, &first.behaviour)
    }
}

impl Iterator for Load {
    type Item = Asked;

    fn next(&mut self) -> Option<Asked> {
        if let Some(twin) = self.twin.take() {
            return Some(twin);
        }
        let first = self.draw();
        if self.random.random_bool(0.06)
            && first
                .request
                .get("amount")
                .is_none_or(|_| first.provider == "pismo")
        {
            self.twin = Some(self.twin(&first));
        }
        Some(first)
    }
}

fn asked(request: Value, provider: &str, behaviour: &str) -> Asked {
    Asked {
        request_id: request["request_id"].as_str().expect("an id").to_owned(),
        provider: provider.to_owned(),
        payment: payment_id(&request),
        behaviour: behaviour.to_owned(),
        request,
    }
}

fn request(number: &str, provider: &str, words: &str, part: bool) -> Value {
    let id = format!("{words}-{number}");
    let mut request = json!({
        "request_id": format!("{provider}-{number}"),
        "provider": provider,
        "reason": "customer_cancelled",
        "metadata": { "number": number },
    });
    request["payment"] = match provider {
        "bento" => json!({ "order_id": format!("order-{number}"), "transaction_id": id }),
        "midtrans" => json!({ "order_id": id }),
        "pismo" => json!({ "original_tracking_id": id }),
        "tingg" => json!({ "merchant_transaction_id": id, "service_code": "DEMO" }),
        _ => json!({ "transaction_id": id }),
    };
    if provider == "pismo" {
        request["amount"] = json!("50.00");
        request["currency"] = json!("BRL");
    }
    if part {
        request["amount"] = json!("12.34");
        request["currency"] = json!("USD");
    }
    request
}
