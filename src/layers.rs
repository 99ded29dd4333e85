//! What the operator wrote: a file, the environment and flags, and which of them wins.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret, SecretString};

use crate::problem::{Origin, PREFIX, Problem, variable};
use crate::settings::{Field, Form, Parsed, Resolved};

/// Variables with the prefix that are no settings.
const OTHER_VARIABLES: &[&str] = &[
    "RESCIND_CONFIG",     // path of the configuration file, read by the command line
    "RESCIND_FAIL_POINT", // named crash point, for the tests of crashes
];

/// Where to look. The caller reads the process environment, nothing here does.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that was asked for; it has to be there.
    pub file: Option<PathBuf>,
    /// Otherwise the first of these that exists; none is fine.
    pub default_files: Vec<PathBuf>,
    /// Name and value of every variable; those without the prefix are ignored.
    pub environment: Vec<(String, String)>,
    /// Dotted path and value of what the command line sets.
    pub flags: Vec<(String, String)>,
}

/// A value as written.
#[derive(Debug, Clone)]
enum Value {
    /// From the environment or the command line: what it is depends on the setting.
    Loose(SecretString),
    Text(SecretString),
    Whole(i64),
    Number(f64),
    Flag(bool),
    List(Vec<SecretString>),
    /// An empty table.
    Nothing,
    /// Something that no setting takes.
    Odd,
}

#[derive(Debug, Clone)]
struct Written {
    value: Value,
    origin: Origin,
}

impl Written {
    fn read(&self, form: Form) -> Result<Resolved, String> {
        let wrong = || format!("must be {}", form.expected());
        let value = match (form, &self.value) {
            (_, Value::Loose(text)) => form.parse(text.expose_secret())?,
            (_, Value::List(items)) if form.is_many() => form.list(items.clone())?,
            (Form::Flag, Value::Flag(flag)) => Parsed::Flag(*flag),
            (Form::Whole(..) | Form::Number(_), Value::Whole(n)) => form.parse(&n.to_string())?,
            (Form::Number(_), Value::Number(n)) => form.parse(&n.to_string())?,
            (Form::Flag | Form::Whole(..) | Form::Number(_), _) => return Err(wrong()),
            (_, Value::Text(text)) if !form.is_many() => form.parse(text.expose_secret())?,
            _ => return Err(wrong()),
        };
        Ok(Resolved {
            value,
            origin: self.origin.clone(),
            secret_file: None,
        })
    }

    /// Reads a secret from the file that was written instead of it. Of several secrets each
    /// has a line.
    fn read_file(&self, form: Form) -> Result<Resolved, String> {
        let (Value::Loose(path) | Value::Text(path)) = &self.value else {
            return Err("must be the path of a file, in quotes".to_owned());
        };
        let path = PathBuf::from(path.expose_secret());
        let text = std::fs::read_to_string(&path)
            .map_err(|e| format!("names {}, which cannot be read: {e}", path.display()))?;
        let text = text.trim_end_matches(['\r', '\n']);
        let empty = || format!("names {}, which is empty", path.display());
        let value = if form.is_many() {
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
            form.list(lines.map(SecretString::from).collect())
        } else {
            form.parse(text)
        };
        Ok(Resolved {
            value: value.map_err(|_| empty())?,
            origin: self.origin.clone(),
            secret_file: Some(path),
        })
    }
}

type Layer = BTreeMap<String, Written>;

/// All that was written, by dotted path; the layer that wins comes first.
#[derive(Debug)]
pub(crate) struct Layers {
    layers: [Layer; 3],
    pub(crate) file: Option<PathBuf>,
}

impl Layers {
    /// Reads the file and sorts the rest.
    pub(crate) fn read(sources: &Sources) -> Result<Self, Problem> {
        let mut file = Layer::new();
        let opened = open(sources)?;
        if let Some((path, text)) = &opened {
            parse(path, text, &mut file)?;
        }
        let flags = sources.flags.iter().map(|(path, value)| {
            let value = Value::Loose(value.as_str().into());
            let origin = Origin::Flag;
            (path.clone(), Written { value, origin })
        });
        let mut layers = Self {
            layers: [flags.collect(), Layer::new(), file],
            file: opened.map(|(path, _)| path),
        };
        layers.layers[1] = environment(&sources.environment, &layers.accounts());
        Ok(layers)
    }

    /// Names of all accounts that something was written about.
    pub(crate) fn accounts(&self) -> BTreeSet<String> {
        let paths = self.layers.iter().flat_map(Layer::keys);
        let names = paths.filter_map(|path| account_of(path));
        names.map(str::to_owned).collect()
    }

    /// The value of a setting below `prefix`, or `None` where nothing usable was written.
    pub(crate) fn find(
        &self,
        prefix: &str,
        field: &Field,
        problems: &mut Vec<Problem>,
    ) -> Option<Resolved> {
        let (path, file_path) = field.paths(prefix);
        for layer in &self.layers {
            let own = layer.get(&path);
            let file = file_path.as_ref().and_then(|p| layer.get_key_value(p));
            let (path, written, read) = match (own, file) {
                (None, None) => continue,
                (Some(own), None) => (&path, own, own.read(field.form)),
                (None, Some((path, file))) => (path, file, file.read_file(field.form)),
                (Some(own), Some((other, file))) => (&path, own, Err(both_given(other, file))),
            };
            let problem = |what| Problem {
                origin: Some(written.origin.clone()),
                path: path.clone(),
                what,
            };
            return read.map_err(|what| problems.push(problem(what))).ok();
        }
        None
    }

    /// Where the winning value of a path was written, or one of those below it.
    pub(crate) fn origin(&self, path: &str) -> Option<&Origin> {
        let below = format!("{path}.");
        let exact = self.layers.iter().find_map(|layer| layer.get(path));
        let written = exact.or_else(|| {
            let mut all = self.layers.iter().flatten();
            all.find(|(p, _)| p.starts_with(&below)).map(|(_, w)| w)
        });
        written.map(|written| &written.origin)
    }

    /// Whatever was written under a path that is not in `known`. Accounts in `skipped` are
    /// left out.
    pub(crate) fn unknown(
        &self,
        known: &BTreeSet<String>,
        skipped: &BTreeSet<String>,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        for (path, written) in self.layers.iter().flatten() {
            let skip = account_of(path).is_some_and(|name| skipped.contains(name));
            let section = format!("{path}.");
            let is_section = known.iter().any(|k| k.starts_with(&section)) || path == "providers";
            let what = match written.value {
                _ if skip || known.contains(path) => continue,
                Value::Nothing if is_section => continue,
                _ if is_section => "is a table; set the keys in it one by one".to_owned(),
                _ => unknown_key(path, &written.origin, known),
            };
            problems.push(Problem {
                origin: Some(written.origin.clone()),
                path: path.clone(),
                what,
            });
        }
        problems
    }
}

fn both_given(path: &str, file: &Written) -> String {
    let name = match &file.origin {
        Origin::Environment(name) => name,
        _ => path,
    };
    format!("and {name} are both given; keep one of them")
}

fn unknown_key(path: &str, origin: &Origin, known: &BTreeSet<String>) -> String {
    let guess = match origin {
        Origin::Environment(name) => {
            let names: Vec<String> = known.iter().map(|path| variable(path)).collect();
            closest(name, names.iter().map(String::as_str)).map(str::to_owned)
        }
        _ => closest(path, known.iter().map(String::as_str)).map(str::to_owned),
    };
    match misnamed_account(path, origin).or(guess) {
        Some(guess) => format!("is not a setting; did you mean {guess}?"),
        None => "is not a setting; remove it".to_owned(),
    }
}

/// A setting of an account below a word like `providers`. No setting of that account is known, and the closest one
/// would be another account's.
fn misnamed_account(path: &str, origin: &Origin) -> Option<String> {
    let (section, rest) = path.split_once('.')?;
    let close = strsim::damerau_levenshtein(section, "providers");
    if !(1..=2).contains(&close) {
        return None;
    }
    let path = format!("providers.{rest}");
    Some(match origin {
        Origin::Environment(_) => variable(&path),
        _ => path,
    })
}

/// The word that was probably meant. Of dotted paths, the last part may be enough.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    let distance = |other: &str| {
        let whole = strsim::damerau_levenshtein(word, other);
        let part = strsim::damerau_levenshtein(last(word), last(other)) + 2;
        whole.min(part)
    };
    let allowed = 1 + last(word).len() / 3;
    let measured = candidates.map(|other| (distance(other), other));
    let (best, other) = measured.min_by_key(|(distance, _)| *distance)?;
    (best <= allowed).then_some(other)
}

fn last(path: &str) -> &str {
    path.rsplit_once('.').map_or(path, |(_, last)| last)
}

/// The account that a path is about.
fn account_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("providers.")?;
    let quoted = rest.strip_prefix('"').and_then(|r| r.split_once('"'));
    match quoted {
        Some((name, _)) => Some(name),
        None => rest.split('.').next(),
    }
}

fn environment(variables: &[(String, String)], accounts: &BTreeSet<String>) -> Layer {
    let settings = variables.iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix(PREFIX)?;
        if OTHER_VARIABLES.contains(&name.as_str()) || is_service_link(rest) {
            return None;
        }
        let value = Value::Loose(value.as_str().into());
        let origin = Origin::Environment(name.clone());
        let path = path_of(&rest.to_lowercase(), accounts);
        Some((path, Written { value, origin }))
    });
    settings.collect()
}

/// The dotted path of a variable. The names of known accounts go first: they may hold `-`,
/// which most shells do not allow in a variable, or `__`.
fn path_of(rest: &str, accounts: &BTreeSet<String>) -> String {
    let plain = || rest.replace("__", ".");
    let Some(rest) = rest.strip_prefix("providers__") else {
        return plain();
    };
    let below = |name: &String, spelled: &str| {
        let key = rest.strip_prefix(spelled)?.strip_prefix("__")?;
        Some(format!("providers.{name}.{}", key.replace("__", ".")))
    };
    let mut names: Vec<_> = accounts.iter().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    let exact = names.iter().find_map(|name| below(name, name));
    exact
        .or_else(|| names.iter().find_map(|n| below(n, &n.replace('-', "_"))))
        .unwrap_or_else(plain)
}

/// Kubernetes puts the addresses of each service into the environment; of a service called
/// `rescind` they start with the prefix. A setting always has `__` in its name.
fn is_service_link(rest: &str) -> bool {
    let port = |part: &str| part.starts_with(|c: char| c.is_ascii_digit());
    let rest = format!("_{rest}");
    !rest.contains("__")
        && (rest.ends_with("_SERVICE_HOST")
            || rest.contains("_SERVICE_PORT")
            || rest.ends_with("_PORT")
            || rest.split("_PORT_").skip(1).any(port))
}

fn open(sources: &Sources) -> Result<Option<(PathBuf, String)>, Problem> {
    let unreadable = |path: &Path, error: std::io::Error| Problem {
        origin: Some(Origin::File(path.to_owned())),
        path: String::new(),
        what: format!("cannot be read: {error}"),
    };
    if let Some(path) = &sources.file {
        let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        return Ok(Some((path.clone(), text)));
    }
    for path in &sources.default_files {
        match std::fs::read_to_string(path) {
            Ok(text) => return Ok(Some((path.clone(), text))),
            Err(_) if std::fs::symlink_metadata(path).is_err() => {} // or its folder is closed
            Err(error) => return Err(unreadable(path, error)),
        }
    }
    Ok(None)
}

/// Parses the file. The parser's own error shows the line, which may hold a secret, so only
/// its number and the message are given.
fn parse(path: &Path, text: &str, layer: &mut Layer) -> Result<(), Problem> {
    let origin = Origin::File(path.to_owned());
    let table: toml::Table = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start));
        let line = before.map_or(1, |before| before.matches('\n').count() + 1);
        Problem {
            origin: Some(origin.clone()),
            path: String::new(),
            what: format!("line {line}: is not TOML: {}", error.message()),
        }
    })?;
    flatten("", table, &origin, layer);
    Ok(())
}

fn flatten(prefix: &str, table: toml::Table, origin: &Origin, layer: &mut Layer) {
    let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    for (key, value) in table {
        let path = if !key.is_empty() && key.chars().all(bare) {
            format!("{prefix}{key}")
        } else {
            format!("{prefix}\"{key}\"")
        };
        match value {
            toml::Value::Table(inner) if !inner.is_empty() => {
                flatten(&format!("{path}."), inner, origin, layer);
            }
            value => {
                let value = Value::from(value);
                let origin = origin.clone();
                layer.insert(path, Written { value, origin });
            }
        }
    }
}

impl From<toml::Value> for Value {
    fn from(value: toml::Value) -> Self {
        let text = |value| match value {
            toml::Value::String(text) => Some(SecretString::from(text)),
            _ => None,
        };
        match value {
            toml::Value::String(text) => Self::Text(text.into()),
            toml::Value::Integer(n) => Self::Whole(n),
            toml::Value::Float(n) => Self::Number(n),
            toml::Value::Boolean(b) => Self::Flag(b),
            toml::Value::Array(items) => {
                let items: Option<_> = items.into_iter().map(text).collect();
                items.map_or(Self::Odd, Self::List)
            }
            toml::Value::Table(_) => Self::Nothing,
            toml::Value::Datetime(_) => Self::Odd,
        }
    }
}
