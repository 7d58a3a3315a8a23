//! Test handlers, whole services, expiry and outages.
//!
//! Tests need no server and no network: [`MemoryStore`] is a complete store, a test advances a
//! [`ManualClock`], and `tower::ServiceExt::oneshot` sends a request to a router.
//!
//! The feature `testing` adds callers for tests of handlers, and a store that simulates outages.
//! The documentation of the module `tower_api_key::testing` describes both, with examples for
//! services without axum. Enable the feature for tests only:
//!
//! ```toml
//! [dev-dependencies]
//! tower-api-key = { path = "…", features = ["testing"] }
//! tower = { version = "0.5", features = ["util"] }
//! ```
//!
//! # Handlers
//!
//! A handler is a function, so a test can call it. `testing::caller` creates the caller, with the
//! setters of a key that is issued:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # mod tests {
//! use axum::Extension;
//! use tower_api_key::{Caller, Rejection, Scope, testing};
//!
//! const REPORTS_READ: Scope = Scope::from_static("reports:read");
//!
//! async fn read_reports(Extension(caller): Extension<Caller>) -> Result<String, Rejection> {
//!     caller.require(&REPORTS_READ)?;
//!     Ok(format!("reports of {}", caller.account()))
//! }
//!
//! # pub async fn run() {
//! let reader = testing::caller("globex", |key| key.scopes([REPORTS_READ]));
//! assert_eq!(read_reports(Extension(reader)).await.unwrap(), "reports of globex");
//!
//! let nobody = testing::caller("globex", |key| key);
//! let rejection = read_reports(Extension(nobody)).await.unwrap_err();
//! assert_eq!(rejection.code(), "insufficient_scope");
//! # }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! #     #[cfg(feature = "testing")]
//! #     tests::run().await;
//! # }
//! ```
//!
//! A caller from `testing::caller` has no limits, so [`Caller::charge`] changes nothing. To test
//! charges, set up limits, issue a key, and use the caller that [`ApiKeys::verify`] returns.
//!
//! # Services
//!
//! Build the router in one function that takes an [`ApiKeys`], in production and in tests. A test
//! can then issue a real key, and send real requests:
//!
//! ```
//! use axum::body::Body;
//! use axum::http::Request;
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::{ApiKeys, Rejection, RequireScope, Scope};
//!
//! const REPORTS_READ: Scope = Scope::from_static("reports:read");
//!
//! fn app(keys: &ApiKeys) -> Router {
//!     Router::new()
//!         .route("/v1/whoami", get(|| async {}))
//!         .route("/v1/reports", get(|| async {}).layer(RequireScope::new(REPORTS_READ)))
//!         .layer(keys.layer())
//!         .route("/health", get(|| async {}))
//! }
//!
//! /// Sends a request, and returns the status and the code of a refusal.
//! async fn ask(app: &Router, path: &str, key: Option<&str>) -> (u16, Option<&'static str>) {
//!     let mut request = Request::get(path);
//!     if let Some(key) = key {
//!         request = request.header("authorization", format!("Bearer {key}"));
//!     }
//!     let request = request.body(Body::empty()).unwrap();
//!     let answer = app.clone().oneshot(request).await.unwrap();
//!     let code = answer.extensions().get::<Rejection>().map(Rejection::code);
//!     (answer.status().as_u16(), code)
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let app = app(&keys);
//! let reader = keys.issue("globex").scopes([REPORTS_READ]).await?;
//! let other = keys.issue("initech").await?;
//!
//! let (reads, other) = (Some(reader.expose_secret()), Some(other.expose_secret()));
//! assert_eq!(ask(&app, "/health", None).await, (200, None));
//! assert_eq!(ask(&app, "/v1/reports", None).await, (401, Some("missing_api_key")));
//! assert_eq!(ask(&app, "/v1/reports", reads).await, (200, None));
//! assert_eq!(ask(&app, "/v1/reports", other).await, (403, Some("insufficient_scope")));
//!
//! keys.revoke(reader.id()).await?;
//! assert_eq!(ask(&app, "/v1/reports", reads).await, (401, Some("api_key_revoked")));
//! # Ok(())
//! # }
//! ```
//!
//! Recommended tests:
//!
//! - each route returns 401 without a key, except for open routes;
//! - each guarded route returns 403 for a key with all scopes but the required one;
//! - a live service returns 403 `wrong_environment` for a test key.
//!
//! # Expiry, limits, and the cache
//!
//! One [`ManualClock`] drives expiry, limits and the cache, so a test does not wait:
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use axum::body::Body;
//! use axum::http::Request;
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::clock::ManualClock;
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let day = Duration::from_secs(86_400);
//! let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
//! let keys = ApiKeys::builder(MemoryStore::new()).clock(clock.clone()).build()?;
//! let key = keys.issue("globex").expires_in(365 * day).await?;
//! let app: Router = Router::new().route("/", get(|| async {})).layer(keys.layer());
//! let status_of_key = async || {
//!     let request = Request::get("/").header("x-api-key", key.expose_secret());
//!     let answer = app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
//!     answer.headers()["x-key-status"].to_str().unwrap().to_owned()
//! };
//!
//! assert_eq!(status_of_key().await, "active");
//! clock.advance(340 * day); // 25 days are left, and the warning begins at 30
//! assert_eq!(status_of_key().await, "deprecated");
//! clock.advance(25 * day);
//! assert_eq!(status_of_key().await, "expired");
//! # Ok(())
//! # }
//! ```
//!
//! # Usage and events
//!
//! The [worker] counts usage and announces expiries, from the moment on at which it begins. Let it
//! begin before you advance the clock. With a [`MemoryStore`], its work is done when other tasks had
//! a turn; calls of a database, sinks and webhooks need real time, so wait for their result in a loop
//! with a bound.
//!
//! ```
//! use std::time::{Duration, SystemTime};
//!
//! use tower_api_key::clock::ManualClock;
//! use tower_api_key::events::kinds::API_KEY_EXPIRING;
//! use tower_api_key::store::Start;
//! use tower_api_key::{ApiKeys, ManagedKeyStore, MemoryStore};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let day = Duration::from_secs(86_400);
//! let clock = ManualClock::at(SystemTime::now());
//! let store = MemoryStore::new();
//! let keys = ApiKeys::builder(store.clone()).clock(clock.clone()).build()?;
//! let worker = tokio::spawn(keys.worker().into_future());
//! tokio::task::yield_now().await; // the worker begins
//!
//! let key = keys.issue("globex").expires_in(40 * day).await?;
//! keys.verify(key.expose_secret()).await?;
//! clock.advance(12 * day);
//! tokio::task::yield_now().await; // the worker looks
//!
//! let events = store.events(&Start::Beginning, 100).await?.items;
//! assert!(events.iter().any(|kept| kept.event.kind == API_KEY_EXPIRING));
//! assert_eq!(keys.usage().last_days(13).await?.total().allowed, 1);
//! worker.abort();
//! # Ok(())
//! # }
//! ```
//!
//! # Outages of the store
//!
//! `testing::TroubledStore` wraps any store, and fails, hangs or lags behind on request:
//!
//! ```
//! # #[cfg(feature = "testing")]
//! # mod tests {
//! use std::time::{Duration, SystemTime};
//!
//! use axum::body::Body;
//! use axum::http::Request;
//! use axum::{Router, routing::get};
//! use tower::ServiceExt;
//! use tower_api_key::clock::ManualClock;
//! use tower_api_key::testing::TroubledStore;
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! # pub async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
//! let store = TroubledStore::new(MemoryStore::new());
//! let keys = ApiKeys::builder(store.clone()).clock(clock.clone()).build()?;
//! let key = keys.issue("globex").await?;
//! let app: Router = Router::new().route("/", get(|| async {})).layer(keys.layer());
//! let ask = async || {
//!     let request = Request::get("/").header("x-api-key", key.expose_secret());
//!     app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap().status()
//! };
//!
//! assert_eq!(ask().await, 200);
//! store.fails();
//! assert_eq!(ask().await, 200); // the key is in the cache
//! clock.advance(Duration::from_secs(10));
//! assert_eq!(ask().await, 503); // the cached key is stale; never 401
//! store.recovers();
//! assert_eq!(ask().await, 200);
//! # Ok(())
//! # }
//! # }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! #     #[cfg(feature = "testing")]
//! #     tests::run().await?;
//! #     Ok(())
//! # }
//! ```
//!
//! The time limit of a store that hangs uses the clock, too: advance a [`ManualClock`] by
//! [`Cache::store_time_limit`] in another task while the request waits.
//!
//! # Addresses
//!
//! A request in a test has no connection. For allow-lists and limits by address, add a
//! [`PeerAddr`]:
//!
//! ```
//! use axum::body::Body;
//! use axum::http::Request;
//! use tower_api_key::http::PeerAddr;
//!
//! let request = Request::get("/")
//!     .extension(PeerAddr(([192, 0, 2, 7], 50_000).into()))
//!     .body(Body::empty());
//! ```
//!
//! # Keys in tests
//!
//! - Issue keys in the test instead of writing keys into the source, since secret scanners report
//!   keys in repositories.
//! - Tests against a deployed service read a key of the environment `test` from an environment
//!   variable, as in the chapter [`key_holders`]. By default, a layer accepts only `live`; set
//!   [`ApiKeyLayer::environments`] for the deployment.
//!
//! # Custom stores and limiters
//!
//! The feature `conformance` has suites for implementations of [`KeyStore`], [`ManagedKeyStore`],
//! [`ChangeFeed`] and [`RateLimiter`]. The chapter [`own_table`] contains an example.
//!
//! [`ApiKeyLayer::environments`]: crate::ApiKeyLayer::environments
//! [`ApiKeys`]: crate::ApiKeys
//! [`ApiKeys::verify`]: crate::ApiKeys::verify
//! [`Cache::store_time_limit`]: crate::Cache::store_time_limit
//! [`Caller::charge`]: crate::Caller::charge
//! [`ChangeFeed`]: crate::store::ChangeFeed
//! [`KeyStore`]: crate::KeyStore
//! [`ManagedKeyStore`]: crate::ManagedKeyStore
//! [`ManualClock`]: crate::clock::ManualClock
//! [`MemoryStore`]: crate::MemoryStore
//! [`PeerAddr`]: crate::http::PeerAddr
//! [worker]: crate::ApiKeys::worker
//! [`RateLimiter`]: crate::limit::RateLimiter
//! [`key_holders`]: crate::guide::key_holders
//! [`own_table`]: crate::guide::own_table
