//! What the caller is told: headers about the key, refusals, and the body that carries either.

pub(crate) mod body;
pub(crate) mod challenge;
pub(crate) mod content;
mod decimal;
pub(crate) mod facts;
pub(crate) mod grpc;
pub(crate) mod key_headers;
pub(crate) mod rate_limit;
pub(crate) mod rejection;
