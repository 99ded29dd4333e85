//! Whether the ledger's files are still where the worker has opened them.
//!
//! The system keeps a file that was removed for as long as somebody has it open: it takes whatever is
//! stored, and goes with the worker. Nothing else would tell.

use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tracing::error;

use super::open::{absolute, beside, lock_file};

/// Device and inode.
type Identity = (u64, u64);

/// The files by their paths, as they were opened.
pub(super) struct Place {
    data: Vec<(PathBuf, Identity)>,
    lock: Option<(PathBuf, Identity)>,
}

impl Place {
    /// Of a ledger that was just opened. The lock is the one that we hold: a migration may have taken minutes since, and
    /// another one may be in its place.
    pub(super) fn of(path: &Path, lock: &File) -> Self {
        let data = ["", "-wal", "-shm"].map(|ending| beside(path, ending));
        let here = |path: PathBuf| identity(&path).ok().map(|identity| (path, identity));
        let held = lock.metadata().ok();
        Self {
            data: data.into_iter().filter_map(here).collect(),
            lock: held.map(|about| (lock_file(path), identity_of(&about))),
        }
    }

    /// The first of them that is gone.
    pub(super) fn gone(&self) -> Option<Gone<'_>> {
        let data = self.data.iter().find_map(missing).map(Gone::Data);
        data.or_else(|| self.lock.as_ref().and_then(missing).map(Gone::Lock))
    }

    /// Whether the file is there and its log is not, so that what is in the log can be saved into the file. A log that
    /// somebody has put in its place would be read into the file by the next start, over newer pages.
    pub(super) fn lacks_its_log(&self) -> bool {
        let [file, log, ..] = &self.data[..] else {
            return false;
        };
        missing(file).is_none() && missing(log).is_some_and(|log| !is_filled(log))
    }
}

/// What is gone.
pub(super) enum Gone<'p> {
    /// The file, or a part of its log.
    Data(&'p Path),
    /// What keeps a second worker away.
    Lock(&'p Path),
}

impl Gone<'_> {
    /// Before the process ends as by a crash: whatever else were stored would be lost, too.
    pub(super) fn tell(self) {
        match self {
            Self::Data(path) => error!(
                path = absolute(path),
                "a file of the ledger was removed, moved or replaced under the worker, so what is stored would be lost at its end; ending at once. Put it back together with its -wal, or restore a backup, and start once with --reconcile"
            ),
            Self::Lock(path) => error!(
                path = absolute(path),
                "the lock of the ledger was removed or replaced under the worker, so another worker can start on the same file; ending at once. The ledger itself is unharmed: see that no other worker has it, and start one"
            ),
        }
    }
}

/// What cannot be looked at now, in a folder that was closed to this user for example, is not gone.
fn missing((path, opened): &(PathBuf, Identity)) -> Option<&Path> {
    let gone = match identity(path) {
        Ok(found) => found != *opened,
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    };
    gone.then_some(path)
}

/// What cannot be looked at may well be.
fn is_filled(path: &Path) -> bool {
    match fs::metadata(path) {
        Ok(about) => about.len() > 0,
        Err(error) => error.kind() != std::io::ErrorKind::NotFound,
    }
}

fn identity(path: &Path) -> std::io::Result<Identity> {
    Ok(identity_of(&fs::metadata(path)?))
}

fn identity_of(about: &Metadata) -> Identity {
    (about.dev(), about.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_that_was_replaced_before_the_first_look_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        fs::write(&path, "").unwrap();
        let held = File::create(lock_file(&path)).unwrap();
        assert!(Place::of(&path, &held).gone().is_none());
        let other = dir.path().join("other");
        fs::write(&other, "").unwrap();
        fs::rename(&other, lock_file(&path)).unwrap();
        let place = Place::of(&path, &held);
        assert!(matches!(place.gone(), Some(Gone::Lock(_))));
    }

    /// What SQLite has open is where the link led then.
    #[test]
    fn a_link_that_leads_elsewhere_takes_nothing_away() {
        let dir = tempfile::tempdir().unwrap();
        let [link, one, two] = ["link", "one", "two"].map(|name| dir.path().join(name));
        fs::write(&one, "").unwrap();
        fs::write(&two, "").unwrap();
        std::os::unix::fs::symlink(&one, &link).unwrap();
        let held = File::create(lock_file(&link)).unwrap();
        let place = Place::of(&link, &held);
        fs::remove_file(&link).unwrap();
        std::os::unix::fs::symlink(&two, &link).unwrap();
        assert!(place.gone().is_none());
        fs::remove_file(&one).unwrap();
        assert!(matches!(place.gone(), Some(Gone::Data(_))));
    }

    #[test]
    fn a_log_is_saved_where_it_is_gone_and_nothing_stands_in_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rescind.db");
        for ending in ["", "-wal", "-shm"] {
            fs::write(beside(&path, ending), "").unwrap();
        }
        let held = File::create(lock_file(&path)).unwrap();
        let place = Place::of(&path, &held);
        fs::remove_file(lock_file(&path)).unwrap();
        assert!(!place.lacks_its_log(), "only the lock is gone");
        let log = beside(&path, "-wal");
        fs::rename(&log, dir.path().join("moved")).unwrap();
        assert!(place.lacks_its_log());
        // As by a command that looks into the ledger meanwhile.
        fs::write(&log, "").unwrap();
        assert!(place.lacks_its_log());
        fs::write(&log, "another log").unwrap();
        assert!(!place.lacks_its_log());
        fs::remove_file(&log).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(!place.lacks_its_log(), "the file is gone, too");
    }
}
