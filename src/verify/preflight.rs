//! CORS preflights, where a layer lets them through.

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, COOKIE, ORIGIN};
use http::{Method, Request};

use super::{Gate, Progress};
use crate::request::head::RequestHead;

impl Gate {
    /// Returns whether a request is a preflight, as the Fetch standard sends it.
    ///
    /// A browser sends a preflight to the URL of the request to come, with that URL's query, but
    /// never with that request's headers. A request with a credential in a header is none.
    pub(super) fn is_preflight(&self, head: RequestHead<'_>) -> bool {
        let sources = &self.settings.sources;
        head.method == Method::OPTIONS
            && head.headers.contains_key(ORIGIN)
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && !head.headers.contains_key(AUTHORIZATION)
            && !head.headers.contains_key(COOKIE)
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
