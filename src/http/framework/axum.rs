//! axum: `Caller` as an extractor, `Rejection` as a response, and the route that was matched.

use std::net::SocketAddr;

use ::axum::body::Body;
use ::axum::extract::connect_info::MockConnectInfo;
use ::axum::extract::{
    ConnectInfo, FromRequestParts, MatchedPath, OptionalFromRequestParts, OriginalUri,
};
use ::axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Extensions, Uri};

use crate::http::api_error::ApiError;
use crate::http::caller::Caller;
use crate::http::rejection::Rejection;

pub(super) fn peer(extensions: &Extensions) -> Option<SocketAddr> {
    if let Some(connection) = extensions.get::<ConnectInfo<SocketAddr>>() {
        return Some(connection.0);
    }
    // As axum's own extractor does, for tests.
    let mock = extensions.get::<MockConnectInfo<SocketAddr>>();
    mock.map(|mock| mock.0)
}

pub(super) fn matched_route(extensions: &Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

pub(super) fn original_uri(extensions: &mut Extensions) -> Option<&mut Uri> {
    extensions.get_mut::<OriginalUri>().map(|uri| &mut uri.0)
}

/// The caller; in optional mode, a request without a key is answered 401.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_api_key::{ApiKeys, Caller};
///
/// let keys = ApiKeys::in_memory();
/// let app: Router = Router::new()
///     .route("/v1/whoami", get(|caller: Caller| async move { caller.account().to_owned() }))
///     .layer(keys.layer());
/// ```
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        Self::of(&parts.extensions).cloned()
    }
}

/// The caller, or `None` where the optional mode let the request through.
impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Rejection> {
        match Self::of(&parts.extensions) {
            Ok(caller) => Ok(Some(caller.clone())),
            Err(Rejection::Missing) => Ok(None),
            Err(rejection) => Err(rejection),
        }
    }
}

/// Behind an `ApiKeyLayer`, the layer renders it as it renders its own; elsewhere it is the default
/// JSON.
impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.to_response::<Body>()
    }
}

/// Behind an `ApiKeyLayer`, the layer writes it as it writes its own; elsewhere it is the default
/// JSON.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.to_response::<Body>()
    }
}

/// Keeps the examples of the README true.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
