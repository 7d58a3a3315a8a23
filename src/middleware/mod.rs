//! The only modules that know tower: a layer, its service, and the path that decides about a
//! request.
//!
//! [`decide`] is THE PATH, with its steps numbered. It never waits: where a record must be loaded,
//! or a limiter is elsewhere, it says so, and [`resume`] goes on from there. [`charge`] asks the
//! limiter, [`conclude`] announces each decision, [`respond`] makes answers, and [`future`] only
//! polls.

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
