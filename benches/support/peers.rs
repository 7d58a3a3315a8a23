//! The middleware that people take from elsewhere.

use std::convert::Infallible;

use axum::body::Body;
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tower::{Layer, Service};
use tower_governor::governor::GovernorConfigBuilder;
use tower_governor::key_extractor::KeyExtractor;
use tower_governor::{GovernorError, GovernorLayer};
use tower_http::validate_request::ValidateRequestHeaderLayer;

use super::requests;

/// `tower_governor` with its headers, by API key: a million a second, as everything here.
pub(crate) fn governor<S>(
    inner: S,
) -> impl Service<requests::Request, Response = Response<Body>, Error = Infallible> + 'static
where
    S: Service<requests::Request, Response = Response<Body>, Error = Infallible> + 'static,
{
    let config = GovernorConfigBuilder::default()
        .per_nanosecond(1_000)
        .burst_size(1_000_000)
        .key_extractor(BearerToken)
        .use_headers()
        .finish();
    GovernorLayer::new(config.expect("neither is zero")).layer(inner)
}

/// tower-http's check for one token that is known from the start.
#[expect(
    deprecated,
    reason = "it is the least that a check can be, and so what it is here for"
)]
pub(crate) fn bearer<S>(
    inner: S,
    key: &str,
) -> impl Service<requests::Request, Response = Response<Body>, Error = Infallible> + 'static
where
    S: Service<requests::Request, Response = Response<Body>, Error = Infallible> + 'static,
{
    ValidateRequestHeaderLayer::bearer(key).layer(inner)
}

/// The token is the key, as a `String`: so have it the examples of `tower_governor`.
#[derive(Clone)]
struct BearerToken;

impl KeyExtractor for BearerToken {
    type Key = String;

    fn extract<B>(&self, request: &Request<B>) -> Result<String, GovernorError> {
        let credential = request.headers().get(AUTHORIZATION);
        let token = credential
            .and_then(|credential| credential.to_str().ok())
            .and_then(|credential| credential.strip_prefix("Bearer "));
        match token {
            Some(token) => Ok(token.to_owned()),
            None => Err(GovernorError::UnableToExtractKey),
        }
    }
}
