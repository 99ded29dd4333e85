//! Named places at which a test can have the worker killed. Debug builds only.
//!
//! `RESCIND_FAIL_POINT=after_intent_commit:3` sends SIGKILL to the process when that place
//! is passed for the third time: no destructor runs, nothing is flushed, as in a real crash.
//! With `:stop` behind it, SIGSTOP: the worker pauses there, as when its machine is suspended.

use crate::names::names;

names! {
    /// A place between two durable steps; they stand in the order in which a request passes them.
    Point {
        /// A delivery arrived; nothing is stored.
        AfterDeliver = "after_deliver",
        /// The request is stored; the delivery is not acknowledged.
        AfterIntakeCommit = "after_intake_commit",
        /// The intent is stored; nothing is sent.
        AfterIntentCommit = "after_intent_commit",
        /// The provider answered; nothing is stored.
        AfterAnswer = "after_answer",
        /// The outcome and its messages are stored; nothing is published.
        AfterOutcomeCommit = "after_outcome_commit",
        /// The broker confirmed; the message is not marked.
        AfterPublish = "after_publish",
    }
}

/// A release build has no such places.
#[cfg(not(debug_assertions))]
pub fn pass(_: Point) {}

/// A release build has no such places.
#[cfg(not(debug_assertions))]
pub fn arm(_: Option<&str>) {}

#[cfg(debug_assertions)]
struct Armed {
    name: String,
    passes: std::sync::atomic::AtomicI64,
    signal: rustix::process::Signal,
}

/// Most that a stop may take to reach every thread. Time in which the process stands still
/// counts.
#[cfg(debug_assertions)]
const STOPPED_BY_THEN: std::time::Duration = std::time::Duration::from_secs(1);

#[cfg(debug_assertions)]
static ARMED: std::sync::OnceLock<Armed> = std::sync::OnceLock::new();

/// Takes the value of `RESCIND_FAIL_POINT`.
#[cfg(debug_assertions)]
pub fn arm(setting: Option<&str>) {
    let Some(setting) = setting else { return };
    let mut parts = setting.split(':');
    let name = parts.next().unwrap_or_default().to_owned();
    let passes = parts.next().and_then(|count| count.parse().ok());
    let signal = match parts.next() {
        Some("stop") => rustix::process::Signal::STOP,
        _ => rustix::process::Signal::KILL,
    };
    ARMED.get_or_init(|| Armed {
        name,
        passes: passes.unwrap_or(1).into(),
        signal,
    });
}

/// Dies or pauses here, if this is the place.
#[cfg(debug_assertions)]
pub fn pass(point: Point) {
    let Some(armed) = ARMED.get() else { return };
    if armed.name != point.as_str() {
        return;
    }
    let before = armed
        .passes
        .fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
    if before == 1 {
        let sent = rustix::process::kill_process(rustix::process::getpid(), armed.signal);
        if armed.signal == rustix::process::Signal::KILL || sent.is_err() {
            std::process::exit(if sent.is_ok() { 137 } else { 1 });
        }
        // The process is stopped by its main thread; measured, others ran on for up to 5 ms.
        std::thread::sleep(STOPPED_BY_THEN);
    }
}
