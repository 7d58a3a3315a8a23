//! HTTP: reading the key and the address of a request, and rendering responses.
//!
//! - [`ClientAddress`] and [`TrustedProxies`] find the address of the client.
//! - [`ErrorFormat`] renders refusals, and [`RateLimitHeaders`] selects the headers about limits.
//! - [`ApiKeyService`] is the service that [`ApiKeyLayer`](crate::ApiKeyLayer) makes.

pub(crate) mod api_error;
pub(crate) mod browser;
pub(crate) mod caller;
pub(crate) mod carriers;
pub(crate) mod client_address;
pub(crate) mod credential;
pub(crate) mod framework;
pub(crate) mod rejection;
pub(crate) mod render;
pub(crate) mod request_head;

pub use api_error::ApiError;
pub use caller::KeyCarrier;
pub use client_address::{ClientAddress, PeerAddr, TrustedProxies};
pub use credential::source::{KeyHeaderError, KeySchemeError};
pub use rejection::{Exceeded, NotFound};
pub use render::challenge::{MetadataUrlError, RealmError};
pub use render::error_content::ErrorContent;
pub use render::error_response::ErrorFormat;
pub use render::facts::CallerFact;
pub use render::grpc::GrpcRequests;
pub use render::key_headers::LinkError;
pub use render::rate_limit::RateLimitHeaders;
pub use render::response_body::ResponseBody;
pub use request_head::RequestHead;

pub use crate::middleware::future::ResponseFuture;
pub use crate::middleware::require_scope::{RequireScopeFuture, RequireScopeService};
pub use crate::middleware::service::ApiKeyService;

/// Removes HTTP's optional white space around a text: spaces and tabs, and nothing else.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(is_text).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}
