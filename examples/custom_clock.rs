//! A clock of one's own: one that a service corrects by what its time server says.
//!
//! `cargo run --example custom_clock`

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use tower_api_key::clock::Clock;
use tower_api_key::{ApiKeys, MemoryStore};

/// The operating system's clock, and by how many milliseconds it is slow.
#[derive(Clone, Default)]
struct Corrected(Arc<AtomicI64>);

impl Clock for Corrected {
    /// Only the wall-clock time is corrected. The monotonic clock and the waits are the operating
    /// system's.
    fn now(&self) -> SystemTime {
        let slow = self.0.load(Ordering::Relaxed);
        let by = Duration::from_millis(slow.unsigned_abs());
        let now = SystemTime::now();
        if slow >= 0 { now + by } else { now - by }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clock = Corrected::default();
    let keys = ApiKeys::builder(MemoryStore::new())
        .clock(clock.clone())
        .build()?;
    let key = keys
        .issue("acme")
        .expires_in(Duration::from_secs(60))
        .await?;
    println!(
        "in time:        {:?}",
        keys.verify(key.expose_secret()).await.map(|it| it.status())
    );
    clock.0.store(61_000, Ordering::Relaxed); // the time server says: 61 seconds slow
    println!(
        "after a minute: {:?}",
        keys.verify(key.expose_secret()).await.map(|it| it.status())
    );
    Ok(())
}
