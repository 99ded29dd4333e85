//! What the system lets this process do: files for its user alone, no core dump, as many open files as
//! it can have.

use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tracing::warn;

/// The ledger holds whatever the requests hold, and memory every credential: neither a file of ours
/// nor a core dump is for anybody else.
pub(crate) fn keep_private() {
    umask(Mode::RWXG | Mode::RWXO);
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    if let Err(error) = setrlimit(Resource::Core, none) {
        warn!(%error, "cannot forbid core dumps, which would hold every credential");
    }
}

/// Every call under way holds a file, and so do idle connections: as many as the system allows
/// at all, not as few as it allows by default.
pub(crate) fn allow_many_files() {
    let files = getrlimit(Resource::Nofile);
    let all = Rlimit {
        current: files.maximum,
        ..files
    };
    if let Err(error) = setrlimit(Resource::Nofile, all) {
        warn!(%error, "cannot raise the limit of open files");
    }
}
