//! The simulated payments and the record of what was done to their money.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Fault, Scenario, has_word};
use super::dialect::{Amount, Cancel, Dialect, Movement, Provider, Reply, Subject};
use super::logins::Login;
use super::record::{Recorder, Written};

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
struct Pending {
    call: Cancel,
    /// Look-ups that still show it unfinished; none for one that never ends.
    lookups: Option<u8>,
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
    pending: Option<Pending>,
    /// What the next look-up shows instead, where look-ups lag.
    stale: Option<Box<Payment>>,
}

impl Payment {
    fn new(dialect: &dyn Dialect, subject: &Subject, behaviour: Behaviour) -> Self {
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
            created: Timestamp::now(),
            cancel_calls: 0,
            lookup_calls: 0,
            refused_logins: 0,
            turns: 0,
            refused_token: None,
            pending: None,
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

    fn apply(&mut self, movement: &Movement, call: &Cancel) -> Effect {
        if self.behaviour == Behaviour::StaleLookup && self.effects.is_empty() {
            self.stale = Some(Box::new(self.clone()));
        }
        self.left -= movement.amount;
        if movement.closes {
            self.state = State::Cancelled;
        }
        let effect = Effect {
            provider: self.provider.name(),
            payment: self.id.clone(),
            operation: movement.operation,
            amount: self.decimal(movement.amount),
            currency: self.currency,
            key: call.key.clone(),
            at: Timestamp::now(),
        };
        self.effects.push(effect.clone());
        effect
    }

    fn view(&self, dialect: &dyn Dialect) -> Value {
        json!({
            "provider": self.provider.name(),
            "payment": self.id,
            "state": dialect.state(self),
            "behaviour": self.behaviour.word(),
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

/// An answer kept under a key, or the mark that its call still runs.
struct Kept {
    until: Timestamp,
    reply: Option<Reply>,
}

/// An answer, and the write that has to be on disk before it goes out.
pub(super) struct Settled {
    pub(super) reply: Reply,
    pub(super) written: Option<Written>,
}

type Name = (Provider, String);

/// All payments, in one place behind one lock that is never held across an await.
#[derive(Default)]
pub(super) struct Book {
    scenario: Scenario,
    recorder: Option<Recorder>,
    payments: HashMap<Name, Payment>,
    aliases: HashMap<Name, String>,
    kept: HashMap<Name, Kept>,
}

impl Book {
    pub(super) fn new(scenario: Scenario, recorder: Option<Recorder>) -> Self {
        Self {
            scenario,
            recorder,
            ..Self::default()
        }
    }

    /// The payment, which springs into existence at its first mention.
    pub(super) fn payment(&mut self, dialect: &dyn Dialect, subject: &Subject) -> &mut Payment {
        let name = self.name(dialect, &subject.payment);
        for alias in dialect.aliases(&name.1) {
            self.aliases
                .entry((name.0, alias))
                .or_insert_with(|| name.1.clone());
        }
        let scenario = &self.scenario;
        self.payments.entry(name).or_insert_with(|| {
            let mut ids = vec![subject.payment.clone()];
            ids.extend(subject.ids.iter().cloned());
            let behaviour = scenario
                .behaviour(dialect.provider().name(), &ids)
                .or_else(|| Behaviour::in_ids(&ids))
                .unwrap_or(Behaviour::Success);
            Payment::new(dialect, subject, behaviour)
        })
    }

    fn name(&self, dialect: &dyn Dialect, id: &str) -> Name {
        let name = (dialect.provider(), id.to_owned());
        match self.aliases.get(&name) {
            Some(known) if !self.payments.contains_key(&name) => (name.0, known.clone()),
            _ => name,
        }
    }

    /// Carries out a cancel as far as key, state and amount allow it, and words the answer.
    pub(super) fn settle(&mut self, dialect: &dyn Dialect, call: &Cancel) -> Settled {
        if let Some(reply) = self.kept(dialect, call) {
            return Settled {
                reply,
                written: None,
            };
        }
        let payment = self.payment(dialect, &call.subject);
        let Some(movement) = dialect.movement(payment, call) else {
            let reply = dialect.refused(payment, call);
            self.keep(dialect, call, &reply, false);
            return Settled {
                reply,
                written: None,
            };
        };
        let effect = payment.apply(&movement, call);
        let reply = dialect.done(payment, call);
        let written = self
            .recorder
            .as_ref()
            .map(|recorder| recorder.append(&effect));
        self.keep(dialect, call, &reply, true);
        Settled { reply, written }
    }

    /// Takes a cancel to carry it out later; nothing where the provider has no such answer.
    pub(super) fn accept(&mut self, dialect: &dyn Dialect, call: &Cancel) -> Option<Reply> {
        let payment = self.payment(dialect, &call.subject);
        dialect.movement(payment, call)?;
        payment.state = State::Underway;
        let Some(reply) = dialect.accepted(payment, call) else {
            payment.state = State::Open;
            return None;
        };
        payment.pending = Some(Pending {
            call: call.clone(),
            lookups: (payment.behaviour != Behaviour::AcceptedForever).then_some(2),
        });
        self.mark_running(dialect, call);
        Some(reply)
    }

    /// Notes that a call with this key is under way.
    pub(super) fn mark_running(&mut self, dialect: &dyn Dialect, call: &Cancel) {
        if let Some(key) = &call.key {
            let kept = Kept {
                until: Timestamp::MAX,
                reply: None,
            };
            self.kept.insert((dialect.provider(), key.clone()), kept);
        }
    }

    /// Carries out a call that was marked as running.
    pub(super) fn resume(&mut self, dialect: &dyn Dialect, call: &Cancel) -> Settled {
        if let Some(key) = &call.key {
            self.kept.remove(&(dialect.provider(), key.clone()));
        }
        self.settle(dialect, call)
    }

    /// Ends what was accepted, unless it ended before or never ends.
    pub(super) fn complete(&mut self, dialect: &dyn Dialect, subject: &Subject) -> Option<Written> {
        let payment = self.payment(dialect, subject);
        let pending = payment
            .pending
            .take_if(|pending| pending.lookups.is_some())?;
        if payment.behaviour == Behaviour::RefundFailed {
            payment.state = State::RefundFailed;
            return None;
        }
        payment.state = State::Open;
        self.resume(dialect, &pending.call).written
    }

    /// Answers a look-up: two of them still show an accepted cancel unfinished.
    pub(super) fn lookup(&mut self, dialect: &dyn Dialect, subject: &Subject) -> Settled {
        let payment = self.payment(dialect, subject);
        let mut written = None;
        match payment.pending.as_mut().and_then(|p| p.lookups.as_mut()) {
            Some(0) => written = self.complete(dialect, subject),
            Some(left) => *left -= 1,
            None => {}
        }
        let payment = self.payment(dialect, subject);
        let reply = match payment.stale.take() {
            Some(before) => dialect.lookup(&before),
            None => dialect.lookup(payment),
        };
        Settled { reply, written }
    }

    fn keep(&mut self, dialect: &dyn Dialect, call: &Cancel, reply: &Reply, carried_out: bool) {
        if let (Some(key), Some(time)) = (&call.key, dialect.keeps(carried_out)) {
            let kept = Kept {
                until: Timestamp::now() + time,
                reply: Some(reply.clone()),
            };
            self.kept.insert((dialect.provider(), key.clone()), kept);
        }
    }

    fn kept(&mut self, dialect: &dyn Dialect, call: &Cancel) -> Option<Reply> {
        let key = (dialect.provider(), call.key.clone()?);
        let kept = self.kept.get(&key)?;
        if kept.until < Timestamp::now() {
            self.kept.remove(&key);
            return None;
        }
        let reply = kept.reply.clone();
        reply.or_else(|| {
            let payment = self.payment(dialect, &call.subject);
            Some(dialect.running(payment, call))
        })
    }

    /// One payment's record; one that nobody mentioned has no effects.
    pub(super) fn view(&self, dialect: &dyn Dialect, id: &str) -> Value {
        match self.payments.get(&self.name(dialect, id)) {
            Some(payment) => payment.view(dialect),
            None => json!({
                "provider": dialect.provider().name(), "payment": id, "state": null,
                "effects": [], "cancel_calls": 0, "lookup_calls": 0, "refused_logins": 0,
            }),
        }
    }

    /// Every payment's record, in the order of their names.
    pub(super) fn views(&self, dialect: impl Fn(Provider) -> &'static dyn Dialect) -> Vec<Value> {
        let sorted: BTreeMap<_, _> = self.payments.iter().collect();
        sorted
            .into_values()
            .map(|payment| payment.view(dialect(payment.provider)))
            .collect()
    }
}
