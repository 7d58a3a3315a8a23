//! The layer, its service, and the path that decides about a request: the only modules that depend
//! on tower.
//!
//! [`decide`] is THE PATH, with numbered steps. It never waits: if a record must be loaded, or a
//! limiter is remote, it returns, and [`resume`] continues from there. [`charge`] asks the limiter,
//! [`conclude`] announces each decision, [`respond`] creates responses, and [`future`] only polls.

mod charge;
mod conclude;
pub(crate) mod config;
mod context;
mod decide;
pub(crate) mod future;
pub(crate) mod gate;
pub(crate) mod layer;
mod outcome;
mod preflight;
pub(crate) mod require_scope;
mod respond;
mod resume;
pub(crate) mod service;
mod verify_key;
