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
//! let key = keys.issue("acme").scope(REPORTS_READ).await?;
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
//! # Where to begin
//!
//! - [`ApiKeys`] is what an application holds: it makes the layers and manages the keys.
//! - [`ApiKeyLayer`] goes around a service; its setters say what is asked of a request.
//! - [`Caller`] is what a handler gets, [`RequireScope`] what guards a route, [`Rejection`] what a
//!   refusal is.
//! - [`Limits`] are the rules that requests are charged against, [`Quota`] says how much in what
//!   time, and [`RateLimiter`] is the port to where the budgets are kept.
//! - [`KeyStore`] is the port to keys of your own table; [`MemoryStore`] keeps them in memory, and
//!   [`StaticStore`] reads them from the environment or a file, alone or in a [`StoreChain`].
//! - [`KeyFormat`] says how keys are written, and which may stand in a web page
//!   ([`publishable`](KeyFormat::publishable)); [`KeyRecord`] is what is kept of one.
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
//!   allow-lists, matched routes for [`Endpoint`]s, and `OriginalUri` without a key from the query.
//! - `tonic`: [`Rejection`] into `tonic::Status`, and the peer's address.
//! - `serde`: [`KeyRecord`] as a document, without its verifier unless `KeyRecord::expose_parts`
//!   adds it.
//! - `metrics`: an observer that counts decisions and waits by the `metrics` facade.
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
//! `INFO` for each refusal, up to 20 lines a minute, and then a count at `WARN`; `DEBUG` for all of
//! them; `TRACE` for accepted requests.

// From the top: each layer uses those below it. `tests/layering.rs` holds the house to it.
mod api_keys;
mod cache;
#[cfg(feature = "serde")]
mod document;
mod http;
mod key;
mod keyring;
mod limit;
mod manage;
mod middleware;
mod observe;
mod store;
mod util;
// Beside the layers: what stands behind the ports, and what is promised at them.
mod backend;
#[cfg(feature = "conformance")]
pub mod conformance;

pub use crate::http::api_error::ApiError;
pub use crate::http::caller::{Caller, KeyCarrier};
pub use crate::http::client_address::{ClientAddress, PeerAddr, TrustedProxies};
pub use crate::http::credential::source::{InvalidKeyHeader, InvalidKeyScheme, KeySource};
pub use crate::http::rejection::{Exceeded, NotFound, Rejection};
pub use crate::http::render::body::ResponseBody;
pub use crate::http::render::challenge::{InvalidMetadataUrl, InvalidRealm};
pub use crate::http::render::content::ErrorContent;
pub use crate::http::render::facts::CallerFact;
pub use crate::http::render::grpc::GrpcRequests;
pub use crate::http::render::key_headers::InvalidLink;
pub use crate::http::render::rate_limit::RateLimitHeaders;
pub use crate::http::render::rejection::ErrorFormat;
pub use crate::http::request_head::RequestHead;
#[cfg(feature = "testing")]
pub use api_keys::testing;
pub use api_keys::{
    ApiKeys, ApiKeysBuilder, BuildError, Health, Managed, ReadOnly, Worker, WorkerHealth,
};
pub use backend::chain::StoreChain;
pub use backend::fixed::lines::InvalidLine;
pub use backend::fixed::store::{StaticKeysError, StaticStore, StaticStoreReader};
pub use backend::memory::limiter::MemoryLimiter;
pub use backend::memory::store::MemoryStore;
pub use cache::Cache;
#[cfg(feature = "serde")]
pub use document::{ExposedVerifier, InvalidParts, RecordParts};
pub use key::alphabet::Alphabet;
pub use key::containment::{Revocation, Suspension, Throttling};
pub use key::diff::{FieldChange, FieldValue};
pub use key::digest::{InvalidKeyId, KeyDigest, KeyId};
pub use key::environment::{Environment, InvalidEnvironment};
pub use key::format::{GenerateError, KeyFormat, KeyFormatError};
pub use key::kind::KeyKind;
pub use key::lifecycle::{InvalidKeyStatus, KeyStatus, Lifecycle, WarningWindow};
pub use key::network::{AllowedNetworks, InvalidNetwork, Network};
pub use key::plaintext::PlaintextKey;
pub use key::quota::{InvalidQuota, Quota, QuotaShape};
pub use key::record::{KeyRecord, Rotation};
pub use key::scope::{InvalidScope, RequiredScopes, Scope, ScopeSet};
pub use key::text::{InvalidRecord, OptionalText};
pub use key::verifier::{PepperError, PepperId, PepperRing, Verifier};
pub use key::web_origin::{AllowedOrigins, InvalidWebOrigin, WebOrigin};
pub use limit::charge::{Charge, LimitName, REQUESTS, Subject};
pub use limit::endpoint::Endpoint;
pub use limit::limiter::{LimiterError, RateLimiter};
pub use limit::metering::{ChargeError, LimitStanding};
pub use limit::outage::LimiterOutage;
pub use limit::refund::Refund;
pub use limit::rule::{InvalidLimits, Limit};
pub use limit::rules::{Limits, Plan};
pub use limit::verdict::{Standing, Verdict};
pub use manage::change::{ChangeError, ResumeKey, RevokeKey, SuspendKey};
pub use manage::issue::{IssueError, IssueKey, IssuedKey};
pub use middleware::future::ResponseFuture;
pub use middleware::layer::ApiKeyLayer;
pub use middleware::require_scope::{RequireScope, RequireScopeFuture, RequireScopeService};
pub use middleware::service::ApiKeyService;
#[cfg(feature = "metrics")]
pub use observe::metrics::Metrics;
pub use observe::{Answered, Decision, KeyFacts, KeyLookup, Observer, Wait, WaitFor};
pub use store::{
    Action, Actor, ActorKind, AgedRecord, Change, ChangeFeed, ChangeId, ChangedKey, Changes,
    Cursor, Event, FeedError, Floor, Followed, InvalidAction, InvalidActorKind, KeptEvent,
    KeyOrder, KeyQuery, KeyState, KeyStore, KeyUsage, ListedKey, ManagedKeyStore, Origin, Page,
    Paging, Start, Step, StoreError, StoreErrorKind, TrailQuery, TrailRecord, UsageBatch,
    UsagePeriod,
};
pub use util::clock::{Clock, ManualClock, Now, Sleep, SystemClock};
