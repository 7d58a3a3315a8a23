//! API keys for any tower service: axum, hyper, tonic.
//!
//! A [`Layer`](tower_layer::Layer) that finds the API key in a request, proves it, decides where it
//! stands in its life, and says so to the caller; and what is needed around it to issue and revoke
//! keys. A key identifies an **application**, never a person.
//!
//! ```
//! use axum::{Extension, Router, routing::get};
//! use tower_api_key::{ApiKeys, Caller, RequireScope, Scope};
//!
//! const REPORTS_READ: Scope = Scope::from_static("reports:read");
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let keys = ApiKeys::in_memory();
//! let key = keys.issue("acme").scopes([REPORTS_READ]).await?;
//! println!("{}", key.expose_secret()); // once: what is kept is a hash
//!
//! async fn whoami(Extension(caller): Extension<Caller>) -> String {
//!     caller.account().to_owned() // with the feature `axum`, Caller is an extractor itself
//! }
//!
//! let app: Router = Router::new()
//!     .route("/v1/whoami", get(whoami))
//!     .route("/v1/reports", get(|| async {}).layer(RequireScope::new(REPORTS_READ)))
//!     .layer(keys.layer())
//!     .route("/health", get(|| async { "ok" })); // added after the layer: open
//! # Ok(())
//! # }
//! ```
//!
//! # Where to find things
//!
//! The [`guide`] leads through a whole program, and says when a key is the wrong tool. Its chapter
//! [`guide::issuing`] has the policy of issuing, and [`guide::rotation`] a schedule for new keys, and
//! runbooks for leaks. At the root are the
//! names that most programs use:
//!
//! - [`ApiKeys`] is what an application holds. It makes the layers and manages the keys: issues,
//!   imports, updates, rotates, suspends and revokes them, and finds their last uses.
//! - [`ApiKeyLayer`] goes around a service. Its setters say what a request needs.
//! - [`Caller`] is what a handler gets, [`RequireScope`] guards a route, and [`Rejection`] says why
//!   a request was denied.
//! - [`Limits`] and [`Quota`] bound how much a caller may use.
//! - [`KeyStore`] is the port to a table of your own; [`MemoryStore`] keeps keys in memory. The
//!   stores in SQLite and PostgreSQL are in [`store`]: see the chapter [`guide::stores`].
//!
//! Everything else is in the module of its subject:
//!
//! | module | holds |
//! |---|---|
//! | [`key`] | formats, digests, peppers, scopes, networks, the status of a key |
//! | [`limit`] | limits, plans, endpoints, the port to a rate limiter |
//! | [`store`] | stores in SQLite, PostgreSQL and files; the ports to stores and feeds |
//! | [`http`] | client addresses, error formats, headers, the service and its futures |
//! | [`manage`] | issuing, importing, adopting, rotating, updating and revoking keys, the worker |
//! | [`observe`] | the port to observers, metrics |
//! | [`redact`] | redaction of keys in logs, errors and JSON |
//! | [`clock`] | the port to time, and a clock for tests |
//! | `webhook` | signed webhooks, and the client that sends them |
//! | `testing`, `conformance` | for tests of an application, and of a port's implementation |
//!
//! Setters named `add_…`, `per_…`, `global` and `require…` add to what is there. Every other setter
//! replaces its value.
//!
//! # What goes where
//!
//! From the outside in: CORS (so that refusals carry its headers), then [`ApiKeyLayer`], then what
//! logs requests (the key is no longer in them), [`RequireScope`], and your service. For browsers,
//! the CORS layer allows the request headers that carry keys (`Authorization`, `X-API-Key`; a `*`
//! does not cover `Authorization`), and exposes those that speak of them: `WWW-Authenticate`,
//! `Retry-After`, `X-Key-Status`, `X-Key-Expires-At`, `X-Key-Expired-At`, `Deprecation`, `Sunset`,
//! `Link`, and those of the limits: `X-RateLimit-Limit`, `X-RateLimit-Remaining`,
//! `X-RateLimit-Reset`, `RateLimit`, `RateLimit-Policy`.
//!
//! With axum, `Router::layer` also answers unknown paths with 401, and `Router::route_layer` leaves
//! them 404. A strict layer may stand inside of an [optional](ApiKeyLayer::optional) one.
//!
//! # Features
//!
//! - `axum`: [`Caller`] as an extractor, [`Rejection`] as a response, the peer's address for
//!   allow-lists, matched routes for [`Endpoint`](limit::Endpoint)s, and `OriginalUri` without a
//!   key from the query.
//! - `tonic`: [`Rejection`] into `tonic::Status`, and the peer's address.
//! - `sqlite`: `store::SqliteStore`, keys in a file. SQLite is compiled in. Needs the runtime of
//!   tokio, and Rust 1.94.
//! - `postgres`: `store::PostgresStore`, keys in PostgreSQL over the application's own pool. Needs
//!   the runtime of tokio, and Rust 1.94. Enables no TLS feature of `sqlx`.
//! - `redis`: for a fleet, `limit::RedisLimiter`, budgets that all processes share, and
//!   `store::RedisFleet`, copies of records and the news of changes. Needs the runtime of tokio.
//!   Enables `serde`.
//! - `serde`: [`KeyRecord`] as a document, without its verifier unless `KeyRecord::expose_parts`
//!   adds it.
//! - `metrics`: an observer that counts decisions and waits by the `metrics` facade.
//! - `webhook`: the module `webhook`, signed webhooks and the client that sends them. Needs the
//!   runtime of tokio.
//! - `testing`: callers for tests of handlers, and a store that fails, hangs or lags behind. The
//!   module `testing` is a page on testing.
//! - `conformance`: suites in which implementors of the ports find out whether they keep their
//!   promises. For tests.
//!
//! # Logs
//!
//! Under the target `tower_api_key`, with key ids, accounts and codes, never with keys: `ERROR` for
//! trouble of ours (the store failed, the application is wired wrongly), `WARN` for what owners and
//! operators should act on (deprecated keys in use, at most once an hour and key; keys in URLs),
//! `INFO` for the first 20 refusals in a minute, `DEBUG` for each further one, with their number at
//! `WARN` when the minute is over; `TRACE` for accepted requests.

#![cfg_attr(docsrs, feature(doc_cfg))]

// From the top: each layer uses those below it. `tests/layering.rs` holds the house to it.
pub mod anomaly;
mod api_keys;
mod cache;
#[cfg(feature = "serde")]
mod document;
pub mod events;
pub mod guide;
pub mod http;
pub mod key;
pub mod limit;
pub mod manage;
mod middleware;
pub mod observe;
pub mod redact;
mod shared;
pub mod store;
pub mod usage;
mod util;
#[cfg(feature = "webhook")]
#[cfg_attr(docsrs, doc(cfg(feature = "webhook")))]
pub mod webhook;
// Beside the layers: what stands behind the ports, and what is promised at them.
mod backend;
#[cfg(feature = "conformance")]
pub mod conformance;

/// Clocks: the port, the system's clock, and one for tests.
pub mod clock {
    pub use crate::util::clock::{Clock, ManualClock, Now, Sleep, SystemClock};
}

pub use crate::http::caller::Caller;
pub use crate::http::credential::source::KeySource;
pub use crate::http::rejection::Rejection;
#[cfg(feature = "testing")]
pub use api_keys::testing;
pub use api_keys::{ApiKeys, ApiKeysBuilder, BuildError};
pub use backend::memory::store::MemoryStore;
pub use cache::Cache;
pub use key::digest::KeyId;
pub use key::environment::Environment;
pub use key::plaintext::PlaintextKey;
pub use key::quota::Quota;
pub use key::record::KeyRecord;
pub use key::scope::Scope;
pub use limit::limits::Limits;
pub use manage::issue::IssuedKey;
pub use middleware::layer::ApiKeyLayer;
pub use middleware::require_scope::RequireScope;
pub use store::{KeyStore, ManagedKeyStore};
