//! The only rooms that know tower: a layer, its service, and the path that decides about a request.
//!
//! [`decide`] is THE PATH: steps 0 to 9 in one function. It never waits. Where a record must be loaded, or
//! a limiter is elsewhere, it says so, and [`resume`] goes on from there. [`respond`] makes answers,
//! [`future`] only polls.

mod charge;
pub(crate) mod config;
mod context;
pub(crate) mod decide;
pub(crate) mod future;
pub(crate) mod layer;
mod preflight;
pub(crate) mod require_scope;
mod respond;
mod resume;
pub(crate) mod service;
mod verify_key;
