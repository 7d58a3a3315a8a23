//! An axum service behind API keys, on embedded defaults: nothing to install.
//!
//! `cargo run --example quickstart` prints a key of each kind, and `curl` commands to try them.
//! The port comes from `PORT` (3000 by default, 0 for any), the log level from `RUST_LOG`.
//!
//! `KEYS_DB=FILE cargo run --features sqlite --example quickstart` keeps the keys in a file: later
//! starts issue none. The example `keys` manages them meanwhile.

#[cfg(feature = "sqlite")]
#[path = "support/audit_key.rs"]
mod audit_key;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use axum::extract::{ConnectInfo, Request};
use axum::routing::get;
use axum::{Extension, Json, Router, middleware};
use serde_json::{Value, json};
use tower_api_key::clock::ManualClock;
use tower_api_key::http::{GrpcRequests, PeerAddr};
use tower_api_key::store::{KeyQuery, Paging};
use tower_api_key::{
    ApiKeys, Caller, Environment, KeySource, Limits, ManagedKeyStore, MemoryStore, Quota,
    RequireScope, Scope,
};
use tracing_subscriber::EnvFilter;

const REPORTS_READ: Scope = Scope::from_static("reports:read");
const REPORTS_WRITE: Scope = Scope::from_static("reports:write");

const DAY: Duration = Duration::from_secs(86_400);

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into()))
        .with_writer(std::io::stderr)
        .init();

    let file = std::env::var_os("KEYS_DB").filter(|file| !file.is_empty());
    let [keys, last_year] = match file {
        None => keys_of(MemoryStore::new())?,
        #[cfg(feature = "sqlite")]
        Some(file) => keys_of(open(file.as_ref()).await?)?,
        #[cfg(not(feature = "sqlite"))]
        Some(_) => return Err("KEYS_DB names a file of SQLite: add `--features sqlite`".into()),
    };
    // Before there is anything to print.
    let listener = listen().await?;
    let address = format!("http://{}", listener.local_addr()?);
    if print_earlier_keys(&keys).await? {
        println!("listening on {address}");
        println!("\nput keys that were printed before in place of ACTIVE, ADMIN and LIMITED");
        print_help(&address, "ACTIVE", "ADMIN", "LIMITED");
    } else {
        let [active, admin, limited] = issue_one_of_each(&keys, &last_year).await?;
        println!("listening on {address}");
        print_help(&address, &active, &admin, &limited);
    }

    // Follows what other processes change in the file, and records when keys are used.
    // Stopped after the last request, so that this one is counted, too.
    let (stop_worker, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(keys.worker().until(async {
        let _ = stopped.await;
    }));
    let app = app(&keys).into_make_service_with_connect_info::<SocketAddr>();
    axum::serve(listener, app)
        .with_graceful_shutdown(ctrl_c())
        .await?;
    let _ = stop_worker.send(());
    worker.await?; // what is left is recorded
    Ok(())
}

/// Returns the keys of a store: as of now, and as of a year ago, to issue keys that are old.
fn keys_of(store: impl ManagedKeyStore + Clone) -> Result<[ApiKeys; 2], Error> {
    let keys = ApiKeys::builder(store.clone())
        .limits(Limits::new().per_key(Quota::per_minute(600)))
        .failed_attempts(Quota::per_minute(300))
        .build()?;
    let last_year = ManualClock::at(SystemTime::now() - 355 * DAY);
    let last_year = ApiKeys::builder(store).clock(last_year).build()?;
    Ok([keys, last_year])
}

/// Opens a store in a file. Other processes may use it at the same time.
#[cfg(feature = "sqlite")]
async fn open(file: &std::path::Path) -> Result<tower_api_key::store::SqliteStore, Error> {
    let store = tower_api_key::store::SqliteStore::open(file).await?;
    store.migrate().await?; // creates the tables, if they are not there yet
    let audit_key = audit_key::audit_key(&store, file).await?;
    Ok(store.audit_key(audit_key)) // what is edited behind the library's back is found
}

async fn ctrl_c() {
    let _ = tokio::signal::ctrl_c().await;
}

fn app(keys: &ApiKeys) -> Router {
    let layer = keys
        .layer()
        .sources([
            KeySource::bearer(),
            KeySource::api_key_scheme(),
            KeySource::scheme("Api-Key").expect("a token"),
            KeySource::basic(),
            KeySource::x_api_key(),
            KeySource::dangerous_query("api_key"), // each use is warned about
        ])
        .grpc(GrpcRequests::AnyMethod); // so that `curl` shows a gRPC refusal with any method
    let read = get(reports).layer(RequireScope::new(REPORTS_READ));
    let write = axum::routing::post(write_report).layer(RequireScope::new(REPORTS_WRITE));
    Router::new()
        .route("/v1/whoami", get(whoami))
        .route("/v1/reports", read.merge(write))
        .layer(layer)
        .layer(middleware::map_request(note_peer))
        .route("/health", get(|| async { "ok" })) // added after the layer: open to everybody
}

// Tells the layer who connected. With the feature `axum`, it finds out by itself.
async fn note_peer(ConnectInfo(peer): ConnectInfo<SocketAddr>, mut request: Request) -> Request {
    request.extensions_mut().insert(PeerAddr(peer));
    request
}

// With the feature `axum`, write `caller: Caller` instead of `Extension(caller)`.
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

async fn reports() -> Json<Value> {
    Json(json!({ "reports": ["2026-10", "2026-11"] }))
}

async fn write_report(Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({ "written_for": caller.account() }))
}

/// Prints the keys that are in the store already, by their ids, and returns whether there are any.
async fn print_earlier_keys(keys: &ApiKeys) -> Result<bool, Error> {
    let mut paging = Paging::first(100);
    let mut is_any = false;
    loop {
        let page = keys.list(&KeyQuery::new(), &paging).await?;
        for key in page.items {
            let (key, status) = (&key.record, keys.lifecycle(&key.record).status());
            println!("{}  {:<12}{status}", key.id(), key.account());
            is_any = true;
        }
        let Some(next) = page.next else {
            return Ok(is_any);
        };
        paging = paging.after(next);
    }
}

/// Prints a key of each kind, and returns those to try: an active one, one that may write, and one
/// with a small quota.
async fn issue_one_of_each(keys: &ApiKeys, last_year: &ApiKeys) -> Result<[String; 3], Error> {
    let active = keys
        .issue("acme")
        .organization("Acme Inc.")
        .scopes([REPORTS_READ])
        .await?;
    let admin = keys
        .issue("acme")
        .organization("Acme Inc.")
        .scopes([REPORTS_READ, REPORTS_WRITE])
        .await?;

    let expiring = last_year
        .issue("globex")
        .scopes([REPORTS_READ])
        .expires_in(365 * DAY) // ten days from now
        .await?;
    let expired = last_year.issue("initech").expires_in(90 * DAY).await?;

    let revoked = keys.issue("hooli").await?;
    keys.revoke(revoked.id())
        .reason("found in a public repository")
        .await?;
    let suspended = keys.issue("umbrella").await?;
    keys.suspend(suspended.id())
        .reason("unpaid invoice")
        .await?;
    let test = keys.issue("acme").environment(Environment::TEST).await?;
    let limited = keys
        .issue("acme")
        .add_limit("key_per_minute", Quota::per_minute(3))
        .await?;
    let tried = [&active, &admin, &limited].map(|key| key.expose_secret().to_owned());

    for (name, key) in [
        ("active", active),
        ("admin", admin),
        ("expiring", expiring),
        ("expired", expired),
        ("revoked", revoked),
        ("suspended", suspended),
        ("test", test),
        ("limited", limited),
    ] {
        println!("{name:<12}{}", key.expose_secret());
    }
    Ok(tried)
}

async fn listen() -> Result<tokio::net::TcpListener, Error> {
    let port: u16 = match std::env::var("PORT") {
        Ok(port) => port
            .parse()
            .map_err(|_| format!("PORT={port} is no port"))?,
        Err(_) => 3000,
    };
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
    let taken = |error| format!("port {port} cannot be used ({error}): choose another with PORT=");
    Ok(listener.map_err(taken)?)
}

fn print_help(address: &str, active: &str, admin: &str, limited: &str) {
    println!(
        "
try:
  curl -i {address}/health
  curl -i {address}/v1/whoami -H 'Authorization: Bearer {active}'
  curl -i {address}/v1/whoami -H 'Authorization: Api-Key {active}'
  curl -i {address}/v1/whoami -H 'X-API-Key: {active}'
  curl -i {address}/v1/whoami -u {active}:
  curl -i {address}/v1/reports -H 'Authorization: ApiKey {active}'
  curl -i {address}/v1/reports -H 'X-API-Key: {active}' -X POST    # 403: it may only read
  curl -i {address}/v1/reports -H 'X-API-Key: {admin}' -X POST
  curl -i '{address}/v1/whoami?api_key={active}'    # and a warning in the log
  curl -i {address}/v1/whoami -H 'Content-Type: application/grpc'
  for i in 1 2 3 4; do curl -i {address}/v1/whoami -H 'X-API-Key: {limited}'; done    # the last one: 429"
    );
}
