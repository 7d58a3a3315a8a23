//! Helps an application to test itself: with a caller for its handlers, a clock that it sets, an
//! address, and a store in trouble. Needs the feature `testing`, for dev-dependencies:
//!
//! ```toml
//! [dev-dependencies]
//! tower-api-key = { path = "…", features = ["testing"] }
//! ```
//!
//! # A handler
//!
//! Handlers take a [`Caller`](crate::Caller) from the request's extensions. [`caller`] makes one, so
//! that no layer, key or server is needed.
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
//! # A whole service, on a clock that stands still
//!
//! [`ManualClock`](crate::clock::ManualClock) moves when it is told to, for expiry, limits and caches alike.
//! Requests that come by no connection say their address by [`PeerAddr`](crate::http::PeerAddr).
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
//! # A store in trouble
//!
//! [`TroubledStore`] fails, hangs or lags behind when it is told to. Keys that are cached go on
//! meanwhile: let [`max_staleness`](crate::Cache::max_staleness) go by on the clock, or use keys that
//! were not used yet.
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
    Change, Followed, KeptEvent, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging,
    Start, StoreError, TrailQuery, TrailRecord, UsageBatch,
};

/// Makes a caller of this account, for tests of handlers. Its key is set as in
/// [`ApiKeys::issue`](crate::ApiKeys::issue).
///
/// It has no limits, so it can be charged and refunded in any unit, and that changes nothing. For a
/// caller with limits, issue a key with an [`ApiKeys`](crate::ApiKeys) that has them, and take the
/// caller from [`ApiKeys::verify`](crate::ApiKeys::verify).
///
/// # Panics
/// If such a key cannot be issued, or may not be used at this moment.
pub fn caller(account: &str, set: impl FnOnce(IssueKey) -> IssueKey) -> Caller {
    let keys = ApiKeys::in_memory();
    let issued = at_once(set(keys.issue(account)).into_future());
    let issued = issued.expect("a key that can be issued");
    let caller = at_once(keys.verify(issued.expose_secret()));
    caller.expect("a key that may be used")
}

/// The output of a future that waits for nothing.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("memory is not waited for"),
    }
}

/// A store that fails, hangs or lags behind when it is told to. Clones share that.
pub struct TroubledStore<S> {
    inner: Arc<Inner<S>>,
}

struct Inner<S> {
    store: S,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    trouble: Option<Trouble>,
    /// The record of each key that was found last, for a store that lags behind.
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
    /// Puts trouble in front of a store. It works until it is told otherwise.
    pub fn new(store: S) -> Self {
        let state = Mutex::default();
        Self {
            inner: Arc::new(Inner { store, state }),
        }
    }

    /// Fails each call, as if the store could not be reached.
    pub fn fails(&self) {
        self.set(Some(Trouble::Fails));
    }

    /// Answers no call until the store [recovers](Self::recovers). A change that is waited for is
    /// carried out then, unless its future was dropped.
    pub fn hangs(&self) {
        self.set(Some(Trouble::Hangs));
    }

    /// Finds what was found of each key last, as a replica does that is not told of changes. Changes
    /// are built on what is certain all the same.
    pub fn lags(&self) {
        self.set(Some(Trouble::Lags));
    }

    /// Works again.
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

    fn state(&self) -> MutexGuard<'_, State> {
        let state = self.inner.state.lock();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the store hangs, and fails if it does.
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
        let known = self.state().found.get(id).cloned();
        if let Some(record) = known.filter(|_| is_behind) {
            return Ok(record);
        }
        let found = self.inner.store.find(id).await?;
        self.state().found.insert(*id, found.clone());
        Ok(found)
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
    fn a_caller_that_is_made_up_can_be_charged_in_any_unit() {
        let caller = caller("acme", |key| key.plan("pro"));
        at_once(caller.charge("tokens", 1)).unwrap();
        at_once(caller.refund("tokens", 1)).unwrap();
        assert!(at_once(caller.limits()).unwrap().is_empty());
        assert_eq!((caller.account(), caller.plan()), ("acme", Some("pro")));
    }

    #[test]
    fn a_store_hangs_until_it_recovers_and_lags_until_then() {
        let store = TroubledStore::new(MemoryStore::new());
        let keys = ApiKeys::builder(store.clone()).build().unwrap();
        let key = at_once(keys.issue("acme").into_future()).unwrap();
        let id = key.id();
        assert!(at_once(store.find(&id)).unwrap().is_some());
        store.hangs();
        let mut finding = Box::pin(store.find(&id));
        assert!(poll_once(&mut finding).is_pending());
        store.recovers();
        assert!(poll_once(&mut finding).is_ready());
        store.lags();
        at_once(keys.revoke(id).into_future()).unwrap();
        assert!(
            at_once(store.find(&id))
                .unwrap()
                .unwrap()
                .revoked()
                .is_none()
        );
        let committed = at_once(store.find_committed(&id)).unwrap().unwrap();
        assert!(committed.revoked().is_some());
        store.recovers();
        assert!(
            at_once(store.find(&id))
                .unwrap()
                .unwrap()
                .revoked()
                .is_some()
        );
    }
}
