//! Rescind: an asynchronous payment-cancellation worker.

pub mod backoff;
mod es512;
pub mod job;
pub mod lifecycle;
mod oauth;
pub mod providers;
