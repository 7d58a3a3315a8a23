//! Keys that an application gets at startup, from an environment variable or a file.

pub(crate) mod lines;
pub(crate) mod store;
