//! Headers by which browsers say what they are.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue};

use crate::http::request_head::RequestHead;
use crate::key::web_origin::AllowedOrigins;

const SITE: &str = "sec-fetch-site";
const DEST: &str = "sec-fetch-dest";

/// Returns whether a browser sent a request: these headers are its own, and no page can set them.
///
/// `Sec-Fetch-Mode` alone is sent by a client of Node.js, too, and `Origin` by many clients.
pub(crate) fn sent(headers: &HeaderMap) -> bool {
    headers.contains_key(SITE) || headers.contains_key(DEST)
}

/// Returns whether a page of these origins made a request. Two of `Origin` are none.
///
/// A browser leaves out `Origin` in a `GET` to the page's own origin, and says `same-origin`. The
/// page's host is then that of the request.
pub(crate) fn may_use(origins: &AllowedOrigins, head: RequestHead<'_>) -> bool {
    let headers = head.headers;
    let mut all = headers.get_all(ORIGIN).iter();
    match (all.next(), all.next()) {
        (None, _) => {
            let is_same = headers.get(SITE).is_some_and(|site| site == "same-origin");
            let authority = head.uri.authority().map(|it| it.as_str().as_bytes());
            let host = authority.or_else(|| headers.get(HOST).map(HeaderValue::as_bytes));
            is_same && host.is_some_and(|host| origins.have_host(host))
        }
        (Some(origin), None) => origins.allow(Some(origin.as_bytes())),
        (Some(_), Some(_)) => false,
    }
}
