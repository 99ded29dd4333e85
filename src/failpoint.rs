//! Named places at which a test can have the worker killed. Debug builds only.
//!
//! `RESCIND_FAIL_POINT=after_intent_commit:3` sends SIGKILL to the process when that place
//! is passed for the third time: no destructor runs, nothing is flushed, as in a real crash.

/// A place between two durable steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Point {
    /// A delivery arrived; nothing is stored.
    AfterDeliver,
    /// The request is stored; the delivery is not acknowledged.
    AfterIntakeCommit,
    /// The intent is stored; nothing is sent.
    AfterIntentCommit,
    /// The provider answered; nothing is stored.
    AfterAnswer,
    /// The outcome and its messages are stored; nothing is published.
    AfterOutcomeCommit,
    /// The broker confirmed; the message is not marked.
    AfterPublish,
}

impl Point {
    /// Every place, in the order in which a request passes them.
    pub const ALL: [Self; 6] = [
        Self::AfterDeliver,
        Self::AfterIntakeCommit,
        Self::AfterIntentCommit,
        Self::AfterAnswer,
        Self::AfterOutcomeCommit,
        Self::AfterPublish,
    ];

    /// The name in `RESCIND_FAIL_POINT`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AfterDeliver => "after_deliver",
            Self::AfterIntakeCommit => "after_intake_commit",
            Self::AfterIntentCommit => "after_intent_commit",
            Self::AfterAnswer => "after_answer",
            Self::AfterOutcomeCommit => "after_outcome_commit",
            Self::AfterPublish => "after_publish",
        }
    }
}

/// A release build has no such places.
#[cfg(not(debug_assertions))]
pub fn pass(_: Point) {}

/// A release build has no such places.
#[cfg(not(debug_assertions))]
pub fn arm(_: Option<&str>) {}

#[cfg(debug_assertions)]
static ARMED: std::sync::OnceLock<(String, std::sync::atomic::AtomicI64)> =
    std::sync::OnceLock::new();

/// Takes the value of `RESCIND_FAIL_POINT`.
#[cfg(debug_assertions)]
pub fn arm(setting: Option<&str>) {
    let Some(setting) = setting else { return };
    let (name, count) = setting.split_once(':').unwrap_or((setting, "1"));
    let count = count.parse().unwrap_or(1);
    ARMED.get_or_init(|| (name.to_owned(), std::sync::atomic::AtomicI64::new(count)));
}

/// Dies here, if this is the place.
#[cfg(debug_assertions)]
pub fn pass(point: Point) {
    let Some((name, count)) = ARMED.get() else {
        return;
    };
    let last =
        name == point.as_str() && count.fetch_sub(1, std::sync::atomic::Ordering::SeqCst) == 1;
    if last {
        let killed =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        std::process::exit(if killed.is_ok() { 137 } else { 1 });
    }
}
