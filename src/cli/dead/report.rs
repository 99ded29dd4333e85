//! The report of a command about dead letters: a line for each, a summary, the exit code.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::super::Exit;
use super::super::text::{self, Cell, Screen, Style};
use crate::backoff::elapsed;
use crate::ledger::{ActionRecord, Closed, DeadRecord};

/// How a dead letter fared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Fate {
    /// The action would be possible.
    Possible,
    /// It was closed, or opened again.
    Done,
    /// The worker carries its request out.
    Begun,
    /// Its replay ended without a new dead letter.
    Ended,
    /// Its replay made a new dead letter.
    FailedAgain,
    /// It cannot be replayed.
    Hindered,
    /// Another person was first.
    Changed,
}

impl Fate {
    pub(super) const fn style(self) -> Style {
        match self {
            Self::Done | Self::Ended => Style::Good,
            Self::Possible | Self::Begun => Style::Plain,
            Self::FailedAgain => Style::Bad,
            Self::Hindered | Self::Changed => Style::Notice,
        }
    }

    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Done => "done",
            Self::Begun => "begun",
            Self::Ended => "ended",
            Self::FailedAgain => "failed again",
            Self::Hindered => "not possible",
            Self::Changed => "changed meanwhile",
        }
    }
}

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    dead_letter: &'a str,
    request_id: Option<&'a str>,
    provider: &'a str,
    fate: Fate,
    says: String,
}

/// Prints lines, and counts them.
pub(super) struct Report {
    json: bool,
    screen: Screen,
    fates: BTreeMap<Fate, usize>,
}

impl Report {
    pub(super) fn new(json: bool, screen: Screen) -> Self {
        Self {
            json,
            screen,
            fates: BTreeMap::new(),
        }
    }

    pub(super) fn line(
        &mut self,
        letter: &DeadRecord,
        fate: Fate,
        says: String,
    ) -> anyhow::Result<()> {
        *self.fates.entry(fate).or_default() += 1;
        let line = Line {
            dead_letter: &letter.id,
            request_id: letter.request_id.as_deref(),
            provider: &letter.provider,
            fate,
            says,
        };
        if self.json {
            return self.screen.json(&line);
        }
        let cells = [
            Cell::from(line.request_id.unwrap_or(line.dead_letter)),
            line.provider.into(),
            Cell::styled(fate.words(), fate.style()),
            line.says.into(),
        ];
        let table = text::Table::new(&[("id", 36), ("", 10), ("", 12), ("", 1)]);
        Ok(self.screen.line(&table.row(self.screen, &cells))?)
    }

    pub(super) fn of(&self, fate: Fate) -> usize {
        self.fates.get(&fate).copied().unwrap_or_default()
    }

    /// `30 dead letters: 24 ended, 2 failed again, 4 left as they were`
    pub(super) fn summary(&self, all: usize) -> String {
        let parts = self.fates.iter();
        let parts = parts.map(|(fate, n)| format!("{n} {}", fate.words()));
        let mut parts: Vec<String> = parts.collect();
        let left = all.saturating_sub(self.fates.values().sum());
        if left > 0 {
            parts.push(format!("{left} left as they were"));
        }
        if parts.is_empty() {
            "no such dead letters".into()
        } else {
            format!("{}: {}", text::count(all, "dead letter"), parts.join(", "))
        }
    }

    /// 0 where all went well; 3 where some did; 6 where another person was first at all of them.
    pub(super) fn exit(&self, all: usize) -> Exit {
        let well = self.of(Fate::Done) + self.of(Fate::Begun) + self.of(Fate::Ended);
        match (well, self.of(Fate::Changed)) {
            (well, _) if well == all => Exit::Done,
            (0, changed) if changed == all => Exit::Changed,
            (0, _) => Exit::Failed,
            _ => Exit::Partly,
        }
    }
}

/// The fate of a dead letter that the ledger did not change, with the reason.
pub(super) fn refusal(closed: Closed, now: Timestamp) -> Option<(Fate, String)> {
    match closed {
        Closed::Done => None,
        Closed::Changed(action) => Some((Fate::Changed, changed(action.as_ref(), now))),
        Closed::Hindered(hindrance) => Some((Fate::Hindered, hindrance.sentence().into())),
        Closed::Unknown => Some((Fate::Changed, GONE.into())),
    }
}

pub(super) const GONE: &str = "retention has removed it";

/// `replayed by ana 3.0 s ago`
pub(super) fn changed(action: Option<&ActionRecord>, now: Timestamp) -> String {
    match action {
        Some(action) => format!(
            "{} by {} {} ago",
            action.action.replace('_', " "),
            action.who,
            text::span(elapsed(action.at, now))
        ),
        None => "it is open, no person has closed it".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(fates: &[(Fate, usize)]) -> Report {
        Report {
            json: true,
            screen: Screen::new(Some("1"), None),
            fates: fates.iter().copied().collect(),
        }
    }

    #[test]
    fn the_exit_says_how_much_was_done() {
        use Fate::{Begun, Changed, Done, Ended, FailedAgain, Hindered};
        let exit = |fates: &[(Fate, usize)], all| report(fates).exit(all);
        assert_eq!(exit(&[], 0), Exit::Done);
        assert_eq!(exit(&[(Done, 2), (Ended, 1), (Begun, 1)], 4), Exit::Done);
        assert_eq!(exit(&[(Ended, 1)], 2), Exit::Partly);
        assert_eq!(exit(&[(Ended, 1), (FailedAgain, 1)], 2), Exit::Partly);
        assert_eq!(exit(&[(Done, 1), (Changed, 1)], 2), Exit::Partly);
        assert_eq!(exit(&[(Changed, 2)], 2), Exit::Changed);
        assert_eq!(exit(&[(Hindered, 1)], 1), Exit::Failed);
        assert_eq!(exit(&[(FailedAgain, 1)], 1), Exit::Failed);
    }

    #[test]
    fn the_summary_counts_everything() {
        let some = report(&[(Fate::FailedAgain, 2), (Fate::Ended, 24)]);
        let wanted = "30 dead letters: 24 ended, 2 failed again, 4 left as they were";
        assert_eq!(some.summary(30), wanted);
        assert_eq!(report(&[]).summary(0), "no such dead letters");
    }
}
