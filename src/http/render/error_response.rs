//! Renders rejections and errors as responses.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, RETRY_AFTER,
    TRAILER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use serde_json::Value;

use crate::http::api_error::ApiError;
use crate::http::credential::source::KeySources;
use crate::http::rejection::{NotFound, Rejection};
use crate::http::render::challenge::Challenges;
use crate::http::render::error_content::ErrorContent;
use crate::http::render::grpc;
use crate::http::request_head::RequestHead;

/// The problem type of draft-ietf-httpapi-ratelimit-headers.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Rejection {
    /// Creates a response in JSON, for services without a framework. Behind an
    /// [`ApiKeyLayer`](crate::ApiKeyLayer), the layer renders the rejection in its own format.
    ///
    /// ```
    /// use tower_api_key::Rejection;
    ///
    /// let response: http::Response<String> = Rejection::Revoked.to_response();
    /// assert_eq!(response.status(), 401);
    /// ```
    pub fn to_response<B: From<String>>(&self) -> Response<B> {
        let content = ErrorContent::of(self);
        let mut response = finish(json_error(&content), &content);
        let unrendered = Unrendered::Rejection(self.clone());
        response.extensions_mut().insert(unrendered);
        response.map(B::from)
    }
}

impl ApiError {
    /// Creates a response in JSON. Behind an [`ApiKeyLayer`](crate::ApiKeyLayer), the layer renders
    /// the error in its own format.
    pub fn to_response<B: From<String>>(&self) -> Response<B> {
        let mut response = json_error(&ErrorContent::of_application(self));
        let unrendered = Unrendered::Error(self.clone());
        response.extensions_mut().insert(unrendered);
        response.map(B::from)
    }
}

/// The format of refusals.
///
/// gRPC requests always get gRPC responses.
#[derive(Clone)]
pub struct ErrorFormat(Format);

type Render = dyn Fn(&ErrorContent<'_>, RequestHead<'_>) -> Response<Bytes> + Send + Sync;

#[derive(Clone)]
enum Format {
    Json,
    Problem { types: Option<Box<str>> },
    Custom(Arc<Render>),
}

impl ErrorFormat {
    /// Renders `{"error": {"code": "…", "message": "…", "details": {…}}}`. This is the default.
    pub const fn json() -> Self {
        Self(Format::Json)
    }

    /// Renders problem details (RFC 9457) without a `type`, with the members `code` and `details`.
    pub const fn problem_details() -> Self {
        Self(Format::Problem { types: None })
    }

    /// Renders problem details whose `type` is this absolute URL followed by the code.
    ///
    /// ```
    /// use tower_api_key::http::ErrorFormat;
    /// use tower_api_key::ApiKeys;
    ///
    /// let layer = ApiKeys::in_memory()
    ///     .layer()
    ///     .errors(ErrorFormat::problem_details_at("https://docs.example.com/errors/"));
    /// ```
    pub fn problem_details_at(types: impl Into<String>) -> Self {
        let mut types = types.into();
        if !types.ends_with(['/', '#', '=']) {
            types.push('/');
        }
        Self(Format::Problem {
            types: Some(types.into()),
        })
    }

    /// Renders with a function of the application, from the error's content and the request.
    ///
    /// The response always has the status of the [content](ErrorContent::status), and
    /// `WWW-Authenticate`, `Retry-After` and `Cache-Control: no-store` are added if the function
    /// leaves them out.
    ///
    /// The request is a copy without `Authorization`, `Proxy-Authorization`, `Cookie`, the headers
    /// and parameters that the layer reads keys from, and other headers that hold a key. If a key
    /// stands elsewhere in the URI, the URI is `/`.
    ///
    /// ```
    /// use http::Response;
    /// use tower_api_key::http::ErrorFormat;
    /// use tower_api_key::ApiKeys;
    ///
    /// let layer = ApiKeys::in_memory().layer().errors(ErrorFormat::custom(|error, request| {
    ///     Response::new(format!("{} at {}", error.code(), request.uri.path()))
    /// }));
    /// ```
    pub fn custom<T: Into<Bytes>>(
        render: impl Fn(&ErrorContent<'_>, RequestHead<'_>) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        Self(Format::Custom(Arc::new(move |content, request| {
            render(content, request).map(Into::into)
        })))
    }

    /// Returns whether the format reads the request.
    pub(crate) fn reads_request(&self) -> bool {
        matches!(self.0, Format::Custom(_))
    }

    fn write(&self, content: &ErrorContent<'_>, request: &Request<()>) -> Response<Bytes> {
        let mut response = match &self.0 {
            Format::Json => json_error(content).map(Bytes::from),
            Format::Problem { types } => problem(content, types.as_deref()).map(Bytes::from),
            Format::Custom(render) => render(content, request.into()),
        };
        *response.status_mut() = content.status();
        response
    }
}

impl Default for ErrorFormat {
    fn default() -> Self {
        Self::json()
    }
}

impl fmt::Debug for ErrorFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Format::Json => f.write_str("Json"),
            Format::Problem { types } => f.debug_tuple("ProblemDetails").field(types).finish(),
            Format::Custom(_) => f.write_str("Custom"),
        }
    }
}

/// Renders an error with everything that a refusal must carry. Only a custom format reads
/// `request`.
pub(crate) fn render(
    content: &ErrorContent<'_>,
    format: &ErrorFormat,
    challenges: &Challenges,
    sources: &KeySources,
    mode: ResponseMode,
    request: &Request<()>,
) -> Response<Bytes> {
    let mut response = if mode.grpc {
        grpc::render(content)
    } else {
        format.write(content, request)
    };
    if !mode.grpc && !response.headers().contains_key(WWW_AUTHENTICATE) {
        challenges.write(response.headers_mut(), content, sources);
    }
    let mut response = finish(response, content);
    if mode.head {
        // Not every server drops the body of a response to HEAD; with HTTP/2, a body is an error.
        let length = std::mem::take(response.body_mut()).len();
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Cached responses that are the same each time: those to strangers, who may send many requests.
#[derive(Debug, Default)]
pub(crate) struct Rendered {
    missing: OnceLock<Response<Bytes>>,
    malformed: OnceLock<Response<Bytes>>,
    unknown: OnceLock<Response<Bytes>>,
}

impl Rendered {
    pub(crate) fn or_render(
        &self,
        rejection: &Rejection,
        format: &ErrorFormat,
        mode: ResponseMode,
        render: impl FnOnce() -> Response<Bytes>,
    ) -> Response<Bytes> {
        let cached = match rejection {
            Rejection::Missing => &self.missing,
            Rejection::NotFound(NotFound::Malformed) => &self.malformed,
            Rejection::NotFound(NotFound::Unknown) => &self.unknown,
            _ => return render(),
        };
        // A custom format may render differently each time.
        if mode.grpc || mode.head || format.reads_request() {
            return render();
        }
        cached.get_or_init(render).clone()
    }
}

/// A clone starts empty, since its settings may change.
impl Clone for Rendered {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// The mode of a response, which depends on the request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseMode {
    /// As a gRPC response.
    pub(crate) grpc: bool,
    /// Without a body, for HEAD.
    pub(crate) head: bool,
}

/// Adds the headers that every refusal has, in any format. An error of the application is no
/// refusal.
fn finish<B>(mut response: Response<B>, content: &ErrorContent<'_>) -> Response<B> {
    let Some(rejection) = content.rejection() else {
        return response;
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Some(seconds) = content.retry_after_seconds() {
        headers.entry(RETRY_AFTER).or_insert_with(|| seconds.into());
    }
    response.extensions_mut().insert(rejection.clone());
    response
}

/// Marker in the extensions of a response that was made of an error behind the layer. The layer
/// renders the error again, in its own format.
#[derive(Debug, Clone)]
pub(crate) enum Unrendered {
    Rejection(Rejection),
    Error(ApiError),
}

impl Unrendered {
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Rejection(rejection) => rejection.status(),
            Self::Error(error) => error.status,
        }
    }
}

/// Adds the headers that services in between added to a response that is rendered again.
pub(crate) fn keep_headers(rendered: &mut HeaderMap, mut earlier: HeaderMap) {
    // Drop headers that describe the replaced body, and the challenge of an inner response.
    for old in [
        ACCEPT_RANGES,
        CONTENT_ENCODING,
        CONTENT_LANGUAGE,
        CONTENT_LENGTH,
        CONTENT_LOCATION,
        CONTENT_RANGE,
        CONTENT_TYPE,
        ETAG,
        HeaderName::from_static("content-digest"),
        HeaderName::from_static("repr-digest"),
        LAST_MODIFIED,
        TRAILER,
        TRANSFER_ENCODING,
        WWW_AUTHENTICATE,
    ] {
        earlier.remove(old);
    }
    for name in rendered.keys() {
        earlier.remove(name);
    }
    rendered.extend(earlier);
}

/// Renders the default format, with the status.
fn json_error(content: &ErrorContent<'_>) -> Response<String> {
    let body = format!(
        r#"{{"error":{{"code":{},"message":{},"details":{}}}}}"#,
        Value::from(content.code()),
        Value::from(content.message()),
        Value::from(content.details().clone()),
    );
    let mut response = typed(JSON, body);
    *response.status_mut() = content.status();
    response
}

fn problem(content: &ErrorContent<'_>, types: Option<&str>) -> Response<String> {
    let (code, status) = (content.code(), content.status());
    let exceeded = match content.rejection() {
        Some(Rejection::RateLimited(exceeded)) => Some(exceeded),
        _ => None,
    };
    // Without a type, the title is the phrase of the status; with a type, it is the type's.
    let (type_member, title) = match (types, exceeded) {
        (None, Some(_)) => (
            format!(r#""type":"{QUOTA_EXCEEDED}","#),
            "Request cannot be satisfied as assigned quota has been exceeded".to_owned(),
        ),
        (None, None) => (
            String::new(),
            status.canonical_reason().unwrap_or_default().to_owned(),
        ),
        (Some(types), _) => (
            format!(r#""type":{},"#, Value::from(format!("{types}{code}"))),
            code.replace('_', " "),
        ),
    };
    let violated = exceeded.map(|exceeded| {
        let name = Value::from(exceeded.name.as_str());
        format!(r#","violated-policies":[{name}]"#)
    });
    let body = format!(
        r#"{{{type_member}"title":{},"status":{},"detail":{},"code":{},"details":{}{}}}"#,
        Value::from(title),
        status.as_u16(),
        Value::from(content.message()),
        Value::from(code),
        Value::from(content.details().clone()),
        violated.unwrap_or_default(),
    );
    typed(PROBLEM_JSON, body)
}

fn typed(content_type: HeaderValue, body: String) -> Response<String> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
