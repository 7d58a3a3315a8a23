//! The process's cache, between the path and the store.
//!
//! [`guard`] says what may still serve, [`flight`] makes one load of many, [`guarded`] puts the two
//! before a map; all three know nothing of keys, and `tests/model` tries them out in every order
//! that threads can come in. [`shelf`] is the map of the real thing, [`index`] where each request
//! looks first, [`misses`] where it looks next, [`keeper`] the eviction policy (with [`uses`] and
//! [`evicted`]), [`pool`] the memory for keys, [`recent`] what keeps a lagging replica from undoing
//! a change, and [`known`] is a key as the path needs it.

mod evicted;
pub(crate) mod flight;
pub(crate) mod guard;
pub(crate) mod guarded;
mod index;
mod keeper;
mod known;
mod misses;
mod pool;
mod recent;
mod reloads;
mod settings;
mod shelf;
pub(crate) mod slot;
mod uses;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::key::digest::KeyId;
use crate::key::record::KeyRecord;
use crate::limit::metering::Metering;
use crate::store::{DynKeyStore, Floor, StoreError, StoreErrorKind};
use crate::util::clock::{Clock, within};
use crate::util::timestamp::nanoseconds;
use crate::util::trace;
use flight::Room;
use guard::Stamp;
use guarded::{Answer, Guarded, LoadError, Origin};
pub(crate) use known::{KnownKey, Written};
use pool::Pool;
use recent::Recent;
pub use settings::Cache;
use shelf::Shelf;

/// A key as the cache or the store has it: found, or found not to exist.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Key(Arc<KnownKey>),
    Nothing,
}

impl Answer for Found {
    fn found(&self) -> bool {
        matches!(self, Self::Key(_))
    }

    /// A replica may lag behind what another one said before: of two versions, the higher.
    fn or_newer(self, kept: Self) -> Self {
        match (&self, kept) {
            (Self::Key(loaded), Self::Key(kept))
                if kept.record().version() > loaded.record().version() =>
            {
                Self::Key(Arc::new(loaded.with_record(kept.record().clone())))
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
    /// There are too many loads in flight, which is not the store's failure.
    TooMany,
}

impl From<StoreError> for LoadFailure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// What is known of a key that is to be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sought {
    /// It [was found](KeyCache::knew) before, and is too old to serve.
    FoundBefore,
    /// It was not, and may not exist.
    New,
    /// It was not, and comes from an address that cannot be told from any other, while addresses
    /// are held to a number of failed attempts.
    NewFromNowhere,
}

/// Returns an instant of the monotonic clock in nanoseconds. A year is added, so that a copy which
/// is older than this process has an instant, too.
#[inline]
fn instant(now: Duration) -> u64 {
    const YEAR: u64 = 366 * 86_400 * 1_000_000_000;
    nanoseconds(now).saturating_add(YEAR)
}

/// The keys of a store, each asked for only now and then.
pub(crate) struct KeyCache {
    guarded: Guarded<KeyId, Found, StoreError, Shelf>,
    source: Arc<Source>,
    settings: Cache,
    /// How long keys, and that there are none, may be used, in nanoseconds.
    longest: u64,
    longest_miss: u64,
}

/// Where keys are loaded from, and what is made of them.
struct Source {
    store: Arc<dyn DynKeyStore>,
    clock: Arc<dyn Clock>,
    time_limit: Duration,
    max_staleness: Duration,
    /// The instant at which the cache was emptied last, or 0.
    emptied_at: AtomicU64,
    recent: Recent,
    pool: Arc<Pool>,
    metering: Arc<Metering>,
}

impl KeyCache {
    pub(crate) fn new(
        store: Arc<dyn DynKeyStore>,
        clock: Arc<dyn Clock>,
        metering: Arc<Metering>,
        settings: Cache,
    ) -> Self {
        let pool = Arc::new(Pool::new(Arc::clone(&metering)));
        let shelf = Shelf::new(
            settings.memory,
            Arc::clone(&pool),
            nanoseconds(settings.misses_for),
        );
        Self {
            guarded: Guarded::new(shelf),
            source: Arc::new(Source {
                store,
                clock,
                time_limit: settings.time_limit,
                max_staleness: settings.max_staleness,
                emptied_at: AtomicU64::new(0),
                recent: Recent::default(),
                pool,
                metering,
            }),
            longest: nanoseconds(settings.max_staleness),
            longest_miss: nanoseconds(settings.misses_for),
            settings,
        }
    }

    /// A key, if it is remembered and what is remembered may still serve.
    #[inline]
    pub(crate) fn find(&self, id: &KeyId, now: Duration) -> Option<Found> {
        let now = instant(now);
        self.guarded.find(id, |origin| self.is_fresh(origin, now))
    }

    /// Whether there was such a key when it was last looked for, however long ago.
    pub(crate) fn knew(&self, id: &KeyId) -> bool {
        self.guarded.holds(id)
    }

    /// Whether a key that was found may still be used. To be asked again after each wait.
    pub(crate) fn is_current(&self, id: &KeyId, stamp: Stamp) -> bool {
        self.guarded.is_current(id, stamp)
    }

    /// A key from the store: loaded once for all who ask for it at the same time.
    pub(crate) async fn load(
        &self,
        id: KeyId,
        written: &Written,
        sought: Sought,
    ) -> Result<Found, LoadFailure> {
        let room = self.room(sought);
        let now = instant(self.source.clock.monotonic());
        let is_fresh = |origin| self.is_fresh(origin, now);
        let ask = |stamp| {
            let source = Arc::clone(&self.source);
            source.ask(id, written.clone(), stamp, now)
        };
        let error = match self
            .guarded
            .load(id, room, self.longest, now, is_fresh, ask)
            .await
        {
            Ok(found) => return Ok(self.source.newest_of(found)?),
            Err(LoadError::Source(error)) => error,
            // Clients can bring these about, so an old record must not serve: it may have been
            // revoked.
            Err(LoadError::TooMany) => return Err(LoadFailure::TooMany),
            Err(LoadError::Lost) => {
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

    /// How many loads there may be for this one to begin: some are kept for keys that were found
    /// before.
    fn room(&self, sought: Sought) -> Room {
        let most = u32::try_from(self.settings.most_loads).unwrap_or(u32::MAX - 1);
        let for_new = most - most / 4;
        let few = match sought {
            Sought::FoundBefore => {
                let most = most.max(for_new + 1);
                return Room { most, few: None };
            }
            Sought::New => None,
            Sought::NewFromNowhere => Some(NonZeroU32::new(most / 16).unwrap_or(NonZeroU32::MIN)),
        };
        Room { most: for_new, few }
    }

    #[inline]
    fn is_fresh(&self, origin: Origin, now: u64) -> bool {
        let longest = if origin.found {
            self.longest
        } else {
            self.longest_miss
        };
        now.saturating_sub(origin.since) < longest
    }

    /// A key that is too old to be sure of, for an application that has chosen to serve it while
    /// the store fails.
    fn stale(&self, id: &KeyId) -> Option<Found> {
        let longest = nanoseconds(self.settings.stale_for?);
        let now = instant(self.source.clock.monotonic());
        self.guarded.find(id, |origin| {
            origin.found && now.saturating_sub(origin.since) < longest
        })
    }

    /// How often the cache is to be swept.
    pub(crate) fn sweep_interval(&self) -> Duration {
        const SHORTEST: Duration = Duration::from_secs(1);
        const LONGEST: Duration = Duration::from_secs(60);
        self.settings.max_staleness.clamp(SHORTEST, LONGEST)
    }

    /// Lets go of what observers keep of keys that are too old to serve. That these keys were found
    /// stays known.
    pub(crate) fn sweep(&self) {
        let now = instant(self.source.clock.monotonic());
        let stale_for = self.settings.stale_for.map_or(0, nanoseconds);
        let longest = self.longest.max(stale_for);
        let is_over = |origin: Origin| now.saturating_sub(origin.since) >= longest;
        self.guarded.map().release(is_over);
    }

    /// Lets go of all that observers keep.
    pub(crate) fn release_all(&self) {
        self.guarded.map().release(|_| true);
    }

    /// After the store was told to create a key, and before anybody is told that it has.
    pub(crate) fn created(&self, id: &KeyId) {
        self.guarded.created(id);
    }

    /// After the store was told to change a key, and before anybody is told that it has.
    pub(crate) fn changed(&self, id: &KeyId) {
        self.guarded.changed(id);
    }

    /// What the store holds now, for a load that brings something older. To be called before
    /// [`changed`](Self::changed), since a load that begins after that must find it.
    pub(crate) fn remember(&self, record: KeyRecord) {
        self.source.recent.remember(record);
    }

    /// Forgets what is older than a version that another process has written.
    pub(crate) fn told(&self, id: &KeyId, version: u64) {
        if version == 1 {
            // The key was created: only that there was none can be remembered of it.
            return self.guarded.created(id);
        }
        self.source.recent.remember_version(*id, version);
        // A change of this process is told, too, and nobody is made to load the key anew for that.
        let is_cached = match self.guarded.unchanged(id) {
            Some(Found::Key(known)) => known.record().version() >= version,
            Some(Found::Nothing) | None => false,
        };
        if !is_cached {
            self.guarded.changed(id);
        }
    }

    /// The newer one of what the store says, and what was changed here. An error if another process
    /// is known to have changed the key since.
    pub(crate) fn newest(&self, record: KeyRecord) -> Result<KeyRecord, StoreError> {
        self.source.recent.newest(record)
    }

    /// Whether something older than this record is cached that might serve, however long ago it was
    /// loaded.
    pub(crate) fn has_older(&self, record: &KeyRecord) -> bool {
        match self.guarded.unchanged(&record.id()) {
            Some(Found::Key(known)) => known.record().version() < record.version(),
            Some(Found::Nothing) => true,
            None => false,
        }
    }

    /// After any key may have been changed or created.
    pub(crate) fn all_changed(&self) {
        let now = instant(self.source.clock.monotonic());
        self.source.emptied_at.fetch_max(now, Ordering::AcqRel);
        self.guarded.all_changed();
    }
}

impl Source {
    /// What was loaded, or what was changed here while it was: a load that began before a
    /// revocation must not serve after it.
    fn newest_of(&self, found: Found) -> Result<Found, StoreError> {
        let Found::Key(known) = &found else {
            return Ok(found);
        };
        Ok(match self.recent.newer_than(known.record())? {
            Some(record) => Found::Key(Arc::new(known.with_record(record))),
            None => found,
        })
    }

    /// Returns the age that a copy may have: it must not be from before the moment when any key may
    /// have been changed.
    fn max_age(&self) -> Duration {
        let now = instant(self.clock.monotonic());
        let since_emptied = now.saturating_sub(self.emptied_at.load(Ordering::Acquire));
        self.max_staleness.min(Duration::from_nanos(since_emptied))
    }

    /// One look into the store, within the time limit.
    async fn ask(
        self: Arc<Self>,
        id: KeyId,
        written: Written,
        stamp: Stamp,
        since: u64,
    ) -> Result<Found, StoreError> {
        let limit = self.time_limit;
        let version = self.recent.version_of(&id);
        let floor = Floor::new(version, self.max_age());
        let found = self.store.find_at_least(&id, &floor);
        let found = within(&*self.clock, limit, found).await;
        let found = found
            .unwrap_or_else(|| Err(StoreError::unavailable(format!("no answer in {limit:?}"))))?;
        let Some(found) = found else {
            return self.recent.nothing(&id).map(|()| Found::Nothing);
        };
        let record = self.recent.newest(found.record)?;
        // The age of a copy counts, as if it had been loaded here then.
        let since = since.saturating_sub(nanoseconds(found.age));
        let metering = Arc::clone(&self.metering);
        let known = KnownKey::new(record, written, metering, stamp, since);
        Ok(Found::Key(self.pool.fill(known)))
    }
}
