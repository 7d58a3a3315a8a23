//! An observer of one's own: it counts requests by key without a map of its own, and prints what
//! each key has done when the key leaves the cache.
//!
//! `cargo run --example custom_observer`

use std::sync::atomic::{AtomicU64, Ordering};

use http::Request;
use tower::{Layer, ServiceExt, service_fn};
use tower_api_key::observe::{Decision, Observer};
use tower_api_key::{ApiKeys, KeyId, MemoryStore};

struct Usage;

/// What is kept of a key in its cached entry.
struct Count {
    key: KeyId,
    admitted: AtomicU64,
    denied: AtomicU64,
}

impl Observer for Usage {
    fn decided(&self, decision: &Decision<'_>) {
        let Some(key) = decision.key() else {
            println!("a stranger was told {:?}", decision.rejection());
            return;
        };
        let count = key.slot(|| Count {
            key: key.id(),
            admitted: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        });
        let counter = if decision.is_admitted() {
            &count.admitted
        } else {
            &count.denied
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The entry has left the cache: here a real one would add up what was counted.
impl Drop for Count {
    fn drop(&mut self) {
        let [admitted, denied] =
            [&self.admitted, &self.denied].map(|it| it.load(Ordering::Relaxed));
        println!("key {}: {admitted} admitted, {denied} denied", self.key);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let keys = ApiKeys::builder(MemoryStore::new())
        .add_observer(Usage)
        .build()?;
    let key = keys.issue("acme").await?;
    let ask = async |key: &str| {
        let inner = service_fn(async |_: Request<()>| {
            Ok::<_, std::convert::Infallible>(http::Response::new(http_body_util::Full::<
                bytes::Bytes,
            >::default()))
        });
        let request = Request::builder()
            .header("x-api-key", key)
            .body(())
            .expect("a header");
        let answer = keys.layer().layer(inner).oneshot(request).await;
        answer.map(|answer| answer.status())
    };
    for _ in 0..3 {
        ask(key.expose_secret()).await?;
    }
    ask("sk_live_junk").await?;
    keys.revoke(key.id()).await?;
    ask(key.expose_secret()).await?;
    Ok(())
}
