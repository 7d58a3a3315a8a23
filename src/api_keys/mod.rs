//! The composition root: the handle that an application holds.

mod adopt;
mod announce;
mod builder;
mod deliver;
mod delivery;
mod end_idle;
mod follow;
mod health;
mod record_usage;
#[cfg(feature = "testing")]
pub mod testing;
mod watch;
#[cfg(feature = "webhook")]
mod webhooks;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::backend::memory::store::MemoryStore;
use crate::http::caller::Caller;
use crate::http::rejection::Rejection;
use crate::http::render::error_response::Rendered;
use crate::key::digest::KeyId;
use crate::key::formats::KeyFormats;
use crate::key::lifecycle::Lifecycle;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scanner::ScannerRules;
use crate::limit::limits::Limits;
use crate::limit::rule::LimitsError;
use crate::manage::Manager;
use crate::manage::change::{ResumeKey, RevokeKey, SuspendKey};
use crate::manage::contain::RevokeAll;
use crate::manage::endpoint_error::EndpointError;
use crate::manage::endpoints::Endpoints;
use crate::manage::family::{EndGrace, RevokeFamily};
use crate::manage::import::ImportKeys;
use crate::manage::issue::IssueKey;
use crate::manage::own::RevokeOwn;
use crate::manage::pages::KeyPages;
use crate::manage::policy::IssuePolicy;
use crate::manage::purge::PurgeKeys;
use crate::manage::retire::RetireIdle;
use crate::manage::rotate::RotateKey;
use crate::manage::throttle::{ThrottleKey, UnthrottleKey};
use crate::manage::update::UpdateKey;
use crate::manage::usage::ReadUsage;
use crate::middleware::config::Config;
use crate::middleware::gate::Gate;
use crate::middleware::layer::ApiKeyLayer;
use crate::redact::Redactor;
use crate::shared::Shared;
use crate::store::{
    DynManagedKeyStore, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging, StoreError,
    TrailQuery, TrailRecord,
};
pub use builder::{ApiKeysBuilder, BuildError};
pub use health::{Health, WorkerHealth};
pub use worker::Worker;

/// The API keys of an application: creates layers, and manages keys.
///
/// One `ApiKeys` stands for one set of keys. Clones share all state: if a key is revoked with one
/// clone, the layers of all clones refuse it.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_api_key::ApiKeys;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
/// println!("{}", key.expose_secret()); // only now: the store keeps a hash
///
/// let app: Router = Router::new()
///     .route("/v1/reports", get(|| async { "for callers with a key" }))
///     .layer(keys.layer())
///     .route("/health", get(|| async { "for everybody: added after the layer" }));
///
/// keys.revoke(key.id()).reason("leaked").await?; // from here on, refused
/// # Ok(())
/// # }
/// ```
///
/// `ApiKeys` without a parameter can change keys. [`ApiKeys::read_only`] builds an
/// `ApiKeys<ReadOnly>`, which only verifies keys of a table that is managed elsewhere.
pub struct ApiKeys<A = Managed> {
    shared: Arc<Shared>,
    access: A,
}

/// Marker of an [`ApiKeys`] that can issue and change keys.
#[derive(Debug, Clone)]
pub struct Managed {
    store: Arc<dyn DynManagedKeyStore>,
    policy: Arc<IssuePolicy>,
}

/// Marker of an [`ApiKeys`] that can only verify keys; see [`ApiKeys::read_only`].
#[derive(Debug, Clone)]
pub struct ReadOnly(());

impl ApiKeys {
    /// Creates an `ApiKeys` with keys in this process's memory, in the formats `sk_live` and
    /// `sk_test`.
    pub fn in_memory() -> Self {
        Self::builder(MemoryStore::new()).assemble(KeyFormats::default())
    }

    /// Creates a builder with a store in which keys can be issued and changed.
    pub fn builder(store: impl ManagedKeyStore) -> ApiKeysBuilder {
        let store = Arc::new(store);
        let access = Managed {
            store: store.clone(),
            policy: Arc::default(),
        };
        ApiKeysBuilder::new(store.clone(), access).managed_store(store)
    }

    /// Issues a key to an account when the returned future is awaited.
    pub fn issue(&self, account: impl Into<String>) -> IssueKey {
        IssueKey::new(self.manager(), account.into())
    }

    /// Imports keys that were issued elsewhere, of which the SHA-256 is known, when the returned
    /// future is awaited.
    ///
    /// The keys must be in one of the [formats](ApiKeysBuilder::formats), such as
    /// [`KeyFormat::imported`](crate::key::KeyFormat::imported).
    pub fn import<I>(&self, records: I) -> ImportKeys
    where
        I: IntoIterator<Item = KeyRecord>,
        I::IntoIter: Send + 'static,
    {
        ImportKeys::new(self.manager(), records.into_iter())
    }

    /// Updates fields of a key when the returned future is awaited. `seen` is the record that the
    /// caller has seen: if the key was changed since, nothing is written.
    pub fn update(&self, seen: &KeyRecord) -> UpdateKey {
        UpdateKey::new(self.manager(), seen.clone())
    }

    /// Rotates a key when the returned future is awaited: issues a new one in its place, while the
    /// old one works on for a grace period.
    pub fn rotate(&self, id: KeyId) -> RotateKey {
        RotateKey::new(self.manager(), id)
    }

    /// Ends the grace period of a key that was rotated, when the returned future is awaited.
    pub fn end_grace(&self, id: KeyId) -> EndGrace {
        EndGrace::new(self.manager(), id)
    }

    /// Revokes a key with all its predecessors and successors in one commit, when the returned
    /// future is awaited.
    pub fn revoke_family(&self, id: KeyId) -> RevokeFamily {
        RevokeFamily::new(self.manager(), id)
    }

    /// Revokes many keys when the returned future is awaited: those of an account, with a prefix,
    /// or issued before a time.
    pub fn revoke_all(&self) -> RevokeAll {
        RevokeAll::new(self.manager())
    }

    /// Ends keys that were not used for a time, when the returned future is awaited. The time is at
    /// least a day.
    pub fn retire_idle(&self, idle: Duration) -> RetireIdle {
        RetireIdle::new(self.manager(), idle)
    }

    /// Deletes keys that are revoked or expired for longer than a time, when the returned future is
    /// awaited. Their trail stays.
    pub fn purge(&self, dead_for: Duration) -> PurgeKeys {
        PurgeKeys::new(self.manager(), dead_for)
    }

    /// Revokes a key when the returned future is awaited. This cannot be undone.
    ///
    /// A key of a [`StoreChain`](crate::store::StoreChain) that stands in a file or in the
    /// environment cannot be revoked: the error is `ChangeError::Store` of the kind
    /// [`ReadOnly`](crate::store::StoreErrorKind::ReadOnly), and its source names the place.
    ///
    /// The owner of the key is not checked: before a customer may revoke a key,
    /// [`find`](Self::find) it and compare its account.
    ///
    /// After the future has completed, this process admits no request whose `call` begins later.
    pub fn revoke(&self, id: KeyId) -> RevokeKey {
        RevokeKey::new(self.manager(), id)
    }

    /// Revokes the presented key, whatever its status, when the returned future is awaited. For an
    /// endpoint where holders of keys, or those who find one, revoke it by having it.
    pub fn revoke_own(&self, key: &str) -> RevokeOwn {
        RevokeOwn::new(self.manager(), key)
    }

    /// Suspends a key, until it is [resumed](Self::resume), when the returned future is awaited.
    pub fn suspend(&self, id: KeyId) -> SuspendKey {
        SuspendKey::new(self.manager(), id)
    }

    /// Ends the suspension of a key when the returned future is awaited.
    pub fn resume(&self, id: KeyId) -> ResumeKey {
        ResumeKey::new(self.manager(), id)
    }

    /// Gives a key a quota until a time, in addition to all limits, when the returned future is
    /// awaited. A time that is over throttles nothing, and replaces the throttle before all the same.
    pub fn throttle(&self, id: KeyId, quota: Quota, until: SystemTime) -> ThrottleKey {
        ThrottleKey::new(self.manager(), id, quota, until)
    }

    /// Ends the throttle of a key when the returned future is awaited.
    pub fn unthrottle(&self, id: KeyId) -> UnthrottleKey {
        UnthrottleKey::new(self.manager(), id)
    }

    /// Reads a page of the list of keys.
    ///
    /// ```
    /// # use tower_api_key::store::{KeyQuery, Paging};
    /// # use tower_api_key::ApiKeys;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keys = ApiKeys::in_memory();
    /// keys.issue("acme").name("nightly export").await?;
    ///
    /// let query = KeyQuery::new().with_account("acme".to_owned());
    /// let mut paging = Paging::first(50);
    /// loop {
    ///     let page = keys.list(&query, &paging).await?;
    ///     for key in page.items {
    ///         println!("{} {:?} {:?}", key.record.id(), key.record.name(), key.last_used_at);
    ///     }
    ///     let Some(next) = page.next else { break };
    ///     paging = paging.after(next);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn list(
        &self,
        query: &KeyQuery,
        paging: &Paging,
    ) -> Result<Page<ListedKey>, StoreError> {
        self.access.store.list(query, paging).await
    }

    /// Reads all pages of a list of keys, one after the other.
    pub fn pages(&self, query: KeyQuery) -> KeyPages {
        const KEYS: u32 = 100;
        KeyPages::new(Arc::clone(&self.access.store), query, KEYS)
    }

    /// Finds a key with the times of its first and last use and the address of the last one, as [`list`](Self::list) returns it, if
    /// there is one. A store that records no usage refuses this.
    pub async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        self.access.store.find_listed(id).await
    }

    /// Reads a page of the audit trail: who changed keys, how, when and why.
    ///
    /// ```
    /// # use tower_api_key::store::{Actor, Paging, TrailQuery};
    /// # use tower_api_key::ApiKeys;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keys = ApiKeys::in_memory();
    /// let key = keys.issue("acme").by(Actor::service("billing")).await?;
    /// keys.revoke(key.id()).by(Actor::user("ops@example.com")).reason("leaked").await?;
    ///
    /// let trail = TrailQuery::new().with_key(key.id());
    /// let told: Vec<String> = keys
    ///     .trail(&trail, &Paging::first(50))
    ///     .await?
    ///     .items
    ///     .iter()
    ///     .map(|record| format!("{} by {}", record.action, record.origin.actor))
    ///     .collect();
    /// let issued = "api_key.issued by service billing";
    /// assert_eq!(told, [issued, "api_key.revoked by user ops@example.com"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        self.access.store.trail(query, paging).await
    }

    /// Returns the endpoints of an account, which its events are delivered to: see [`Endpoints`].
    ///
    /// # Errors
    /// If the store has no [outbox](crate::store::Outbox) ([`EndpointError::NoOutbox`]).
    pub fn endpoints(&self, account: impl Into<String>) -> Result<Endpoints, EndpointError> {
        Endpoints::new(&self.shared, &self.access.store, Some(account.into()))
    }

    /// Returns the endpoints of all accounts, and those of operators, which are of no account.
    ///
    /// Danger: a webhook that is registered here gets the events of all accounts, and the secrets of
    /// all webhooks can be read. For operators of the service only; a customer gets
    /// [`endpoints`](Self::endpoints).
    ///
    /// # Errors
    /// If the store has no [outbox](crate::store::Outbox) ([`EndpointError::NoOutbox`]).
    pub fn dangerous_all_endpoints(&self) -> Result<Endpoints, EndpointError> {
        Endpoints::new(&self.shared, &self.access.store, None)
    }

    /// Reads the recorded usage of some days when the returned future is awaited: of today, unless
    /// it is told others.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keys = ApiKeys::in_memory();
    /// let report = keys.usage().of_account("acme").last_days(30).by_lineage().await?;
    /// for row in &report.rows {
    ///     println!("day {}: {} requests", row.period.day(), row.counts.allowed);
    /// }
    /// println!("{:?}", report.total().units.get("requests"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn usage(&self) -> ReadUsage {
        ReadUsage::new(Arc::clone(&self.access.store), self.now())
    }

    fn manager(&self) -> Manager {
        let Managed { store, policy } = &self.access;
        Manager::new(
            Arc::clone(&self.shared),
            Arc::clone(store),
            Arc::clone(policy),
        )
    }
}

impl ApiKeys<ReadOnly> {
    /// Creates a builder with a store that is only read, such as an existing table.
    pub fn read_only(store: impl KeyStore) -> ApiKeysBuilder<ReadOnly> {
        ApiKeysBuilder::new(Arc::new(store), ReadOnly(()))
    }
}

impl<A> ApiKeys<A> {
    /// Creates a layer that requires one of these keys, with the defaults of [`ApiKeyLayer`].
    pub fn layer(&self) -> ApiKeyLayer {
        ApiKeyLayer::new(self.gate())
    }

    /// Creates a redactor of keys in the formats of these keys, and of well-known shapes, for logs
    /// and error texts: `sk_live_…` becomes `sk_live_[REDACTED]`.
    ///
    /// It does not know the headers and query parameters that a layer reads:
    /// [`Redactor::add_name`] adds them.
    pub fn redactor(&self) -> Redactor {
        Redactor::of(self.shared.formats.iter().cloned())
    }

    /// Verifies a key that did not come in an HTTP request, for example in the first message of a
    /// WebSocket or in a queue: its format, its record and its status. The application must check
    /// environment, networks and scopes itself. No limit is charged; the application can charge
    /// with [`Caller::charge`].
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let keys = ApiKeys::in_memory();
    /// let key = keys.issue("acme").await?;
    /// let caller = keys.verify(key.expose_secret()).await?;
    /// assert_eq!(caller.account(), "acme");
    /// assert_eq!(keys.verify("junk").await.unwrap_err().code(), "api_key_not_found");
    /// # Ok(())
    /// # }
    /// ```
    pub async fn verify(&self, key: &str) -> Result<Caller, Rejection> {
        self.gate().verify(key).await
    }

    /// Replaces the limits of all layers of these keys at run time.
    ///
    /// A budget belongs to the name of its limit, the kind of its quota and, for a window, the
    /// length of the window. If a limit stays, or its quota is raised or lowered without a change
    /// of these, its usage is kept; a window of another length starts with a full budget. Requests
    /// in progress are charged and refunded under the limits that they began with.
    ///
    /// Use this for changes of the configuration only. Former limits stay in memory, a few
    /// kilobytes each, and there can be at most 65,535 versions. Setting equal limits has no
    /// effect.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Limits, Quota};
    /// # let keys = ApiKeys::in_memory();
    /// let configured = "600/min"; // from a file
    /// keys.set_limits(Limits::new().per_account(configured.parse::<Quota>()?))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        limits.validate(&builder::subject_names(&self.shared.subjects))?;
        let enforcer = &self.shared.key_services.enforcer;
        enforcer.rules.replace(limits)?;
        enforcer.warn_of_calendar();
        Ok(())
    }

    /// Finds the record of a key in the store, if there is one.
    pub async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.shared.store.find(id).await
    }

    /// Invalidates the cache entry of a key that was changed, created or deleted elsewhere: in the
    /// store itself, or by another process. Changes by this `ApiKeys` or its clones do not need
    /// this.
    ///
    /// After the call, no request whose `call` begins later uses an entry from before, unless the
    /// store then returns a record with a lower [version](KeyRecord::version), or an
    /// [older](crate::store::AgedRecord) copy.
    pub fn invalidate(&self, id: &KeyId) {
        self.shared.cache.outdate(id);
    }

    /// Invalidates the cache entries of all keys, as [`invalidate`](Self::invalidate) does for one
    /// key.
    ///
    /// Danger: all keys in use are then loaded from the store at once.
    pub fn invalidate_all(&self) {
        self.shared.cache.outdate_all();
    }

    /// Returns the current status of a key, by the clock and the warning window of the layers.
    pub fn lifecycle(&self, record: &KeyRecord) -> Lifecycle {
        record.lifecycle(self.shared.now(), self.shared.warning)
    }

    /// Returns the rules by which secret scanners find the keys of all formats, adopted ones
    /// included.
    ///
    /// ```
    /// # use tower_api_key::ApiKeys;
    /// let rules = ApiKeys::in_memory().scanner_rules();
    /// assert!(rules.trufflehog().contains("api-key-sk-live"));
    /// ```
    pub fn scanner_rules(&self) -> ScannerRules {
        ScannerRules::new(self.shared.formats.iter())
    }

    /// Returns the same keys without the right to change them, for code that should only verify.
    pub fn to_read_only(&self) -> ApiKeys<ReadOnly> {
        ApiKeys {
            shared: Arc::clone(&self.shared),
            access: ReadOnly(()),
        }
    }

    /// Returns the current time, by the clock that decides about keys.
    pub fn now(&self) -> SystemTime {
        self.shared.now()
    }
}

impl<A> ApiKeys<A> {
    /// Creates the worker for all background work: see [`Worker`] for the consequences of running
    /// without it.
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.shared))
    }

    /// Returns the state of this `ApiKeys`, for a health check.
    ///
    /// ```
    /// # use tower_api_key::manage::WorkerHealth;
    /// # use tower_api_key::ApiKeys;
    /// let keys = ApiKeys::in_memory();
    /// assert_eq!(keys.health().worker, WorkerHealth::NotStarted);
    /// ```
    pub fn health(&self) -> Health {
        Health::of(&self.shared)
    }

    fn gate(&self) -> Gate {
        Gate {
            shared: Arc::clone(&self.shared),
            config: Config::default(),
            rendered: Rendered::default(),
        }
    }
}

impl<A: Clone> Clone for ApiKeys<A> {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            access: self.access.clone(),
        }
    }
}

impl<A> fmt::Debug for ApiKeys<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKeys").field(&self.shared).finish()
    }
}
