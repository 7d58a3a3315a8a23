//! An axum service behind a load balancer: scopes and limits by route, and clients by their
//! address.
//!
//! `cargo run --example axum --features axum` prints a key and `curl` commands to try it. The port
//! comes from `PORT` (3000 by default, 0 for any).

use std::net::SocketAddr;

use axum::extract::Path;
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};
use tower_api_key::http::{ClientAddress, TrustedProxies};
use tower_api_key::limit::Endpoint;
use tower_api_key::{ApiKeys, Caller, Limits, MemoryStore, Quota, Rejection, RequireScope, Scope};

const READ: Scope = Scope::from_static("reports:read");
const WRITE: Scope = Scope::from_static("reports:write");

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    // Routes are named as the router names them: one budget for all reports, whatever their id.
    let report = Endpoint::new(Method::POST, "/v1/reports/{id}");
    let limits = Limits::new()
        .per_key(Quota::per_minute(60))
        .per_ip(Quota::per_minute(600))
        .add_endpoint(report.cost(10).per_account(Quota::per_minute(20)));
    let keys = ApiKeys::builder(MemoryStore::new())
        .limits(limits)
        .failed_attempts(Quota::per_minute(30))
        .build()?;
    let key = keys.issue("acme").scopes([READ, WRITE]).await?;

    // The load balancer is the peer of each connection. What it says of clients is believed, and
    // what anybody else says is not.
    let balancer = TrustedProxies::networks(["10.0.0.0/8"])?;
    let layer = keys
        .layer()
        .client_address(ClientAddress::x_forwarded_for(balancer));
    let reports = post(write_report)
        .layer(RequireScope::new(WRITE))
        .get(read_report);
    let app = Router::new()
        .route("/v1/whoami", get(whoami))
        .route("/v1/reports/{id}", reports)
        .layer(layer)
        .route("/health", get(|| async { "ok" })); // added after the layer: open to everybody

    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let key = key.expose_secret();
    println!("listening on http://{address}; try");
    println!("  curl -i http://{address}/v1/whoami -H 'X-API-Key: {key}'");
    println!("  curl -i http://{address}/v1/reports/7 -H 'X-API-Key: {key}' -X POST");
    // With the addresses of those who connect: the layer finds them.
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await?;
    Ok(())
}

async fn whoami(caller: Caller) -> Json<Value> {
    Json(json!({ "account": caller.account(), "environment": caller.environment().as_str() }))
}

/// A scope can also be asked for where its need shows; the layer renders the refusal.
async fn read_report(caller: Caller, Path(id): Path<u64>) -> Result<Json<Value>, Rejection> {
    caller.require(&READ)?;
    Ok(Json(json!({ "report": id, "read_by": caller.account() })))
}

async fn write_report(caller: Caller, Path(id): Path<u64>) -> Json<Value> {
    Json(json!({ "report": id, "written_by": caller.account() }))
}
