//! CORS preflights, where a layer lets them through.

use http::header::{
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    COOKIE, EXPECT, HeaderName, ORIGIN, TE, TRANSFER_ENCODING,
};
use http::{Method, Request};

use super::{Gate, Progress};
use crate::caller::Caller;
use crate::request::head::RequestHead;

/// Headers that no preflight has: credentials, and whatever announces a body or a call of gRPC.
const NEVER: [HeaderName; 8] = [
    AUTHORIZATION,
    COOKIE,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    TRANSFER_ENCODING,
    TE,
    EXPECT,
];

impl Gate {
    /// Returns whether a request is a preflight, as the Fetch standard sends it.
    ///
    /// A browser sends a preflight to the URL of the request to come, with that URL's query, but
    /// never with that request's headers or a body. A request with a credential in a header, or with
    /// anything that announces a body, is none; nor is one that an outer layer of other keys let through,
    /// which may have taken its credential out.
    pub(super) fn is_preflight(&self, head: RequestHead<'_>) -> bool {
        let sources = &self.settings.sources;
        head.method == Method::OPTIONS
            && head.headers.contains_key(ORIGIN)
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && !NEVER.iter().any(|name| head.headers.contains_key(name))
            && head.extensions.get::<Caller>().is_none()
            && !sources.have_a_header_in(head.headers)
    }

    /// Lets a preflight through, within the limits of nobody in particular.
    ///
    /// A key in its URL is that of the request to come: it is taken out, and neither judged nor
    /// charged. A browser that is refused the preflight never sends the request, and so never
    /// learns what is wrong with its key.
    pub(super) fn begin_preflight<B>(&self, request: &mut Request<B>) -> Progress {
        let carriers = self.settings.sources.parameters_of(request.uri());
        self.hide(request, carriers);
        self.begin_as_nobody(request)
    }
}
