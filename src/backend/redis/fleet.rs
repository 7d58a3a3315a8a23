//! The store of a fleet: a store, with copies of its records and its changes in Redis.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use redis::IntoConnectionInfo;
use tokio::runtime::Handle;

use super::feed_pair::FeedPair;
use super::script::GivenClock;
use super::shared_cache::{Found, SharedCache};
use super::stream::Announcer;
use super::stream_feed::StreamFeed;
use super::teller::{Teller, Untold};
use super::url::{Named, RedisUrlError};
use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::key::verifier::PepperRing;
use crate::store::{
    AgedRecord, BoxedFeed, BoxedOutbox, Change, ChangedKey, Floor, Followed, IssueRequest,
    KeptEvent, KeptProfile, KeyQuery, KeyStore, ListedKey, ManagedKeyStore, Page, Paging, Start,
    Step, StoreError, StoreErrorKind, TrailQuery, TrailRecord, UsageBatch, UsageQuery, UsageRow,
};
#[cfg(feature = "testing")]
use crate::util::clock::Clock;

/// The time limit of what is told to the fleet.
const TELL_LIMIT: Duration = Duration::from_millis(250);

/// A store whose records and changes a fleet shares through Redis.
///
/// It goes around the store of the records, in every process:
///
/// - **A shared cache.** A record that one process has loaded is read from Redis by the others, so
///   that the database is asked once for the whole fleet, not once for each process. The age of a
///   copy counts against [`Cache::max_staleness`](crate::Cache::max_staleness), in Redis and in the
///   processes together. A change fences off the copies of older versions, before the call that
///   made it returns.
/// - **A feed of changes.** Each change is announced in a stream, which the
///   [worker](crate::ApiKeys::worker) of every process follows: a revocation reaches all of them in
///   milliseconds. If the store has a feed of its own, both are followed.
///
/// Redis 6.2 or later, or Valkey, as one server or a cluster. The chapter [`guide::fleet`] has its
/// settings, and what happens when something fails.
///
/// # If Redis does not answer
///
/// Records are read from the store. A copy that is not read in 20 ms is not waited for, and after
/// five of these Redis is not asked until it answers again. Changes are made, and told to the fleet
/// when Redis is back; until then, and if Redis loses what it was told, the other processes learn
/// of a change after `max_staleness` at the latest. No outage or late call of Redis makes a revoked
/// key live for longer than that. Danger: if the clock of Redis is set back, or that of a new master
/// is behind, a copy may serve longer by as much.
///
/// # Changes past this store
///
/// A change that is made in the database by other means is unknown to Redis. Call
/// [`announce`](Self::announce) after it, or the fleet learns of it after `max_staleness`.
/// [`ApiKeys::invalidate`](crate::ApiKeys::invalidate) alone would load the old copy again.
///
/// # Who can write to Redis
///
/// Danger: whoever can write to Redis can mint keys and scopes, unless the copies are
/// [sealed](Self::seal). They can always make keys be loaded again; and by announcing a version that
/// a key does not have, they can make it be refused, and not be changed, until the processes restart
/// or the key reaches that version. A copy has the verifier of its key, not the key.
///
/// [`guide::fleet`]: crate::guide::fleet
///
/// ```no_run
/// use tower_api_key::store::RedisFleet;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// # async fn serve() {}
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let database = MemoryStore::new();
/// let store = RedisFleet::connect("redis://10.0.0.7/", database)?;
/// let keys = ApiKeys::builder(store).build()?;
/// let worker = tokio::spawn(keys.worker().into_future());
/// # Ok(())
/// # }
/// ```
pub struct RedisFleet<S> {
    store: Arc<S>,
    redis: Named,
    settings: Settings,
    parts: OnceLock<Parts>,
}

#[derive(Debug)]
struct Settings {
    prefix: String,
    cache_time_limit: Duration,
    copy_life: Duration,
    seal: Option<PepperRing>,
    has_cache: bool,
    has_feed: bool,
    /// For tests: the clock that stands for that of Redis.
    clock: Option<GivenClock>,
}

/// What the settings make.
#[derive(Debug)]
struct Parts {
    cache: Option<Arc<SharedCache>>,
    announcer: Option<Arc<Announcer>>,
    teller: Arc<Teller>,
}

impl<S> RedisFleet<S> {
    /// Puts the store of the records behind the shared cache and the feed of a fleet. `server` is a
    /// URL, such as `redis://:password@host:6379/0`. Connections are made when they are first
    /// needed: Redis may be down now.
    ///
    /// # Errors
    /// If the URL is malformed.
    pub fn connect(server: impl IntoConnectionInfo, store: S) -> Result<Self, RedisUrlError> {
        Ok(Self::new(Named::one(server)?, store))
    }

    /// Puts the store behind a cluster of Redis, of which some servers are named, as
    /// [`RedisLimiter::connect_cluster`](crate::limit::RedisLimiter::connect_cluster) does. Copies
    /// are spread over the cluster; the stream is on one server.
    ///
    /// # Errors
    /// If a URL is malformed, or there is none.
    pub fn connect_cluster(
        servers: impl IntoIterator<Item = impl IntoConnectionInfo>,
        store: S,
    ) -> Result<Self, RedisUrlError> {
        Ok(Self::new(Named::cluster(servers)?, store))
    }

    fn new(redis: Named, store: S) -> Self {
        Self {
            store: Arc::new(store),
            redis,
            settings: Settings {
                prefix: "tak".to_owned(),
                cache_time_limit: Duration::from_millis(20),
                copy_life: Duration::from_secs(60),
                seal: None,
                has_cache: true,
                has_feed: true,
                clock: None,
            },
            parts: OnceLock::new(),
        }
    }

    /// Sets the prefix of all keys in Redis. Default: `tak`.
    ///
    /// Danger: fleets with different stores, such as staging and production, need different
    /// prefixes. With the same one, keys of one fleet are admitted by the other.
    #[must_use]
    pub fn prefix(self, prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        self.set(|settings| settings.prefix = prefix)
    }

    /// Seals the copies under the current pepper of a ring, so that whoever can write to Redis
    /// cannot plant records. Default: no seal.
    ///
    /// A copy without a seal of the ring is not read. All processes need the ring; during a
    /// rotation, first add the new pepper to all of them as a retired one. With a ring without
    /// peppers, no copies are kept.
    #[must_use]
    pub fn seal(self, ring: PepperRing) -> Self {
        self.set(|settings| settings.seal = Some(ring))
    }

    /// Sets the time limit of a read from the cache, and of storing a copy. Default: 20 ms. After
    /// it, the record is read from the store. Both times count against
    /// [`Cache::store_time_limit`](crate::Cache::store_time_limit).
    #[must_use]
    pub fn cache_time_limit(self, limit: Duration) -> Self {
        self.set(|settings| settings.cache_time_limit = limit)
    }

    /// Sets the time for which Redis keeps a copy, at least 1 ms. Default: 1 min. A copy that is
    /// older than [`Cache::max_staleness`](crate::Cache::max_staleness) is not read any more.
    #[must_use]
    pub fn copy_life(self, life: Duration) -> Self {
        self.set(|settings| settings.copy_life = life.max(Duration::from_millis(1)))
    }

    /// Keeps no copies in Redis. Changes are still announced.
    #[must_use]
    pub fn without_cache(self) -> Self {
        self.set(|settings| settings.has_cache = false)
    }

    /// Announces no changes in Redis, and follows none. If the store has a feed of its own, that
    /// one is followed. Copies are still fenced off by changes.
    #[must_use]
    pub fn without_feed(self) -> Self {
        self.set(|settings| settings.has_feed = false)
    }

    /// Reads the time of copies from a clock instead of the server's, for tests.
    #[cfg(feature = "testing")]
    #[doc(hidden)]
    #[must_use]
    pub fn dangerous_on_clock(self, clock: impl Clock) -> Self {
        self.set(|settings| settings.clock = Some(GivenClock(Arc::new(clock))))
    }

    fn set(mut self, set: impl FnOnce(&mut Settings)) -> Self {
        set(&mut self.settings);
        self.parts = OnceLock::new();
        self
    }

    /// Returns the store of the records.
    pub fn store(&self) -> &S {
        &self.store
    }

    /// Tells the fleet of keys that were changed past this store, after the change.
    ///
    /// The version of a [`ChangedKey`] is the one after the change. In a table without versions, tell
    /// version 0: it is then not known, and all processes load the key again.
    ///
    /// If Redis does not answer, they are told later, in the background.
    pub async fn announce(&self, changed: &[ChangedKey]) {
        let mut untold = Untold::default();
        for key in changed {
            untold.add(*key);
        }
        let teller = Arc::clone(&self.parts().teller);
        finish(async move { teller.tell(untold).await }).await;
    }

    fn parts(&self) -> &Parts {
        self.parts
            .get_or_init(|| Parts::new(&self.redis, &self.settings))
    }
}

impl Parts {
    fn new(redis: &Named, settings: &Settings) -> Self {
        let patient = redis.servers(TELL_LIMIT);
        let cache = settings.has_cache.then(|| {
            let hurried = redis.servers(settings.cache_time_limit);
            let mut cache = SharedCache::new(hurried, &settings.prefix, settings.copy_life);
            cache.seal.clone_from(&settings.seal);
            if let Some(clock) = &settings.clock {
                cache.set_clock(clock.clone());
            }
            Arc::new(cache)
        });
        let announcer = settings
            .has_feed
            .then(|| Arc::new(Announcer::new(patient.clone(), &settings.prefix)));
        let teller = Arc::new(Teller::new(cache.clone(), announcer.clone(), patient));
        Self {
            cache,
            announcer,
            teller,
        }
    }
}

/// Runs a task that goes on if its caller is gone, and returns its output. `None` if it panicked, or
/// the runtime has ended.
async fn finish<T: Send + 'static>(task: impl Future<Output = T> + Send + 'static) -> Option<T> {
    match Handle::try_current() {
        Ok(runtime) => runtime.spawn(task).await.ok(),
        Err(_) => Some(task.await),
    }
}

/// Returns the keys that a change changes.
fn changed_keys(change: &Change) -> impl Iterator<Item = ChangedKey> {
    change.steps().filter_map(|step| match step {
        Step::Create { record, .. } | Step::Update { record, .. } => {
            Some(ChangedKey::new(record.id(), record.version()))
        }
        Step::Delete { record, .. } => {
            let version = record.version().saturating_add(1);
            Some(ChangedKey::new(record.id(), version).deleted(true))
        }
        Step::Request { .. } | Step::Cap(_) | Step::Event { .. } => None,
    })
}

fn not_finished() -> StoreError {
    StoreError::unavailable("the store panicked in a commit, or the runtime has ended")
}

/// Returns what the fleet is told after a commit.
fn untold_after(change: &Change, outcome: &Result<(), StoreError>) -> Untold {
    let mut untold = Untold::default();
    match outcome {
        Ok(()) => changed_keys(change).for_each(|key| untold.add(key)),
        Err(error) if error.kind() == StoreErrorKind::Unavailable => {
            changed_keys(change).for_each(|key| untold.add_uncertain(key));
        }
        Err(_) => {} // nothing was written
    }
    untold
}

impl<S: KeyStore> KeyStore for RedisFleet<S> {
    /// Reads from the store: without a floor, it cannot be told whether a copy may serve.
    async fn find(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find(id).await
    }

    async fn find_at_least(
        &self,
        id: &KeyId,
        floor: &Floor,
    ) -> Result<Option<AgedRecord>, StoreError> {
        let Some(cache) = &self.parts().cache else {
            return self.store.find_at_least(id, floor).await;
        };
        let missed = match cache.get(id, floor).await {
            Ok(Found::Copy(copy)) => return Ok(Some(*copy)),
            Ok(Found::Missed(at)) => Some(at),
            Err(error) => {
                cache.note_failure(&error);
                None
            }
        };
        let loaded = self.store.find_at_least(id, floor).await?;
        // A copy that is not stored is loaded again.
        if let (Some(missed), Some(loaded)) = (missed, &loaded)
            && let Err(error) = cache.fill(missed, loaded).await
        {
            cache.note_failure(&error);
        }
        Ok(loaded)
    }

    fn feed(&self) -> Option<BoxedFeed> {
        let of_store = self.store.feed();
        let Some(announcer) = &self.parts().announcer else {
            return of_store;
        };
        let stream = StreamFeed::new(Arc::clone(announcer));
        Some(match of_store {
            Some(of_store) => BoxedFeed::new(FeedPair::new(stream, of_store)),
            None => BoxedFeed::new(stream),
        })
    }
}

impl<S: ManagedKeyStore> ManagedKeyStore for RedisFleet<S> {
    async fn find_committed(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        self.store.find_committed(id).await
    }

    /// Commits the change, and tells the fleet.
    async fn commit(&self, change: &Change) -> Result<(), StoreError> {
        let (store, teller) = (Arc::clone(&self.store), Arc::clone(&self.parts().teller));
        let change = Arc::new(change.clone());
        // A commit that has begun is told, also if its caller is gone.
        let committed = finish(async move {
            let committing = Arc::clone(&change);
            let outcome = finish(async move { store.commit(&committing).await }).await;
            let outcome = outcome.unwrap_or_else(|| Err(not_finished()));
            teller.tell(untold_after(&change, &outcome)).await;
            outcome
        });
        committed.await.unwrap_or_else(|| Err(not_finished()))
    }

    async fn list(&self, query: &KeyQuery, paging: &Paging) -> Result<Page<ListedKey>, StoreError> {
        self.store.list(query, paging).await
    }

    async fn find_listed(&self, id: &KeyId) -> Result<Option<ListedKey>, StoreError> {
        self.store.find_listed(id).await
    }

    async fn find_lineage(&self, first: &KeyId) -> Result<Vec<KeyRecord>, StoreError> {
        self.store.find_lineage(first).await
    }

    async fn find_request(&self, id: &[u8; 32]) -> Result<Option<IssueRequest>, StoreError> {
        self.store.find_request(id).await
    }

    async fn trail(
        &self,
        query: &TrailQuery,
        paging: &Paging,
    ) -> Result<Page<TrailRecord>, StoreError> {
        self.store.trail(query, paging).await
    }

    async fn events(&self, start: &Start, limit: u32) -> Result<Followed<KeptEvent>, StoreError> {
        self.store.events(start, limit).await
    }

    fn outbox(&self) -> Option<BoxedOutbox> {
        self.store.outbox()
    }

    async fn record_usage(&self, batch: &UsageBatch) -> Result<(), StoreError> {
        self.store.record_usage(batch).await
    }

    async fn usage(
        &self,
        query: &UsageQuery,
        paging: &Paging,
    ) -> Result<Page<UsageRow>, StoreError> {
        self.store.usage(query, paging).await
    }

    async fn profiles(&self, keys: &[KeyId]) -> Result<Vec<KeptProfile>, StoreError> {
        self.store.profiles(keys).await
    }

    async fn save_profiles(&self, profiles: &[KeptProfile]) -> Result<Vec<KeyId>, StoreError> {
        self.store.save_profiles(profiles).await
    }
}

impl<S: fmt::Debug> fmt::Debug for RedisFleet<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisFleet")
            .field("store", &self.store)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
