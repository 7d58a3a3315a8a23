//! Refusals of gRPC requests: a Trailers-Only answer, whose HTTP status is always 200.

use std::fmt::Write;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};

use crate::rejection::Rejection;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
pub(super) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Which requests are refused in gRPC's way: with HTTP status 200 and the refusal in `grpc-status`.
///
/// Danger: whoever decides by HTTP status, such as a gateway that asks this service whether to let
/// a request pass (`auth_request`, forward auth), takes such a refusal for a yes. Such gateways ask
/// with `GET`, which gRPC never uses; where one asks with the request's own method, say
/// [`Never`](Self::Never).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GrpcRequests {
    /// `POST` with the content type `application/grpc`, alone or followed by `+` or `;`: the
    /// default.
    #[default]
    Post,
    /// Any method with that content type: a convenience for demonstrations with `curl`.
    AnyMethod,
    /// None: every refusal has its HTTP status.
    Never,
}

impl GrpcRequests {
    pub(crate) fn include(self, method: &Method, headers: &HeaderMap) -> bool {
        match self {
            Self::Post => method == Method::POST && is_grpc(headers),
            Self::AnyMethod => is_grpc(headers),
            Self::Never => false,
        }
    }
}

/// Whether a content type is gRPC's. (`application/grpc-web` is another protocol.)
fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|content_type| {
        let content_type = content_type.as_bytes();
        content_type.len() >= TYPE.len()
            && content_type[..TYPE.len()].eq_ignore_ascii_case(TYPE)
            && matches!(content_type.get(TYPE.len()), None | Some(b'+' | b';'))
    })
}

/// The `grpc-status` that a rejection calls for.
pub(crate) fn code(rejection: &Rejection) -> i32 {
    match rejection.status() {
        StatusCode::BAD_REQUEST => 3,          // INVALID_ARGUMENT
        StatusCode::UNAUTHORIZED => 16,        // UNAUTHENTICATED
        StatusCode::FORBIDDEN => 7,            // PERMISSION_DENIED
        StatusCode::TOO_MANY_REQUESTS => 8,    // RESOURCE_EXHAUSTED
        StatusCode::SERVICE_UNAVAILABLE => 14, // UNAVAILABLE
        _ => 13,                               // INTERNAL
    }
}

/// The answer, without the headers that gRPC and HTTP refusals have in common.
pub(crate) fn render(rejection: &Rejection) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, code(rejection).into());
    if let Ok(message) = HeaderValue::try_from(encode_message(&rejection.to_string())) {
        headers.insert(GRPC_MESSAGE, message);
    }
    if let Some(after) = rejection.retry_after() {
        let pushback = i32::try_from(after.as_millis()).unwrap_or(i32::MAX);
        headers.insert(GRPC_RETRY_PUSHBACK, pushback.into());
    }
    response
}

/// `grpc-message` is UTF-8 with everything outside of visible ASCII, and `%`, percent-encoded.
fn encode_message(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, 0x20..=0x24 | 0x26..=0x7e) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}"); // writing to a String cannot fail
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(
            encode_message("100% 系统\n"),
            "100%25 %E7%B3%BB%E7%BB%9F%0A"
        );
        assert_eq!(encode_message(" ~$&"), " ~$&");
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (content_type, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("Application/gRPC", true),
            ("application/grpc-web", false),
            ("application/grpc-web+proto", false),
            ("application/grpcx", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            assert_eq!(is_grpc(&headers), expected, "{content_type}");
        }
        assert!(!is_grpc(&HeaderMap::new()));
    }
}
