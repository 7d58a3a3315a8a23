//! An axum service whose keys are in PostgreSQL.
//!
//! `DATABASE_URL=postgres://localhost/app cargo run --features postgres --example postgres` creates
//! tables in the schema `tower_api_key`, and prints a key at the first start. The port comes from
//! `PORT` (3000 by default, 0 for any). Processes that share the database know of each other's
//! changes within 50 ms.

use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tower_api_key::store::sqlx::PgPool;
use tower_api_key::store::{KeyQuery, Paging, PostgresStore};
use tower_api_key::{ApiKeys, Caller};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::var("DATABASE_URL");
    let missing = "set DATABASE_URL, for example to postgres://user:password@localhost:5432/app";
    let pool = PgPool::connect(&url.map_err(|_| missing)?).await?;
    let store = PostgresStore::new(pool); // the application's own pool
    store.migrate().await?;
    let keys = ApiKeys::builder(store).build()?;

    let port: u16 = std::env::var("PORT").map_or(Ok(3000), |port| port.parse())?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    let address = listener.local_addr()?;
    let listed = keys.list(&KeyQuery::new(), &Paging::first(1)).await?;
    if listed.items.is_empty() {
        println!("{}", keys.issue("acme").await?.expose_secret());
    }
    println!("listening on http://{address}; try");
    println!("  curl -i http://{address}/v1/whoami -H 'X-API-Key: KEY'");

    // Follows what other processes change, and records when keys are used.
    // Stopped after the last request, so that this one is counted, too.
    let (stop_worker, stopped) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(keys.worker().until(async {
        let _ = stopped.await;
    }));
    let app = Router::new()
        .route("/v1/whoami", get(whoami))
        .layer(keys.layer());
    axum::serve(listener, app)
        .with_graceful_shutdown(ctrl_c())
        .await?;
    let _ = stop_worker.send(());
    worker.await?; // what is left is recorded
    Ok(())
}

// With the feature `axum`, write `caller: Caller` instead of `Extension(caller)`.
async fn whoami(Extension(caller): Extension<Caller>) -> Json<Value> {
    Json(json!({ "key_id": caller.key_id().to_string(), "account": caller.account() }))
}

async fn ctrl_c() {
    let _ = tokio::signal::ctrl_c().await;
}
