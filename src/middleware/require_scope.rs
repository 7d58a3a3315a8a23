//! A layer that requires scopes, for single routes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use crate::http::caller::Caller;
use crate::http::rejection::Rejection;
use crate::http::render::response_body::ResponseBody;
use crate::key::scope::{RequiredScopes, Scope};
use crate::middleware::service::take_readied;

/// A layer that admits only callers whose key holds the required scopes.
///
/// Put it inside an [`ApiKeyLayer`](crate::ApiKeyLayer), which renders its refusals: 403
/// `insufficient_scope`, or, in optional mode, 401 `missing_api_key`. Without an `ApiKeyLayer`, the
/// answer is 500, and an error is logged.
///
/// ```
/// use axum::{Router, routing::{get, post}};
/// use tower_api_key::{ApiKeys, RequireScope, Scope};
///
/// const READ: Scope = Scope::from_static("reports:read");
/// const WRITE: Scope = Scope::from_static("reports:write");
/// const ADMIN: Scope = Scope::from_static("admin");
///
/// let keys = ApiKeys::in_memory();
/// let app: Router = Router::new()
///     .route("/v1/reports", get(|| async {}).layer(RequireScope::any_of([READ, ADMIN])))
///     .route("/v1/reports", post(|| async {}).layer(RequireScope::new(WRITE)))
///     .layer(keys.layer());
/// ```
#[derive(Debug, Clone)]
#[must_use = "a layer protects nothing until it is put around a service"]
pub struct RequireScope {
    required: RequiredScopes,
}

impl RequireScope {
    /// Creates a layer that requires a scope, or other [`RequiredScopes`].
    pub fn new(required: impl Into<RequiredScopes>) -> Self {
        Self {
            required: required.into(),
        }
    }

    /// Creates a layer that requires all of these scopes.
    pub fn all_of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self {
            required: RequiredScopes::all_of(scopes),
        }
    }

    /// Creates a layer that requires at least one of these scopes. An empty list admits nobody.
    pub fn any_of(scopes: impl IntoIterator<Item = Scope>) -> Self {
        Self {
            required: RequiredScopes::any_of(scopes),
        }
    }
}

impl<S> Layer<S> for RequireScope {
    type Service = RequireScopeService<S>;

    fn layer(&self, inner: S) -> RequireScopeService<S> {
        RequireScopeService {
            inner,
            required: self.required.clone(),
        }
    }
}

/// A service that requires scopes: see [`RequireScope`].
#[derive(Debug, Clone)]
pub struct RequireScopeService<S> {
    inner: S,
    required: RequiredScopes,
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RequireScopeService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>> + Clone,
    ResBody: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = RequireScopeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let caller = Caller::of(request.extensions());
        match caller.and_then(|caller| caller.require_scopes(&self.required)) {
            Ok(()) => RequireScopeFuture {
                state: RequireScopeState::Forwarding {
                    future: self.inner.call(request),
                },
            },
            Err(rejection) => {
                drop(take_readied(&mut self.inner));
                RequireScopeFuture {
                    state: RequireScopeState::Denied {
                        rejection: Some(rejection),
                    },
                }
            }
        }
    }
}

pin_project! {
    /// The response future of [`RequireScopeService`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct RequireScopeFuture<F> {
        #[pin]
        state: RequireScopeState<F>,
    }
}

pin_project! {
    #[project = StateProjection]
    #[derive(Debug)]
    enum RequireScopeState<F> {
        Forwarding { #[pin] future: F },
        Denied { rejection: Option<Rejection> },
    }
}

impl<F, B, E> Future for RequireScopeFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(match self.project().state.project() {
            StateProjection::Forwarding { future } => {
                ready!(future.poll(cx))?.map(ResponseBody::inner)
            }
            StateProjection::Denied { rejection } => {
                let rejection = rejection.take().expect("polled after it was ready");
                rejection.to_response::<Bytes>().map(ResponseBody::refusal)
            }
        }))
    }
}
