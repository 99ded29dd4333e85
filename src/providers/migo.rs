//! Migo, in its own words. Pure.

/// Migo.
pub(super) struct Migo;
