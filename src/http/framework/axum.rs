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
    // Fall back to the mock address for tests, as axum's own extractor does.
    let mock = extensions.get::<MockConnectInfo<SocketAddr>>();
    mock.map(|mock| mock.0)
}

pub(super) fn matched_route(extensions: &Extensions) -> Option<&str> {
    extensions.get::<MatchedPath>().map(MatchedPath::as_str)
}

pub(super) fn original_uri(extensions: &mut Extensions) -> Option<&mut Uri> {
    extensions.get_mut::<OriginalUri>().map(|uri| &mut uri.0)
}

/// Extracts the caller. In optional mode, a request without a key is answered 401.
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

/// Extracts the caller, or `None` if an optional layer admitted the request without a key.
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

/// Responds with the default JSON. Behind an `ApiKeyLayer`, the layer renders the rejection in its
/// own format.
impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        self.to_response::<Body>()
    }
}

/// Responds with the default JSON. Behind an `ApiKeyLayer`, the layer renders the error in its own
/// format.
impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        self.to_response::<Body>()
    }
}

/// Compiles and runs the examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
