//! Utilities that know nothing of keys: clocks, tables, dates, guards, logs.

pub(crate) mod clock;
pub(crate) mod cuckoo;
pub(crate) mod hex;
pub(crate) mod join_all;
pub(crate) mod log_throttle;
pub(crate) mod on_drop;
pub(crate) mod striped;
pub(crate) mod sync;
pub(crate) mod timestamp;
pub(crate) mod trace;
