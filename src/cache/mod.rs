//! The process's cache, between the path and the store.
//!
//! [`guard`] says what may still serve, [`flight`] makes one load of many, [`guarded`] puts the two
//! before a map; all three know nothing of keys, and `tests/model` tries them out in every order
//! that threads can come in. [`shelf`] is the map of the real thing, [`recent`] what keeps a lagging
//! replica from undoing a change.

pub(crate) mod flight;
pub(crate) mod guard;
pub(crate) mod guarded;
mod recent;
mod settings;
mod shelf;

use std::sync::Arc;
use std::time::Duration;

use crate::clock::{Clock, within};
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::record::KeyRecord;
use crate::limit::metering::Metering;
use crate::limit::rulebook::{Holder, PlanIndex};
use crate::store::{DynKeyStore, StoreError};
use guard::Stamp;
use guarded::{Answer, Guarded, LoadError};
use recent::Recent;
pub use settings::Cache;
use shelf::Shelf;

/// A record, the environment that it stands for, and what its requests are metered by.
#[derive(Debug)]
#[repr(C)] // in this order: what each request looks at stands together
pub(crate) struct KnownKey {
    stamp: Stamp,
    /// When it was asked for, in nanoseconds of the monotonic clock.
    since: u64,
    plan: PlanIndex,
    /// Whether its environment is that of nearly all keys.
    is_live: bool,
    pub(crate) record: KeyRecord,
    /// The record's own, or that of the format that the key is written in.
    pub(crate) environment: Environment,
    pub(crate) metering: Arc<Metering>,
}

impl KnownKey {
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// What the limits must know of the key.
    #[inline]
    pub(crate) fn holder(&self) -> Holder<'_> {
        Holder {
            record: &self.record,
            plan: self.plan,
        }
    }

    /// Whether it is of one of these environments; `live` is known at a glance.
    #[inline]
    pub(crate) fn is_of(&self, environments: &[Environment]) -> bool {
        let is_it = |accepted: &Environment| {
            (self.is_live && *accepted == Environment::LIVE) || *accepted == self.environment
        };
        environments.iter().any(is_it)
    }

    /// The memory that it takes, in bytes.
    fn weight(&self) -> usize {
        size_of::<Self>() + self.record.heap()
    }
}

/// A key as the cache or the store has it: found, or found not to exist.
#[derive(Debug, Clone)]
pub(crate) enum Found {
    Key(Arc<KnownKey>),
    Nothing { stamp: Stamp, since: u64 },
}

impl Found {
    pub(crate) fn key(&self) -> Option<&Arc<KnownKey>> {
        match self {
            Self::Key(known) => Some(known),
            Self::Nothing { .. } => None,
        }
    }

    fn since(&self) -> Duration {
        Duration::from_nanos(match self {
            Self::Key(known) => known.since,
            Self::Nothing { since, .. } => *since,
        })
    }
}

impl Answer for Found {
    #[inline]
    fn stamp(&self) -> Stamp {
        match self {
            Self::Key(known) => known.stamp,
            Self::Nothing { stamp, .. } => *stamp,
        }
    }

    #[inline]
    fn is_something(&self) -> bool {
        matches!(self, Self::Key(_))
    }
}

/// The keys of a store, each asked for only now and then.
pub(crate) struct KeyCache {
    guarded: Guarded<KeyId, Found, StoreError, Shelf>,
    recent: Arc<Recent>,
    store: Arc<dyn DynKeyStore>,
    clock: Arc<dyn Clock>,
    metering: Arc<Metering>,
    settings: Cache,
}

impl KeyCache {
    pub(crate) fn new(
        store: Arc<dyn DynKeyStore>,
        clock: Arc<dyn Clock>,
        metering: Arc<Metering>,
        settings: Cache,
    ) -> Self {
        Self {
            guarded: Guarded::new(Shelf::new(settings.memory), settings.most_loads),
            recent: Arc::default(),
            store,
            clock,
            metering,
            settings,
        }
    }

    /// Shows a key where it is, if it is remembered and that may still be said of it.
    #[inline]
    pub(crate) fn view<R>(
        &self,
        id: &KeyId,
        now: Duration,
        look: impl FnOnce(&Found) -> R,
    ) -> Option<R> {
        let look = |found: &Found| self.is_fresh(found, now).then(|| look(found));
        self.guarded.view(id, look)
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
        environment: &Environment,
    ) -> Result<Found, StoreError> {
        let now = self.clock.monotonic();
        let is_fresh = |found: &Found| self.is_fresh(found, now);
        let loaded = self
            .guarded
            .load(id, is_fresh, |stamp| {
                self.ask(id, environment.clone(), stamp, now)
            })
            .await;
        let error = match loaded {
            Ok(found) => return Ok(found),
            Err(LoadError::Source(error)) => error,
            Err(LoadError::TooMany) => StoreError::unavailable("too many loads on their way"),
            Err(LoadError::Lost) => StoreError::unavailable("the store panicked"),
            Err(LoadError::Outdated) => {
                StoreError::unavailable("keys change faster than they load")
            }
        };
        self.stale(&id).ok_or(error)
    }

    /// One look into the store, within the time limit.
    fn ask(
        &self,
        id: KeyId,
        environment: Environment,
        stamp: Stamp,
        now: Duration,
    ) -> impl Future<Output = Result<Found, StoreError>> + Send + use<> {
        let since = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let (recent, metering) = (Arc::clone(&self.recent), Arc::clone(&self.metering));
        let limit = self.settings.time_limit;
        async move {
            let found = within(&*clock, limit, store.find(&id)).await;
            let found = found.unwrap_or_else(|| {
                Err(StoreError::unavailable(format!("no answer in {limit:?}")))
            })?;
            let Some(record) = found else {
                return Ok(Found::Nothing { stamp, since });
            };
            let record = recent.newest(record);
            let environment = record.environment().cloned().unwrap_or(environment);
            let limiting = metering.limiting.as_ref();
            let plan = limiting.map(|limiting| limiting.rules.plan_of(&record));
            Ok(Found::Key(Arc::new(KnownKey {
                stamp,
                since,
                plan: plan.unwrap_or_default(),
                is_live: environment == Environment::LIVE,
                record,
                environment,
                metering,
            })))
        }
    }

    fn is_fresh(&self, found: &Found, now: Duration) -> bool {
        let longest = match found {
            Found::Key(_) => self.settings.max_staleness,
            Found::Nothing { .. } => self.settings.misses_for,
        };
        now.saturating_sub(found.since()) < longest
    }

    /// A key that is too old to be sure of, for an application that has chosen to serve it while
    /// the store fails.
    fn stale(&self, id: &KeyId) -> Option<Found> {
        let longest = self.settings.stale_for?;
        let now = self.clock.monotonic();
        self.guarded.view(id, |found| {
            let young = now.saturating_sub(found.since()) < longest;
            (found.key().is_some() && young).then(|| found.clone())
        })
    }

    /// After the store was told to create a key, and before anybody is told that it has.
    pub(crate) fn created(&self, id: &KeyId) {
        self.guarded.created(id);
    }

    /// After the store was told to change a key, and before anybody is told that it has.
    pub(crate) fn changed(&self, id: &KeyId) {
        self.guarded.changed(id);
    }

    /// After the store has changed a key: what it holds now.
    pub(crate) fn changed_to(&self, record: KeyRecord) {
        let id = record.id();
        self.recent.remember(record);
        self.guarded.changed(&id);
    }

    /// After any key may have been changed or created.
    pub(crate) fn all_changed(&self) {
        self.guarded.all_changed();
    }
}
