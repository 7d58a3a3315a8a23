//! The same files over a guard that guards nothing.

#[path = "../../../src/cache/flight.rs"]
mod flight;
mod guard;
#[path = "../../../src/cache/guarded.rs"]
mod guarded;
#[path = "../scenarios.rs"]
pub(crate) mod scenarios;
