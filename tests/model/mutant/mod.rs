//! The same files over epochs that outdate nothing.

#[path = "../../../src/cache/coherent.rs"]
mod coherent;
mod epochs;
#[path = "../scenarios.rs"]
pub(crate) mod scenarios;
#[path = "../../../src/cache/single_flight.rs"]
mod single_flight;
