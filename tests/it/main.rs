//! The one integration test binary; each module is a subject.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    reason = "a test that cannot go on fails, with the place and the reason; tests wait by the clock"
)]

mod alerts;
mod broker;
mod call;
mod cluster;
mod contract;
mod crash;
mod dead;
mod deployment;
mod fleet;
mod flow;
mod ledger;
mod lifecycle;
mod machine;
mod notices;
mod providers;
mod restore;
mod rig;
mod rig_works;
mod sabotage;
mod secure;
mod spans;
mod tidy;
