//! Midtrans, in its own words. Pure.

/// Midtrans.
pub(super) struct Midtrans;
