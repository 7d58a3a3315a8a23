//! What implements the ports: each driver in a folder of its own.

pub(crate) mod chain;
pub(crate) mod fixed;
pub(crate) mod memory;
#[cfg(feature = "redis")]
pub(crate) mod redis;
#[cfg(any(feature = "sqlite", feature = "postgres"))]
pub(crate) mod sql;
