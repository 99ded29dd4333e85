//! The dashboard: sound as Grafana reads it, and every number on it is one that the worker exports.

use std::collections::BTreeSet;

use serde_json::Value;

use super::promql::{Exported, base, selectors, sums_of_one_number};
use super::{RUNBOOKS, alerts, list, promtool_reads, read, text, yaml};
use crate::rig::project;

/// Columns of Grafana's grid.
const COLUMNS: u64 = 24;
/// Grafana replaces these; promtool gets something of the same kind.
const VARIABLES: [(&str, &str); 3] = [
    ("$__rate_interval", "1m"),
    ("$provider", ".+"),
    ("$job", "rescind"),
];

fn dashboard() -> Value {
    serde_json::from_str(&read(project("deploy/grafana/rescind.json"))).expect("JSON")
}

/// All but the rows.
fn panels(dashboard: &Value) -> Vec<&Value> {
    let all = list(&dashboard["panels"]).iter();
    let panels: Vec<_> = all.filter(|panel| panel["type"] != "row").collect();
    assert!(panels.len() > 20, "the panels were not found");
    panels
}

fn expressions(dashboard: &Value) -> Vec<&str> {
    let targets = panels(dashboard)
        .into_iter()
        .flat_map(|p| list(&p["targets"]));
    targets.map(|target| text(target, "expr")).collect()
}

/// Every square of the grid that a panel covers.
fn squares(panel: &Value) -> impl Iterator<Item = (u64, u64)> + use<> {
    let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
    let (x, y, w, h) = (at("x"), at("y"), at("w"), at("h"));
    assert!(w > 0 && h > 0 && x + w <= COLUMNS, "{panel:#}");
    (x..x + w).flat_map(move |x| (y..y + h).map(move |y| (x, y)))
}

#[test]
fn panels_have_an_id_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let (mut ids, mut covered) = (BTreeSet::new(), BTreeSet::new());
    for panel in list(&dashboard["panels"]) {
        assert!(
            ids.insert(panel["id"].as_u64().expect("an id")),
            "{panel:#}"
        );
        for square in squares(panel) {
            assert!(covered.insert(square), "{square:?} is taken: {panel:#}");
        }
    }
}

#[test]
fn each_panel_says_what_it_shows_in_which_unit_from_the_chosen_source() {
    let dashboard = dashboard();
    for panel in panels(&dashboard) {
        for key in ["title", "description"] {
            assert!(!text(panel, key).is_empty(), "{panel:#}");
        }
        let defaults = &panel["fieldConfig"]["defaults"];
        assert!(!text(defaults, "unit").is_empty(), "{panel:#}");
        let targets = list(&panel["targets"]);
        assert!(!targets.is_empty(), "{panel:#}");
        for asked in targets.iter().chain([panel]) {
            assert_eq!(asked["datasource"]["uid"], "${datasource}", "{panel:#}");
        }
        let named: BTreeSet<_> = targets.iter().map(|t| text(t, "refId")).collect();
        assert_eq!(named.len(), targets.len(), "{panel:#}");
    }
    let variables = list(&dashboard["templating"]["list"]).iter();
    let variables: Vec<&str> = variables.map(|v| text(v, "name")).collect();
    assert_eq!(variables, ["datasource", "job", "provider", "runbooks"]);
}

#[test]
fn the_dashboard_shows_every_metric_and_no_other() {
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    let exported = Exported::by_a_worker();
    let wrong = expressions.iter().flat_map(|e| {
        let unknown = exported.complaints(e, &BTreeSet::new());
        unknown.into_iter().chain(sums_of_one_number(e))
    });
    assert_eq!(wrong.collect::<Vec<_>>(), [""; 0]);
    let shown = expressions.iter().flat_map(|e| selectors(e));
    let shown: BTreeSet<&str> = shown.map(|s| base(s.name)).collect();
    let missing: Vec<_> = exported.metrics().difference(&shown).copied().collect();
    assert_eq!(missing, [""; 0], "on no panel");
}

#[test]
fn promtool_reads_each_expression_of_the_dashboard() {
    let dashboard = dashboard();
    let filled = |expression: &str| {
        let mut text = expression.to_owned();
        for (variable, value) in VARIABLES {
            text = text.replace(variable, value);
        }
        assert!(!text.contains('$'), "a variable is not known: {expression}");
        text
    };
    let expressions = expressions(&dashboard);
    promtool_reads(&expressions.into_iter().map(filled).collect::<Vec<_>>());
}

#[test]
fn the_dashboard_leads_to_the_page_of_each_alert() {
    let dashboard = dashboard();
    let links = panels(&dashboard)
        .into_iter()
        .flat_map(|p| list(&p["links"]));
    let linked: BTreeSet<String> = links
        .map(|link| {
            let page = text(link, "url").strip_prefix("${runbooks}/");
            let page = page.and_then(|page| page.strip_suffix(".md"));
            page.expect("a page below the variable runbooks").to_owned()
        })
        .collect();
    assert_eq!(linked, alerts().into_keys().collect());
    let variables = list(&dashboard["templating"]["list"]).iter();
    let mut base = variables.filter(|v| v["name"] == "runbooks");
    assert_eq!(text(base.next().unwrap(), "query"), RUNBOOKS);
}

#[test]
fn what_grafana_is_provisioned_with_can_be_read() {
    let folder = "deploy/grafana/provisioning";
    let source = yaml(&format!("{folder}/datasources/prometheus.yaml"));
    let source = &list(&source["datasources"])[0];
    assert_eq!(text(source, "type"), "prometheus");
    let provider = yaml(&format!("{folder}/dashboards/rescind.yaml"));
    let provider = &list(&provider["providers"])[0];
    assert_eq!(text(provider, "type"), "file");
    assert!(text(&provider["options"], "path").starts_with('/'));
}
