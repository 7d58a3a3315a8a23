//! CORS preflights, for layers that admit them.

use http::Method;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, EXPECT, HeaderName, ORIGIN, TE, TRANSFER_ENCODING,
};

use crate::http::caller::Caller;
use crate::http::request_head::RequestHead;
use crate::middleware::gate::Gate;

/// Headers that no preflight has: credentials, and headers that announce a body or a gRPC call.
const NOT_IN_PREFLIGHTS: [HeaderName; 11] = [
    AUTHORIZATION,
    COOKIE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    TRANSFER_ENCODING,
    TE,
    EXPECT,
    // Headers that make some frameworks run another method.
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
];

impl Gate {
    /// Returns whether this layer admits preflights, and the request is a preflight as defined by
    /// the Fetch standard.
    ///
    /// A browser sends a preflight to the URL of the actual request, including the query, but
    /// without the headers and the body of the actual request. A request with a credential in a
    /// header, or with a header that announces a body, is no preflight. Neither is a request that
    /// an outer layer of other keys admitted, since that layer may have removed a credential.
    pub(super) fn is_allowed_preflight(&self, head: RequestHead<'_>) -> bool {
        let sources = &self.config.sources;
        self.config.allow_preflight
            && head.method == Method::OPTIONS
            && head.headers.contains_key(ORIGIN)
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && !NOT_IN_PREFLIGHTS
                .iter()
                .any(|name| head.headers.contains_key(name))
            && head.extensions.get::<Caller>().is_none()
            && !sources.have_a_header_in(head.headers)
    }
}
