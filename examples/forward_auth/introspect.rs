//! Introspection (RFC 7662): services that got a key by another way ask what it is.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use percent_encoding::percent_decode;
use serde_json::{Value, json};
use tower_api_key::http::NotFound;
use tower_api_key::key::{KeyKind, KeyStatus, WarningWindow};
use tower_api_key::manage::ReadOnly;
use tower_api_key::{ApiKeys, Caller, Environment, KeyRecord, Rejection, RequireScope, Scope};

/// The scope of those who may introspect.
pub(crate) const INTROSPECT: Scope = Scope::from_static("keys:introspect");

/// The name of the route in limits. No path of the upstream can have it.
pub(crate) const ROUTE: &str = "introspection";

/// The unit in which guesses are limited, for each key that introspects.
pub(crate) const UNKNOWN_TOKENS: &str = "unknown_tokens";

/// The issuer that responses name: the URL of your own service.
pub(crate) const ISSUER: &str = "https://keys.example.com";

/// The longest body. A key is much shorter.
const LONGEST_BODY: usize = 8192;

/// Returns `POST /introspect`, for keys with the scope [`INTROSPECT`].
pub(crate) fn routes(keys: &ApiKeys<ReadOnly>) -> Router {
    let layer = keys.layer().route_by(|_| Some(ROUTE.to_owned()));
    Router::new()
        .route("/introspect", post(introspect))
        .route_layer(RequireScope::new(INTROSPECT))
        .route_layer(DefaultBodyLimit::max(LONGEST_BODY))
        .route_layer(layer)
        .with_state(keys.clone())
}

async fn introspect(
    State(keys): State<ApiKeys<ReadOnly>>,
    Extension(asker): Extension<Caller>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let question = body.map_err(|rejection| Malformed::Body(rejection.status()));
    let question = question.and_then(|body| Question::read(&headers, &body));
    let answer = match question {
        Ok(question) => Ok(about(&keys, &question).await),
        Err(malformed) => Err(malformed),
    };
    // An unknown token may be a guess. Once these are used up, the layer denies whoever asks.
    if !matches!(answer, Ok(Ok(Token::Unknown))) {
        let _ = asker.refund(UNKNOWN_TOKENS, 1).await; // without it, this counts as a guess
    }
    let response = match answer {
        Ok(Ok(Token::Active(claims))) => Json(claims).into_response(),
        Ok(Ok(Token::Inactive | Token::Unknown)) => {
            Json(json!({ "active": false })).into_response()
        }
        Ok(Err(outage)) => outage.to_response(), // never `false`: nothing is known
        Err(malformed) => malformed.into_response(),
    };
    ([(CACHE_CONTROL, "no-store")], response).into_response()
}

/// What a token is.
enum Token {
    /// It is a usable key, with these claims.
    Active(Value),
    Inactive,
    /// It has the form of a key, was looked up, and is none.
    Unknown,
}

/// Returns what a token is. An error is an outage.
async fn about(keys: &ApiKeys<ReadOnly>, question: &Question) -> Result<Token, Rejection> {
    let caller = match keys.verify(&question.token).await {
        Ok(caller) => caller,
        Err(outage @ Rejection::ServiceUnavailable { .. }) => return Err(outage),
        Err(Rejection::NotFound(NotFound::Unknown)) => return Ok(Token::Unknown),
        Err(_) => return Ok(Token::Inactive),
    };
    let record = keys.find(&caller.key_id()).await;
    let record = record.map_err(|_| unavailable())?;
    let is_usable = |record: &KeyRecord| is_usable(&caller, record, question.client, keys.now());
    let Some(record) = record.filter(is_usable) else {
        return Ok(Token::Inactive);
    };
    let mut claims = json!({
        "active": true,
        "client_id": caller.key_id().to_string(),
        "sub": caller.account(),
        "scope": caller.scopes().to_string(),
        "iss": ISSUER,
    });
    let times = [("exp", caller.expires_at()), ("iat", record.created_at())];
    for (claim, at) in times {
        if let Some(seconds) = at.and_then(unix_seconds) {
            claims[claim] = seconds.into();
        }
    }
    Ok(Token::Active(claims))
}

/// Returns whether a layer with the defaults would accept the key: `verify` checks neither the
/// environment nor the kind nor the networks of a key. A key with an allow-list is usable only by a
/// client whose address is told. The record is newer than the cached one that `verify` judged, so
/// its status is looked at again.
fn is_usable(caller: &Caller, record: &KeyRecord, client: Option<IpAddr>, now: SystemTime) -> bool {
    let status = record.lifecycle(now, WarningWindow::default()).status();
    matches!(status, KeyStatus::Active | KeyStatus::Deprecated)
        && *caller.environment() == Environment::LIVE
        && caller.kind() == KeyKind::Secret
        && record.networks().allow(client)
}

/// The parameters of a request. `token_type_hint` and unknown ones are ignored, as RFC 7662 allows.
struct Question {
    token: String,
    /// The address of who presented the token: `client_ip`, which RFC 7662 §2.1 leaves to services.
    client: Option<IpAddr>,
}

impl Question {
    fn read(headers: &HeaderMap, body: &[u8]) -> Result<Self, Malformed> {
        let content_type = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        let content_type = content_type.and_then(|it| it.split(|byte| *byte == b';').next());
        let form = b"application/x-www-form-urlencoded";
        if !content_type.is_some_and(|it| it.trim_ascii().eq_ignore_ascii_case(form)) {
            return Err(Malformed::ContentType);
        }
        let (mut token, mut client) = (None, None);
        for pair in body.split(|byte| *byte == b'&') {
            let equals = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = pair.split_at(equals.unwrap_or(pair.len()));
            let kept = match decode(name)?.as_str() {
                "token" => &mut token,
                "client_ip" => &mut client,
                _ => continue,
            };
            let value = decode(value.get(1..).unwrap_or_default())?;
            if kept.replace(value).is_some() {
                return Err(Malformed::Repeated); // RFC 6749 §3.2
            }
        }
        let token = token.filter(|token| !token.is_empty());
        let token = token.ok_or(Malformed::NoToken)?;
        let client = client.map(|client| client.parse().map_err(|_| Malformed::ClientIp));
        let client = client.transpose()?;
        Ok(Self { token, client })
    }
}

/// Decodes a name or a value of a form.
fn decode(text: &[u8]) -> Result<String, Malformed> {
    let text: Vec<u8> = text
        .iter()
        .map(|it| if *it == b'+' { b' ' } else { *it })
        .collect();
    let text = percent_decode(&text).decode_utf8();
    text.map(String::from).map_err(|_| Malformed::Encoding)
}

/// A request that is answered as RFC 6749 §5.2 says. No message repeats the request.
enum Malformed {
    Body(StatusCode),
    ContentType,
    Encoding,
    Repeated,
    NoToken,
    ClientIp,
}

impl IntoResponse for Malformed {
    fn into_response(self) -> Response {
        let (status, description) = match self {
            Self::Body(StatusCode::PAYLOAD_TOO_LARGE) => {
                (StatusCode::PAYLOAD_TOO_LARGE, "the body is too large")
            }
            Self::Body(status) => (status, "the body cannot be read"),
            Self::ContentType => (
                StatusCode::BAD_REQUEST,
                "the content type is not application/x-www-form-urlencoded",
            ),
            Self::Encoding => (StatusCode::BAD_REQUEST, "the form is not UTF-8"),
            Self::Repeated => (StatusCode::BAD_REQUEST, "a parameter is repeated"),
            Self::NoToken => (StatusCode::BAD_REQUEST, "the parameter token is missing"),
            Self::ClientIp => (StatusCode::BAD_REQUEST, "client_ip is no IP address"),
        };
        let error = json!({ "error": "invalid_request", "error_description": description });
        (status, Json(error)).into_response()
    }
}

fn unavailable() -> Rejection {
    Rejection::ServiceUnavailable {
        retry_after: Duration::from_secs(5),
    }
}

fn unix_seconds(at: SystemTime) -> Option<u64> {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(since.as_secs())
}
