//! CORS preflights, where a layer lets them through.

use http::Method;
use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, EXPECT, HeaderName, ORIGIN, TE, TRANSFER_ENCODING,
};

use crate::http::caller::Caller;
use crate::http::request_head::RequestHead;
use crate::middleware::gate::Gate;

/// Headers that no preflight has: credentials, and whatever announces a body or a call of gRPC.
const NOT_IN_PREFLIGHTS: [HeaderName; 11] = [
    AUTHORIZATION,
    COOKIE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    TRANSFER_ENCODING,
    TE,
    EXPECT,
    // A framework that obeys these would run another method.
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
];

impl Gate {
    /// Returns whether this layer lets preflights pass, and a request is one as the Fetch standard
    /// has it.
    ///
    /// A browser sends a preflight to the URL of the request to come, with that URL's query, but
    /// never with that request's headers or a body. A request with a credential in a header, or
    /// with anything that announces a body, is none; nor is one that an outer layer of other keys
    /// let through, which may have taken its credential out.
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
