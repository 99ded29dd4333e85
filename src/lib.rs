//! Rescind: an asynchronous payment-cancellation worker.
