//! Decisions and waits as Prometheus reads them, at `/metrics`.
//!
//! `cargo run --example metrics --features metrics,axum` prints a key, and `curl` commands to try.

use axum::{Router, routing::get};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tower_api_key::observe::Metrics;
use tower_api_key::{ApiKeys, Caller, Limits, MemoryStore, Quota};

type Error = Box<dyn std::error::Error>;

/// The keys of the service. The exporter is installed before.
pub(crate) fn keys() -> Result<ApiKeys, Error> {
    let keys = ApiKeys::builder(MemoryStore::new())
        .limits(Limits::new().per_key(Quota::per_minute(3)))
        .add_observer(Metrics::new())
        .build()?;
    Ok(keys)
}

/// `/metrics` is added after the layer, so it needs no key: keep it from the internet.
pub(crate) fn app(keys: &ApiKeys, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route(
            "/v1/whoami",
            get(|caller: Caller| async move { caller.account().to_owned() }),
        )
        .layer(keys.layer())
        .route("/metrics", get(|| async move { metrics.render() }))
}

#[tokio::main]
#[allow(dead_code, reason = "a test includes this file")]
async fn main() -> Result<(), Error> {
    let metrics = PrometheusBuilder::new().install_recorder()?;
    let keys = keys()?;
    let key = keys.issue("acme").await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    println!(
        "curl -H 'X-API-Key: {}' {address}/v1/whoami",
        key.expose_secret()
    );
    println!("curl {address}/metrics");
    axum::serve(listener, app(&keys, metrics)).await?;
    Ok(())
}
