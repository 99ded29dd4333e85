//! The model: the shipped lifecycle in a modelled world, every path of it. `docs/model.md` says
//! what is modelled and what was found.
//!
//! `cargo test` explores a small bound, `make model` (`MODEL=large`) the large one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a broken expectation is a failed test, and small numbers are counted"
)]

mod action;
mod answer;
mod away;
mod book;
mod config;
mod explorer;
mod fingerprint;
mod laws;
mod ledger;
mod liveness;
mod moves;
mod provider;
mod rules;
mod state;
mod time;
mod trace;
mod worker;
mod world;

use config::{Bound, Config, Guard, classes, configurations, faults, schedule};
use explorer::{Report, explore};
use rules::Rule;
use state::Truth;
use world::World;

fn bound() -> Bound {
    match std::env::var("MODEL").as_deref() {
        Ok("large") => Bound::Large,
        _ => Bound::Small,
    }
}

fn run(config: Config) -> Report {
    let world = World::new(config);
    let report = explore(&world);
    let faults = world.config.faults;
    println!(
        "{:<28} {:>10} states {:>11} edges {:>8} ends  depth {:>3}  {:>6.1} s  ({}, {} progresses)",
        world.config.name,
        report.states,
        report.edges,
        report.rests,
        report.depth,
        report.took.as_secs_f64(),
        format_args!(
            "{} answers, {} crashes, {} naps, {} repeats, {} notices",
            faults.answers, faults.crashes, faults.naps, faults.repeats, faults.notices
        ),
        world.book.len(),
    );
    if let Some(broken) = &report.broken {
        println!("  broken: {}", broken.law);
        for line in &broken.trace {
            println!("    {line}");
        }
    }
    report
}

#[test]
fn every_law_holds_in_every_configuration() {
    let only = std::env::var("ONLY").ok();
    let wanted = |c: &Config| only.as_deref().is_none_or(|only| only == c.name);
    let mut states = 0;
    for config in configurations(bound()).into_iter().filter(wanted) {
        let report = run(config);
        states += report.states;
        assert!(report.broken.is_none(), "{}", report.broken.unwrap().law);
    }
    println!("{states} states in all");
}

fn class(name: &str) -> Config {
    let mut classes = classes().into_iter();
    classes.find(|class| class.name == name).expect(name)
}

/// A checker that cannot fail shows nothing: each rule, broken, is seen.
#[test]
fn every_broken_rule_has_a_counterexample() {
    for rule in Rule::ALL {
        println!("\n{rule:?}");
        let (name, faults) = rule.shown_in();
        let report = run(Config {
            faults,
            broken: Some(rule),
            truths: &[Truth::Open],
            ..class(name)
        });
        assert!(
            report.broken.is_some(),
            "{rule:?} is broken, and nothing shows it"
        );
    }
}

/// Where the promise ends, and why the documentation says so.
#[test]
fn the_limits_are_where_the_documentation_has_them() {
    let limits = [
        (
            "a repeat that does harm, at a provider that is said not to mind",
            Config {
                guard: Guard::Nothing,
                ..class("ask once more")
            },
        ),
        (
            "a key that the provider does not know again",
            Config {
                guard: Guard::Nothing,
                ..class("same key")
            },
        ),
        (
            "poll.first shorter than what the provider takes to settle and to show it",
            Config {
                poll: schedule(1, 10),
                ..class("look-up")
            },
        ),
    ];
    for (limit, config) in limits {
        println!("\n{limit}");
        let report = run(Config {
            faults: faults(1, 0, 0, 0, 0),
            ..config
        });
        assert!(report.broken.is_some(), "{limit}: no longer a limit?");
    }
}
