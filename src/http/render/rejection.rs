//! How a rejection becomes an answer.

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
use crate::http::render::content::ErrorContent;
use crate::http::render::grpc;
use crate::http::request_head::RequestHead;

/// The problem type of draft-ietf-httpapi-ratelimit-headers.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

impl Rejection {
    /// An answer in JSON, for services without a framework; behind an
    /// [`ApiKeyLayer`](crate::ApiKeyLayer), it is rendered in the format that the layer is set to.
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
    /// Makes an answer in JSON. Behind an [`ApiKeyLayer`](crate::ApiKeyLayer), it is written in the
    /// format that the layer is set to.
    pub fn to_response<B: From<String>>(&self) -> Response<B> {
        let mut response = json_error(&ErrorContent::of_application(self));
        let unrendered = Unrendered::Error(self.clone());
        response.extensions_mut().insert(unrendered);
        response.map(B::from)
    }
}

/// How refusals are written.
///
/// gRPC requests are always answered in gRPC's way.
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
    /// `{"error": {"code": "…", "message": "…", "details": {…}}}`: the default.
    pub const fn json() -> Self {
        Self(Format::Json)
    }

    /// Problem details (RFC 9457) without a `type`, with the members `code` and `details`.
    pub const fn problem_details() -> Self {
        Self(Format::Problem { types: None })
    }

    /// Problem details whose `type` is this absolute URL with the code behind it.
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

    /// The application's own way, from what an error says and from the request.
    ///
    /// Whatever it answers, the status is that of the [content](ErrorContent::status), and
    /// `WWW-Authenticate`, `Retry-After` and `Cache-Control: no-store` are put back where they are
    /// missing.
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

    /// Returns whether the request is looked at.
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

/// The answer that an error calls for, with all that a refusal must carry. `request` is looked at by
/// the application's own way only.
pub(crate) fn render(
    content: &ErrorContent<'_>,
    format: &ErrorFormat,
    challenges: &Challenges,
    sources: &KeySources,
    manner: Manner,
    request: &Request<()>,
) -> Response<Bytes> {
    let mut response = if manner.grpc {
        grpc::render(content)
    } else {
        format.write(content, request)
    };
    if !manner.grpc && !response.headers().contains_key(WWW_AUTHENTICATE) {
        challenges.write(response.headers_mut(), content, sources);
    }
    let mut response = finish(response, content);
    if manner.head {
        // Not every server leaves out the body of an answer to HEAD; HTTP/2 makes it an error.
        let length = std::mem::take(response.body_mut()).len();
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    response
}

/// Answers that are the same each time, kept once they were rendered: those to strangers, of whom
/// there may be many.
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
        manner: Manner,
        render: impl FnOnce() -> Response<Bytes>,
    ) -> Response<Bytes> {
        let kept = match rejection {
            Rejection::Missing => &self.missing,
            Rejection::NotFound(NotFound::Malformed) => &self.malformed,
            Rejection::NotFound(NotFound::Unknown) => &self.unknown,
            _ => return render(),
        };
        // What an application renders may differ each time.
        if manner.grpc || manner.head || format.reads_request() {
            return render();
        }
        kept.get_or_init(render).clone()
    }
}

/// Other settings may render otherwise.
impl Clone for Rendered {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// In which way a request is answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// In gRPC's way.
    pub(crate) grpc: bool,
    /// Without a body.
    pub(crate) head: bool,
}

/// Adds the headers that every refusal has, in whatever format. An error of the application is no refusal.
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

/// In the extensions of a response that was made of an error behind the layer, for the layer to
/// write as it writes its own.
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

/// Headers that the services in between added to a response that is rendered anew.
pub(crate) fn keep_headers(rendered: &mut HeaderMap, mut earlier: HeaderMap) {
    // What describes the body that is replaced, and the challenge of a layer that did not know.
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

/// The default format, with the status.
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
    // Without a type, the title is the status phrase; with one, it is the type's.
    let (kind, title) = match (types, exceeded) {
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
        r#"{{{kind}"title":{},"status":{},"detail":{},"code":{},"details":{}{}}}"#,
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
