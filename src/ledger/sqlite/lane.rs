//! A lane: a thread that owns one SQLite connection. The writer's commits operations in groups.
//!
//! Operations that arrive during a commit go into the next one. A lone operation commits at once;
//! a crowd shares its `fsync`, and waits a moment to become a larger one.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi};
use tokio::sync::oneshot;
use tracing::error;

use crate::ledger::{Answer, LedgerError};

/// When so many operations come at once, more are on their way: a commit costs nearly the same for
/// twice as many, so the next one waits a moment for them. A few operations do not wait.
const CROWD: usize = 16;
const GATHER: Duration = Duration::from_millis(1);

/// Operations in one commit; keeps the longest transaction in the milliseconds.
const GROUP_MAX: usize = 512;

/// Exit status after the disk has failed or the file is gone, `EX_IOERR` of sysexits.h.
pub(super) const DISK_FAILED: i32 = 74;

/// Called after every commit with the seconds it took and the operations in it.
pub(super) type Observer = Box<dyn Fn(f64, usize) + Send>;

trait Work: Send {
    /// Whether a caller still waits for the answer.
    fn is_awaited(&self) -> bool;
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    fn answer(self: Box<Self>, committed: Result<(), LedgerError>);
}

struct Unit<T, F> {
    operation: F,
    result: Option<T>,
    reply: oneshot::Sender<Result<T, LedgerError>>,
}

impl<T, F> Work for Unit<T, F>
where
    T: Send,
    F: FnMut(&Connection) -> rusqlite::Result<T> + Send,
{
    fn is_awaited(&self) -> bool {
        !self.reply.is_closed()
    }

    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.result = Some((self.operation)(connection)?);
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), LedgerError>) {
        let Unit { result, reply, .. } = *self;
        let answer = committed.and_then(|()| result.ok_or_else(LedgerError::without_result));
        // The caller may have gone away; its operation stays done.
        drop(reply.send(answer));
    }
}

/// A handle to the thread; it ends when the last handle is dropped.
pub(super) struct Lane(mpsc::Sender<Box<dyn Work>>);

impl Lane {
    /// Starts a thread that commits in groups.
    pub(super) fn writer(connection: Connection, observer: Observer) -> Result<Self, LedgerError> {
        Self::start("ledger-write", connection, move |connection, group| {
            let crowd = group.len() >= CROWD;
            commit(connection, group, &observer);
            if crowd {
                thread::sleep(GATHER);
            }
        })
    }

    /// Starts a thread that answers queries. It skips those whose callers have gone away: they would
    /// only delay the others.
    pub(super) fn reader(connection: Connection) -> Result<Self, LedgerError> {
        Self::start("ledger-read", connection, |connection, group| {
            for mut unit in group.into_iter().filter(|unit| unit.is_awaited()) {
                let done = unit.run(connection).map_err(LedgerError::from);
                unit.answer(done);
            }
        })
    }

    fn start(
        name: &str,
        mut connection: Connection,
        serve: impl Fn(&mut Connection, Vec<Box<dyn Work>>) + Send + 'static,
    ) -> Result<Self, LedgerError> {
        let (sender, queue) = mpsc::channel::<Box<dyn Work>>();
        let thread = thread::Builder::new().name(name.into());
        let started = thread.spawn(move || {
            while let Ok(first) = queue.recv() {
                let group = std::iter::once(first)
                    .chain(queue.try_iter().take(GROUP_MAX - 1))
                    .collect();
                serve(&mut connection, group);
            }
        });
        started.map_err(LedgerError::unstarted)?;
        Ok(Self(sender))
    }

    /// Runs an operation, which may be run a second time if its group cannot be committed.
    pub(super) fn run<T: Send + 'static>(
        &self,
        operation: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Answer<'static, T> {
        let (reply, answer) = oneshot::channel();
        let sent = self.0.send(Box::new(Unit {
            operation,
            result: None,
            reply,
        }));
        Box::pin(async move {
            sent.map_err(|_| LedgerError::shut_down())?;
            answer.await.map_err(|_| LedgerError::shut_down())?
        })
    }
}

/// Commits all operations in one transaction; if that fails, each in its own, so that one operation
/// that cannot be done takes no other with it. A locked file is the fault of none: each would only
/// wait for it as long again.
fn commit(connection: &mut Connection, mut group: Vec<Box<dyn Work>>, observer: &Observer) {
    #[expect(
        clippy::disallowed_methods,
        reason = "measures the commit; nothing is decided by it"
    )]
    let started = Instant::now();
    let together = transact(connection, &mut group);
    observer(started.elapsed().as_secs_f64(), group.len());
    if group.len() == 1 || matches!(together, Ok(()) | Err(LedgerError::Busy)) {
        for unit in group {
            unit.answer(together.clone());
        }
        return;
    }
    for unit in group {
        let mut alone = vec![unit];
        let done = transact(connection, &mut alone);
        alone.into_iter().for_each(|unit| unit.answer(done.clone()));
    }
}

fn transact(connection: &mut Connection, group: &mut [Box<dyn Work>]) -> Result<(), LedgerError> {
    let done = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .and_then(|transaction| {
            group
                .iter_mut()
                .try_for_each(|unit| unit.run(&transaction))?;
            transaction.commit()
        });
    done.map_err(|error| {
        if is_broken(&error) {
            die(&error);
        }
        error.into()
    })
}

/// After a failed write or sync the contents of the disk are unknown: the system forgets the pages
/// that it could not write, and the next sync may report success. A full disk is no such failure.
pub(super) fn is_broken(error: &rusqlite::Error) -> bool {
    const BROKEN: [i32; 8] = [
        ffi::SQLITE_IOERR_WRITE,
        ffi::SQLITE_IOERR_FSYNC,
        ffi::SQLITE_IOERR_DIR_FSYNC,
        ffi::SQLITE_IOERR_TRUNCATE,
        ffi::SQLITE_IOERR_SHMMAP,
        ffi::SQLITE_IOERR_SHMOPEN,
        ffi::SQLITE_IOERR_CLOSE,
        ffi::SQLITE_IOERR_CORRUPTFS,
    ];
    error
        .sqlite_error()
        .is_some_and(|code| BROKEN.contains(&code.extended_code))
}

/// Ends the process as a crash would: the next start reads what the disk really holds.
pub(super) fn die(error: &rusqlite::Error) -> ! {
    error!(
        %error,
        "the disk failed under the ledger, so its contents are unknown; ending at once. Check the disk; the next start reads what it holds"
    );
    std::process::exit(DISK_FAILED)
}

/// The library's error without the values that were bound, and without the statement.
impl From<rusqlite::Error> for LedgerError {
    fn from(error: rusqlite::Error) -> Self {
        let text = match &error {
            rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
            error => error.to_string(),
        };
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Self::Damaged(text),
            Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
                Self::Failed(format!(
                    "{text}; may this user write the file and its folder?"
                ))
            }
            _ => Self::Failed(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};

    use super::*;

    /// Counts whose probe has given up must not keep the outbox from its rows.
    #[tokio::test]
    async fn a_question_that_nobody_waits_for_is_not_asked() {
        let lane = Lane::reader(Connection::open_in_memory().unwrap()).unwrap();
        let (asked, busy) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(2)));
        let until = Arc::clone(&busy);
        let first = lane.run(move |_| {
            until.wait();
            Ok(())
        });
        for _ in 0..9 {
            let asked = Arc::clone(&asked);
            drop(lane.run(move |_| Ok(asked.fetch_add(1, Ordering::Relaxed))));
        }
        busy.wait();
        first.await.unwrap();
        lane.run(|_| Ok(())).await.unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 0);
    }

    /// Of 512 operations, each with a wait of its own, the last would be answered after three
    /// quarters of an hour.
    #[test]
    fn for_a_locked_file_a_group_waits_once() {
        static WAITS: AtomicUsize = AtomicUsize::new(0);
        let file = tempfile::NamedTempFile::new().unwrap();
        let beside = Connection::open(file.path()).unwrap();
        beside.execute_batch("BEGIN IMMEDIATE").unwrap();
        let mut ours = Connection::open(file.path()).unwrap();
        let waits_no_longer = |_| {
            WAITS.fetch_add(1, Ordering::Relaxed);
            false
        };
        ours.busy_handler(Some(waits_no_longer)).unwrap();
        let asked = (0..3).map(|_| {
            let (reply, answer) = oneshot::channel();
            let unit = Unit {
                operation: |_: &Connection| Ok(()),
                result: None,
                reply,
            };
            (Box::new(unit) as Box<dyn Work>, answer)
        });
        let (group, answers): (Vec<_>, Vec<_>) = asked.unzip();
        commit(&mut ours, group, &(Box::new(|_, _| ()) as Observer));
        for mut answer in answers {
            let answer = answer.try_recv().unwrap();
            assert!(matches!(answer, Err(LedgerError::Busy)), "{answer:?}");
        }
        assert_eq!(WAITS.load(Ordering::Relaxed), 1);
    }
}
