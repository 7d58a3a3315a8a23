//! A process of an application: keys with a worker, on a clock that stands still.

use std::pin::Pin;
use std::time::Duration;

use tower_api_key::clock::ManualClock;
use tower_api_key::events::KeptEvent;
use tower_api_key::store::Start;
use tower_api_key::{ApiKeys, ApiKeysBuilder, ManagedKeyStore, MemoryStore};

use super::{asking, is_waiting};

pub const SECOND: Duration = Duration::from_secs(1);
pub const MINUTE: Duration = Duration::from_secs(60);

pub struct Process {
    pub keys: ApiKeys,
    pub clock: ManualClock,
    worker: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Process {
    pub fn new(store: impl ManagedKeyStore, clock: &ManualClock) -> Self {
        Self::with(store, clock, |builder| builder)
    }

    pub fn with(
        store: impl ManagedKeyStore,
        clock: &ManualClock,
        set: impl FnOnce(ApiKeysBuilder) -> ApiKeysBuilder,
    ) -> Self {
        let builder = ApiKeys::builder(store).clock(clock.clone());
        let keys = set(builder).build().unwrap();
        let mut process = Self {
            worker: Box::pin(keys.worker().into_future()),
            keys,
            clock: clock.clone(),
        };
        process.work();
        process
    }

    pub fn work(&mut self) {
        // A task that is ready at once is polled again.
        for _ in 0..20 {
            assert!(is_waiting(&mut self.worker));
        }
    }

    /// Lets time go by, all at once.
    pub fn pass(&mut self, time: Duration) {
        self.clock.advance(time);
        self.work();
    }

    /// Drops the worker, wherever it is, and starts another one.
    pub fn start_again(&mut self) {
        self.worker = Box::pin(self.keys.worker().into_future());
        self.work();
    }

    /// Sends a request with a key to the echo service, and returns the status.
    pub async fn call(&self, key: &str) -> u16 {
        let request = http::Request::builder().header("x-api-key", key);
        let asking = asking(&self.keys.layer(), request.body(()).unwrap());
        asking.await.status().as_u16()
    }
}

/// What was told.
pub async fn told(store: &MemoryStore) -> Vec<KeptEvent> {
    let read = store.events(&Start::Beginning, 10_000).await.unwrap();
    assert!(read.is_end);
    read.items
}

/// What was told of a kind.
pub async fn told_of(store: &MemoryStore, kind: &str) -> Vec<KeptEvent> {
    let mut told = told(store).await;
    told.retain(|kept| kept.event.kind == kind);
    told
}

pub async fn kinds(store: &MemoryStore) -> Vec<String> {
    let told = told(store).await;
    told.into_iter().map(|kept| kept.event.kind).collect()
}

pub fn data(kept: &KeptEvent) -> serde_json::Value {
    serde_json::from_str(&kept.event.data).unwrap()
}

/// The kinds of events of this crate, as its source has them.
pub fn all_kinds() -> Vec<&'static str> {
    let lines = include_str!("../../src/store/kinds.rs").lines();
    let kinds = lines.filter_map(|line| {
        let (_, kind) = line.strip_prefix("pub const ")?.split_once(": &str = \"")?;
        kind.strip_suffix("\";")
    });
    let kinds: Vec<_> = kinds.collect();
    assert!(kinds.len() >= 20, "{kinds:?}");
    kinds
}
