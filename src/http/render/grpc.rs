//! Refusals of gRPC requests: a Trailers-Only response, whose HTTP status is always 200.

use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Method, Response};

use crate::http::rejection::Rejection;
use crate::http::render::error_content::ErrorContent;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// The requests whose refusals are gRPC responses: HTTP status 200, with the refusal in
/// `grpc-status`.
///
/// Danger: a gateway that decides by HTTP status, such as one that asks this service whether to let
/// a request pass (`auth_request`, forward auth), takes a gRPC refusal for approval. Such gateways
/// usually ask with `GET`, which gRPC never uses. For a gateway that asks with the request's own
/// method, use [`Never`](Self::Never).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum GrpcRequests {
    /// `POST` with the content type `application/grpc`, alone or followed by `+` or `;`: the
    /// default.
    #[default]
    Post,
    /// Any method with that content type: a convenience for demonstrations with `curl`.
    AnyMethod,
    /// No requests: every refusal has its HTTP status.
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

/// Returns whether the content type is gRPC's. (`application/grpc-web` is another protocol.)
fn is_grpc(headers: &HeaderMap) -> bool {
    const TYPE: &[u8] = b"application/grpc";
    headers.get(CONTENT_TYPE).is_some_and(|content_type| {
        let content_type = content_type.as_bytes();
        content_type.len() >= TYPE.len()
            && content_type[..TYPE.len()].eq_ignore_ascii_case(TYPE)
            && matches!(content_type.get(TYPE.len()), None | Some(b'+' | b';'))
    })
}

/// Returns whether the `grpc-status` in the headers is `RESOURCE_EXHAUSTED`. Trailers are not read.
pub(super) fn is_resource_exhausted(headers: &HeaderMap) -> bool {
    headers.get(GRPC_STATUS).is_some_and(|status| status == "8")
}

/// Renders the response, without the headers that gRPC and HTTP refusals have in common.
pub(crate) fn render(content: &ErrorContent<'_>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(GRPC_STATUS, content.grpc_status().into());
    if let Ok(message) = HeaderValue::try_from(encode_message(content.message())) {
        headers.insert(GRPC_MESSAGE, message);
    }
    if let Some(after) = content.rejection().and_then(Rejection::retry_after) {
        headers.insert(GRPC_RETRY_PUSHBACK, pushback(after).into());
    }
    response
}

/// Returns the milliseconds that a client has to wait before it tries again, rounded up so that no
/// client is early.
///
/// If a wait does not fit into `i32`, the value is negative, which forbids a retry: the largest
/// `i32` would end before the real wait.
fn pushback(wait: Duration) -> i32 {
    const DO_NOT_RETRY: i32 = -1;
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(DO_NOT_RETRY)
}

/// Encodes `grpc-message`: UTF-8 with `%` and everything outside of visible ASCII percent-encoded.
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
    use proptest::prelude::*;

    /// The longest wait that can be told, in nanoseconds.
    const LONGEST: u64 = i32::MAX as u64 * 1_000_000;

    fn any_wait() -> impl Strategy<Value = Duration> {
        prop_oneof![
            (0..2 * LONGEST).prop_map(Duration::from_nanos),
            (0..4_000_000u64).prop_map(Duration::from_nanos),
            (LONGEST - 2_000_000..LONGEST + 2_000_000).prop_map(Duration::from_nanos),
            any::<u64>().prop_map(Duration::from_secs),
            Just(Duration::from_nanos(LONGEST)),
            Just(Duration::from_nanos(LONGEST + 1)),
            Just(Duration::MAX),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn the_retry_pushback_covers_the_wait_or_forbids_a_retry(wait in any_wait()) {
            let rejection = Rejection::ServiceUnavailable { retry_after: wait };
            let answer = render(&ErrorContent::of(&rejection));
            let pushback = answer.headers()[GRPC_RETRY_PUSHBACK].to_str().unwrap();
            match u64::try_from(pushback.parse::<i32>().unwrap()) {
                Ok(milliseconds) => {
                    let pushback = Duration::from_millis(milliseconds);
                    prop_assert!(wait <= pushback && pushback < wait + Duration::from_millis(1));
                }
                Err(_) => prop_assert!(wait > Duration::from_nanos(LONGEST), "{pushback}"),
            }
        }
    }

    #[test]
    fn messages_are_percent_encoded() {
        assert_eq!(
            encode_message("100% 系统\n"),
            "100%25 %E7%B3%BB%E7%BB%9F%0A"
        );
        assert_eq!(encode_message(" ~$&"), " ~$&");
    }

    #[test]
    fn grpc_is_recognized_by_its_content_type() {
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
