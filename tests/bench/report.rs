//! What was measured beside what was aimed at: one table, and `target/bench.json`.

use serde_json::{Map, Value, json};

use crate::machine;
use crate::plan::Plan;

/// What a scenario found.
pub(crate) struct Measured {
    pub(crate) aims: Vec<Aim>,
    /// Every figure of every run.
    pub(crate) figures: Value,
}

/// One figure and its bound.
pub(crate) struct Aim {
    what: String,
    measured: f64,
    unit: &'static str,
    bound: Bound,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    /// A figure that is to be this or more.
    pub(crate) fn at_least(what: &str, measured: f64, bound: f64) -> Self {
        Self::new(what, measured, "", Bound::AtLeast(bound))
    }

    /// A figure that is to be this or less.
    pub(crate) fn at_most(what: &str, measured: f64, bound: f64, unit: &'static str) -> Self {
        Self::new(what, measured, unit, Bound::AtMost(bound))
    }

    fn new(what: &str, measured: f64, unit: &'static str, bound: Bound) -> Self {
        let what = what.to_owned();
        Self {
            what,
            measured,
            unit,
            bound,
        }
    }

    fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtLeast(bound) => self.measured >= bound,
            Bound::AtMost(bound) => self.measured <= bound,
        }
    }

    fn with_unit(&self, figure: f64) -> String {
        match self.unit {
            "" => format!("{figure:.2}"),
            unit if figure < 20.0 => format!("{figure:.1} {unit}"),
            unit => format!("{figure:.0} {unit}"),
        }
    }

    fn bound(&self) -> String {
        match self.bound {
            Bound::AtLeast(bound) => format!(">= {}", self.with_unit(bound)),
            Bound::AtMost(bound) => format!("<= {}", self.with_unit(bound)),
        }
    }

    fn verdict(&self) -> &'static str {
        if self.is_met() { "met" } else { "MISSED" }
    }

    fn json(&self) -> Value {
        json!({
            "what": self.what, "measured": self.measured, "unit": self.unit,
            "aim": self.bound(), "met": self.is_met(),
        })
    }
}

/// All of one run.
pub(crate) struct Report {
    quick: bool,
    aims: Vec<Aim>,
    figures: Map<String, Value>,
    /// Scenarios without figures.
    broken: Vec<String>,
}

impl Report {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            quick: plan.quick,
            aims: Vec::new(),
            figures: Map::new(),
            broken: Vec::new(),
        }
    }

    /// A scenario ended in a panic.
    pub(crate) fn broke_off(&mut self, scenario: &str) {
        self.broken.push(scenario.into());
    }

    pub(crate) fn is_broken(&self) -> bool {
        !self.broken.is_empty()
    }

    pub(crate) fn add(&mut self, scenario: &str, measured: Measured) {
        self.aims.extend(measured.aims);
        self.figures.insert(scenario.into(), measured.figures);
    }

    pub(crate) fn print(&self) {
        let quick = if self.quick {
            " (--quick: too short to judge by)"
        } else {
            ""
        };
        println!("\n{:<92} {:>10} {:>12}", "what", "measured", "aim");
        for aim in &self.aims {
            let measured = aim.with_unit(aim.measured);
            println!(
                "{:<92} {measured:>10} {:>12}  {}",
                aim.what,
                aim.bound(),
                aim.verdict()
            );
        }
        let missed = self.aims.iter().filter(|aim| !aim.is_met()).count();
        println!("{} aims, {missed} missed{quick}", self.aims.len());
        for scenario in &self.broken {
            println!("{scenario} BROKE OFF; what it said is above");
        }
    }

    pub(crate) fn save(&self) {
        let aims: Vec<Value> = self.aims.iter().map(Aim::json).collect();
        let written = json!({
            "machine": machine::facts(), "quick": self.quick, "broken": self.broken,
            "aims": aims, "figures": self.figures,
        });
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/target/bench.json");
        std::fs::write(path, serde_json::to_string_pretty(&written).unwrap()).unwrap();
        println!("written to target/bench.json");
    }
}

/// A count for a person: `1,000,000`.
pub(crate) fn thousands(count: usize) -> String {
    match count {
        0..1000 => count.to_string(),
        _ => format!("{},{:03}", thousands(count / 1000), count % 1000),
    }
}
