//! A guide, from a whole program to its operation in production.
//!
//! # A whole program
//!
//! The service below has three endpoints that require a key, and one that is open to everybody.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use axum::routing::{get, post};
//! use axum::{Extension, Router};
//! use tower_api_key::key::KeyFormat;
//! use tower_api_key::{
//!     ApiKeys, Caller, Environment, Limits, MemoryStore, Quota, RequireScope, Scope,
//! };
//!
//! const REPORTS_READ: Scope = Scope::from_static("reports:read");
//! const REPORTS_WRITE: Scope = Scope::from_static("reports:write");
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let keys = ApiKeys::builder(MemoryStore::new())
//!         .formats([KeyFormat::new("acme_live", Environment::LIVE)?])
//!         .limits(Limits::new().per_key(Quota::per_minute(60)))
//!         .build()?;
//!
//!     let key = keys
//!         .issue("globex")
//!         .name("nightly export")
//!         .scopes([REPORTS_READ])
//!         .expires_in(Duration::from_secs(90 * 86_400))
//!         .await?;
//!     println!("{}", key.expose_secret());
//!
//!     let app: Router = Router::new()
//!         .route("/v1/whoami", get(whoami))
//!         .route("/v1/reports", get(read_reports).layer(RequireScope::new(REPORTS_READ)))
//!         .route("/v1/reports", post(write_report).layer(RequireScope::new(REPORTS_WRITE)))
//!         .layer(keys.layer())
//!         .route("/health", get(|| async { "ok" }));
//!
//!     let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
//!     axum::serve(listener, app).await?;
//!     Ok(())
//! }
//!
//! async fn whoami(Extension(caller): Extension<Caller>) -> String {
//!     caller.account().to_owned()
//! }
//!
//! async fn read_reports() -> &'static str {
//!     "2026-10, 2026-11"
//! }
//!
//! async fn write_report(Extension(caller): Extension<Caller>) -> String {
//!     format!("written for {}", caller.account())
//! }
//! ```
//! The program needs axum 0.8 and tokio beside this crate:
//!
//! ```toml
//! [dependencies]
//! axum = "0.8"
//! tokio = { version = "1", features = ["full"] }
//! tower-api-key = { path = "../tower-api-key" }
//! ```
//!
//! With the feature `axum`, a handler takes the caller as `caller: Caller`, without `Extension`.
//! The programs of this guide compile without features, so they write `Extension(caller)`.
//!
//! # Step by step
//!
//! ## Set up
//!
//! [`ApiKeys`] stands for one set of keys: a store, the formats of the keys, and their limits.
//! Clones share everything, so one clone can serve an admin page while another one creates layers.
//!
//! [`KeyFormat`] is the syntax of the keys. Choose a prefix of your own, such as `acme_live`. The
//! default prefix is `sk_live`, which secret scanners take for keys of another company.
//!
//! ## Issue
//!
//! [`ApiKeys::issue`] issues a key to an account, and returns its plaintext:
//!
//! ```text
//! acme_live_EkzOVCVbhws9Y8E26AZOL4H8Dsr9e8JBveig5Goer1U1Jt2Mp
//! ```
//!
//! The secret is 32 random bytes from the operating system. The last six characters are a checksum
//! by which typos are refused without a lookup in the store. The store keeps a record with the
//! SHA-256 of the key, and never the key. Show the plaintext to the owner of the key now, since it
//! cannot be recovered later.
//!
//! A key without scopes is refused by every route that requires a scope, and a key without an
//! expiry works until it is revoked. Give each key the scopes that it needs, and an expiry. The
//! chapter [`issuing`] shows a policy that gives an expiry to all keys.
//!
//! ## Protect
//!
//! [`ApiKeys::layer`] creates an [`ApiKeyLayer`]. In axum, a layer applies to the routes that were
//! added before it: `/v1/whoami` and `/v1/reports` require a key, and `/health` is open.
//!
//! ```text
//! $ curl -i http://127.0.0.1:3000/v1/whoami -H "Authorization: Bearer $KEY"
//! HTTP/1.1 200 OK
//! x-key-status: active
//! x-key-expires-at: 2027-02-25T21:32:57Z
//! x-ratelimit-limit: 60
//! x-ratelimit-remaining: 59
//! x-ratelimit-reset: 1795815238
//!
//! globex
//! ```
//!
//! The layer processes a request in this order:
//!
//! 1. find the one key in the request;
//! 2. check the syntax of the key and its checksum;
//! 3. hash the key with SHA-256;
//! 4. look up the record by the first half of the hash, in the cache or in the store;
//! 5. compare the hash in constant time;
//! 6. derive the status of the key from its record and the clock;
//! 7. check access: environment, kind, network, scopes;
//! 8. charge the limits, all of them or none;
//! 9. remove the key from the request, insert the [`Caller`], and call the service.
//!
//! ## 401: no key, or no valid key
//!
//! ```text
//! $ curl -i http://127.0.0.1:3000/v1/whoami
//! HTTP/1.1 401 Unauthorized
//! content-type: application/json
//! www-authenticate: Bearer realm="api"
//! www-authenticate: ApiKey realm="api"
//! cache-control: no-store
//!
//! {"error":{"code":"missing_api_key","message":"This request needs an API key. Send it as
//! Authorization: Bearer KEY, Authorization: ApiKey KEY or X-API-Key: KEY.","details":{…}}}
//! ```
//!
//! Clients act on `code`, which is stable across releases. A key that does not exist gets
//! `api_key_not_found`, a revoked key `api_key_revoked`, and an expired key `api_key_expired`. The
//! chapter [`errors`] lists all codes.
//!
//! ## 403: a valid key without permission
//!
//! [`RequireScope`] guards a route. The key of the program may read reports, but not write them:
//!
//! ```text
//! $ curl -i http://127.0.0.1:3000/v1/reports -H "Authorization: Bearer $KEY" -X POST
//! HTTP/1.1 403 Forbidden
//! www-authenticate: Bearer realm="api", error="insufficient_scope", …, scope="reports:write"
//! x-key-status: active
//!
//! {"error":{"code":"insufficient_scope","message":"The API key lacks a scope that this request
//! needs.","details":{"required":"all","required_scopes":["reports:write"]}}}
//! ```
//!
//! The response names the scopes that the route requires, and never those that the key holds.
//!
//! ## 429: too many requests
//!
//! The 61st request within a minute is denied. A client that waits as `Retry-After` says is
//! admitted, unless other requests used up the quota meanwhile.
//!
//! ```text
//! HTTP/1.1 429 Too Many Requests
//! retry-after: 42
//! x-ratelimit-limit: 60
//! x-ratelimit-remaining: 0
//! x-ratelimit-reset: 1795815238
//!
//! {"error":{"code":"rate_limit_exceeded","message":"The rate limit \"key_per_minute\" is used up.
//! Try again in 42 s.","details":{…}}}
//! ```
//!
//! ## Revoke
//!
//! When a key leaks, revoke it, or replace it: the chapter [`rotation`] has a runbook. Keep the id
//! of each key, which is safe in logs and databases.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let keys = tower_api_key::ApiKeys::in_memory();
//! # let key = keys.issue("globex").await?;
//! keys.revoke(key.id()).reason("found in a public repository").await?;
//!
//! let rejection = keys.verify(key.expose_secret()).await.unwrap_err();
//! assert_eq!(rejection.code(), "api_key_revoked");
//! # Ok(())
//! # }
//! ```
//!
//! No request that begins after the call returned is admitted by this process, whether the key is
//! cached or not. The chapter [`operating`] describes when other processes follow.
//!
//! # The chapters
//!
//! Read the chapters in this order, or begin with the one that you need:
//!
//! - [`sources`]: choose where keys are read, together with OAuth tokens, and in browsers.
//! - [`stores`]: keep keys in SQLite or PostgreSQL, with migrations, an audit trail and backups.
//! - [`own_table`]: verify keys that are already in a table of yours.
//! - [`issuing`]: issue keys by a policy and once per request, and end or delete old ones.
//! - [`limits`]: limit the use by key, account, address, plan and endpoint.
//! - [`proxies`]: find the client's address behind a proxy, for allow-lists and limits.
//! - [`forward_auth`]: protect services in any language, by nginx, Traefik or Envoy.
//! - [`errors`]: choose the format of refusals, and look up the codes.
//! - [`testing`]: test handlers, whole services, expiry and outages.
//! - [`operating`]: logs, metrics, health, outages, restarts and shutdown.
//! - [`fleet`]: several processes as one, with Redis: what fails when, sizes, proxies, upgrades.
//! - [`usage`]: count requests and units, and report them by key, account and day.
//! - [`webhooks`]: tell the owners of keys what happens to them.
//! - [`rotation`]: rotate keys, update their fields, and act after a leak.
//! - [`scanners`]: find leaked keys in code and logs with secret scanners.
//! - [`leaks`]: keep keys out of logs and errors.
//! - [`wrong_tool`]: decide between an API key, OAuth 2.0, a JWT and mTLS.
//! - [`key_holders`]: advice for those who hold your keys.
//!
//! The program above keeps its keys in memory, so they are lost when the program ends. To keep
//! keys, use a store in SQLite or PostgreSQL, as the chapter [`stores`] shows. The chapter
//! [`own_table`] shows how to verify keys of a table of yours. A few keys can be read from an
//! environment variable or a file with [`StaticStore`].
//!
//! [`ApiKeyLayer`]: crate::ApiKeyLayer
//! [`ApiKeys`]: crate::ApiKeys
//! [`ApiKeys::issue`]: crate::ApiKeys::issue
//! [`ApiKeys::layer`]: crate::ApiKeys::layer
//! [`Caller`]: crate::Caller
//! [`KeyFormat`]: crate::key::KeyFormat
//! [`RequireScope`]: crate::RequireScope
//! [`StaticStore`]: crate::store::StaticStore

pub mod anomalies;
pub mod errors;
pub mod fleet;
pub mod forward_auth;
pub mod issuing;
pub mod key_holders;
pub mod leaks;
pub mod limits;
pub mod operating;
pub mod own_table;
pub mod proxies;
pub mod rotation;
pub mod scanners;
pub mod sources;
pub mod stores;
pub mod testing;
pub mod usage;
pub mod webhooks;
pub mod wrong_tool;
