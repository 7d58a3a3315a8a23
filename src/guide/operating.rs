//! Logs, metrics, health, outages, restarts and shutdown.
//!
//! # Startup and shutdown
//!
//! ```no_run
//! use axum::http::StatusCode;
//! use axum::{Json, Router, routing::get};
//! use tower_api_key::ApiKeys;
//! use tower_api_key::manage::WorkerHealth;
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     tracing_subscriber::fmt().with_env_filter("info,tower_api_key=info").init();
//!
//!     let keys = ApiKeys::in_memory();
//!     let (stop_worker, stopped) = tokio::sync::oneshot::channel::<()>();
//!     let worker = tokio::spawn(keys.worker().until(async {
//!         let _ = stopped.await;
//!     }));
//!
//!     let health = {
//!         let keys = keys.clone();
//!         get(async move || match keys.health().worker {
//!             WorkerHealth::Running => (StatusCode::OK, Json("the worker runs")),
//!             _ => (StatusCode::INTERNAL_SERVER_ERROR, Json("the worker does not run")),
//!         })
//!     };
//!     let app = Router::new()
//!         .route("/v1/reports", get(|| async { "reports" }))
//!         .layer(keys.layer())
//!         .route("/health/worker", health)
//!         .route("/health", get(|| async { "ok" }));
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).with_graceful_shutdown(stop_signal()).await?;
//!
//!     drop(stop_worker); // after the last response
//!     worker.await?;
//!     Ok(())
//! }
//!
//! async fn stop_signal() {
//!     let _ = tokio::signal::ctrl_c().await; // on Unix, wait for SIGTERM as well
//! }
//! ```
//!
//! # The worker
//!
//! [`ApiKeys::worker`] is one future for all background work; the library itself spawns no task.
//! Without the worker, all decisions are correct, but less prompt:
//!
//! - The worker follows the [feed](crate::KeyStore::feed) of changes, which the stores in SQLite
//!   and PostgreSQL have. Without the worker, a feed has no effect, and changes by other processes
//!   are known after [`Cache::max_staleness`].
//! - The worker records [usage](super::usage), and the first and last uses of keys. Without the
//!   worker, nothing is counted.
//! - The worker announces expiries and limits that are nearly used up, and delivers
//!   [events](super::webhooks) to sinks and webhooks.
//! - The worker ends idle keys, if the [policy](crate::manage::IssuePolicy::end_when_idle) says so.
//! - The worker drops the values that observers keep for keys that are no longer used, and for all
//!   keys when the worker is stopped. Therefore stop the worker after the last request, and wait
//!   for it.
//!
//! # Health
//!
//! [`ApiKeys::health`] returns the state of the worker and of the feed, without a call to the store
//! or the limiter. If the worker is [`WorkerHealth::Late`], raise an alert, but do not restart the
//! process, since requests are still served. In the program above, the orchestrator checks
//! `/health`, and the monitoring checks `/health/worker`.
//!
//! A liveness probe should not depend on the store: during an outage, a restart would empty the
//! cache that still serves requests.
//!
//! # Logs
//!
//! All log lines are `tracing` events with the target `tower_api_key`. Events contain key ids,
//! accounts and codes, and never a key.
//!
//! | level | message | action |
//! |---|---|---|
//! | `ERROR` | `the key store failed; requests were answered with 503` | fix the store |
//! | `ERROR` | `the rate limiter failed; LimiterOutage decides about requests` | fix the limiter |
//! | `ERROR` | `a key's record cannot be verified`, `… does not verify it` | check the peppers |
//! | `ERROR` | `no ApiKeyLayer stands before this` | fix the order of the layers |
//! | `ERROR` | `no client address is known, …` | see the chapter [`proxies`] |
//! | `WARN` | `a deprecated API key is in use; its owner should replace it` | see [`rotation`] |
//! | `WARN` | `an API key was sent in the URL, …` | contact the owner, and replace the key |
//! | `WARN` | `a peer that is no trusted proxy sends …` | see the chapter [`proxies`] |
//! | `WARN` | `too many keys are being looked up at a time; …` | check for junk, or a slow store |
//! | `WARN` | `the feed of changes failed; …` | fix the feed |
//! | `WARN` | `the feed of changes cannot tell …` each second | see [`stores`], section Restore |
//! | `WARN` | `LISTEN does not work here; …` | see [`stores`], section Several processes |
//! | `WARN` | `usage could not be recorded; …` | fix the store |
//! | `WARN` | `the store does not record usage` | add the rights, or the method `record_usage` |
//! | `WARN` | `more keys were in use than usage is kept of …` | see [`usage`](super::usage), section How exact it is |
//! | `WARN` | `events could not be announced; …`, `events could not be delivered; …` | fix the store |
//! | `WARN` | `the delivery of an event is given up` | tell the owner of the endpoint; replay it |
//! | `ERROR` | `a key is probably in the wrong hands` | see [`anomalies`](super::anomalies) |
//! | `WARN` | `a key is used in a very unusual way` | see [`anomalies`](super::anomalies) |
//! | `WARN` | `anomalies cannot be looked for at present; …` | fix the store |
//! | `WARN` | `the store keeps no profiles of keys, …` | add the rights, or the method `save_profiles` |
//! | `WARN` | `the profile of a key is damaged; …` | none; it is learned anew |
//! | `WARN` | `keys name a plan that there is not; …` | add the plan |
//! | `INFO` | `a key is used in an unusual way` | see [`anomalies`](super::anomalies) |
//! | `INFO` | `request refused`, up to 20 a minute, then a `WARN` | none |
//! | `DEBUG` | `request refused`, beyond 20 a minute | none |
//! | `TRACE` | `API key accepted` | none |
//!
//! Failures of the store or the limiter are logged at most once a second, with their number, and
//! the recovery is logged at `INFO`. A deprecated key is logged at most once an hour.
//!
//! The event `request refused` has the fields `code`, `reason`, `client`, `method`, `route`,
//! `key_id`, `account`, `plan` and `limit`, as far as they are known. The field `reason`
//! distinguishes malformed and unknown keys, which the response does not. [`log_without_addresses`]
//! omits `client`, if addresses must not be logged.
//!
//! Place a layer that logs requests inside the key layer, where the key has been removed from the
//! request.
//!
//! # Metrics
//!
//! With the feature `metrics`, the observer `observe::Metrics` records metrics with the `metrics`
//! facade, for Prometheus or any other exporter:
//!
//! ```
//! # #[cfg(feature = "metrics")]
//! # fn set_up() -> Result<(), tower_api_key::BuildError> {
//! use tower_api_key::observe::Metrics;
//! use tower_api_key::{ApiKeys, MemoryStore};
//!
//! // Install the exporter first.
//! let keys = ApiKeys::builder(MemoryStore::new()).add_observer(Metrics::new()).build()?;
//! # Ok(())
//! # }
//! ```
//!
//! For other metrics, implement [`Observer`]: `decided` is called for each decision of the layer,
//! `waited` for each wait for the store or the limiter, and `answered` for each response to a
//! request that was admitted with a key. Refusals by [`RequireScope`] and by handlers are no
//! decisions of the layer. `observe::Metrics` counts these refusals in `api_key_answers_total`.
//!
//! # Alerts
//!
//! In the table, `code` is a label of the metric `api_key_requests_total`:
//!
//! | signal | possible cause |
//! |---|---|
//! | any `ERROR` line of the target `tower_api_key` | an outage or a bug of your service |
//! | `code="service_unavailable"` rises | the store or the limiter is down |
//! | `api_key_store_seconds` rises towards 2 seconds | a slow store, with 503 to follow |
//! | `api_key_lookups_total{result="miss"}` rises relative to `hit` | a small cache, or junk |
//! | `code="api_key_not_found"` rises | guesses, or a caller with a wrong key |
//! | `code="api_key_expired"` or `"api_key_revoked"` rises | a caller missed a rotation |
//! | `code="rate_limit_exceeded"` rises; the log names the account | a loop, or a low quota |
//! | `code="secret_key_in_browser"`, or a key in a URL | a key has leaked |
//! | [`ApiKeys::health`] is not `Running` | revocations by other processes are delayed |
//!
//! Prevent refusals of expired keys: list the keys that expire soon with [`KeyOrder::EndingSoon`],
//! and contact their owners. The chapter [`rotation`] has a schedule.
//!
//! # Outages of the store
//!
//! - Keys that were loaded within the last 10 seconds ([`Cache::max_staleness`]) still work.
//! - Requests with other keys get 503 with `Retry-After`: at once if the store fails, and after 2
//!   seconds if the store hangs ([`Cache::store_time_limit`]).
//! - Keys can be neither issued nor revoked.
//! - The uses of keys are noted in memory, and recorded after the outage.
//!
//! Two settings trade security for availability. With a longer `max_staleness`, a key that another
//! process revoked is admitted for longer. With [`Cache::dangerous_serve_stale`], stale keys are
//! admitted only while the store is unavailable:
//!
//! ```
//! use std::time::Duration;
//!
//! use tower_api_key::{ApiKeys, Cache, MemoryStore};
//!
//! let cache = Cache::new().dangerous_serve_stale(Duration::from_secs(15 * 60));
//! let keys = ApiKeys::builder(MemoryStore::new()).cache(cache).build()?;
//! # Ok::<(), tower_api_key::BuildError>(())
//! ```
//!
//! The chapter [`limits`] describes outages of the limiter.
//!
//! # Leaked keys
//!
//! Revoke a leaked key first, and investigate later. The id is computed from the text of the key:
//!
//! ```
//! use tower_api_key::ApiKeys;
//! use tower_api_key::key::KeyDigest;
//! use tower_api_key::store::{Actor, Paging, TrailQuery};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! # let issued = keys.issue("globex").await?;
//! # let found = issued.expose_secret();
//! let id = KeyDigest::of(found).id(); // `found` is the leaked key
//! let record = keys
//!     .revoke(id)
//!     .by(Actor::user("ops@example.com"))
//!     .reason("found in a public repository")
//!     .await?;
//! println!("revoked a key of {}", record.account()); // issue a new key
//!
//! let trail = keys.trail(&TrailQuery::new().with_key(id), &Paging::first(50)).await?;
//! assert_eq!(trail.items.last().unwrap().action.to_string(), "api_key.revoked");
//! # Ok(())
//! # }
//! ```
//!
//! After the call, this process refuses the key. All other processes refuse the key within
//! [`Cache::max_staleness`], or as soon as their feed reports the change. Requests that were
//! admitted before, including streams and WebSockets, are not interrupted.
//!
//! If a leak is uncertain, use [`ApiKeys::suspend`], which [`ApiKeys::resume`] reverts.
//!
//! The chapter [`rotation`] has runbooks for a leaked key, table and pepper.
//!
//! # Restarts
//!
//! | state in memory | after a restart |
//! |---|---|
//! | keys, trail and events of a [`MemoryStore`] | lost |
//! | the cache of keys | empty: each key is loaded by its first request |
//! | budgets of a [`MemoryLimiter`] | reset, even those of a month |
//! | failed attempts by address | reset |
//! | limits of [`ApiKeys::set_limits`] | those of the builder |
//! | recent changes of keys | lost, so a lagging replica is trusted |
//! | usage since the last record, 37 seconds by default | recorded if the worker is stopped, and lost after a crash |
//!
//! After a restart, each key in use causes a lookup. At most 768 lookups of keys that the process
//! has not found before run at a time (three quarters of [`Cache::max_loads`]), and requests with
//! other keys get 503 until a lookup ends. Restart the processes of a fleet one after another.
//!
//! The chapter [`stores`] describes migrations, backups, and the restart after a restore.
//!
//! # Configuration changes
//!
//! - Limits: call [`ApiKeys::set_limits`] in each process. Used units stay used.
//! - Keys in a file: call `StaticStore::reload`, and [`ApiKeys::invalidate`] for each returned id.
//! - Plan, scopes, networks and expiry of a key: call [`ApiKeys::update`]. In a store of this
//!   library, an edited row is a fault of its audit trail. In a table of yours, give the row the
//!   next higher [version], and call [`ApiKeys::invalidate`].
//!
//! Formats, sources, peppers and error formats require a restart. Keep old formats, retired peppers
//! and retired secrets of a [`ChecksumRing`](crate::key::ChecksumRing) in the configuration for as
//! long as their keys are in use.
//!
//! # The clock
//!
//! The validity of keys depends on the wall clock of the machine: synchronize the clock with NTP.
//! Windows and rates use the monotonic clock, which is never adjusted.
//!
//! [`ApiKeys::health`]: crate::ApiKeys::health
//! [`ApiKeys::invalidate`]: crate::ApiKeys::invalidate
//! [`ApiKeys::resume`]: crate::ApiKeys::resume
//! [`ApiKeys::set_limits`]: crate::ApiKeys::set_limits
//! [`ApiKeys::suspend`]: crate::ApiKeys::suspend
//! [`ApiKeys::update`]: crate::ApiKeys::update
//! [`ApiKeys::worker`]: crate::ApiKeys::worker
//! [`Cache::dangerous_serve_stale`]: crate::Cache::dangerous_serve_stale
//! [`Cache::max_loads`]: crate::Cache::max_loads
//! [`Cache::max_staleness`]: crate::Cache::max_staleness
//! [`Cache::store_time_limit`]: crate::Cache::store_time_limit
//! [`KeyOrder::EndingSoon`]: crate::store::KeyOrder::EndingSoon
//! [`MemoryLimiter`]: crate::limit::MemoryLimiter
//! [`MemoryStore`]: crate::MemoryStore
//! [`Observer`]: crate::observe::Observer
//! [`RequireScope`]: crate::RequireScope
//! [`WorkerHealth::Late`]: crate::manage::WorkerHealth::Late
//! [`limits`]: crate::guide::limits
//! [`stores`]: crate::guide::stores
//! [version]: crate::KeyRecord::version
//! [`log_without_addresses`]: crate::ApiKeysBuilder::log_without_addresses
//! [`proxies`]: crate::guide::proxies
//! [`rotation`]: crate::guide::rotation
