//! Forward-auth: nginx, Traefik and Envoy ask this program whether to let a request pass, so that
//! services in any language are behind API keys. It also introspects keys (RFC 7662).
//!
//! `cargo run --example forward_auth` shows what each proxy asks and is told, and ends. It fails if
//! something is not as it says.
//!
//! `cargo run --example forward_auth -- serve 127.0.0.1:4180` serves until it is stopped, with the
//! keys of the environment variable `API_KEYS` (the syntax of `StaticStore`), or else with keys that
//! it prints. Beside this file are the configurations: `nginx.conf`, `traefik.yml` and `envoy.yaml`.
//! The guide's chapter `forward_auth` explains them.
//!
//! Danger: only proxies may reach the address, since the program believes what they say of their
//! clients. Listen on the loopback interface, or in a network of their own.

mod answer;
mod introspect;
mod original;
mod service;
mod show;

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tower_api_key::manage::ReadOnly;
use tower_api_key::store::StaticStore;
use tower_api_key::{ApiKeys, MemoryStore};
use tracing_subscriber::EnvFilter;

use crate::introspect::INTROSPECT;
use crate::service::{REPORTS_READ, REPORTS_WRITE, limits, service};

type Error = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| "error".into()))
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => show::show().await,
        ["serve", address] => serve(address.parse()?).await,
        _ => Err("write: forward_auth [serve ADDRESS:PORT]".into()),
    }
}

async fn serve(address: SocketAddr) -> Result<(), Error> {
    let keys = keys().await?;
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let service = service(&keys).into_make_service_with_connect_info::<SocketAddr>();
    // Stopped after the last request.
    let (stop_worker, served) = tokio::sync::oneshot::channel::<()>();
    let worker = tokio::spawn(keys.worker().until(async {
        let _ = served.await;
    }));
    axum::serve(listener, service)
        .with_graceful_shutdown(stopped())
        .await?;
    let _ = stop_worker.send(());
    worker.await?;
    Ok(())
}

/// Returns the keys of the environment, or else new ones, which are printed.
async fn keys() -> Result<ApiKeys<ReadOnly>, Error> {
    if std::env::var_os("API_KEYS").is_some() {
        let store = StaticStore::from_env("API_KEYS")?;
        let keys = ApiKeys::read_only(store).formats(StaticStore::formats());
        return Ok(keys.limits(limits()).build()?);
    }
    let keys = ApiKeys::builder(MemoryStore::new())
        .limits(limits())
        .build()?;
    let writer = keys.issue("acme").scopes([REPORTS_READ, REPORTS_WRITE]);
    let reader = keys.issue("globex").scopes([REPORTS_READ]);
    let asker = keys.issue("billing").scopes([INTROSPECT]);
    for (name, key) in [
        ("writer", writer.await?),
        ("reader", reader.await?),
        ("asker", asker.await?),
    ] {
        println!("{name:<12}{}", key.expose_secret());
    }
    Ok(keys.to_read_only())
}

/// Waits until the program is told to end: by Ctrl-C or, as service managers do, by SIGTERM.
async fn stopped() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
