//! What a PromQL expression names, held against what the worker exports.

use std::collections::{BTreeMap, BTreeSet};

use rescind::metrics::Metrics;
use rescind::providers;

/// The labels that Prometheus adds by itself.
const ADDED: [&str; 2] = ["job", "instance"];
/// The same on every worker that shares a ledger: a sum would count each of them.
const FROM_THE_LEDGER: [&str; 8] = [
    "rescind_open",
    "rescind_oldest_open_timestamp_seconds",
    "rescind_replaying",
    "rescind_oldest_replay_timestamp_seconds",
    "rescind_dead_letters",
    "rescind_oldest_dead_letter_timestamp_seconds",
    "rescind_outbox_pending",
    "rescind_dead_letters_closed_total",
];
/// What may stand directly around such a number.
const NO_SUMS: [&str; 3] = ["max", "min", "delta"];

/// `name{label="value"}` in an expression.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Selector<'a> {
    pub(super) name: &'a str,
    /// Each label with each of the values that it may have.
    matchers: Vec<(&'a str, &'a str)>,
    /// The function directly around it.
    within: &'a str,
}

/// Those of our metrics, of the process's, of recorded ones, and `up`.
pub(super) fn selectors(expression: &str) -> Vec<Selector<'_>> {
    let mut found = Vec::new();
    let mut rest = expression;
    let mut before = 0;
    while let Some(start) = rest.find(|c: char| c == '"' || is_name(c)) {
        let (place, tail) = (before + start, rest.get(start..).unwrap());
        let length = match tail.strip_prefix('"') {
            Some(quoted) => quoted.find('"').expect("a closing quote") + 2,
            None => tail.find(|c| !is_name(c)).unwrap_or(tail.len()),
        };
        let (name, after) = tail.split_at(length);
        let braces = after.strip_prefix('{').and_then(|a| a.split_once('}'));
        let ours = ["rescind", "process_"].iter().any(|p| name.starts_with(p));
        let mut taken = start + length;
        if ours || (name == "up" && braces.is_some()) {
            let matchers = braces.map(|(inside, _)| matchers(inside));
            taken += braces.map_or(0, |(inside, _)| inside.len() + 2);
            found.push(Selector {
                name,
                matchers: matchers.unwrap_or_default(),
                within: function_around(expression.get(..place).unwrap()),
            });
        }
        before += taken;
        rest = rest.get(taken..).unwrap();
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

fn matchers(inside: &str) -> Vec<(&str, &str)> {
    let quoted = inside.split_inclusive('"').collect::<Vec<_>>();
    let pairs = quoted.chunks(2).filter(|pair| pair.len() == 2);
    pairs
        .flat_map(|pair| {
            let label = pair[0].trim_matches(|c| !is_name(c));
            let values = pair[1].trim_end_matches('"').split('|');
            values.map(move |value| (label, value))
        })
        .collect()
}

/// `max` in `sum(max by (a) (`.
fn function_around(before: &str) -> &str {
    let Some(mut call) = before.trim_end().strip_suffix('(') else {
        return "";
    };
    call = call.trim_end();
    if let Some((ahead, by)) = call.rsplit_once(" by ")
        && by.starts_with('(')
        && by.ends_with(')')
    {
        call = ahead;
    }
    call.rsplit(|c| !is_name(c)).next().unwrap_or_default()
}

/// Every name with its labels and their values.
pub(super) struct Exported(BTreeMap<String, BTreeMap<String, BTreeSet<String>>>);

impl Exported {
    /// By a worker with an account of each kind.
    pub(super) fn by_a_worker() -> Self {
        let accounts = providers::ALL.iter().map(|p| p.kind().to_owned());
        let metrics = Metrics::new(&accounts.collect::<Vec<_>>(), "abc").unwrap();
        let mut names = Self(BTreeMap::from([("up".to_owned(), BTreeMap::new())]));
        let text = metrics.text().unwrap();
        for series in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, _) = series.rsplit_once(' ').unwrap();
            names.add(&selectors(series));
        }
        names
    }

    fn add(&mut self, series: &[Selector<'_>]) {
        for one in series {
            let labels = self.0.entry(one.name.to_owned()).or_default();
            for (label, value) in &one.matchers {
                let values = labels.entry((*label).to_owned()).or_default();
                values.insert((*value).to_owned());
            }
        }
    }

    /// The names of our own metrics, histograms without their endings.
    pub(super) fn metrics(&self) -> BTreeSet<&str> {
        let own = self.0.keys().filter(|name| name.starts_with("rescind_"));
        own.map(|name| base(name)).collect()
    }

    /// What the expression names and nobody exports, or adds up although it is one number.
    pub(super) fn complaints(&self, expression: &str, recorded: &BTreeSet<&str>) -> Vec<String> {
        let mut wrong = Vec::new();
        for selector in selectors(expression) {
            if recorded.contains(selector.name) {
                continue;
            }
            let Some(labels) = self.0.get(selector.name) else {
                wrong.push(format!("{} is not exported", selector.name));
                continue;
            };
            let named = selector.matchers.iter();
            let named =
                named.filter(|(label, value)| !ADDED.contains(label) && !is_variable(value));
            for (label, value) in named {
                if !labels.get(*label).is_some_and(|has| has.contains(*value)) {
                    wrong.push(format!("{} has no {label}={value}", selector.name));
                }
            }
        }
        wrong
    }
}

/// Numbers of the ledger outside of `max` and its like.
pub(super) fn sums_of_one_number(expression: &str) -> Vec<String> {
    let found = selectors(expression).into_iter();
    found
        .filter(|s| FROM_THE_LEDGER.contains(&s.name) && !NO_SUMS.contains(&s.within))
        .map(|s| format!("{}: each worker exports the same number", s.name))
        .collect()
}

/// Without the endings of a histogram.
pub(super) fn base(name: &str) -> &str {
    let endings = ["_bucket", "_sum", "_count"];
    let found = endings.iter().find_map(|ending| name.strip_suffix(ending));
    found.unwrap_or(name)
}

fn is_variable(value: &str) -> bool {
    value.starts_with('$')
}

#[test]
fn what_an_expression_names_is_seen() {
    let exported = Exported::by_a_worker();
    let complaints = |expression| exported.complaints(expression, &BTreeSet::from(["rescind:a"]));
    for right in [
        "sum by (provider) (rate(rescind_cancellations_total{outcome=~\"failed|unresolved\"}[5m])) > 0",
        "rescind:a > 1 and up{job=\"rescind\"} == 1",
        "rescind_ledger_commit_seconds_bucket{instance=\"w\",le=\"0.25\"} + process_resident_memory_bytes",
        "label_replace(rescind_draining, \"rescind_x\", \"$1\", \"a\", \"(.*)\")",
        "rescind_dead_letters{job=\"$job\",provider=~\"$provider|unknown\"}",
    ] {
        assert_eq!(complaints(right), [""; 0], "{right}");
    }
    for wrong in [
        "rescind_cancelations_total",
        "rescind:b",
        "rescind_cancellations_total{outcome=\"failled\"}",
        "rescind_cancellations_total{outcome=~\"failed|lost\"}",
        "rescind_cancellations_total{gateway=\"migo\"}",
        "1 + rescind_ledger_commit_seconds_bucket{le=\"0.3\"}",
    ] {
        assert_eq!(complaints(wrong).len(), 1, "{wrong}");
    }
    let sums = |expression| sums_of_one_number(expression).len();
    assert_eq!(sums("sum(max by (a, b) (rescind_open{state=\"due\"}))"), 0);
    assert_eq!(
        sums("max(rescind_outbox_pending) - max (rescind_open > 0)"),
        0
    );
    assert_eq!(
        sums("sum by (a) (rescind_open) + rescind_outbox_pending"),
        2
    );
}
