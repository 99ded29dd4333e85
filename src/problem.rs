//! What is wrong with a configuration, and where it was written. Pure.

use std::fmt;
use std::path::PathBuf;

/// Of every environment variable that is a setting.
pub(crate) const PREFIX: &str = "RESCIND_";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Built in.
    Default,
    /// The setting of the same name under `[defaults]`, whatever that one's origin.
    Inherited,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Environment(String),
    /// The command line.
    Flag,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Inherited => f.write_str("[defaults]"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("command line"),
        }
    }
}

/// One thing that is wrong, in one line: where, what, and what to do. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// File, variable or command line; `None` where nothing was written.
    pub origin: Option<Origin>,
    /// Dotted path; empty when the whole file is meant.
    pub path: String,
    /// What is wrong and what to do.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            None => write!(f, "{} {}", self.path, self.what),
            Some(Origin::Environment(name)) if is_about(name, &self.path) => {
                write!(f, "{name} {}", self.what)
            }
            Some(origin) if self.path.is_empty() => write!(f, "{origin}: {}", self.what),
            Some(origin) => write!(f, "{origin}: {} {}", self.path, self.what),
        }
    }
}

/// Everything that is wrong with the configuration, a line each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, problem) in self.problems.iter().enumerate() {
            write!(f, "{}{problem}", if n == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// The environment variable of a dotted path.
pub(crate) fn variable(path: &str) -> String {
    let name = path.to_uppercase().replace('.', "__").replace('-', "_");
    format!("{PREFIX}{name}")
}

/// Whether a variable sets exactly this path.
fn is_about(name: &str, path: &str) -> bool {
    name.replace('-', "_").eq_ignore_ascii_case(&variable(path))
}
