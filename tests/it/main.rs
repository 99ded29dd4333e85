//! The one integration test binary; each module is a subject.

mod lifecycle;
mod providers;
