//! Copies the log into the ledger's file: most of it on a thread of its own, beside the writer.
//!
//! A checkpoint ends with a sync of the file, in which the writer would commit nothing; on a
//! large ledger that is tens of milliseconds, as each page stands for itself.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::wal::CheckpointMode;
use tracing::{debug, error, warn};

use super::lane::{DISK_FAILED, die, is_broken};
use super::place::Place;
use crate::ledger::LedgerError;

/// Pages in the log that are worth a copy beside the writer: the more, the fewer pages are copied
/// twice. After three such copies the writer has little left to copy itself.
const COPIED_AT: i32 = 1_150;

/// Pages in the log after which the writer copies the rest, so that the log starts over: while the
/// writer writes, no other thread can reach the end of the log. At 4 KiB a page, the log stays near
/// 16 MiB.
const RENEWED_AT: i32 = 4_000;

/// How often the thread looks whether the files are still there.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How long the writer may take to be closed, or to copy.
const CLOSING: Duration = Duration::from_millis(500);

/// For a connection that copies its log by itself.
pub(super) fn alone(writer: &mut Connection) -> Result<(), LedgerError> {
    at_each_commit(writer, |_| ())
}

/// For the worker's writer, with a connection that copies beside it. The thread ends when the
/// writer is closed; having little else to do, it also looks after the files.
pub(super) fn beside(
    writer: &mut Connection,
    copier: Connection,
    place: Place,
) -> Result<(), LedgerError> {
    let (wake, wakes) = sync_channel(1);
    thread::Builder::new()
        .name("ledger-copy".into())
        .spawn(move || serve(&copier, &place, &wakes))
        .map_err(LedgerError::unstarted)?;
    let mut copied = 0;
    at_each_commit(writer, move |pages| wake_if_due(&wake, &mut copied, pages))
}

fn serve(copier: &Connection, place: &Place, wakes: &Receiver<()>) {
    loop {
        match wakes.recv_timeout(LOOK_EVERY) {
            Ok(()) => check_copy(copier.wal_checkpoint_v2(Some(c"main"), CheckpointMode::PASSIVE)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let Some(gone) = place.gone() else { continue };
        // Who closes a ledger may remove it at once.
        if let Err(RecvTimeoutError::Disconnected) = wakes.recv_timeout(CLOSING) {
            return;
        }
        if place.lacks_its_log() {
            error!(
                "the log of the ledger was removed under the worker; copying what is in it into the ledger's file, and ending"
            );
            save(copier);
        } else {
            gone.tell();
        }
        std::process::exit(DISK_FAILED);
    }
}

/// Copies all of a log that was removed, which goes with this process. The writer is kept waiting: what it acknowledges
/// after this is lost.
fn save(copier: &Connection) {
    for last in [false, false, true] {
        match copier.wal_checkpoint_v2(Some(c"main"), CheckpointMode::FULL) {
            Ok(_) => {
                return warn!(
                    "what was in the removed log of the ledger is in its file. See who removes files there, do not put the old log back, and start the worker"
                );
            }
            Err(error) if last => error!(
                %error,
                "what was in the removed log of the ledger could not be copied into its file, and is lost. Restore a backup, or start once with --reconcile"
            ),
            // The writer is copying, or somebody reads what was before.
            Err(_) => thread::sleep(CLOSING),
        }
    }
}

/// Replaces SQLite's own checkpoints, which report their errors to no caller.
fn at_each_commit(
    writer: &mut Connection,
    mut copy: impl FnMut(i32) + Send + 'static,
) -> Result<(), LedgerError> {
    let hook = move |log: &mut rusqlite::hooks::Wal, pages| {
        if pages < RENEWED_AT {
            copy(pages)
        } else {
            check_copy(log.checkpoint_v2(CheckpointMode::PASSIVE))
        }
        // The commit is done, whatever became of the copy.
        Ok(())
    };
    Ok(writer.wal_hook(Some(hook))?)
}

fn wake_if_due(wake: &SyncSender<()>, copied: &mut i32, pages: i32) {
    // The log has started over.
    if pages < *copied {
        *copied = 0;
    }
    // Full: the thread is copying, and takes these pages too or is woken by a later commit.
    if pages - *copied >= COPIED_AT && wake.try_send(()).is_ok() {
        *copied = pages;
    }
}

/// A copy can fail because another one is under way, or the disk is full: the pages stay in the log,
/// and the next copy begins there. The worker does not go on with a disk that failed.
fn check_copy(copied: rusqlite::Result<(i32, i32)>) {
    match copied {
        Err(error) if is_broken(&error) => die(&error),
        Err(error) => debug!(%error, "ledger log not copied; it grows until a later copy succeeds"),
        Ok(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use rusqlite::{Error, ffi};

    use super::*;

    /// The process goes on.
    #[test]
    fn a_copy_that_cannot_be_made_now_is_no_disk_that_failed() {
        for code in [ffi::SQLITE_BUSY, ffi::SQLITE_FULL, ffi::SQLITE_IOERR_READ] {
            check_copy(Err(Error::SqliteFailure(ffi::Error::new(code), None)));
        }
    }

    #[test]
    fn a_copy_is_asked_for_once_for_so_many_pages_and_again_when_the_log_began_anew() {
        let (wake, wakes) = sync_channel(1);
        let mut copied = 0;
        let mut woken = |pages, taken: bool| {
            wake_if_due(&wake, &mut copied, pages);
            taken.then(|| wakes.try_recv().is_ok())
        };
        assert_eq!(woken(COPIED_AT - 1, true), Some(false));
        assert_eq!(woken(COPIED_AT, true), Some(true));
        assert_eq!(woken(COPIED_AT + 1, true), Some(false));
        // The thread is slow: one copy waits for it, and what comes later is not forgotten.
        assert_eq!(woken(2 * COPIED_AT, false), None);
        assert_eq!(woken(3 * COPIED_AT, true), Some(true));
        assert_eq!(woken(3 * COPIED_AT + 1, true), Some(true));
        // A new log.
        assert_eq!(woken(7, true), Some(false));
        assert_eq!(woken(COPIED_AT - 1, true), Some(false));
        assert_eq!(woken(COPIED_AT, true), Some(true));
    }
}
