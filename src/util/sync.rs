//! The primitives that the cache's guard and flights stand on; `tests/model` puts others in their
//! place, to try out in which order threads may come to them.

pub(crate) use std::sync::atomic::{AtomicU32, Ordering};
pub(crate) use std::sync::{Arc, Mutex, MutexGuard};
