//! What implements the ports: each driver in a folder of its own.

pub(crate) mod memory;
