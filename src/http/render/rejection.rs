//! How a rejection becomes an answer.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH,
    CONTENT_LOCATION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName, LAST_MODIFIED, RETRY_AFTER,
    TRAILER, TRANSFER_ENCODING, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Response};
use serde_json::{Map, Value, json};

use crate::http::credential::source::KeySources;
use crate::http::rejection::{NotFound, Rejection, retry_seconds};
use crate::http::render::challenge::Challenges;
use crate::http::render::grpc;
use crate::key::environment::Environment;
use crate::key::scope::Scope;
use crate::limit::charge::REQUESTS;
use crate::util::timestamp;

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
        let mut response = json_error(self);
        *response.status_mut() = self.status();
        let mut response = finish(response, self);
        response.extensions_mut().insert(Unrendered(self.clone()));
        response.map(B::from)
    }

    /// What a program can act on, beyond the code.
    fn details(&self) -> Map<String, Value> {
        let details = match self {
            Self::Expired { at } => json!({ "expired_at": timestamp::rfc3339(*at) }),
            Self::NotYetActive { not_before } => {
                json!({ "not_before": timestamp::rfc3339(*not_before) })
            }
            Self::WrongEnvironment { accepted } => {
                let accepted: Vec<_> = accepted.iter().map(Environment::as_str).collect();
                json!({ "accepted_environments": accepted })
            }
            Self::InsufficientScope { required } => {
                let scopes: Vec<_> = required.scopes().iter().map(Scope::as_str).collect();
                let of = if required.is_any_of() { "any" } else { "all" };
                json!({ "required_scopes": scopes, "required": of })
            }
            Self::RateLimited(exceeded) => json!({
                "limit": exceeded.quota.limit(),
                "remaining": exceeded.remaining,
                "reset_at": timestamp::rfc3339_up(exceeded.reset_at),
                "retry_after": exceeded.retry_after_seconds(),
                "policy": exceeded.name,
                "window": exceeded.quota.window_name(),
                "window_seconds": exceeded.quota.window_seconds(),
            }),
            Self::CostExceedsQuota {
                name, quota, cost, ..
            } => json!({ "limit": quota, "cost": cost, "policy": name }),
            Self::TooManyFailedAttempts { .. } | Self::ServiceUnavailable { .. } => {
                json!({ "retry_after": self.retry_after_seconds() })
            }
            _ => Value::Null,
        };
        let Value::Object(mut details) = details else {
            return Map::new();
        };
        if let Some(unit) = self.unit() {
            details.insert("unit".to_owned(), unit.into());
        }
        details
    }

    /// Returns the unit of the limit that denied the request, unless that is requests.
    fn unit(&self) -> Option<&str> {
        let unit = match self {
            Self::RateLimited(exceeded) => &exceeded.unit,
            Self::CostExceedsQuota { unit, .. } => unit,
            _ => return None,
        };
        (unit != REQUESTS).then_some(unit)
    }

    /// Whole seconds, rounded up, at least one.
    fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after().map(retry_seconds)
    }
}

/// How refusals are written.
///
/// gRPC requests are always answered in gRPC's way.
#[derive(Clone)]
pub struct ErrorFormat(Format);

type Render = dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync;

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
    /// use tower_api_key::{ApiKeys, ErrorFormat};
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

    /// The application's own way.
    ///
    /// Whatever it answers, the status is the rejection's, and `WWW-Authenticate`, `Retry-After`
    /// and `Cache-Control: no-store` are put back where they are missing.
    ///
    /// ```
    /// use http::Response;
    /// use tower_api_key::{ApiKeys, ErrorFormat};
    ///
    /// let layer = ApiKeys::in_memory().layer().errors(ErrorFormat::custom(|rejection| {
    ///     Response::new(format!("refused: {}", rejection.code()))
    /// }));
    /// ```
    pub fn custom<T: Into<Bytes>>(
        render: impl Fn(&Rejection) -> Response<T> + Send + Sync + 'static,
    ) -> Self {
        Self(Format::Custom(Arc::new(move |rejection| {
            render(rejection).map(Into::into)
        })))
    }

    fn render(&self, rejection: &Rejection) -> Response<Bytes> {
        match &self.0 {
            Format::Json => json_error(rejection).map(Bytes::from),
            Format::Problem { types } => problem(rejection, types.as_deref()).map(Bytes::from),
            Format::Custom(render) => render(rejection),
        }
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

/// The answer that a rejection calls for, with all that a refusal must carry.
pub(crate) fn render(
    rejection: &Rejection,
    format: &ErrorFormat,
    challenges: &Challenges,
    sources: &KeySources,
    manner: Manner,
) -> Response<Bytes> {
    let mut response = if manner.grpc {
        grpc::render(rejection)
    } else {
        format.render(rejection)
    };
    if !manner.grpc {
        *response.status_mut() = rejection.status();
        if !response.headers().contains_key(WWW_AUTHENTICATE) {
            challenges.write(response.headers_mut(), rejection, sources);
        }
    }
    let mut response = finish(response, rejection);
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
        if manner.grpc || manner.head || matches!(format.0, Format::Custom(_)) {
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

/// What every refusal has, in whatever format.
fn finish<B>(mut response: Response<B>, rejection: &Rejection) -> Response<B> {
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, NO_STORE);
    if let Some(seconds) = rejection.retry_after_seconds() {
        headers.entry(RETRY_AFTER).or_insert_with(|| seconds.into());
    }
    response.extensions_mut().insert(rejection.clone());
    response
}

/// In the extensions of a response that a handler or a `RequireScope` made of a rejection, for the
/// layer to render as it renders its own.
#[derive(Debug, Clone)]
pub(crate) struct Unrendered(pub(crate) Rejection);

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

fn json_error(rejection: &Rejection) -> Response<String> {
    let body = format!(
        r#"{{"error":{{"code":"{}","message":{},"details":{}}}}}"#,
        rejection.code(),
        Value::from(rejection.to_string()),
        Value::from(rejection.details()),
    );
    typed(JSON, body)
}

fn problem(rejection: &Rejection, types: Option<&str>) -> Response<String> {
    let code = rejection.code();
    let status = rejection.status();
    // Without a type, the title is the status phrase; with one, it is the type's.
    let (kind, title) = match (types, rejection) {
        (None, Rejection::RateLimited(_)) => (
            format!(r#""type":"{QUOTA_EXCEEDED}","#),
            "Request cannot be satisfied as assigned quota has been exceeded".to_owned(),
        ),
        (None, _) => (
            String::new(),
            status.canonical_reason().unwrap_or_default().to_owned(),
        ),
        (Some(types), _) => (
            format!(r#""type":{},"#, Value::from(format!("{types}{code}"))),
            code.replace('_', " "),
        ),
    };
    let violated = match rejection {
        Rejection::RateLimited(exceeded) => {
            format!(
                r#","violated-policies":[{}]"#,
                Value::from(exceeded.name.as_str())
            )
        }
        _ => String::new(),
    };
    let body = format!(
        r#"{{{kind}"title":{},"status":{},"detail":{},"code":"{code}","details":{}{violated}}}"#,
        Value::from(title),
        status.as_u16(),
        Value::from(rejection.to_string()),
        Value::from(rejection.details()),
    );
    typed(PROBLEM_JSON, body)
}

fn typed(content_type: HeaderValue, body: String) -> Response<String> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
