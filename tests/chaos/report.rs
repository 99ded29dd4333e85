//! The report of a run, as Markdown.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use crate::figures::{Figures, Times};
use crate::judge::{Judgement, Wrong};
use crate::plan::Kind;
use crate::scene::Recovery;

/// What there is to say of one ledger.
pub(crate) struct Part {
    pub(crate) kind: Kind,
    pub(crate) faulty: Duration,
    pub(crate) judgement: Judgement,
    pub(crate) figures: Figures,
    pub(crate) faults: BTreeMap<(String, String), u64>,
    pub(crate) recoveries: Vec<Recovery>,
    pub(crate) own_ends: BTreeMap<String, u64>,
    /// From the end of the faults until everything was terminal and every queue empty.
    pub(crate) settled: Option<Duration>,
    pub(crate) published_again: u64,
    pub(crate) repeats: u64,
    /// The small disk, or that there was none.
    pub(crate) disk: String,
    /// What misses an aim, beside the violations.
    pub(crate) missed: Vec<String>,
}

impl Part {
    pub(crate) fn is_good(&self) -> bool {
        self.judgement.violations.is_empty() && self.missed.is_empty()
    }

    pub(crate) fn injected(&self) -> u64 {
        self.faults.values().sum()
    }
}

/// The whole report.
pub(crate) fn write(parts: &[Part], head: &str) -> String {
    let mut text = format!("# Report of the fault suite\n\n{head}\n");
    summary(&mut text, parts);
    for part in parts {
        one(&mut text, part);
    }
    text
}

fn summary(text: &mut String, parts: &[Part]) {
    row(
        text,
        ["", "total"]
            .into_iter()
            .map(str::to_owned)
            .chain(names(parts)),
    );
    row(text, (0..parts.len() + 2).map(|_| "---".to_owned()));
    let mut line = |what: &str, of: &dyn Fn(&Part) -> u64| {
        let each: Vec<u64> = parts.iter().map(of).collect();
        let cells = [what.to_owned(), each.iter().sum::<u64>().to_string()];
        row(
            text,
            cells.into_iter().chain(each.iter().map(u64::to_string)),
        );
    };
    line("faults injected", &Part::injected);
    line("requests confirmed by the broker", &|p| {
        p.judgement.confirmed as u64
    });
    line("requests with a result", &|p| {
        p.judgement.with_result as u64
    });
    line("result messages seen", &|p| p.judgement.messages as u64);
    for wrong in Wrong::ALL {
        line(wrong.name(), &|p| p.judgement.count(wrong) as u64);
    }
    line("documented ends in doubt", &|p| {
        p.judgement.residual.values().sum()
    });
    line("corrections", &|p| p.judgement.corrections as u64);
    let verdict = if parts.iter().all(Part::is_good) {
        "nothing is wrong"
    } else {
        "SOMETHING IS WRONG"
    };
    writeln!(text, "\nVerdict: **{verdict}**.").expect("text");
}

fn names(parts: &[Part]) -> impl Iterator<Item = String> {
    parts.iter().map(|part| part.kind.name().to_owned())
}

fn row(text: &mut String, cells: impl IntoIterator<Item = String>) {
    let cells: Vec<String> = cells.into_iter().collect();
    writeln!(text, "| {} |", cells.join(" | ")).expect("text");
}

fn rows<const N: usize>(text: &mut String, head: [&str; N], lines: Vec<[String; N]>) {
    row(text, head.map(str::to_owned));
    row(text, head.map(|_| "---".to_owned()));
    for line in lines {
        row(text, line);
    }
    text.push('\n');
}

fn one(text: &mut String, part: &Part) {
    let workers = part.kind.workers();
    let plural = if workers == 1 { "worker" } else { "workers" };
    writeln!(
        text,
        "\n## {} ({workers} {plural})\n\nFaults for {:.0} s. {}\n",
        part.kind.name(),
        part.faulty.as_secs_f64(),
        part.disk
    )
    .expect("text");
    violations(text, part);
    recovery(text, part);
    outcomes(text, part);
    faults(text, part);
}

fn violations(text: &mut String, part: &Part) {
    for found in part.judgement.violations.iter().take(50) {
        writeln!(text, "- **wrong**: {found}").expect("text");
    }
    for missed in &part.missed {
        writeln!(text, "- **missed**: {missed}").expect("text");
    }
    for (end, times) in &part.own_ends {
        writeln!(
            text,
            "- a worker ended by itself and was started again, {times} times: `{end}`"
        )
        .expect("text");
    }
    text.push('\n');
}

fn recovery(text: &mut String, part: &Part) {
    text.push_str("### Time to recover\n\n");
    let seconds = |ms: i64| format!("{:.2} s", ms as f64 / 1000.0);
    let line = |what: &str, aim: &str, times: &Times| {
        [
            what.to_owned(),
            times.count().to_string(),
            seconds(times.percentile(50)),
            seconds(times.percentile(99)),
            seconds(times.max()),
            aim.to_owned(),
        ]
    };
    let settled = part.settled.map_or("never".to_owned(), |time| {
        format!("{:.2} s", time.as_secs_f64())
    });
    let figures = &part.figures;
    let mut lines = vec![
        line("work of a dead worker resumed", "15 s", &figures.resumed),
        line(
            "in doubt, until resolved (where the look-up answers)",
            "p99 60 s",
            &figures.resolved,
        ),
    ];
    lines.push([
        "everything terminal, queues and outbox empty".to_owned(),
        "1".to_owned(),
        String::new(),
        String::new(),
        settled,
        "30 s".to_owned(),
    ]);
    for (what, mut times) in by_kind(&part.recoveries) {
        times.sort_unstable();
        let at = |share: usize| {
            format!(
                "{:.2} s",
                times[(times.len() * share).div_ceil(100).max(1) - 1].as_secs_f64()
            )
        };
        lines.push([
            format!("ready again after: {what}"),
            times.len().to_string(),
            at(50),
            at(99),
            at(100),
            String::new(),
        ]);
    }
    rows(text, ["", "times", "p50", "p99", "max", "aim"], lines);
    writeln!(
        text,
        "{} calls, {} of them without a noted end. {} publications of unknown fate were made again, {} requests were asked a second time.\n",
        figures.calls, figures.lost_calls, part.published_again, part.repeats
    )
    .expect("text");
}

fn by_kind(recoveries: &[Recovery]) -> BTreeMap<&'static str, Vec<Duration>> {
    let mut kinds: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (what, time) in recoveries {
        kinds.entry(*what).or_default().push(*time);
    }
    kinds
}

fn outcomes(text: &mut String, part: &Part) {
    text.push_str("### How requests ended\n\n");
    let lines = part.judgement.outcomes.iter();
    let lines = lines
        .map(|((outcome, reason), count)| [outcome.clone(), reason.clone(), count.to_string()]);
    rows(text, ["outcome", "reason", "requests"], lines.collect());
    let lines = part.judgement.effects.iter();
    let lines = lines.map(|(effects, payments)| [effects.to_string(), payments.to_string()]);
    rows(text, ["effects", "payments"], lines.collect());
    text.push_str("Two effects on one payment are two requests for a part each, at Pismo.\n\n");
    let lines = part.judgement.residual.iter();
    let lines = lines.map(|((provider, reason, effects), count)| {
        [
            provider.clone(),
            reason.clone(),
            effects.to_string(),
            count.to_string(),
        ]
    });
    rows(
        text,
        ["documented end in doubt", "reason", "effects", "requests"],
        lines.collect(),
    );
}

fn faults(text: &mut String, part: &Part) {
    text.push_str("### Faults\n\n");
    let lines = part.faults.iter();
    let lines =
        lines.map(|((place, kind), count)| [place.clone(), kind.clone(), count.to_string()]);
    rows(text, ["where", "what", "times"], lines.collect());
}
