//! The headers by which a browser is recognized.

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue};

use crate::http::request_head::RequestHead;
use crate::key::web_origin::AllowedOrigins;

const SITE: &str = "sec-fetch-site";
const DEST: &str = "sec-fetch-dest";

/// Returns whether a browser sent the request. Browsers set these headers themselves; no page can.
///
/// `Sec-Fetch-Mode` alone proves nothing, since Node.js sends it, too. Neither does `Origin`, which
/// many clients send.
pub(crate) fn sent(headers: &HeaderMap) -> bool {
    headers.contains_key(SITE) || headers.contains_key(DEST)
}

/// Returns whether a page of one of these origins made the request. Two `Origin` headers count as
/// none.
///
/// In a `GET` to the page's own origin, a browser leaves out `Origin` and sends `Sec-Fetch-Site:
/// same-origin`. The origin is then that of the request's host.
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
