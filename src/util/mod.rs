//! Utilities that know nothing of keys: clocks, tables, dates, logs.

pub(crate) mod clock;
pub(crate) mod notice;
pub(crate) mod parts;
pub(crate) mod sync;
pub(crate) mod table;
pub(crate) mod timestamp;
pub(crate) mod trace;
