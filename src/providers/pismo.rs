//! Pismo, in its own words. Pure.

/// Pismo.
pub(super) struct Pismo;
