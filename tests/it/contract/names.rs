//! The names around the messages: topology, metrics and settings as they are promised.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use jiff::Timestamp;
use rescind::amqp::{Argument, Topology};
use rescind::config::{Config, Loaded, Sources, load};
use rescind::ledger::Stats;
use rescind::metrics::Metrics;
use rescind::outcome::{Invalid, Outcome, State};
use rescind::providers;

use super::lines;

const METRICS: &str = include_str!("metrics.txt");
const TOPOLOGY: &str = include_str!("topology.txt");
const DEFAULTS: &str = include_str!("defaults.txt");

fn defaults() -> Loaded {
    load(&Sources::default(), providers::ALL).unwrap()
}

fn written(config: &Config) -> String {
    let topology = Topology::of(&config.amqp);
    let mut parts = Vec::new();
    for exchange in &topology.exchanges {
        parts.push(format!("exchange {} {}\n", exchange.name, exchange.kind));
    }
    for queue in &topology.queues {
        let mut part = format!("queue {}", queue.name);
        for (name, value) in &queue.arguments {
            match value {
                Argument::Text(text) => write!(part, " {name}={text}").unwrap(),
                Argument::Number(number) => write!(part, " {name}={number}").unwrap(),
            }
        }
        part.push('\n');
        for (exchange, key) in &queue.bindings {
            writeln!(part, "  from {exchange} by {key:?}").unwrap();
        }
        parts.push(part);
    }
    parts.sort();
    parts.concat()
}

#[test]
fn the_topology_is_the_one_that_publishers_and_consumers_know() {
    let mut config = defaults().config;
    assert_eq!(written(&config), TOPOLOGY);
    config.amqp.results_queue.clear();
    let without = TOPOLOGY.split("queue rescind.results").next().unwrap();
    assert_eq!(written(&config), without, "an empty name: none is declared");
}

#[test]
fn an_exchange_is_declared_before_anything_names_it() {
    // At-least-once dead lettering drops what the exchange is missing for.
    let topology = Topology::of(&defaults().config.amqp);
    let known: BTreeSet<&str> = topology.exchanges.iter().map(|e| e.name.as_str()).collect();
    for queue in &topology.queues {
        for (exchange, _) in &queue.bindings {
            assert!(known.contains(exchange.as_str()), "{exchange}");
        }
        for (name, value) in &queue.arguments {
            if let (&"x-dead-letter-exchange", Argument::Text(exchange)) = (name, value) {
                assert!(known.contains(exchange.as_str()), "{exchange}");
            }
        }
    }
}

#[test]
fn what_is_not_set_is_as_documented() {
    let rows = defaults().effective;
    let real: String = rows
        .iter()
        .map(|row| format!("{} = {}\n", row.path, row.value))
        .collect();
    assert_eq!(real, DEFAULTS);
}

const CONFIGURED: [&str; 2] = ["migo", "bento-2"];

fn metrics() -> Metrics {
    Metrics::new(&CONFIGURED.map(str::to_owned), "abc").unwrap()
}

type Labels = BTreeMap<String, String>;
type Series = (String, Labels, f64);

/// Types by name, and every series with its value.
fn exported(metrics: &Metrics) -> (BTreeMap<String, String>, Vec<Series>) {
    let (mut types, mut series) = (BTreeMap::new(), Vec::new());
    for line in metrics.text().unwrap().lines() {
        if let Some(declared) = line.strip_prefix("# TYPE ") {
            let (name, kind) = declared.split_once(' ').unwrap();
            types.insert(name.to_owned(), kind.to_owned());
        } else if !line.starts_with('#') {
            let (series_name, value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series_name.split_once('{').unwrap_or((series_name, ""));
            let pairs = labels
                .trim_end_matches('}')
                .split(',')
                .filter(|pair| !pair.is_empty());
            let pairs = pairs.map(|pair| pair.split_once('=').unwrap());
            let labels = pairs.map(|(k, v)| (k.to_owned(), v.trim_matches('"').to_owned()));
            series.push((name.to_owned(), labels.collect(), value.parse().unwrap()));
        }
    }
    (types, series)
}

/// Every combination of the values that a line promises.
fn promised_series(labels: &[&str]) -> Vec<Labels> {
    let mut all = vec![Labels::new()];
    for label in labels {
        let (name, values) = label.split_once('=').unwrap_or((label, ""));
        let values: Vec<&str> = match name {
            "provider" => CONFIGURED.into(),
            _ => values.split(',').collect(),
        };
        let longer = all.iter().flat_map(|labels| {
            values.iter().map(|value| {
                let mut labels = labels.clone();
                labels.insert(name.to_owned(), (*value).to_owned());
                labels
            })
        });
        all = longer.collect();
    }
    all
}

#[test]
fn every_metric_is_there_from_the_start_and_no_other() {
    let (types, series) = exported(&metrics());
    let own = types
        .iter()
        .filter(|(name, _)| name.starts_with("rescind_"));
    let own: BTreeMap<&str, &str> = own.map(|(n, t)| (n.as_str(), t.as_str())).collect();
    let promised: BTreeMap<_, _> = lines(METRICS).map(|line| (line[0], line[1])).collect();
    assert_eq!(own, promised);
    for line in lines(METRICS) {
        let name = match line[1] {
            "histogram" => format!("{}_bucket", line[0]),
            _ => line[0].to_owned(),
        };
        let of_name = || series.iter().filter(|(n, ..)| *n == name);
        let promised = promised_series(&line[2..]);
        for labels in &promised {
            let found = of_name().find(|(_, l, _)| l == labels);
            let (.., value) = found.unwrap_or_else(|| panic!("{name}{labels:?} is missing"));
            let expected = f64::from(u8::from(name == "rescind_build_info"));
            assert_eq!(*value, expected, "{name}{labels:?}");
        }
        for (_, labels, _) in of_name() {
            let unknown = labels.get("provider").is_some_and(|p| p == "unknown");
            assert!(
                unknown || promised.contains(labels),
                "{name}{labels:?} is not promised"
            );
        }
    }
}

/// Not one per call on the wire: what was not sent is counted, and what was sent twice once.
#[test]
fn the_help_of_the_calls_says_what_is_counted() {
    let text = metrics().text().unwrap();
    let help = "# HELP rescind_provider_calls_total ";
    let help = text.lines().find_map(|line| line.strip_prefix(help));
    let help = help.unwrap();
    for says in ["sent or not", "with a new token counts once"] {
        assert!(help.contains(says), "{help}");
    }
}

/// The sum of its series about that account.
fn of_provider(metrics: &Metrics, name: &str, provider: &str) -> f64 {
    let (_, series) = exported(metrics);
    let about = |l: &Labels| l.get("provider").is_some_and(|p| p == provider);
    let of_it = series.iter().filter(|(n, l, _)| n == name && about(l));
    of_it.map(|(.., value)| value).sum()
}

/// A publisher can name what it likes, and must not make series by it.
#[test]
fn an_account_that_nobody_configured_is_counted_as_unknown() {
    let metrics = metrics();
    metrics.finished("nowhere", Outcome::Invalid(Invalid::UnknownProvider));
    let name = "rescind_cancellations_total";
    for (provider, expected) in [("unknown", 1.0), ("nowhere", 0.0), ("migo", 0.0)] {
        assert_eq!(
            of_provider(&metrics, name, provider),
            expected,
            "{provider}"
        );
    }
    assert!(!metrics.text().unwrap().contains("nowhere"));
}

#[test]
fn gauges_of_the_ledger_follow_it_down_to_zero() {
    let metrics = metrics();
    let at = Timestamp::from_second(1_000).unwrap();
    let row = |provider: &str| (provider.to_owned(), State::InDoubt, 7, Some(at));
    metrics.stats(&Stats {
        // An account that is no longer configured may still have requests.
        open: vec![row("migo"), row("gone")],
        replaying: vec![("gone".into(), 3, None), ("migo".into(), 4, Some(at))],
        dead: vec![("gone".into(), "no_lookup".into(), 2)],
        oldest_dead: Some(at),
        outbox: 5,
        oldest_result: None,
        closed: Vec::new(),
    });
    let sum = |name: &str| -> f64 {
        let (_, series) = exported(&metrics);
        series
            .iter()
            .filter(|(n, ..)| n == name)
            .map(|(.., value)| value)
            .sum()
    };
    let names = [
        ("rescind_open", 14.0),
        ("rescind_oldest_open_timestamp_seconds", 2_000.0),
        ("rescind_replaying", 7.0),
        ("rescind_oldest_replay_timestamp_seconds", 1_000.0),
        ("rescind_dead_letters", 2.0),
        ("rescind_oldest_dead_letter_timestamp_seconds", 1_000.0),
        ("rescind_outbox_pending", 5.0),
    ];
    for (name, expected) in names {
        assert_eq!(sum(name), expected, "{name}");
    }
    // The alert RescindAccountMissing looks for this label.
    for (name, provider, expected) in [
        ("rescind_open", "migo", 7.0),
        ("rescind_open", "unknown", 7.0),
        ("rescind_replaying", "migo", 4.0),
        ("rescind_replaying", "unknown", 3.0),
        ("rescind_dead_letters", "migo", 0.0),
        ("rescind_dead_letters", "unknown", 2.0),
    ] {
        let found = of_provider(&metrics, name, provider);
        assert_eq!(found, expected, "{name} of {provider}");
    }
    metrics.stats(&Stats::default());
    for (name, _) in names {
        assert_eq!(sum(name), 0.0, "{name}");
    }
}

/// Commands close dead letters too: the counter is the ledger's, and never falls.
#[test]
fn closed_dead_letters_are_counted_as_the_ledger_counts_them() {
    let metrics = metrics();
    let closed = |replayed: u64| Stats {
        closed: vec![("replayed".into(), replayed)],
        ..Stats::default()
    };
    let count = |action: &str| -> f64 {
        let (_, series) = exported(&metrics);
        let found = series.iter().find(|(name, labels, _)| {
            name == "rescind_dead_letters_closed_total" && format!("{labels:?}").contains(action)
        });
        found.unwrap().2
    };
    for (ledger, counter) in [(3, 3.0), (3, 3.0), (7, 7.0), (2, 7.0)] {
        metrics.stats(&closed(ledger));
        assert_eq!((count("replayed"), count("discarded")), (counter, 0.0));
    }
}
