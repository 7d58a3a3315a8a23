//! What a proxy is told: the facts of an admitted caller, or a refusal in the form that it passes
//! on.

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use tower_api_key::http::CallerFact;

use crate::original::Proxy;

/// The headers of a refusal in which nginx finds the response for the client.
pub(crate) const REFUSAL_STATUS: &str = "x-refusal-status";
pub(crate) const REFUSAL_BODY: &str = "x-refusal-body";
pub(crate) const REFUSAL_TYPE: &str = "x-refusal-type";

/// The header that tells Envoy which headers of the client's request to remove.
pub(crate) const ENVOY_REMOVES: &str = "x-envoy-auth-headers-to-remove";

/// The longest body of a refusal: the layer's are much shorter.
const LONGEST_REFUSAL: usize = 4096;

/// Admits a request that came through the layer, with what the upstream shall know.
///
/// The layer wrote the facts into this request, and took the key out. All facts are told, since a
/// proxy may leave a header of the client where none is told: what is empty is overwritten, too.
/// What is left in `Authorization` is no key, but a user's token for the upstream.
pub(crate) async fn admit(request: Request) -> Response {
    let mut response = Response::new(Body::empty());
    let told = response.headers_mut();
    for fact in CallerFact::ALL {
        let value = request.headers().get(fact.header()).cloned();
        let value = value.unwrap_or(HeaderValue::from_static(""));
        told.insert(HeaderName::from_static(fact.header()), value);
    }
    if let Some(token) = request.headers().get(AUTHORIZATION) {
        let mut token = token.clone();
        token.set_sensitive(true);
        told.insert(AUTHORIZATION, token);
    }
    response
}

/// Writes a response in the form that the proxy passes on.
pub(crate) async fn answer(proxy: Proxy, response: Response) -> Response {
    let is_admitted = response.status() == StatusCode::OK;
    match proxy {
        Proxy::Nginx if !is_admitted => for_nginx(response).await,
        Proxy::Envoy if is_admitted => for_envoy(response),
        _ => response,
    }
}

/// Writes a refusal as 403, with the response for the client in its headers.
///
/// nginx passes on a 401 or 403 only, and no body. Its configuration makes the response for the
/// client from these headers, so it need not ask again, which would be charged again. A 401 would
/// bring its `WWW-Authenticate` by itself, before nginx 1.23 one line only: all are in one here.
async fn for_nginx(response: Response) -> Response {
    let (mut head, body) = response.into_parts();
    let body = to_bytes(body, LONGEST_REFUSAL).await.ok();
    let body = body.and_then(|body| HeaderValue::from_bytes(&body).ok());
    let status = HeaderValue::from(head.status.as_u16());
    head.status = StatusCode::FORBIDDEN;
    head.headers.remove(CONTENT_LENGTH);
    head.headers.insert(REFUSAL_STATUS, status);
    // JSON in one line. A body that cannot be a header is left out, and the refusal stays one.
    if let Some(body) = body {
        head.headers.insert(REFUSAL_BODY, body);
        if let Some(content_type) = head.headers.remove(CONTENT_TYPE) {
            head.headers.insert(REFUSAL_TYPE, content_type);
        }
    }
    join_challenges(&mut head.headers);
    Response::from_parts(head, Body::empty())
}

/// Names the headers of keys, which Envoy removes. It overwrites `Authorization` if a token is
/// left.
fn for_envoy(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let removed = if headers.contains_key(AUTHORIZATION) {
        "x-api-key"
    } else {
        "x-api-key, authorization"
    };
    headers.insert(ENVOY_REMOVES, HeaderValue::from_static(removed));
    response
}

fn join_challenges(headers: &mut HeaderMap) {
    let lines = headers.get_all(WWW_AUTHENTICATE).iter();
    let lines: Vec<&[u8]> = lines.map(HeaderValue::as_bytes).collect();
    if lines.len() < 2 {
        return;
    }
    if let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b", "[..])) {
        headers.insert(WWW_AUTHENTICATE, joined);
    }
}
