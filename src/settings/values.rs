//! The values of one table's settings, each by its path and as the type that it has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::{Parsed, Resolved};

/// The values of the settings of one table, by path.
#[derive(Debug, Default)]
pub(crate) struct Values(pub(crate) BTreeMap<&'static str, Resolved>);

impl Values {
    fn get(&self, path: &str) -> Option<&Parsed> {
        self.0.get(path).map(|resolved| &resolved.value)
    }

    pub(crate) fn optional(&self, path: &str) -> Option<String> {
        match self.get(path)? {
            Parsed::Text(text) => Some(text.clone()),
            _ => None,
        }
    }

    pub(crate) fn text(&self, path: &str) -> String {
        self.optional(path).unwrap_or_default()
    }

    pub(crate) fn path(&self, path: &str) -> Option<PathBuf> {
        self.optional(path).map(PathBuf::from)
    }

    pub(crate) fn secret(&self, path: &str) -> SecretString {
        self.secrets(path).into_iter().next().unwrap_or_default()
    }

    pub(crate) fn secrets(&self, path: &str) -> Vec<SecretString> {
        match self.get(path) {
            Some(Parsed::Secret(secrets)) => secrets.clone(),
            _ => Vec::new(),
        }
    }

    pub(crate) fn flag(&self, path: &str) -> bool {
        matches!(self.get(path), Some(Parsed::Flag(true)))
    }

    pub(crate) fn whole<T: TryFrom<u64> + Default>(&self, path: &str) -> T {
        match self.get(path) {
            Some(Parsed::Whole(n)) => T::try_from(*n).unwrap_or_default(),
            _ => T::default(),
        }
    }

    pub(crate) fn number(&self, path: &str) -> f64 {
        match self.get(path) {
            Some(Parsed::Number(n)) => *n,
            _ => 0.0,
        }
    }

    pub(crate) fn span(&self, path: &str) -> Duration {
        match self.get(path) {
            Some(Parsed::Span(span)) => *span,
            _ => Duration::ZERO,
        }
    }

    pub(crate) fn socket(&self, path: &str) -> SocketAddr {
        match self.get(path) {
            Some(Parsed::Socket(socket)) => *socket,
            _ => SocketAddr::from(([127, 0, 0, 1], 0)),
        }
    }
}
