//! Everything in the process's memory: for tests, demonstrations, and keys that come from elsewhere
//! at start.

mod delivery_shelf;
mod delivery_table;
mod journal;
pub(crate) mod limiter;
mod outbox;
mod record_table;
pub(crate) mod store;
mod usage;
