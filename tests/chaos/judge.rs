//! Joins the histories and says what is wrong with them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use rescind::wire::idempotency_key;

use crate::history::{Effect, Histories, Publication, Said};

/// What must not be. The list is closed: whatever is found is one of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wrong {
    /// Confirmed by the broker, and no result.
    Lost,
    /// Two results with different ids or different bytes.
    Doubled,
    /// Two outcomes; or what the ledger has is not what was said; or `already` of one's own effect.
    Contradictory,
    /// `cancelled`, and no money moved.
    CancelledWithoutEffect,
    /// A definite no, and money moved.
    DeniedWithEffect,
    /// Money moved twice.
    SecondEffect,
    /// `unresolved` where the documentation does not say so.
    Unexplained,
    /// Something is left in a queue, in the outbox or open in the ledger.
    LeftOver,
    /// A result about a request that nobody made.
    Unasked,
}

impl Wrong {
    /// In the order of the report.
    pub(crate) const ALL: [Self; 9] = [
        Self::Lost,
        Self::Doubled,
        Self::Contradictory,
        Self::CancelledWithoutEffect,
        Self::DeniedWithEffect,
        Self::SecondEffect,
        Self::Unexplained,
        Self::LeftOver,
        Self::Unasked,
    ];

    /// As the report says it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost: confirmed, and no result",
            Self::Doubled => "doubled: two ids or differing bytes for one request",
            Self::Contradictory => "contradictory: two outcomes, or the ledger says otherwise",
            Self::CancelledWithoutEffect => "`cancelled` without an effect",
            Self::DeniedWithEffect => "`failed`, `refused` or `nothing_to_cancel` with an effect",
            Self::SecondEffect => "a second effect on a payment",
            Self::Unexplained => "`unresolved` where it is not documented",
            Self::LeftOver => "left over at the end",
            Self::Unasked => "a result that nobody asked for",
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) wrong: Wrong,
    pub(crate) about: String,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.wrong.name(), self.about, self.text)
    }
}

/// What the judge found.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    pub(crate) violations: Vec<Violation>,
    /// Documented ends in doubt: provider, reason, effects; and how many.
    pub(crate) residual: BTreeMap<(String, String, usize), u64>,
    /// Outcomes, and how many.
    pub(crate) outcomes: BTreeMap<(String, String), u64>,
    /// Effects on a payment, and on how many payments.
    pub(crate) effects: BTreeMap<usize, u64>,
    pub(crate) confirmed: usize,
    pub(crate) with_result: usize,
    pub(crate) messages: usize,
    pub(crate) corrections: usize,
}

impl Judgement {
    fn wrong(&mut self, wrong: Wrong, about: &str, text: impl Into<String>) {
        self.violations.push(Violation {
            wrong,
            about: about.to_owned(),
            text: text.into(),
        });
    }

    /// How many of one kind.
    pub(crate) fn count(&self, wrong: Wrong) -> usize {
        let these = self.violations.iter().filter(|found| found.wrong == wrong);
        these.count()
    }
}

/// Histories by request and by payment.
struct Joined<'a> {
    results: BTreeMap<&'a str, Vec<&'a Said>>,
    corrections: BTreeMap<&'a str, Vec<&'a Said>>,
    money: BTreeMap<(&'a str, &'a str), Vec<&'a Effect>>,
    /// The requests on a payment.
    sharing: BTreeMap<(&'a str, &'a str), Vec<&'a str>>,
}

impl<'a> Joined<'a> {
    fn new(histories: &'a Histories) -> Self {
        let mut joined = Self {
            results: BTreeMap::new(),
            corrections: BTreeMap::new(),
            money: BTreeMap::new(),
            sharing: BTreeMap::new(),
        };
        for said in &histories.said {
            let by_id = match said.kind.as_str() {
                "cancellation.correction" => &mut joined.corrections,
                _ => &mut joined.results,
            };
            by_id
                .entry(said.request_id.as_str())
                .or_default()
                .push(said);
        }
        for effect in &histories.money {
            let payment = (effect.provider.as_str(), effect.payment.as_str());
            joined.money.entry(payment).or_default().push(effect);
        }
        for publication in &histories.asked {
            let requests = joined.sharing.entry(payment(publication)).or_default();
            requests.push(publication.asked.request_id.as_str());
        }
        joined
    }

    /// Movements of money that this request may have made.
    fn effects(&self, publication: &Publication) -> usize {
        let asked = &publication.asked;
        let all = self.money.get(&payment(publication)).map_or(&[][..], |m| m);
        if asked.provider != "pismo" {
            return all.len();
        }
        // Each key takes a slice of its own.
        let key = idempotency_key("pismo", &asked.request_id);
        all.iter().filter(|e| e.key.as_ref() == Some(&key)).count()
    }

    /// Whether another request on the same payment may have moved the money.
    fn another_may_have(&self, publication: &Publication) -> bool {
        let others = self
            .sharing
            .get(&payment(publication))
            .into_iter()
            .flatten();
        others
            .filter(|other| **other != publication.asked.request_id)
            .filter_map(|other| self.results.get(other)?.first())
            .any(|said| said.outcome == "cancelled" || said.outcome == "unresolved")
    }
}

fn payment(publication: &Publication) -> (&str, &str) {
    (&publication.asked.provider, &publication.asked.payment)
}

/// Payments that some provider never cancels; Pismo none of them.
const REFUSING: [&str; 8] = [
    "already-cancelled",
    "denied",
    "expired",
    "nonretryable",
    "not-found",
    "refund-failed",
    "refunded",
    "settled",
];

/// Looks at everything.
pub(crate) fn judge(histories: &Histories) -> Judgement {
    let joined = Joined::new(histories);
    let mut judgement = Judgement {
        confirmed: histories.asked.iter().filter(|p| p.confirmed).count(),
        messages: histories.said.len(),
        corrections: joined.corrections.values().map(Vec::len).sum(),
        ..Judgement::default()
    };
    for publication in &histories.asked {
        judge_request(&mut judgement, histories, &joined, publication);
    }
    judge_payments(&mut judgement, histories, &joined);
    judge_strangers(&mut judgement, histories);
    for (place, count) in histories.left_over.iter().filter(|(_, count)| **count > 0) {
        judgement.wrong(Wrong::LeftOver, place, format!("{count}"));
    }
    judgement
}

fn judge_request(
    judgement: &mut Judgement,
    histories: &Histories,
    joined: &Joined<'_>,
    publication: &Publication,
) {
    let id = publication.asked.request_id.as_str();
    let Some(messages) = joined.results.get(id) else {
        if publication.confirmed {
            let row = histories.rows.get(id);
            let text = row.map_or("not in the ledger".to_owned(), |row| format!("{row:?}"));
            judgement.wrong(Wrong::Lost, id, text);
        }
        return;
    };
    let said = messages[0];
    judgement.with_result += 1;
    let outcome = (said.outcome.clone(), said.reason.clone());
    *judgement.outcomes.entry(outcome).or_default() += 1;
    judge_messages(judgement, id, messages);
    judge_row(judgement, histories, said);
    if let Some(corrections) = joined.corrections.get(id) {
        let of_another = joined.another_may_have(publication) && joined.effects(publication) > 0;
        judge_corrections(judgement, said, corrections, of_another);
    }
    judge_money(judgement, joined, publication, said);
}

fn judge_messages(judgement: &mut Judgement, id: &str, messages: &[&Said]) {
    let ids: BTreeSet<&str> = messages.iter().map(|said| said.id.as_str()).collect();
    let bytes: BTreeSet<&[u8]> = messages.iter().map(|said| said.bytes.as_slice()).collect();
    let outcomes: BTreeSet<&str> = messages.iter().map(|said| said.outcome.as_str()).collect();
    if outcomes.len() > 1 {
        judgement.wrong(Wrong::Contradictory, id, format!("{outcomes:?}"));
    }
    if ids.len() > 1 || bytes.len() > 1 {
        let text = format!("{} ids, {} forms", ids.len(), bytes.len());
        judgement.wrong(Wrong::Doubled, id, text);
    }
}

fn judge_row(judgement: &mut Judgement, histories: &Histories, said: &Said) {
    let Some(row) = histories.rows.get(&said.request_id) else {
        judgement.wrong(Wrong::Contradictory, &said.request_id, "not in the ledger");
        return;
    };
    let finished = row.state == "finished";
    if !finished || (&row.outcome, &row.reason) != (&said.outcome, &said.reason) {
        let text = format!("said {}/{}, {row:?}", said.outcome, said.reason);
        judgement.wrong(Wrong::Contradictory, &said.request_id, text);
    }
}

/// A correction may settle what was left open; it may not turn a definite word around. But a payment that this
/// request left as it was may have been cancelled since, by another request on it.
fn judge_corrections(
    judgement: &mut Judgement,
    said: &Said,
    corrections: &[&Said],
    of_another: bool,
) {
    for correction in corrections {
        let since = of_another && correction.outcome == "cancelled";
        if said.outcome != "unresolved" && correction.outcome != said.outcome && !since {
            let text = format!("{} became {}", said.outcome, correction.outcome);
            judgement.wrong(Wrong::Contradictory, &said.request_id, text);
        }
    }
}

fn judge_money(
    judgement: &mut Judgement,
    joined: &Joined<'_>,
    publication: &Publication,
    said: &Said,
) {
    let asked = &publication.asked;
    let effects = joined.effects(publication);
    let alone = joined.sharing[&payment(publication)].len() == 1 || asked.provider == "pismo";
    let before = matches!(asked.behaviour.as_str(), "already-cancelled" | "refunded");
    let text = format!("{}/{}, {effects} effects", said.outcome, said.reason);
    match said.outcome.as_str() {
        "cancelled" if effects == 0 && !before => {
            judgement.wrong(Wrong::CancelledWithoutEffect, &said.request_id, text);
        }
        "cancelled" if effects > 0 && said.already && alone => {
            judgement.wrong(Wrong::Contradictory, &said.request_id, text + ", already");
        }
        "cancelled" => {}
        "unresolved" if is_documented(publication, said, effects) => {
            let key = (asked.provider.clone(), said.reason.clone(), effects);
            *judgement.residual.entry(key).or_default() += 1;
        }
        "unresolved" => judgement.wrong(Wrong::Unexplained, &said.request_id, text),
        _ if effects > 0 && (alone || !joined.another_may_have(publication)) => {
            judgement.wrong(Wrong::DeniedWithEffect, &said.request_id, text);
        }
        _ => {}
    }
}

/// Ends in doubt that `docs/providers.md` says are to be expected.
fn is_documented(publication: &Publication, said: &Said, effects: usize) -> bool {
    let asked = &publication.asked;
    let is_refusing = REFUSING.contains(&asked.behaviour.as_str());
    match (asked.provider.as_str(), said.reason.as_str()) {
        ("migo", "no_lookup") => true,
        // The refusal of a repeat is not believed after a call in doubt.
        ("pismo", "no_lookup") => effects == 0 && is_refusing,
        ("bento", "refund_failed") => asked.behaviour == "refund-failed",
        // By order id not every payment is found.
        ("midtrans", "no_lookup") => effects == 0 && asked.behaviour == "not-found",
        // In doubt once, then refused again and again, and shown as open.
        (_, "contradictory_evidence") => effects == 0 && is_refusing,
        _ => false,
    }
}

fn judge_payments(judgement: &mut Judgement, histories: &Histories, joined: &Joined<'_>) {
    for (payment, requests) in &joined.sharing {
        let effects = joined.money.get(payment).map_or(0, Vec::len);
        *judgement.effects.entry(effects).or_default() += 1;
        if payment.0 != "pismo" && effects > 1 {
            let text = format!("{effects} effects for {requests:?}");
            judgement.wrong(Wrong::SecondEffect, payment.1, text);
        }
    }
    // At Pismo every request has a slice, and no more than that.
    let mut keys: BTreeMap<&str, usize> = BTreeMap::new();
    for key in histories.money.iter().filter_map(|e| e.key.as_deref()) {
        *keys.entry(key).or_default() += 1;
    }
    for (key, times) in keys.into_iter().filter(|(_, times)| *times > 1) {
        judgement.wrong(
            Wrong::SecondEffect,
            key,
            format!("{times} effects for a key"),
        );
    }
}

fn judge_strangers(judgement: &mut Judgement, histories: &Histories) {
    let asked: BTreeSet<&str> = histories
        .asked
        .iter()
        .map(|p| p.asked.request_id.as_str())
        .collect();
    for said in &histories.said {
        if !asked.contains(said.request_id.as_str()) {
            judgement.wrong(Wrong::Unasked, &said.request_id, said.outcome.clone());
        }
    }
    let payments: BTreeSet<(&str, &str)> = histories.asked.iter().map(payment).collect();
    for effect in &histories.money {
        if !payments.contains(&(effect.provider.as_str(), effect.payment.as_str())) {
            judgement.wrong(Wrong::SecondEffect, &effect.payment, "of no request");
        }
    }
}
