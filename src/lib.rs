//! Rescind: an asynchronous payment-cancellation worker.

pub mod backoff;
pub mod config;
pub mod job;
mod layers;
pub mod lifecycle;
pub mod providers;
mod settings;
