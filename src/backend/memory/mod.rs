//! Everything in the process's memory: for tests, demonstrations, and keys that come from elsewhere
//! at start.

mod journal;
pub(crate) mod limiter;
mod record_table;
pub(crate) mod store;
