//! Counts the faults that were injected, by hop and kind, and keeps a log of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// Hop or part, then kind.
type Counts = BTreeMap<(String, String), u64>;

/// Shared by everything that injects.
#[derive(Clone)]
pub(crate) struct Tally {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    began: Instant,
    counts: Counts,
    log: File,
}

impl Tally {
    /// With its log in `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let log = File::create(folder.join("faults.log")).expect("a log of the faults");
        let inner = Inner {
            began: Instant::now(),
            counts: Counts::new(),
            log,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    /// One fault, at the moment at which it strikes.
    pub(crate) fn count(&self, place: &str, kind: &str) {
        let mut inner = self.inner.lock().expect("nobody panics here");
        let line = format!("{} {place} {kind}\n", stamp(inner.began));
        inner.log.write_all(line.as_bytes()).expect("the log");
        *inner
            .counts
            .entry((place.to_owned(), kind.to_owned()))
            .or_default() += 1;
    }

    /// Something that is no fault, for whoever reads the log.
    pub(crate) fn note(&self, text: &str) {
        let mut inner = self.inner.lock().expect("nobody panics here");
        let line = format!("{} # {text}\n", stamp(inner.began));
        inner.log.write_all(line.as_bytes()).expect("the log");
    }

    /// All so far.
    pub(crate) fn counts(&self) -> Counts {
        self.inner
            .lock()
            .expect("nobody panics here")
            .counts
            .clone()
    }
}

fn stamp(began: Instant) -> String {
    format!("{:10.3}", began.elapsed().as_secs_f64())
}
