//! Rescind: an asynchronous payment-cancellation worker.
//!
//! The way of a request: [`intake`] stores it in the [`ledger`] and acknowledges it; its account's
//! [`dispatch`]er claims it when a place at the [`gate`] is free; the adapter in [`providers`] builds a
//! call, [`call`] sends it, and the adapter reads the answer; the [`lifecycle`] says what that leads to;
//! the ledger commits state, call and messages as one; the [`outbox`] publishes. ARCHITECTURE.md has the
//! picture, [`run`] wires it up. The simulator and the command line are a quarter of the code.
//!
//! | word | is |
//! |---|---|
//! | account, provider | a configured account at a payment company; `provider` is its name in messages and tables |
//! | adapter | what speaks one company's API ([`Provider`](providers::Provider)) |
//! | claim | the right to work on a request; a write that names an older one is refused |
//! | turn, parked | one request at a time works on a payment; the others wait for their turn |
//! | place | the right to make one call at the gate |
//! | in doubt | a call may have been applied: the provider is asked before anything is sent |
//! | exposed, accepted, under way | something of ours may ever have been applied; was taken and is not finished; is seen to run at the provider, ours or not |
//! | sighting | the first of two agreeing answers |
//! | quiet | the time in which a call without an answer may still be applied |
//! | hint | what a notification tells: a reason to ask sooner, and no evidence |
//! | finding | what was found out; told as result, correction or dead letter |
//! | handover | from a commit to the outbox in memory, so that nothing is read back |
//! | hold | on while too much waits for the broker: nothing is taken in |
//! | lane | the thread or task that owns a ledger connection; a writer's commits in groups |

// Pure.
mod asking;
pub mod backoff;
mod es512;
pub mod finding;
pub mod gate;
pub mod job;
pub mod lifecycle;
mod names;
mod notification;
mod oauth;
pub mod outcome;
mod problem;
pub mod providers;
mod reading;
mod settings;
mod strict;
mod wall;
pub mod wire;

// The worker, with input and output.
pub mod amqp;
pub mod call;
mod consume;
pub mod dispatch;
pub mod handover;
pub mod hold;
pub mod intake;
pub mod ledger;
pub mod notice;
pub mod outbox;
pub mod publish;
mod retention;
pub mod run;
pub mod shared;

// Around it.
pub mod config;
pub mod failpoint;
mod layers;
mod log;
pub mod metrics;
mod pem;
mod process;
pub mod server;
mod since;
pub mod spans;
pub mod systemd;

// Beside it.
pub mod cli;
mod simulate;
