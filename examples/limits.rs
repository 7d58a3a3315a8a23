//! Limits by plan, account, address and endpoint, in requests and in tokens, told in both header
//! styles.
//!
//! `cargo run --example limits` prints a key of each kind, and `curl` commands to try them. The
//! port comes from `PORT` (3000 by default, 0 for any).

use std::net::SocketAddr;

use axum::extract::{ConnectInfo, Request};
use axum::http::{Method, StatusCode};
use axum::routing::{get, post};
use axum::{Extension, Json, Router, middleware};
use serde_json::{Value, json};
use tower_api_key::http::{PeerAddr, RateLimitHeaders};
use tower_api_key::limit::{Limit, Plan};
use tower_api_key::{ApiKeys, Caller, Limits, MemoryStore, Quota};
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
        .add_plan(Plan::new("free").per_account(FREE))
        .add_plan(Plan::new("pro").per_account(PRO))
        .add_plan(Plan::new("team").per_account(SHARED))
        .add_plan(Plan::new("burst").per_account(BURST))
        .add_plan(Plan::new("daily").per_account(DAILY))
        // Both must have room. Tokens are charged when the answer is known.
        .add_plan(
            Plan::new("tokens")
                .per_account("10/min".parse::<Quota>()?)
                .per_account(Limit::named("tokens", "100/min".parse()?).unit("tokens")),
        )
        .default_plan("free")
        .per_ip(Quota::per_minute(50_000))
        .global(Quota::per_minute(100_000))
        .add_cost(Method::POST, "/v1/reports", 10)
        .add_cost(Method::GET, "/v1/limits", 0); // also when nothing is left
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
        ("tokens", "eve", "tokens"),
    ] {
        let key = keys.issue(account).plan(plan).await?;
        println!("{name:<12}{}", key.expose_secret());
    }

    let headers = RateLimitHeaders::epoch().with_draft();
    let app = Router::new()
        .route("/v1/facts", get(facts))
        .route("/v1/reports", post(report))
        .route("/v1/answers", post(answer))
        .route("/v1/limits", get(limits_of_caller))
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
    println!(
        "  curl -i http://{address}/v1/answers -H 'X-API-Key: TOKENS' -X POST    # 3 times 200, then 429"
    );
    println!("  curl -i http://{address}/v1/limits -H 'X-API-Key: KEY'");
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

/// It costs 40 tokens, which is known only after the work. The third takes the 20 that are left.
async fn answer(Extension(caller): Extension<Caller>) -> Result<Json<Value>, StatusCode> {
    match caller.charge("tokens", 40).await {
        Ok(()) => Ok(Json(json!({ "answer": "42", "tokens": 40 }))),
        Err(error) => {
            tracing::error!(%error, "the tokens were not charged");
            Err(StatusCode::INTERNAL_SERVER_ERROR)
        }
    }
}

async fn limits_of_caller(Extension(caller): Extension<Caller>) -> Result<Json<Value>, StatusCode> {
    let limits = caller.limits().await;
    let limits = limits.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let told = limits.iter().map(|limit| {
        json!({
            "name": limit.name,
            "unit": limit.unit,
            "quota": limit.quota.to_string(),
            "remaining": limit.remaining,
        })
    });
    Ok(Json(told.collect()))
}
