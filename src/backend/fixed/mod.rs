//! Keys that an application is given at its start: in an environment variable, or in a file.

pub(crate) mod lines;
pub(crate) mod store;
