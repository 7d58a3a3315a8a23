//! The service that proxies ask, and the rules of the upstream.

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::{Method, StatusCode};
use axum::response::Response;
use axum::routing::{any, get, post};
use axum::{Router, middleware};
use tower::ServiceExt;
use tower_api_key::http::{ApiError, CallerFact, GrpcRequests, PeerAddr};
use tower_api_key::limit::{Endpoint, Limit};
use tower_api_key::manage::ReadOnly;
use tower_api_key::{ApiKeys, Limits, Quota, RequireScope, Scope};

use crate::answer::{admit, answer};
use crate::introspect::{self, UNKNOWN_TOKENS};
use crate::original::{ENVOY_PREFIX, Proxy};

pub(crate) const REPORTS_READ: Scope = Scope::from_static("reports:read");
pub(crate) const REPORTS_WRITE: Scope = Scope::from_static("reports:write");

/// The unknown tokens that one key may ask about. They may be those of strangers that a service
/// passes on, and they deny that service its answers once these are used up: so there are many.
pub(crate) const MOST_UNKNOWN_TOKENS: Quota = Quota::per_minute(1_000);

/// Returns the limits of the upstream, and those of whoever introspects.
pub(crate) fn limits() -> Limits {
    let introspection = Endpoint::verbatim(Method::POST, introspect::ROUTE)
        .cost(0)
        .cost_in(UNKNOWN_TOKENS, 1) // given back if the token is none
        .per_key(Limit::from(MOST_UNKNOWN_TOKENS).unit(UNKNOWN_TOKENS));
    Limits::new()
        .per_key(Quota::per_minute(60))
        .add_cost(Method::POST, "/v1/reports", 25)
        .add_cost(Method::GET, "/v1/reports", 1)
        .add_cost(Method::GET, "/v1/reports/{id}", 2)
        .add_endpoint(introspection)
}

/// Creates the service. Only proxies, and those who introspect, may reach it: whoever asks `/nginx`
/// chooses the method, the path and the address that the decision is about.
pub(crate) fn service(keys: &ApiKeys<ReadOnly>) -> Router {
    let envoy = any(ask_for_envoy);
    Router::new()
        .route("/nginx", get(ask_for_nginx))
        .route("/traefik", any(ask_for_traefik))
        .route(&format!("{ENVOY_PREFIX}/"), envoy.clone())
        .route(&format!("{ENVOY_PREFIX}/{{*path}}"), envoy)
        .with_state(upstream(keys))
        .merge(introspect::routes(keys))
        .layer(middleware::map_request(note_peer))
}

/// Returns the rules of the upstream, as if it were written here: its routes, with the scopes that
/// they need. A route that is not listed is refused, whatever its spelling.
fn upstream(keys: &ApiKeys<ReadOnly>) -> Router {
    let layer = keys
        .layer()
        .pass_on(CallerFact::ALL)
        .grpc(GrpcRequests::Never) // a gRPC refusal has the status 200
        .route_by(|request| {
            let route = request.extensions.get::<MatchedPath>();
            route.map(|route| route.as_str().to_owned())
        });
    let reports = post(admit)
        .layer(RequireScope::new(REPORTS_WRITE))
        .merge(get(admit).layer(RequireScope::new(REPORTS_READ)));
    Router::new()
        .route("/v1/whoami", get(admit))
        .route("/v1/reports", reports)
        .route(
            "/v1/reports/{id}",
            get(admit).layer(RequireScope::new(REPORTS_READ)),
        )
        .route("/v1/live", get(admit))
        .fallback(no_such_route)
        .method_not_allowed_fallback(no_such_route)
        .layer(layer)
}

async fn ask_for_nginx(State(upstream): State<Router>, asking: Request) -> Response {
    ask(Proxy::Nginx, upstream, asking).await
}

async fn ask_for_traefik(State(upstream): State<Router>, asking: Request) -> Response {
    ask(Proxy::Traefik, upstream, asking).await
}

async fn ask_for_envoy(State(upstream): State<Router>, asking: Request) -> Response {
    ask(Proxy::Envoy, upstream, asking).await
}

/// Sends the client's request through the rules.
async fn ask(proxy: Proxy, upstream: Router, asking: Request) -> Response {
    let response = match proxy.original(asking) {
        Ok(original) => match upstream.oneshot(original).await {
            Ok(response) => response,
            Err(never) => match never {},
        },
        Err(unclear) => unclear.to_response(),
    };
    answer(proxy, response).await
}

async fn no_such_route() -> Response {
    let message = "There is no such route.";
    ApiError::new(StatusCode::NOT_FOUND, "no_such_route", message).to_response()
}

/// Tells the layer who connected: whoever introspects, since a proxy tells its client itself.
async fn note_peer(mut request: Request) -> Request {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    if let Some(ConnectInfo(peer)) = peer.copied() {
        request.extensions_mut().insert(PeerAddr(peer));
    }
    request
}
