//! Several servers that behave as one: they share limits and news of changes through Redis.
//!
//! `REDIS_URL=redis://127.0.0.1/ cargo run --features redis,sqlite --example fleet -- --nodes 3`
//! starts three servers in one process, on free ports. Each has an `ApiKeys` of its own, as if it
//! ran on a machine of its own; the keys are in one file of SQLite. It prints a key without a
//! limit and one with exactly 1,000 requests per minute on all servers together.
//!
//! With `--show`, it demonstrates a shared limit and a revocation that arrives, and ends.

mod show;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tower_api_key::limit::{Plan, RedisLimiter};
use tower_api_key::store::{RedisFleet, SqliteStore};
use tower_api_key::{ApiKeys, Cache, Caller, IssuedKey, KeyId, Limits, Quota, Scope};
use tracing_subscriber::EnvFilter;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A server of the fleet.
struct Node {
    keys: ApiKeys,
    address: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()))
        .with_writer(std::io::stderr)
        .init();
    let (nodes, shows) = arguments()?;
    let file = File::new();
    let fleet = start(nodes, &file).await?;
    let keys = &fleet[0].keys;
    let active = keys.issue("acme").await?;
    let exact = keys.issue("globex").plan("exact").await?;
    println!("{:<12}{}", "active", active.expose_secret());
    println!("{:<12}{}", "exact", exact.expose_secret());
    for node in &fleet {
        println!("listening on http://{}", node.address);
    }
    if shows {
        return show::show(&fleet, &active, &exact).await;
    }
    print_help(&fleet, &active, &exact);
    tokio::signal::ctrl_c().await?;
    Ok(())
}

/// Starts the servers.
async fn start(nodes: usize, file: &File) -> Result<Vec<Node>, Error> {
    let redis = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1/".to_owned());
    let mut fleet = Vec::new();
    for _ in 0..nodes {
        // The records are in the file; Redis has copies of them, and the news of changes.
        let store = SqliteStore::open(&file.0).await?;
        store.migrate().await?;
        let store = RedisFleet::connect(redis.as_str(), store)?;
        let limits = Limits::new()
            .add_plan(Plan::new("open"))
            .add_plan(Plan::new("exact").per_account(Quota::per_minute(1_000)))
            .default_plan("open");
        let keys = ApiKeys::builder(store)
            .limits(limits)
            .limiter(RedisLimiter::connect(redis.as_str())?)
            // Without the news, a revocation would take this long to arrive.
            .cache(Cache::new().max_staleness(std::time::Duration::from_secs(30)))
            .build()?;
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        tokio::spawn(keys.worker().into_future());
        let app = app(&keys);
        tokio::spawn(async move { axum::serve(listener, app).await });
        fleet.push(Node { keys, address });
    }
    Ok(fleet)
}

fn app(keys: &ApiKeys) -> Router {
    // In an application, the calls of operators are behind their own login.
    let admin = Router::new()
        .route("/admin/revoke/{key_id}", post(revoke))
        .route("/admin/health", get(health))
        .with_state(keys.clone());
    Router::new()
        .route("/v1/whoami", get(whoami))
        .layer(keys.layer())
        .merge(admin)
}

async fn whoami(Extension(caller): Extension<Caller>) -> Json<Value> {
    let scopes: Vec<_> = caller.scopes().iter().map(Scope::as_str).collect();
    Json(json!({
        "key_id": caller.key_id().to_string(),
        "account": caller.account(),
        "organization": caller.organization(),
        "environment": caller.environment().as_str(),
        "status": caller.status().as_str(),
        "scopes": scopes,
    }))
}

/// Revokes a key on this server. When it answers, the others have been told.
async fn revoke(State(keys): State<ApiKeys>, Path(id): Path<String>) -> (StatusCode, Json<Value>) {
    let Ok(id) = id.parse::<KeyId>() else {
        let error = json!({ "error": "this is no id of a key" });
        return (StatusCode::BAD_REQUEST, Json(error));
    };
    match keys.revoke(id).reason("by an operator").await {
        Ok(record) => {
            let revoked = json!({ "key_id": id.to_string(), "account": record.account() });
            (StatusCode::OK, Json(revoked))
        }
        Err(error) => {
            let error = json!({ "error": error.to_string() });
            (StatusCode::UNPROCESSABLE_ENTITY, Json(error))
        }
    }
}

/// Tells whether the worker and its feed are on time.
async fn health(State(keys): State<ApiKeys>) -> Json<Value> {
    let health = keys.health();
    let feed = health.feed.map(|feed| format!("{feed:?}"));
    Json(json!({ "worker": format!("{:?}", health.worker), "feed": feed }))
}

/// Returns the number of servers, and whether to demonstrate something.
fn arguments() -> Result<(usize, bool), Error> {
    let usage = "usage: fleet [--nodes N] [--show]";
    let (mut nodes, mut shows) = (3, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--nodes" => {
                let number = arguments.next().ok_or(usage)?;
                nodes = number.parse().map_err(|_| usage)?;
            }
            "--show" => shows = true,
            _ => return Err(usage.into()),
        }
    }
    if !(1..=64).contains(&nodes) {
        return Err("--nodes is from 1 to 64".into());
    }
    Ok((nodes, shows))
}

/// A file for the keys, which is removed in the end.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        let name = format!("tower-api-key-fleet-{}.db", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        for suffix in ["", "-wal", "-shm"] {
            let mut file = self.0.clone().into_os_string();
            file.push(suffix);
            let _ = std::fs::remove_file(file); // it may not be there
        }
    }
}

fn print_help(fleet: &[Node], active: &IssuedKey, exact: &IssuedKey) {
    let first = fleet[0].address;
    let last = fleet[fleet.len() - 1].address;
    println!(
        "
try:
  curl -i http://{first}/v1/whoami -H 'X-API-Key: {}'
  curl -i http://{last}/v1/whoami -H 'X-API-Key: {}'    # X-RateLimit-Remaining goes down on all
  curl -X POST http://{first}/admin/revoke/{}
  curl -i http://{last}/v1/whoami -H 'X-API-Key: {}'    # 401 there, too
  curl http://{last}/admin/health",
        active.expose_secret(),
        exact.expose_secret(),
        active.id(),
        active.expose_secret(),
    );
}
