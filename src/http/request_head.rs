//! A request without its body.

use std::fmt;

use http::request::Parts;
use http::{Extensions, HeaderMap, Method, Request, Uri};

/// A borrowed request without its body, as passed to functions of the application.
///
/// ```
/// use tower_api_key::http::RequestHead;
///
/// let request = http::Request::get("/v1/facts?limit=3").body(()).unwrap();
/// let head = RequestHead::from(&request);
/// assert_eq!(head.uri.path(), "/v1/facts");
/// ```
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct RequestHead<'r> {
    /// The method.
    pub method: &'r Method,
    /// The URI. With axum it is the part that the router has not stripped.
    pub uri: &'r Uri,
    /// The headers, including the credential.
    pub headers: &'r HeaderMap,
    /// The extensions that servers and outer layers added.
    pub extensions: &'r Extensions,
}

impl<'r, B> From<&'r Request<B>> for RequestHead<'r> {
    fn from(request: &'r Request<B>) -> Self {
        Self {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
            extensions: request.extensions(),
        }
    }
}

impl<'r> From<&'r Parts> for RequestHead<'r> {
    fn from(parts: &'r Parts) -> Self {
        Self {
            method: &parts.method,
            uri: &parts.uri,
            headers: &parts.headers,
            extensions: &parts.extensions,
        }
    }
}

/// Leaves out the headers and the query, which may hold a credential.
impl fmt::Debug for RequestHead<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestHead")
            .field("method", self.method)
            .field("path", &self.uri.path())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_hides_secrets_and_is_the_same_for_request_and_parts() {
        let request = Request::get("/v1/facts?api_key=sk_live_a").header("x-api-key", "sk_live_b");
        let request = request.body(()).unwrap();
        let shown = format!("{:?}", RequestHead::from(&request));
        assert_eq!(
            shown,
            "RequestHead { method: GET, path: \"/v1/facts\", .. }"
        );
        let (parts, ()) = request.into_parts();
        assert_eq!(shown, format!("{:?}", RequestHead::from(&parts)));
    }
}
