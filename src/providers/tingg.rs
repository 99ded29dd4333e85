//! Tingg, in its own words. Pure.

/// Tingg.
pub(super) struct Tingg;
