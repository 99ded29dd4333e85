//! Bento, in its own words. Pure.

/// Bento.
pub(super) struct Bento;
