//! Rendering: headers about the key and its limits, refusals, and response bodies.

pub(crate) mod challenge;
mod decimal;
pub(crate) mod error_content;
pub(crate) mod error_response;
pub(crate) mod facts;
pub(crate) mod grpc;
pub(crate) mod key_headers;
pub(crate) mod rate_limit;
pub(crate) mod response_body;
