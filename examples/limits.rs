//! Limits by plan, account, address and endpoint, told in both header styles.
//!
//! `cargo run --example limits` prints a key of each kind, and `curl` commands to try them. The
//! port comes from `PORT` (3000 by default, 0 for any).

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::Method;
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use serde_json::{Value, json};
use tower_api_key::{
    ApiKeys, Caller, Limits, MemoryStore, PeerAddr, Plan, Quota, RateLimitHeaders,
};
use tracing_subscriber::EnvFilter;

const FREE: Quota = Quota::per_minute(5);
const PRO: Quota = Quota::per_minute(1_000);
const SHARED: Quota = Quota::per_minute(8);
const BURST: Quota = Quota::per_second(1).smooth().burst(3);
const DAILY: Quota = Quota::per_utc_day(20);

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();

    // A plan binds an account: all its keys draw on one budget.
    let limits = Limits::new()
        .plan(Plan::new("free").per_account(FREE))
        .plan(Plan::new("pro").per_account(PRO))
        .plan(Plan::new("team").per_account(SHARED))
        .plan(Plan::new("burst").per_account(BURST))
        .plan(Plan::new("daily").per_account(DAILY))
        .default_plan("free")
        .per_ip(Quota::per_minute(50_000))
        .global(Quota::per_minute(100_000))
        .cost(Method::POST, "/v1/reports", 10);
    let keys = ApiKeys::builder(MemoryStore::new())
        .limits(limits)
        .build()?;
    for (name, account, plan) in [
        ("free", "ann", "free"),
        ("pro", "bob", "pro"),
        ("shared-a", "acme", "team"),
        ("shared-b", "acme", "team"),
        ("burst", "cyd", "burst"),
        ("daily", "dan", "daily"),
    ] {
        let key = keys.issue(account).plan(plan).await?;
        println!("{name:<12}{}", key.expose_secret());
    }

    let headers = RateLimitHeaders::epoch().with_draft();
    let app = Router::new()
        .route("/v1/facts", get(facts))
        .route("/v1/reports", post(report))
        .layer(keys.layer().rate_limit_headers(headers))
        .layer(middleware::map_request(note_peer))
        .route("/health", get(|| async { "ok" }));
    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    println!("listening on http://{address}");
    println!("\ntry, with one of the keys above as KEY:");
    println!("  curl -i http://{address}/v1/facts -H 'X-API-Key: KEY'");
    println!("  curl -i http://{address}/v1/reports -H 'X-API-Key: KEY' -X POST");
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app).await?;
    Ok(())
}

/// Tells the layer who connected. (With the feature `axum`, it finds out by itself.)
async fn note_peer(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request) -> Request {
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

async fn facts(Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({ "plan": caller.plan(), "fact": "a unit is a request, unless it costs more" }))
}

async fn report(Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({ "written_for": caller.account() }))
}
