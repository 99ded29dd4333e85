//! Alerts, their unit tests and their pages agree with each other and with what the worker exports.

mod dashboard;
mod promql;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use self::promql::{Exported, selectors, sums_of_one_number};
use crate::rig::{folder, project};

const FOLDER: &str = "deploy/prometheus";
const TESTS: [&str; 2] = ["rules.test.yaml", "slo.test.yaml"];
/// What operators replace by the address of their own pages.
const RUNBOOKS: &str = "https://runbooks.example.com/rescind";
const SECTIONS: [&str; 4] = ["Meaning", "Impact", "Diagnosis", "Mitigation"];

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

fn yaml(path: &str) -> Value {
    let text = read(project(path));
    serde_saphyr::from_str(&text).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    let found = value[key].as_str();
    found.unwrap_or_else(|| panic!("no text {key} in {value:#}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Runs promtool in a folder; its complaints are the panic.
fn promtool(folder: &Path, arguments: &[&str]) {
    let run = Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .output();
    let output = run.expect("promtool, of Debian's package prometheus; `make test` installs it");
    assert!(
        output.status.success(),
        "promtool {arguments:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Whether promtool can parse each: wrapped into rules, as it checks nothing else.
fn promtool_reads(expressions: &[String]) {
    assert!(!expressions.is_empty());
    let rules = expressions.iter().enumerate();
    let rules = rules.map(|(n, expr)| json!({"record": format!("parsed:{n}"), "expr": expr}));
    let groups = json!({"groups": [{"name": "parsed", "rules": rules.collect::<Vec<_>>()}]});
    let dir = folder("promtool");
    std::fs::write(dir.path().join("rules.yaml"), groups.to_string()).unwrap();
    promtool(dir.path(), &["check", "rules", "rules.yaml"]);
}

fn rules(kind: &str) -> BTreeMap<String, Value> {
    let file = yaml("deploy/prometheus/rules.yaml");
    let groups = list(&file["groups"]).iter();
    let rules = groups.flat_map(|group| list(&group["rules"]));
    let named = rules.filter(|rule| rule[kind].is_string());
    named
        .map(|rule| (text(rule, kind).to_owned(), rule.clone()))
        .collect()
}

fn alerts() -> BTreeMap<String, Value> {
    let alerts = rules("alert");
    assert!(alerts.len() >= 14, "the alerts were not found");
    alerts
}

#[test]
fn promtool_accepts_rules_and_configuration_and_their_tests_pass() {
    let folder = project(FOLDER);
    promtool(
        &folder,
        &["check", "rules", "--lint=all", "--lint-fatal", "rules.yaml"],
    );
    promtool(
        &folder,
        &[
            "check",
            "config",
            "--lint=all",
            "--lint-fatal",
            "prometheus.yaml",
        ],
    );
    for tests in TESTS {
        promtool(&folder, &["test", "rules", tests]);
    }
}

/// The metrics that a rule looks at, through those that it has recorded.
fn sources(expression: &str, recorded: &BTreeMap<String, Value>) -> BTreeSet<String> {
    let named = selectors(expression);
    let names = named.iter().flat_map(|s| match recorded.get(s.name) {
        Some(rule) => sources(text(rule, "expr"), recorded),
        None => BTreeSet::from([s.name.to_owned()]),
    });
    names.collect()
}

/// A test in which an alert is quiet has to give it something to look at.
fn assert_not_empty(test: &Value, alert: &str, sources: &BTreeSet<String>) {
    let series = list(&test["input_series"]).iter();
    let mut given = series.flat_map(|s| selectors(text(s, "series")));
    assert!(
        given.any(|series| sources.contains(series.name)),
        "{alert} is quiet in {:?} for want of its metrics",
        test["name"]
    );
}

#[test]
fn each_alert_fires_in_one_test_and_is_quiet_in_another() {
    let (alerts, recorded) = (alerts(), rules("record"));
    let (mut fires, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for file in TESTS {
        for test in list(&yaml(&format!("{FOLDER}/{file}"))["tests"]) {
            let mut fired: BTreeMap<&str, bool> = BTreeMap::new();
            for case in list(&test["alert_rule_test"]) {
                let so = fired.entry(text(case, "alertname")).or_default();
                *so |= !list(&case["exp_alerts"]).is_empty();
            }
            for (alert, fired) in fired {
                let rule = alerts
                    .get(alert)
                    .unwrap_or_else(|| panic!("no alert {alert}"));
                let expression = text(rule, "expr");
                assert_not_empty(test, alert, &sources(expression, &recorded));
                let seen = if fired { &mut fires } else { &mut quiet };
                seen.insert(alert.to_owned());
            }
        }
    }
    let all: BTreeSet<String> = alerts.into_keys().collect();
    assert_eq!(fires, all, "no test in which it fires");
    assert_eq!(quiet, all, "no test in which it is quiet");
}

#[test]
fn each_alert_says_what_it_is_how_urgent_and_where_to_read_on() {
    for (name, rule) in alerts() {
        assert!(name.starts_with("Rescind"), "{name}");
        let severity = text(&rule["labels"], "severity");
        assert!(
            ["critical", "warning"].contains(&severity),
            "{name}: {severity}"
        );
        let (summary, description) = (
            &rule["annotations"]["summary"],
            &rule["annotations"]["description"],
        );
        for words in [summary, description] {
            let words = words.as_str().unwrap_or_default();
            assert!(
                words.len() > 20 && words.ends_with('.'),
                "{name}: {words:?}"
            );
        }
        assert!(
            !summary.to_string().contains("{{"),
            "{name}: one text for all"
        );
        let page = format!("{RUNBOOKS}/{name}.md");
        assert_eq!(text(&rule["annotations"], "runbook_url"), page);
    }
}

/// Blocks of code in a language; of none with `""`.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let parts = page.split("```").skip(1).step_by(2);
    parts
        .filter_map(|block| block.split_once('\n'))
        .filter(|(named, _)| *named == language)
        .map(|(_, code)| code)
        .collect()
}

/// One expression a line.
fn expressions(page: &str) -> Vec<String> {
    let lines = blocks(page, "promql").into_iter().flat_map(str::lines);
    lines.map(str::to_owned).collect()
}

fn page(alert: &str) -> String {
    read(project("docs/runbooks").join(format!("{alert}.md")))
}

#[test]
fn each_alert_has_a_page_and_each_page_an_alert() {
    let alerts = alerts();
    let files = std::fs::read_dir(project("docs/runbooks")).unwrap();
    let files = files.map(|f| f.unwrap().file_name().into_string().unwrap());
    let mut pages: BTreeSet<String> = files.collect();
    assert!(pages.remove("README.md"));
    let wanted = alerts.keys().map(|name| format!("{name}.md"));
    assert_eq!(pages, wanted.collect());

    let index = read(project("docs/runbooks/README.md"));
    for (name, rule) in &alerts {
        let page = page(name);
        let severity = text(&rule["labels"], "severity");
        let summary = text(&rule["annotations"], "summary");
        let opening = format!("# {name}\n\n{summary} Severity: {severity}.\n");
        assert!(page.starts_with(&opening), "{name}: not {opening:?}");
        let line = format!("| [{name}]({name}.md) | {severity} | {summary} |");
        assert!(index.contains(&line), "the index lacks {line}");
        let headings = page.lines().filter_map(|line| line.strip_prefix("## "));
        assert_eq!(headings.collect::<Vec<_>>(), SECTIONS, "{name}");
        let (_, diagnosis) = page.split_once("## Diagnosis").unwrap();
        assert!(!blocks(diagnosis, "").is_empty(), "{name}: no commands");
        assert!(!expressions(diagnosis).is_empty(), "{name}: no expressions");
    }
}

#[test]
fn links_between_the_pages_lead_somewhere() {
    let mut checked = 0;
    for name in alerts().into_keys().chain(["README".to_owned()]) {
        let page = page(&name);
        let links = page.split("](").skip(1).filter_map(|l| l.split_once(')'));
        for (link, _) in links.filter(|(link, _)| !link.starts_with("https:")) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = read(project("docs/runbooks").join(path));
            let headings = target.lines().filter(|line| line.starts_with('#'));
            let mut anchors = headings.map(|h| {
                h.trim_start_matches(['#', ' '])
                    .to_lowercase()
                    .replace(' ', "-")
            });
            assert!(
                anchor.is_empty() || anchors.any(|a| a == anchor),
                "{name}: {link}"
            );
            checked += 1;
        }
    }
    assert!(checked > 20, "the links were not found");
}

#[test]
fn rules_their_tests_and_the_pages_name_only_what_the_worker_exports() {
    let (alerts, recorded) = (alerts(), rules("record"));
    let names: BTreeSet<&str> = recorded.keys().map(String::as_str).collect();
    let exported = Exported::by_a_worker();
    let mut wrong = Vec::new();
    for (name, rule) in alerts.iter().chain(&recorded) {
        let found = exported.complaints(text(rule, "expr"), &names);
        let sums = sums_of_one_number(text(rule, "expr"));
        wrong.extend(
            found
                .into_iter()
                .chain(sums)
                .map(|w| format!("{name}: {w}")),
        );
    }
    for file in TESTS {
        for test in list(&yaml(&format!("{FOLDER}/{file}"))["tests"]) {
            let series = list(&test["input_series"]).iter();
            wrong.extend(series.flat_map(|s| exported.complaints(text(s, "series"), &names)));
        }
    }
    let on_pages: Vec<String> = alerts.keys().flat_map(|a| expressions(&page(a))).collect();
    wrong.extend(on_pages.iter().flat_map(|e| exported.complaints(e, &names)));
    assert!(wrong.is_empty(), "{wrong:#?}");
    promtool_reads(&on_pages);
}
