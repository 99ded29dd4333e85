//! Rescind: an asynchronous payment-cancellation worker.

pub mod simulate;
