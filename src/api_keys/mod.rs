//! The composition root: what an application holds.

mod builder;
mod follow;
#[cfg(feature = "testing")]
pub mod testing;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::backend::memory::store::MemoryStore;
use crate::http::caller::Caller;
use crate::http::rejection::Rejection;
use crate::http::render::rejection::Rendered;
use crate::key::digest::KeyId;
use crate::key::formats::KeyFormats;
use crate::key::lifecycle::Lifecycle;
use crate::key::record::KeyRecord;
use crate::keyring::Keyring;
use crate::limit::rule::LimitsError;
use crate::limit::rules::Limits;
use crate::manage::Manager;
use crate::manage::change::{ResumeKey, RevokeKey, SuspendKey};
use crate::manage::issue::IssueKey;
use crate::middleware::config::Config;
use crate::middleware::gate::Gate;
use crate::middleware::layer::ApiKeyLayer;
use crate::store::{
    DynManagedKeyStore, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging, StoreError,
    TrailQuery, TrailRecord,
};
pub use builder::{ApiKeysBuilder, BuildError};
pub use worker::{Health, Worker, WorkerHealth};

/// The API keys of an application: the layers that ask for them, and the calls that manage them.
///
/// One `ApiKeys` stands for one set of keys. Clones share everything, so that what one of them
/// revokes, the layers of all refuse.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_api_key::ApiKeys;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let keys = ApiKeys::in_memory();
/// let key = keys.issue("acme").await?;
/// println!("{}", key.expose_secret()); // once: what is kept of it is a hash
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
/// `ApiKeys` without a parameter can change keys; [`ApiKeys::read_only`] builds an
/// `ApiKeys<ReadOnly>`, which only verifies those of a table that is managed elsewhere.
pub struct ApiKeys<A = Managed> {
    keyring: Arc<Keyring>,
    access: A,
}

/// Keys can be issued and changed; see [`ApiKeys`].
#[derive(Debug, Clone)]
pub struct Managed(Arc<dyn DynManagedKeyStore>);

/// Keys can only be verified; see [`ApiKeys::read_only`].
#[derive(Debug, Clone)]
pub struct ReadOnly(());

impl ApiKeys {
    /// Keys in this process's memory, of the formats `sk_live` and `sk_test`.
    pub fn in_memory() -> Self {
        Self::builder(MemoryStore::new()).assemble(KeyFormats::default())
    }

    /// Keys in a store that they can be issued into.
    pub fn builder(store: impl ManagedKeyStore) -> ApiKeysBuilder {
        let store = Arc::new(store);
        ApiKeysBuilder::new(store.clone(), Managed(store))
    }

    /// Begins to issue a key to an account; awaiting it issues.
    pub fn issue(&self, account: impl Into<String>) -> IssueKey {
        IssueKey::new(self.manager(), account.into())
    }

    /// Begins to revoke a key; awaiting it revokes. That cannot be undone.
    ///
    /// A key of a [`StoreChain`](crate::store::StoreChain) that stands in a file or in the environment is not
    /// revoked here: the error is `ChangeError::Store`, of the kind
    /// [`ReadOnly`](crate::store::StoreErrorKind::ReadOnly), and its source says where the key stands.
    ///
    /// Whose key it is, is not looked at: before a customer may revoke one, [`find`](Self::find)
    /// it and compare its account.
    ///
    /// No request whose `call` began after the await returned is let through by this process.
    pub fn revoke(&self, id: KeyId) -> RevokeKey {
        RevokeKey::new(self.manager(), id)
    }

    /// Begins to suspend a key, until it is [resumed](Self::resume); awaiting it suspends.
    pub fn suspend(&self, id: KeyId) -> SuspendKey {
        SuspendKey::new(self.manager(), id)
    }

    /// Begins to lift a suspension; awaiting it lifts.
    pub fn resume(&self, id: KeyId) -> ResumeKey {
        ResumeKey::new(self.manager(), id)
    }

    /// Reads a part of the list of keys.
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
        self.access.0.list(query, paging).await
    }

    /// Reads a part of the trail: what was done to keys, by whom, when and why.
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
    /// assert_eq!(told, ["api_key.issued by service billing", "api_key.revoked by user ops@example.com"]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        self.access.0.trail(query, paging).await
    }

    fn manager(&self) -> Manager {
        Manager::new(Arc::clone(&self.keyring), Arc::clone(&self.access.0))
    }
}

impl ApiKeys<ReadOnly> {
    /// Keys of a store that can only be read, such as an existing table.
    pub fn read_only(store: impl KeyStore) -> ApiKeysBuilder<ReadOnly> {
        ApiKeysBuilder::new(Arc::new(store), ReadOnly(()))
    }
}

impl<A> ApiKeys<A> {
    /// A layer that asks for these keys, with the defaults of [`ApiKeyLayer`].
    pub fn layer(&self) -> ApiKeyLayer {
        ApiKeyLayer::new(self.gate())
    }

    /// Proves a key that did not come in an HTTP request, such as in the first message of a
    /// WebSocket or on a queue: its format, its record, and its status. Environment, networks and
    /// scopes are the application's to look at. It is charged nothing, and
    /// [`Caller::charge`] charges what the application says.
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

    /// Replaces the limits of all layers of these keys, at run time.
    ///
    /// A budget belongs to the name of its limit and to the shape of its quota, so what was used of
    /// limits that stay, or whose quota is raised or lowered, stays used. Requests under way are
    /// charged, and given back, by the limits that they began with.
    ///
    /// This is for changes of a configuration. Former limits stay in memory, some kilobytes each,
    /// unless nothing changes, and there can be 65,535 of them.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Limits, Quota};
    /// # let keys = ApiKeys::in_memory();
    /// let configured = "600/min"; // from a file
    /// keys.set_limits(Limits::new().per_account(configured.parse::<Quota>()?))?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn set_limits(&self, limits: Limits) -> Result<(), LimitsError> {
        limits.validate(&builder::names_of(&self.keyring.subjects))?;
        let limiting = &self.keyring.metering.limiting;
        limiting.rules.replace(limits)?;
        limiting.warn_of_calendar();
        Ok(())
    }

    /// The record of a key, if there is one, as the store has it.
    pub async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.keyring.store.find(id).await
    }

    /// Forgets what is remembered of a key that was changed, created or deleted elsewhere: in the
    /// store itself, or by another process. What is done with this `ApiKeys` or its clones needs no
    /// such call.
    ///
    /// No request whose `call` began after it returned is judged by what was loaded before, unless
    /// the store then answers with a lower [version](KeyRecord::version), or with a copy of its own
    /// that is [older](crate::store::AgedRecord).
    pub fn invalidate(&self, id: &KeyId) {
        self.keyring.cache.changed(id);
    }

    /// Forgets what is remembered of all keys, as [`invalidate`](Self::invalidate) does of one.
    ///
    /// Danger: all keys in use are then looked for in the store at once.
    pub fn invalidate_all(&self) {
        self.keyring.cache.all_changed();
    }

    /// Where a key stands now, by the clock and the warning window that the layers go by.
    pub fn lifecycle(&self, record: &KeyRecord) -> Lifecycle {
        record.lifecycle(self.keyring.now(), self.keyring.warning)
    }

    /// The same keys, without the right to change them: for what should only verify.
    pub fn to_read_only(&self) -> ApiKeys<ReadOnly> {
        ApiKeys {
            keyring: Arc::clone(&self.keyring),
            access: ReadOnly(()),
        }
    }

    /// The current time, by the clock that keys are judged by.
    pub fn now(&self) -> SystemTime {
        self.keyring.now()
    }
}

impl<A> ApiKeys<A> {
    /// Creates the worker for all background work: see [`Worker`] for what is less prompt without
    /// it.
    pub fn worker(&self) -> Worker {
        Worker::new(Arc::clone(&self.keyring))
    }

    /// Tells how it stands with this `ApiKeys`, for a health check.
    ///
    /// ```
    /// # use tower_api_key::manage::WorkerHealth;
    /// # use tower_api_key::ApiKeys;
    /// let keys = ApiKeys::in_memory();
    /// assert_eq!(keys.health().worker, WorkerHealth::NotStarted);
    /// ```
    pub fn health(&self) -> Health {
        Health::of(&self.keyring)
    }

    fn gate(&self) -> Gate {
        Gate {
            keyring: Arc::clone(&self.keyring),
            config: Config::default(),
            rendered: Rendered::default(),
        }
    }
}

impl<A: Clone> Clone for ApiKeys<A> {
    fn clone(&self) -> Self {
        Self {
            keyring: Arc::clone(&self.keyring),
            access: self.access.clone(),
        }
    }
}

impl<A> fmt::Debug for ApiKeys<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ApiKeys").field(&self.keyring).finish()
    }
}
