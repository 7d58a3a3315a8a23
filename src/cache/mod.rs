//! The process's cache of keys, between the request path and the store.
//!
//! [`coherent`] puts [`epochs`] and [`single_flight`] before a map, and knows nothing of keys, so
//! that `tests/model` can try the three out in the orders that threads can come in. [`key_map`] is
//! the map, with the eviction policy ([`frequency_sketch`]); [`cached_key`] is its entry, with the
//! values of observers ([`observer_slots`]), from an [`entry_pool`]; and [`recent_writes`] keeps a
//! lagging replica from undoing a change.

pub(crate) mod adoption;
mod cached_key;
pub(crate) mod coherent;
mod config;
mod entry_pool;
pub(crate) mod epochs;
mod frequency_sketch;
mod key_map;
pub(crate) mod observer_slots;
mod recent_writes;
pub(crate) mod single_flight;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::limit::key_services::KeyServices;
use crate::store::{AgedRecord, DynKeyStore, Floor, StoreError, StoreErrorKind, in_time};
use crate::util::clock::Clock;
use crate::util::timestamp::nanoseconds;
use crate::util::trace;
pub use adoption::KeyToAdopt;
use adoption::{AdoptableKey, Adoption};
pub(crate) use cached_key::{CachedKey, FormatFacts};
use coherent::{Answer, CoherentCache, EntryMeta, LoadError};
pub use config::Cache;
use entry_pool::EntryPool;
use epochs::Epoch;
use key_map::KeyMap;
use recent_writes::RecentWrites;
use single_flight::Room;

/// The result of looking a key up in the cache or the store.
#[derive(Debug, Clone)]
pub(crate) enum Lookup {
    Hit(Arc<CachedKey>),
    /// There is no such key.
    Absent,
}

impl Answer for Lookup {
    fn was_found(&self) -> bool {
        matches!(self, Self::Hit(_))
    }

    /// Chooses the higher version: a replica may lag behind the one that was asked before.
    fn or_newer(self, cached: Self) -> Self {
        match (&self, cached) {
            (Self::Hit(loaded), Self::Hit(cached))
                if cached.record().version() > loaded.record().version() =>
            {
                Self::Hit(Arc::new(loaded.with_record(cached.record().clone())))
            }
            _ => self,
        }
    }
}

/// Why a key could not be loaded.
#[derive(Debug, Clone)]
pub(crate) enum LoadFailure {
    /// The store failed.
    Store(StoreError),
    /// Too many loads are running, which is not a failure of the store.
    TooMany,
}

impl From<StoreError> for LoadFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The priority of a load while many are running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadPriority {
    /// For a key that [was found](KeyCache::was_found) before. Some room is kept for these.
    FoundBefore,
    /// For a key that may not exist.
    New,
    /// For a key that may not exist, presented by a client without an address while failed attempts
    /// are limited by address. The fewest of these run.
    NewWithoutAddress,
}

/// Returns an instant of the monotonic clock in nanoseconds. A year is added, so that a copy which
/// is older than this process has an instant, too.
#[inline]
fn instant(now: Duration) -> u64 {
    const YEAR: u64 = 366 * 86_400 * 1_000_000_000;
    nanoseconds(now).saturating_add(YEAR)
}

/// The cache of a store: it loads a key when the entry is missing, outdated or stale.
pub(crate) struct KeyCache {
    entries: CoherentCache<KeyId, Lookup, StoreError, KeyMap>,
    loader: Arc<KeyLoader>,
    config: Cache,
    /// The time for which an entry may serve, in nanoseconds.
    max_staleness: u64,
    negative_ttl: u64,
}

/// Loads keys from the store.
struct KeyLoader {
    store: Arc<dyn DynKeyStore>,
    clock: Arc<dyn Clock>,
    time_limit: Duration,
    max_staleness: Duration,
    /// The instant at which the cache was emptied last, or 0.
    emptied_at: AtomicU64,
    recent: RecentWrites,
    pool: Arc<EntryPool>,
    key_services: Arc<KeyServices>,
    adoption: Adoption,
}

impl KeyCache {
    pub(crate) fn new(
        store: Arc<dyn DynKeyStore>,
        clock: Arc<dyn Clock>,
        key_services: Arc<KeyServices>,
        adoption: Adoption,
        config: Cache,
    ) -> Self {
        let negative_ttl = nanoseconds(config.negative_ttl);
        let pool = Arc::<EntryPool>::default();
        Self {
            entries: CoherentCache::new(KeyMap::new(
                config.memory,
                negative_ttl,
                Arc::clone(&pool),
            )),
            loader: Arc::new(KeyLoader {
                store,
                clock,
                time_limit: config.time_limit,
                max_staleness: config.max_staleness,
                emptied_at: AtomicU64::new(0),
                recent: RecentWrites::new(),
                pool,
                key_services,
                adoption,
            }),
            max_staleness: nanoseconds(config.max_staleness),
            negative_ttl,
            config,
        }
    }

    /// Returns the entry of a key if it may serve.
    #[inline]
    pub(crate) fn find(&self, id: &KeyId, now: Duration) -> Option<Lookup> {
        let now = instant(now);
        self.entries.find(id, |meta| self.is_fresh(meta, now))
    }

    /// Returns whether the key was found by its last load, however long ago.
    pub(crate) fn was_found(&self, id: &KeyId) -> bool {
        self.entries.was_found(id)
    }

    /// Returns whether an entry is current. To be asked again after each wait.
    pub(crate) fn is_current(&self, id: &KeyId, epoch: Epoch) -> bool {
        self.entries.is_current(id, epoch)
    }

    /// Returns a key with its format, if the application verifies keys of that by itself.
    pub(crate) fn adoptable(&self, format_index: usize, key: &[u8]) -> Option<Arc<AdoptableKey>> {
        self.loader.adoption.adoptable(format_index, key)
    }

    /// Loads a key from the store, once for all concurrent requests. The application is asked for
    /// an adoptable key that the store does not know.
    pub(crate) async fn load(
        &self,
        id: KeyId,
        format: &FormatFacts,
        priority: LoadPriority,
        adoptable: Option<Arc<AdoptableKey>>,
    ) -> Result<Lookup, LoadFailure> {
        let room = self.room(priority);
        let now = instant(self.loader.clock.monotonic());
        let is_fresh = |meta| self.is_fresh(meta, now);
        let ask = |epoch| {
            let loader = Arc::clone(&self.loader);
            loader.ask(id, format.clone(), epoch, now, adoptable.clone())
        };
        let error = match self
            .entries
            .load(id, room, self.max_staleness, now, is_fresh, ask)
            .await
        {
            Ok(found) => return Ok(self.loader.newest_of(found)?),
            Err(LoadError::Source(error)) => error,
            // Clients can bring these about, so an old record must not serve: it may have been
            // revoked.
            Err(LoadError::TooMany) => return Err(LoadFailure::TooMany),
            Err(LoadError::Panicked) => {
                return Err(StoreError::unavailable("the store panicked").into());
            }
        };
        if error.kind() == StoreErrorKind::Unavailable
            && let Some(stale) = self.stale(&id)
        {
            trace::served_stale(&error, &id);
            return Ok(stale);
        }
        Err(error.into())
    }

    /// Returns the bounds of loads of a priority: a quarter is kept for keys that were found
    /// before.
    fn room(&self, priority: LoadPriority) -> Room {
        let most = u32::try_from(self.config.max_loads).unwrap_or(u32::MAX - 1);
        let for_new = most - most / 4;
        let (most, restricted) = match priority {
            LoadPriority::FoundBefore => (most.max(for_new + 1), None),
            LoadPriority::New => (for_new, None),
            LoadPriority::NewWithoutAddress => {
                let few = NonZeroU32::new(most / 16).unwrap_or(NonZeroU32::MIN);
                (for_new, Some(few))
            }
        };
        Room { most, restricted }
    }

    #[inline]
    fn is_fresh(&self, meta: EntryMeta, now: u64) -> bool {
        let max_age = if meta.was_found {
            self.max_staleness
        } else {
            self.negative_ttl
        };
        now.saturating_sub(meta.since) < max_age
    }

    /// Returns a stale key, for an application that has chosen to serve such while the store fails.
    fn stale(&self, id: &KeyId) -> Option<Lookup> {
        let max_age = nanoseconds(self.config.stale_for?);
        let now = instant(self.loader.clock.monotonic());
        self.entries.find(id, |meta| {
            meta.was_found && now.saturating_sub(meta.since) < max_age
        })
    }

    /// Returns the time between two sweeps.
    pub(crate) fn sweep_interval(&self) -> Duration {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(60);
        self.config.max_staleness.clamp(SHORTEST, LONGEST)
    }

    /// Drops the values that observers keep of keys that are too old to serve. The keys stay.
    pub(crate) fn sweep(&self) {
        let now = instant(self.loader.clock.monotonic());
        let stale_for = self.config.stale_for.map_or(0, nanoseconds);
        let max_age = self.max_staleness.max(stale_for);
        let is_over = |meta: EntryMeta| now.saturating_sub(meta.since) >= max_age;
        self.entries.map().drop_observer_values(is_over);
    }

    /// Puts the meters that found no room on the list of those with counts there.
    pub(crate) fn list_meters(&self) {
        self.entries.map().list_meters();
    }

    /// Drops all values that observers keep.
    pub(crate) fn drop_all_observer_values(&self) {
        self.entries.map().drop_observer_values(|_| true);
    }

    /// Outdates the absence of a key after the store has created it, and before anybody is told.
    pub(crate) fn outdate_absence(&self, id: &KeyId) {
        self.entries.outdate_absence(id);
    }

    /// Outdates a key after the store has changed it, and before anybody is told.
    pub(crate) fn outdate(&self, id: &KeyId) {
        self.entries.outdate(id);
    }

    /// Remembers a record that was written, for loads that bring an older one. To be called before
    /// [`outdate`](Self::outdate), since a load that begins after that must find the record.
    pub(crate) fn remember(&self, record: KeyRecord) {
        self.loader.recent.remember(record);
    }

    /// Outdates the entry of a key that another process deleted.
    pub(crate) fn forget(&self, id: &KeyId) {
        self.loader.recent.forget(id);
        self.entries.outdate(id);
    }

    /// Outdates the entry of a key that is older than a version another process has written, or any
    /// entry if the version is not known (0).
    pub(crate) fn outdate_before(&self, id: &KeyId, version: u64) {
        match version {
            // Whatever is cached may be older.
            0 => return self.entries.outdate(id),
            // The key was created: nothing but its absence can be cached.
            1 => return self.entries.outdate_absence(id),
            _ => {}
        }
        self.loader.recent.remember_version(*id, version);
        // The feed tells the changes of this process, too. Those are cached already.
        let is_cached = match self.entries.current(id) {
            Some(Lookup::Hit(key)) => key.record().version() >= version,
            Some(Lookup::Absent) | None => false,
        };
        if !is_cached {
            self.entries.outdate(id);
        }
    }

    /// Returns the newer one of a loaded record and the one that was written here. An error if
    /// another process is known to have changed the key since.
    pub(crate) fn newest(&self, record: KeyRecord) -> Result<KeyRecord, StoreError> {
        self.loader.recent.newest(record)
    }

    /// Returns whether an older record is cached and current, however long ago it was loaded.
    pub(crate) fn has_older(&self, record: &KeyRecord) -> bool {
        match self.entries.current(&record.id()) {
            Some(Lookup::Hit(key)) => key.record().version() < record.version(),
            Some(Lookup::Absent) => true,
            None => false,
        }
    }

    /// Outdates every entry after any key may have been changed or created.
    pub(crate) fn outdate_all(&self) {
        let now = instant(self.loader.clock.monotonic());
        self.loader.emptied_at.fetch_max(now, Ordering::AcqRel);
        self.entries.outdate_all();
    }
}

impl KeyLoader {
    /// Returns a loaded key, or the record that was written here meanwhile: a load that began
    /// before a revocation must not serve after it.
    fn newest_of(&self, loaded: Lookup) -> Result<Lookup, StoreError> {
        let Lookup::Hit(key) = &loaded else {
            return Ok(loaded);
        };
        Ok(match self.recent.newer_than(key.record())? {
            Some(record) => Lookup::Hit(Arc::new(key.with_record(record))),
            None => loaded,
        })
    }

    /// Returns the greatest age of a copy: none may be from before the cache was emptied.
    fn max_age(&self) -> Duration {
        let now = instant(self.clock.monotonic());
        let since_emptied = now.saturating_sub(self.emptied_at.load(Ordering::Acquire));
        self.max_staleness.min(Duration::from_nanos(since_emptied))
    }

    /// Finds a key in the store, within the time limit.
    async fn find(&self, id: &KeyId) -> Result<Option<AgedRecord>, StoreError> {
        let version = self.recent.version_of(id);
        let floor = Floor::new(version, self.max_age());
        let found = self.store.find_at_least(id, &floor);
        in_time(&*self.clock, self.time_limit, found).await
    }

    /// Finds a key in the store, or else asks the application for it.
    async fn find_or_adopt(
        &self,
        id: &KeyId,
        key: Arc<AdoptableKey>,
    ) -> Result<Option<AgedRecord>, StoreError> {
        if let Some(found) = self.find(id).await? {
            return Ok(Some(found));
        }
        let adopted = self.adoption.adopt(key, &*self.clock).await?;
        Ok(adopted.map(AgedRecord::fresh))
    }

    /// Loads a key from the store.
    async fn ask(
        self: Arc<Self>,
        id: KeyId,
        format: FormatFacts,
        epoch: Epoch,
        since: u64,
        adoptable: Option<Arc<AdoptableKey>>,
    ) -> Result<Lookup, StoreError> {
        let found = match adoptable {
            None => self.find(&id).await?,
            // Boxed, so that it takes no room in the load of any other key.
            Some(key) => Box::pin(self.find_or_adopt(&id, key)).await?,
        };
        let Some(found) = found else {
            return self.recent.nothing(&id).map(|()| Lookup::Absent);
        };
        let record = self.recent.newest(found.record)?;
        // The age of a copy counts, as if it had been loaded here then.
        let since = since.saturating_sub(nanoseconds(found.age));
        let key_services = Arc::clone(&self.key_services);
        let key = CachedKey::new(record, format, key_services, epoch, since);
        Ok(Lookup::Hit(self.pool.allocate(key)))
    }
}
