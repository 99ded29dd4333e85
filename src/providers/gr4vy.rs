//! Gr4vy, in its own words. Pure.

/// Gr4vy.
pub(super) struct Gr4vy;
