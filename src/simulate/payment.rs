//! One simulated payment: its state, its money, and the calls it has seen.

use jiff::{SignedDuration, Timestamp};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Fault, has_word};
use super::dialect::{Amount, Cancel, Dialect, Movement, Provider, Subject};
use super::logins::Login;
use super::now;

/// What became of a payment, in no provider's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Underway,
    Cancelled,
    Settled,
    Expired,
    Denied,
    Refunded,
    RefundFailed,
    Missing,
}

/// How far a payment had come before anyone asked for its cancel; a word in its id may say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Authorised,
    Captured,
    Pending,
    PartlyPaid,
}

/// One movement of money, as the record shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Effect {
    provider: &'static str,
    payment: String,
    pub(super) operation: &'static str,
    amount: String,
    currency: &'static str,
    key: Option<String>,
    pub(super) at: Timestamp,
}

/// A cancel that was taken and not yet carried out.
#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) call: Cancel,
    /// Look-ups that still show it unfinished; none for one that never ends.
    pub(super) lookups: Option<u8>,
}

/// One payment at one provider.
#[derive(Clone, Debug)]
pub(super) struct Payment {
    pub(super) provider: Provider,
    pub(super) id: String,
    pub(super) ids: Vec<String>,
    pub(super) behaviour: Behaviour,
    pub(super) stage: Stage,
    pub(super) state: State,
    pub(super) currency: &'static str,
    /// Minor units, as all amounts here.
    pub(super) total: i64,
    pub(super) left: i64,
    pub(super) effects: Vec<Effect>,
    pub(super) created: Timestamp,
    pub(super) cancel_calls: u32,
    pub(super) lookup_calls: u32,
    refused_logins: u32,
    pub(super) turns: u32,
    refused_token: Option<String>,
    pub(super) pending: Option<Pending>,
    /// Its notification was sent, or is about to be.
    pub(super) announced: bool,
    /// What the next look-up shows instead, where look-ups lag.
    pub(super) stale: Option<Box<Payment>>,
}

/// What a payment has been there for when it is first spoken of.
const AGE: SignedDuration = SignedDuration::from_hours(2);

impl Payment {
    pub(super) fn new(dialect: &dyn Dialect, subject: &Subject, behaviour: Behaviour) -> Self {
        let word = |word: &str| subject.ids.iter().any(|id| has_word(id, word));
        let currency = match () {
            () if word("jpy") => "JPY",
            () if word("kwd") => "KWD",
            () => dialect.currency(),
        };
        let total = 100 * 10_i64.pow(digits(currency));
        let state = first_state(behaviour);
        let gone = matches!(state, State::Cancelled | State::Refunded);
        Self {
            provider: dialect.provider(),
            id: subject.payment.clone(),
            ids: subject.ids.clone(),
            behaviour,
            stage: first_stage(behaviour, word),
            state,
            currency,
            total,
            left: if gone { 0 } else { total },
            effects: Vec::new(),
            // Nobody cancels a payment in the moment in which it is made, but for one under a name used before.
            created: if word("charged-again") {
                now()
            } else {
                now() - AGE
            },
            cancel_calls: 0,
            lookup_calls: 0,
            refused_logins: 0,
            turns: 0,
            refused_token: None,
            pending: None,
            announced: false,
            stale: None,
        }
    }

    /// An amount of this payment as a decimal with its currency's digits.
    pub(super) fn decimal(&self, minor: i64) -> String {
        Decimal::new(minor, digits(self.currency)).to_string()
    }

    /// An amount in minor units, if it is a positive whole number of them.
    pub(super) fn minor(&self, amount: Amount) -> Option<i64> {
        let amount = match amount {
            Amount::Minor(minor) => return (minor > 0).then_some(minor),
            Amount::Decimal(decimal) => decimal,
        };
        let scaled = amount.checked_mul(Decimal::from(10_i64.pow(digits(self.currency))))?;
        let minor = i64::try_from(scaled.normalize()).ok()?;
        (Decimal::from(minor) == scaled && minor > 0).then_some(minor)
    }

    /// When the last movement was, for the fields that providers fill on it.
    pub(super) fn moved_at(&self) -> Option<String> {
        self.effects.last().map(|effect| effect.at.to_string())
    }

    /// Takes a login or says why not; a refused one is counted.
    pub(super) fn admit(&mut self, login: Option<Login>) -> Result<(), Fault> {
        let refusal = match login {
            None => Some(Fault::Unauthorized),
            Some(_) if self.behaviour == Behaviour::Forbidden => Some(Fault::Forbidden),
            Some(login) if self.behaviour == Behaviour::WrongToken => self.distrust(login),
            Some(_) => None,
        };
        match refusal {
            None => Ok(()),
            Some(fault) => {
                self.refused_logins += 1;
                Err(fault)
            }
        }
    }

    /// Refuses the first token for as long as a fresh one can be had, else just once.
    fn distrust(&mut self, login: Login) -> Option<Fault> {
        match &self.refused_token {
            None => self.refused_token = Some(login.token),
            Some(refused) if login.renewable && *refused == login.token => {}
            Some(_) => return None,
        }
        Some(Fault::Unauthorized)
    }

    /// Moves the money and notes it.
    pub(super) fn apply(&mut self, movement: &Movement, call: &Cancel) -> Effect {
        if self.behaviour == Behaviour::StaleLookup && self.effects.is_empty() {
            self.stale = Some(Box::new(self.clone()));
        }
        self.left -= movement.amount;
        if movement.closes {
            self.state = State::Cancelled;
        }
        let effect = Effect {
            provider: self.provider.as_str(),
            payment: self.id.clone(),
            operation: movement.operation,
            amount: self.decimal(movement.amount),
            currency: self.currency,
            key: call.key.clone(),
            at: now(),
        };
        self.effects.push(effect.clone());
        effect
    }

    /// The payment's record.
    pub(super) fn view(&self, dialect: &dyn Dialect) -> Value {
        json!({
            "provider": self.provider.as_str(),
            "payment": self.id,
            "state": dialect.state(self),
            "behaviour": self.behaviour.as_str(),
            "currency": self.currency,
            "amount": self.decimal(self.total),
            "left": self.decimal(self.left),
            "effects": self.effects,
            "cancel_calls": self.cancel_calls,
            "lookup_calls": self.lookup_calls,
            "refused_logins": self.refused_logins,
        })
    }
}

fn first_state(behaviour: Behaviour) -> State {
    match behaviour {
        Behaviour::AlreadyCancelled => State::Cancelled,
        Behaviour::Settled => State::Settled,
        Behaviour::Expired => State::Expired,
        Behaviour::Denied => State::Denied,
        Behaviour::NotFound => State::Missing,
        Behaviour::Refunded => State::Refunded,
        _ => State::Open,
    }
}

fn first_stage(behaviour: Behaviour, word: impl Fn(&str) -> bool) -> Stage {
    match behaviour {
        // Only captured money can be refunded or settled.
        Behaviour::RefundFailed | Behaviour::Refunded | Behaviour::Settled => Stage::Captured,
        _ if word("captured") => Stage::Captured,
        _ if word("pending") => Stage::Pending,
        _ if word("partial") => Stage::PartlyPaid,
        _ => Stage::Authorised,
    }
}

/// Decimal places of the currencies that the simulator uses.
fn digits(currency: &str) -> u32 {
    match currency {
        "JPY" => 0,
        "KWD" => 3,
        _ => 2,
    }
}
