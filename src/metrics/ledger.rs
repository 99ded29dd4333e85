//! Metrics that are read from the ledger: gauges that follow it, and the one counter that it keeps.

use jiff::Timestamp;
use prometheus::{Gauge, GaugeVec, IntCounterVec, IntGauge, IntGaugeVec, Opts};

use super::labels::open_states;
use super::{Builder, Metrics};
use crate::job::UNKNOWN_PROVIDER;
use crate::ledger::Stats;
use crate::outcome::{State, dead_reasons};

/// What follows the ledger.
pub(super) struct LedgerMetrics {
    open: IntGaugeVec,
    oldest_open: GaugeVec,
    replaying: IntGaugeVec,
    oldest_replay: GaugeVec,
    dead_letters: IntGaugeVec,
    oldest_dead_letter: Gauge,
    dead_letters_closed: IntCounterVec,
    outbox_pending: IntGauge,
    answers: IntGauge,
}

impl LedgerMetrics {
    pub(super) fn new(b: &Builder) -> prometheus::Result<Self> {
        Ok(Self {
            open: b.gauges(
                "rescind_open",
                "Requests without a result.",
                &["provider", "state"],
            )?,
            oldest_open: b.add(GaugeVec::new(
                Opts::new(
                    "rescind_oldest_open_timestamp_seconds",
                    "When the oldest request without a result was taken in, 0 for none; without those that wait for another request on their payment.",
                ),
                &["provider", "state"],
            ))?,
            replaying: b.gauges(
                "rescind_replaying",
                "Requests that are being replayed.",
                &["provider"],
            )?,
            oldest_replay: b.add(GaugeVec::new(
                Opts::new(
                    "rescind_oldest_replay_timestamp_seconds",
                    "When the oldest replay under way began, 0 for none.",
                ),
                &["provider"],
            ))?,
            dead_letters: b.gauges(
                "rescind_dead_letters",
                "Open dead letters.",
                &["provider", "reason"],
            )?,
            oldest_dead_letter: b.add(Gauge::new(
                "rescind_oldest_dead_letter_timestamp_seconds",
                "When the oldest open dead letter was given up, 0 for none.",
            ))?,
            dead_letters_closed: b.counters(
                "rescind_dead_letters_closed_total",
                "Dead letters closed by an operator.",
                &["action"],
            )?,
            outbox_pending: b.gauge(
                "rescind_outbox_pending",
                "Messages written and not yet confirmed by the broker.",
            )?,
            answers: b.gauge("rescind_ledger_answers", "1: it answers and stores.")?,
        })
    }

    /// Commands close dead letters too: the ledger counts, and this counter follows.
    pub(super) fn closed(&self, action: &str, total: u64) {
        let counter = self.dead_letters_closed.with_label_values(&[action]);
        counter.inc_by(total.saturating_sub(counter.get()));
    }
}

impl Metrics {
    fn set_open(&self, provider: &str, state: State, stats: &Stats) {
        let rows = stats.open.iter();
        let ours =
            rows.filter(|(of, in_state, _, _)| self.label(of) == provider && *in_state == state);
        let (count, oldest) = added_up(ours.map(|(_, _, count, oldest)| (*count, *oldest)));
        let labels = [provider, state.as_str()];
        self.ledger.open.with_label_values(&labels).set(count);
        let since = self.ledger.oldest_open.with_label_values(&labels);
        since.set(seconds(oldest));
    }

    fn set_replaying(&self, provider: &str, stats: &Stats) {
        let rows = stats.replaying.iter();
        let ours = rows.filter(|(of, _, _)| self.label(of) == provider);
        let (count, oldest) = added_up(ours.map(|(_, count, oldest)| (*count, *oldest)));
        let labels = [provider];
        self.ledger.replaying.with_label_values(&labels).set(count);
        let since = self.ledger.oldest_replay.with_label_values(&labels);
        since.set(seconds(oldest));
    }

    fn set_dead(&self, provider: &str, reason: &str, stats: &Stats) {
        let letters = stats.dead.iter();
        let ours = letters.filter(|(of, why, _)| self.label(of) == provider && why == reason);
        let open = self
            .ledger
            .dead_letters
            .with_label_values(&[provider, reason]);
        open.set(signed(ours.map(|(_, _, count)| count).sum()));
    }

    /// Whether the ledger answers and stored what it was given last.
    pub fn ledger_answers(&self, answers: bool) {
        self.ledger.answers.set(answers.into());
    }

    /// Sets the gauges that are read from the ledger; a series without rows becomes 0.
    pub fn stats(&self, stats: &Stats) {
        // Each gauge is set once, so that no scrape sees a 0 in between. Accounts that are no
        // longer configured share a series.
        let known = self.providers.iter().map(String::as_str);
        for provider in known.chain([UNKNOWN_PROVIDER]) {
            for state in open_states() {
                self.set_open(provider, state, stats);
            }
            self.set_replaying(provider, stats);
            for reason in dead_reasons() {
                self.set_dead(provider, reason, stats);
            }
        }
        self.ledger
            .oldest_dead_letter
            .set(seconds(stats.oldest_dead));
        self.ledger.outbox_pending.set(signed(stats.outbox));
        for (action, total) in &stats.closed {
            self.ledger.closed(action, *total);
        }
    }
}

/// How many in all, and since when.
fn added_up(rows: impl Iterator<Item = (u64, Option<Timestamp>)>) -> (i64, Option<Timestamp>) {
    let (mut count, mut oldest) = (0, None::<Timestamp>);
    for (more, since) in rows {
        count += more;
        oldest = oldest.into_iter().chain(since).min();
    }
    (signed(count), oldest)
}

fn seconds(at: Option<Timestamp>) -> f64 {
    at.map_or(0.0, |at| at.as_duration().as_secs_f64())
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
