//! Metrics that are read from the ledger: gauges that follow it, and the one counter that it keeps.

use jiff::Timestamp;

use super::{Metrics, open_states};
use crate::job::UNKNOWN_PROVIDER;
use crate::ledger::Stats;
use crate::outcome::{State, dead_reasons};

impl Metrics {
    fn set_open(&self, provider: &str, state: State, stats: &Stats) {
        let rows = stats.open.iter();
        let ours = rows.filter(|(of, at, _, _)| self.label(of) == provider && *at == state);
        let (mut count, mut oldest) = (0, None::<Timestamp>);
        for (_, _, more, since) in ours {
            count += more;
            oldest = oldest.into_iter().chain(*since).min();
        }
        let labels = [provider, state.as_str()];
        self.open.with_label_values(&labels).set(signed(count));
        let oldest = oldest.map_or(0.0, |at| at.as_duration().as_secs_f64());
        self.oldest_open.with_label_values(&labels).set(oldest);
    }

    /// Whether the ledger answers and stored what it was given last.
    pub fn ledger_answers(&self, answers: bool) {
        self.ledger_answers.set(answers.into());
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
            for reason in dead_reasons() {
                let letters = stats.dead.iter();
                let ours =
                    letters.filter(|(of, why, _)| self.label(of) == provider && why == reason);
                self.dead_letters
                    .with_label_values(&[provider, reason])
                    .set(signed(ours.map(|(_, _, count)| count).sum()));
            }
        }
        let oldest = stats
            .oldest_dead
            .map_or(0.0, |at| at.as_duration().as_secs_f64());
        self.oldest_dead_letter.set(oldest);
        self.outbox_pending.set(signed(stats.outbox));
        for (action, total) in &stats.closed {
            // Commands close them too: the ledger counts, and this counter follows.
            let counter = self.dead_letters_closed.with_label_values(&[action]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
