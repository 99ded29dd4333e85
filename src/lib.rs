//! Rescind: an asynchronous payment-cancellation worker.

pub mod backoff;
pub mod job;
pub mod ledger;
pub mod lifecycle;
pub mod providers;
pub mod wire;
