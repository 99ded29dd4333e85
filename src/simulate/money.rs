//! The record of what was done to the payments' money, and the answers kept under keys.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::behaviour::{Behaviour, Fault, Scenario};
use super::dialect::{Cancel, Dialect, Provider, Reply, Subject};
use super::now;
use super::payment::{Payment, Pending, State};
use super::record::{Recorder, Written};

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
                .behaviour(dialect.provider(), &ids)
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
            let running = payment.state == State::Underway;
            if !running {
                self.keep(dialect, call, &reply, false);
            }
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

    /// Answers without effect. What was looked at before it failed is kept like any other answer.
    pub(super) fn refuse(&mut self, dialect: &dyn Dialect, call: &Cancel, fault: Fault) -> Reply {
        let reply = dialect.fault(fault, self.payment(dialect, &call.subject), Some(call));
        if matches!(
            fault,
            Fault::Forbidden | Fault::Nonretryable | Fault::Internal
        ) {
            self.keep(dialect, call, &reply, false);
        }
        reply
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
            lookups: match payment.behaviour {
                Behaviour::AcceptedForever | Behaviour::AcceptedUntilNotified => None,
                _ => Some(2),
            },
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

    /// What never ended ends with its notification.
    pub(super) fn release(&mut self, dialect: &dyn Dialect, subject: &Subject) {
        let payment = self.payment(dialect, subject);
        if let Some(pending) = &mut payment.pending {
            pending.lookups = Some(0);
        }
    }

    /// Ends what was accepted, unless it ended before or never ends.
    pub(super) fn complete(&mut self, dialect: &dyn Dialect, subject: &Subject) -> Option<Written> {
        let payment = self.payment(dialect, subject);
        let pending = payment
            .pending
            .take_if(|pending| pending.lookups.is_some())?;
        if payment.behaviour == Behaviour::RefundFailed {
            payment.state = State::RefundFailed;
            // The call has ended: one with its key is no longer told that it runs.
            if let Some(key) = pending.call.key {
                self.kept.remove(&(dialect.provider(), key));
            }
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
                until: now() + time,
                reply: Some(reply.clone()),
            };
            self.kept.insert((dialect.provider(), key.clone()), kept);
        }
    }

    fn kept(&mut self, dialect: &dyn Dialect, call: &Cancel) -> Option<Reply> {
        let key = (dialect.provider(), call.key.clone()?);
        let kept = self.kept.get(&key)?;
        if kept.until < now() {
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
                "provider": dialect.provider().as_str(), "payment": id, "state": null,
                "effects": [], "cancel_calls": 0, "lookup_calls": 0, "refused_logins": 0,
            }),
        }
    }

    /// Every payment's record, in the order of their names.
    pub(super) fn views(&self) -> Vec<Value> {
        let sorted: BTreeMap<_, _> = self.payments.iter().collect();
        sorted
            .into_values()
            .map(|payment| payment.view(super::dialect(payment.provider)))
            .collect()
    }
}
