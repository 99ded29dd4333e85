//! Rescind: an asynchronous payment-cancellation worker.

pub mod amqp;
pub mod backoff;
pub mod call;
pub mod cli;
pub mod config;
pub mod dispatch;
mod es512;
pub mod failpoint;
pub mod gate;
pub mod intake;
pub mod job;
mod layers;
pub mod ledger;
pub mod lifecycle;
pub mod metrics;
pub mod notice;
mod notified;
mod oauth;
pub mod outbox;
pub mod providers;
pub mod publish;
pub mod run;
pub mod server;
mod settings;
pub mod simulate;
pub mod trace;
pub mod wire;
