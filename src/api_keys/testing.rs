//! Test helpers for applications: a caller for handlers, a clock to set, an address, and a store
//! with failures. They need the feature `testing`, for dev-dependencies:
//!
//! ```toml
//! [dev-dependencies]
//! tower-api-key = { path = "…", features = ["testing"] }
//! ```
//!
//! # A handler
//!
//! Handlers take a [`Caller`](crate::Caller) from the request's extensions. [`caller`] creates one
//! without a layer, a key or a server.
//!
//! ```
//! use tower_api_key::{testing, Caller, Rejection, Scope};
//!
//! const WRITE: Scope = Scope::from_static("reports:write");
//!
//! fn write_report(request: &http::Request<()>) -> Result<String, Rejection> {
//!     let caller = Caller::of(request.extensions())?;
//!     caller.require(&WRITE)?;
//!     Ok(format!("written for {}", caller.account()))
//! }
//!
//! let mut request = http::Request::new(());
//! request.extensions_mut().insert(testing::caller("acme", |key| key.scopes([WRITE])));
//! assert_eq!(write_report(&request).unwrap(), "written for acme");
//! request.extensions_mut().insert(testing::caller("acme", |key| key));
//! assert_eq!(write_report(&request).unwrap_err().code(), "insufficient_scope");
//! ```
//!
//! # A whole service, with a manual clock
//!
//! [`ManualClock`](crate::clock::ManualClock) stands still until the test advances it, for expiry,
//! limits and caches alike. Requests without a connection set their address with
//! [`PeerAddr`](crate::http::PeerAddr).
//!
//! ```
//! use std::time::{Duration, SystemTime};
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_api_key::clock::ManualClock;
//! use tower_api_key::http::PeerAddr;
//! use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
//! # use http::{Request, Response};
//! # type Body = http_body_util::Empty<bytes::Bytes>;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
//! let keys = ApiKeys::builder(MemoryStore::new())
//!     .clock(clock.clone())
//!     .limits(Limits::new().per_ip(Quota::per_minute(1)))
//!     .build()?;
//! let key = keys.issue("acme").expires_in(Duration::from_secs(3600)).await?;
//! let service = keys.layer().layer(service_fn(async |_: Request<Body>| {
//!     Ok::<_, std::convert::Infallible>(Response::new(Body::new()))
//! }));
//! let ask = async || {
//!     let request = Request::builder()
//!         .header("x-api-key", key.expose_secret())
//!         .extension(PeerAddr(([192, 0, 2, 1], 80).into()))
//!         .body(Body::new())
//!         .unwrap();
//!     service.clone().oneshot(request).await.unwrap().status().as_u16()
//! };
//! assert_eq!([ask().await, ask().await], [200, 429]);
//! clock.advance(Duration::from_secs(60));
//! assert_eq!(ask().await, 200);
//! clock.advance(Duration::from_secs(3600));
//! assert_eq!(ask().await, 401); // expired
//! # Ok(())
//! # }
//! ```
//!
//! # A store with failures
//!
//! [`TroubledStore`] fails, hangs or lags on command. Cached keys still work meanwhile: advance the
//! clock by [`max_staleness`](crate::Cache::max_staleness), or use keys that were not used before.
//!
//! ```
//! # use tower_api_key::{testing::TroubledStore, ApiKeys, MemoryStore};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store = TroubledStore::new(MemoryStore::new());
//! let keys = ApiKeys::builder(store.clone()).build()?;
//! let key = keys.issue("acme").await?;
//! store.fails();
//! assert_eq!(keys.verify(key.expose_secret()).await.unwrap_err().status(), 503);
//! store.recovers();
//! assert!(keys.verify(key.expose_secret()).await.is_ok());
//! # Ok(())
//! # }
//! ```

use std::collections::HashMap;
use std::fmt;
use std::future::{IntoFuture, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::ApiKeys;
use crate::http::caller::Caller;
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::manage::issue::IssueKey;
use crate::store::{
    BoxedFeed, BoxedOutbox, Change, Followed, KeptEvent, KeyQuery, KeyStore, ListedKey,
    ManagedKeyStore, Page, Paging, Start, StoreError, TrailQuery, TrailRecord, UsageBatch,
    UsageQuery, UsageRow,
};

/// Creates a caller with this account, for tests of handlers. Configure its key as with
/// [`ApiKeys::issue`](crate::ApiKeys::issue).
///
/// The caller has no limits, so charges and refunds in any unit succeed without effect. For a
/// caller with limits, issue a key with an [`ApiKeys`](crate::ApiKeys) that has them, and get the
/// caller from [`ApiKeys::verify`](crate::ApiKeys::verify).
///
/// # Panics
/// If the key cannot be issued, or may not be used at present.
pub fn caller(account: &str, set: impl FnOnce(IssueKey) -> IssueKey) -> Caller {
    let keys = ApiKeys::in_memory();
    let issued = now_or_panic(set(keys.issue(account)).into_future());
    let issued = issued.expect("a key that can be issued");
    let caller = now_or_panic(keys.verify(issued.expose_secret()));
    caller.expect("a key that may be used")
}

/// Returns the output of a future that never waits.
fn now_or_panic<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("memory is not waited for"),
    }
}

/// A store that fails, hangs or lags on command. Clones share the state.
pub struct TroubledStore<S> {
    inner: Arc<TroubledInner<S>>,
}

struct TroubledInner<S> {
    store: S,
    state: Mutex<TroubledState>,
}

#[derive(Default)]
struct TroubledState {
    trouble: Option<Trouble>,
    /// The last result for each key, for a store that lags.
    found: HashMap<KeyId, Option<KeyRecord>>,
    waiting: Vec<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Fails,
    Hangs,
    Lags,
}

impl<S> TroubledStore<S> {
    /// Wraps a store. At first, all calls pass through.
    pub fn new(store: S) -> Self {
        let state = Mutex::default();
        Self {
            inner: Arc::new(TroubledInner { store, state }),
        }
    }

    /// Makes each call fail, as if the store could not be reached.
    pub fn fails(&self) {
        self.set(Some(Trouble::Fails));
    }

    /// Makes each call wait until the store [recovers](Self::recovers). A waiting change is then
    /// carried out, unless its future was dropped.
    pub fn hangs(&self) {
        self.set(Some(Trouble::Hangs));
    }

    /// Makes `find` return the last result for each key, like a replica that lags.
    /// `find_committed`, and thus changes, are not affected.
    pub fn lags(&self) {
        self.set(Some(Trouble::Lags));
    }

    /// Lets all calls pass through again.
    pub fn recovers(&self) {
        self.set(None);
    }

    fn set(&self, trouble: Option<Trouble>) {
        let mut state = self.state();
        state.trouble = trouble;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn state(&self) -> MutexGuard<'_, TroubledState> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the store hangs; returns an error while it fails.
    async fn pass(&self) -> Result<(), StoreError> {
        poll_fn(|cx| {
            let mut state = self.state();
            match state.trouble {
                Some(Trouble::Hangs) => {
                    state.waiting.push(cx.waker().clone());
                    Poll::Pending
                }
                Some(Trouble::Fails) => Poll::Ready(Err(StoreError::unavailable("told to fail"))),
                Some(Trouble::Lags) | None => Poll::Ready(Ok(())),
            }
        })
        .await
    }
}

impl<S: KeyStore> KeyStore for TroubledStore<S> {
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.pass().await?;
        let is_behind = self.state().trouble == Some(Trouble::Lags);
        let last = self.state().found.get(id).cloned();
        if let Some(record) = last.filter(|_| is_behind) {
            return Ok(record);
        }
        let found = self.inner.store.find(id).await?;
        self.state().found.insert(*id, found.clone());
        Ok(found)
    }

    fn feed(&self) -> Option<BoxedFeed> {
        self.inner.store.feed()
    }
}

impl<S: ManagedKeyStore> ManagedKeyStore for TroubledStore<S> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.pass().await?;
        self.inner.store.find_committed(id).await
    }

    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.store.commit(change).await
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.pass().await?;
        self.inner.store.list(query, paging).await
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        self.pass().await?;
        self.inner.store.find_listed(id).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        self.pass().await?;
        self.inner.store.trail(query, paging).await
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        self.pass().await?;
        self.inner.store.events(start, limit).await
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.pass().await?;
        self.inner.store.record_usage(batch).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        self.inner.store.outbox()
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        self.pass().await?;
        self.inner.store.usage(query, paging).await
    }
}

impl<S> Clone for TroubledStore<S> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for TroubledStore<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TroubledStore")
            .field(&self.inner.store)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::memory::store::MemoryStore;

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
        std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn a_test_caller_can_be_charged_in_any_unit() {
        let caller = caller("acme", |key| key.plan("pro"));
        now_or_panic(caller.charge("tokens", 1)).unwrap();
        now_or_panic(caller.refund("tokens", 1)).unwrap();
        assert!(now_or_panic(caller.limits()).unwrap().is_empty());
        assert_eq!((caller.account(), caller.plan()), ("acme", Some("pro")));
    }

    #[test]
    fn a_troubled_store_hangs_and_lags_until_it_recovers() {
        let store = TroubledStore::new(MemoryStore::new());
        let keys = ApiKeys::builder(store.clone()).build().unwrap();
        let key = now_or_panic(keys.issue("acme").into_future()).unwrap();
        let id = key.id();
        assert!(now_or_panic(store.find(&id)).unwrap().is_some());
        store.hangs();
        let mut finding = Box::pin(store.find(&id));
        assert!(poll_once(&mut finding).is_pending());
        store.recovers();
        assert!(poll_once(&mut finding).is_ready());
        store.lags();
        now_or_panic(keys.revoke(id).into_future()).unwrap();
        assert!(
            now_or_panic(store.find(&id))
                .unwrap()
                .unwrap()
                .revoked()
                .is_none()
        );
        let committed = now_or_panic(store.find_committed(&id)).unwrap().unwrap();
        assert!(committed.revoked().is_some());
        store.recovers();
        assert!(
            now_or_panic(store.find(&id))
                .unwrap()
                .unwrap()
                .revoked()
                .is_some()
        );
    }
}
