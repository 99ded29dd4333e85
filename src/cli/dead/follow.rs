//! Replays from the first to the last: begun at a pace, followed in the ledger, stopped where they
//! fail again. The worker does the work, also when the command ends early.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use anyhow::Context as _;
use indicatif::ProgressBar;
use tokio::time::{Instant, sleep_until};

use super::super::Exit;
use super::super::text;
use super::report::{Fate, GONE, Report, refusal};
use crate::config::AccountConfig;
use crate::dispatch::reopening;
use crate::ledger::{Closing, DeadRecord, History, Ledger, Resolution};
use crate::outcome::State;
use crate::run::now;

/// Replays under way at once, and so the most that can fail before the command notices.
const UNDER_WAY_MAX: usize = 50;
/// How often the command reads their states from the ledger.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// After so long without an end the command says so.
const SILENCE: Duration = Duration::from_secs(20);
/// The fewest ended replays that can stop the rest.
const ENDED_MIN: usize = 20;

/// Instructions for all of the replays.
pub(super) struct Orders<'a> {
    pub(super) who: String,
    pub(super) why: String,
    pub(super) accounts: &'a BTreeMap<String, AccountConfig>,
    pub(super) despite_newer: bool,
    /// Most that begin in a second.
    pub(super) rate: Option<f64>,
    /// Whether to follow the replays to their ends.
    pub(super) wait: bool,
}

/// More than 5 % of at least 20 failed again.
fn is_bad(ended: usize, failed_again: usize) -> bool {
    ended >= ENDED_MIN && failed_again * 20 > ended
}

pub(super) struct Following<'a> {
    ledger: &'a dyn Ledger,
    orders: Orders<'a>,
    all: usize,
    waiting: VecDeque<DeadRecord>,
    under_way: VecDeque<DeadRecord>,
    report: Report,
    bar: ProgressBar,
    next_begin: Instant,
    last_end: Instant,
    has_warned: bool,
}

impl<'a> Following<'a> {
    pub(super) fn new(
        ledger: &'a dyn Ledger,
        orders: Orders<'a>,
        letters: Vec<DeadRecord>,
        report: Report,
    ) -> Self {
        Self {
            ledger,
            bar: text::bar(letters.len(), "dead letters"),
            orders,
            all: letters.len(),
            waiting: letters.into(),
            under_way: VecDeque::new(),
            report,
            next_begin: Instant::now(),
            last_end: Instant::now(),
            has_warned: false,
        }
    }

    /// Runs until all replays have ended, or too many failed, or a person interrupts.
    pub(super) async fn run(mut self) -> anyhow::Result<Exit> {
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        let mut next_look = Instant::now();
        while !self.waiting.is_empty() || !self.under_way.is_empty() {
            let room = !self.waiting.is_empty() && self.under_way.len() < UNDER_WAY_MAX;
            tokio::select! {
                biased;
                _ = &mut interrupt => {
                    self.bar.finish_and_clear();
                    text::say(&self.interrupted());
                    return Ok(Exit::Interrupted);
                }
                () = sleep_until(next_look), if !self.under_way.is_empty() => {
                    self.look().await.with_context(|| self.interrupted())?;
                    next_look = Instant::now() + LOOK_EVERY;
                }
                () = sleep_until(self.next_begin), if room => {
                    self.begin().await.with_context(|| self.interrupted())?;
                }
            }
        }
        self.bar.finish_and_clear();
        text::say(&self.report.summary(self.all));
        Ok(self.report.exit(self.all))
    }

    async fn begin(&mut self) -> anyhow::Result<()> {
        if let Some(rate) = self.orders.rate {
            self.next_begin = Instant::now() + Duration::from_secs_f64(1.0 / rate);
        }
        let Some(letter) = self.waiting.front().cloned() else {
            return Ok(());
        };
        let (orders, at) = (&self.orders, now());
        let closing = Closing {
            resolution: Resolution::Replay(reopening(orders.accounts, orders.despite_newer, at)),
            who: orders.who.clone(),
            why: orders.why.clone(),
            at,
        };
        let closed = self.ledger.close(&letter.id, closing).await?;
        self.waiting.pop_front();
        match refusal(closed, now()) {
            Some((fate, says)) => self.end(&letter, fate, says),
            None if self.orders.wait => {
                if self.under_way.is_empty() {
                    self.last_end = Instant::now();
                }
                self.under_way.push_back(letter);
                Ok(())
            }
            None => self.end(&letter, Fate::Begun, "the worker takes it up".into()),
        }
    }

    /// Reads the state of each replay that is under way.
    async fn look(&mut self) -> anyhow::Result<()> {
        for _ in 0..self.under_way.len() {
            let Some(letter) = self.under_way.front().cloned() else {
                break;
            };
            let history = match &letter.request_id {
                Some(id) => self.ledger.history(id).await?,
                None => None,
            };
            self.under_way.pop_front();
            match history {
                Some(history) if history.progress.state != State::Finished => {
                    self.under_way.push_back(letter);
                }
                Some(history) => self.take_end(&letter, &history)?,
                None => self.end(&letter, Fate::Ended, GONE.into())?,
            }
        }
        self.stop_if_bad();
        self.warn_if_quiet();
        Ok(())
    }

    fn take_end(&mut self, letter: &DeadRecord, history: &History) -> anyhow::Result<()> {
        let newer = |l: &&DeadRecord| l.closed_at.is_none() && l.dead_at > letter.dead_at;
        match history.letters.iter().find(newer) {
            Some(newer) => {
                let says = format!(
                    "{}: {}; dead letter {}",
                    newer.outcome, newer.reason, newer.id
                );
                self.end(letter, Fate::FailedAgain, says)
            }
            None => {
                let corrected = history.progress.hints.corrected.as_ref();
                let found = corrected.or(history.outcome.as_ref());
                let says = found.map(|(outcome, reason)| format!("{outcome}: {reason}"));
                self.end(letter, Fate::Ended, says.unwrap_or_default())
            }
        }
    }

    fn end(&mut self, letter: &DeadRecord, fate: Fate, says: String) -> anyhow::Result<()> {
        self.last_end = Instant::now();
        self.bar.suspend(|| self.report.line(letter, fate, says))?;
        self.bar.inc(1);
        Ok(())
    }

    fn stop_if_bad(&mut self) {
        let failed = self.report.of(Fate::FailedAgain);
        let ended = failed + self.report.of(Fate::Ended);
        if !is_bad(ended, failed) || self.waiting.is_empty() {
            return;
        }
        let left = text::count(self.waiting.len(), "dead letter");
        self.waiting.clear();
        let says = format!(
            "stopped: {failed} of {ended} failed again, more than 5 %; {left} left as they were. Look at one with `rescind dead show`, correct the cause, and replay the rest"
        );
        self.bar.suspend(|| text::say(&says));
    }

    fn warn_if_quiet(&mut self) {
        let quiet = self.last_end.elapsed() > SILENCE && !self.under_way.is_empty();
        if quiet && !self.has_warned {
            self.has_warned = true;
            let says = format!(
                "no replay has ended for {} s; is a worker running? The requests wait for it in the ledger, and Ctrl-C loses nothing",
                SILENCE.as_secs()
            );
            self.bar.suspend(|| text::say(&says));
        }
    }

    fn interrupted(&self) -> String {
        let (begun, left) = (self.under_way.len(), self.waiting.len());
        let ended = match self.all - begun - left {
            0 => String::new(),
            ended => format!("; {}", self.report.summary(ended)),
        };
        format!(
            "no longer followed: {begun} under way, which the worker goes on with (`rescind show` shows each one's state); {left} not begun and unchanged{ended}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_five_percent_of_at_least_twenty_is_bad() {
        for (ended, failed, bad) in [
            (19, 19, false),
            (20, 1, false),
            (20, 2, true),
            (40, 2, false),
            (40, 3, true),
            (0, 0, false),
        ] {
            assert_eq!(is_bad(ended, failed), bad, "{failed} of {ended}");
        }
    }
}
