//! A cached key: a record, and what the request path needs beside it.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use super::coherent::EntryMeta;
use super::epochs::Epoch;
use super::frequency_sketch::MOST;
use super::observer_slots::ObserverSlots;
use crate::anomaly::{Watch, WatchTable};
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::footprint::allocation;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::{Lifecycle, WarningWindow};
use crate::key::network::AllowedNetworks;
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;
use crate::key::verifier::Verifier;
use crate::key::web_origin::AllowedOrigins;
use crate::limit::compiled_rules::{ChargedKey, PlanIndex};
use crate::limit::key_services::KeyServices;
use crate::usage::{Meter, UsageTable};

/// The facts of a key that every request reads, in 72 bytes, and its record beside them.
///
/// With ten thousand keys in use a request waits longer for memory than it computes, and for the
/// address of a page longer than for the page. So these facts are apart from the record, and stand
/// side by side (see [`EntryPool`](super::entry_pool::EntryPool)).
#[repr(C)] // in the order of use, after the count of owners
pub(crate) struct CachedKey {
    epoch: Epoch,
    /// When the load began, in nanoseconds of the monotonic clock.
    since: u64,
    plan: PlanIndex,
    traits: Traits,
    /// Uses lately in the lower half, and samples of the eviction policy since the last use in the
    /// upper half. See [`KeyMap`](super::key_map::KeyMap).
    usage: AtomicU8,
    verifier: Verifier,
    /// `None` in an allocation that waits for a key.
    cold: Option<Box<Cold>>,
}

/// The facts about a key that are true or false, in one byte.
#[derive(Debug, Clone, Copy, Default)]
struct Traits(u8);

impl Traits {
    /// The environment is `live`, as that of nearly all keys.
    const LIVE: u8 = 1;
    /// The record has no dates and no restrictions, and the key is a secret one.
    const UNRESTRICTED: u8 = 2;
    /// The id is the beginning of the verifier.
    const DIGEST: u8 = 4;

    const fn with(self, facts: u8, is_so: bool) -> Self {
        Self(if is_so { self.0 | facts } else { self.0 })
    }

    #[inline]
    const fn have(self, facts: u8) -> bool {
        self.0 & facts != 0
    }
}

/// The rest of a cached key, which few requests read.
struct Cold {
    record: KeyRecord,
    /// The environment of the record, or else of the format.
    environment: Environment,
    format: FormatFacts,
    /// This handle tells whose key it is, and spares each request a count of references that all
    /// threads would share.
    key_services: Arc<KeyServices>,
    observer_slots: ObserverSlots,
    meter: OnceLock<Arc<Meter>>,
    watch: OnceLock<Arc<Watch>>,
    weight: u32,
}

/// The facts of a key that its format tells.
#[derive(Debug, Clone)]
pub(crate) struct FormatFacts {
    pub(crate) environment: Environment,
    /// The scopes that the key may have, if it is publishable.
    pub(crate) publishable: Option<Arc<ScopeSet>>,
}

const _: () = assert!(size_of::<CachedKey>() <= 72);

/// Removes the scopes that are not among these.
fn with_at_most(record: KeyRecord, scopes: &ScopeSet) -> KeyRecord {
    if record.scopes().is_subset(scopes) {
        return record;
    }
    let held = record.scopes().iter();
    let held = held.filter(|scope| scopes.contains(scope)).cloned();
    let held = held.collect();
    record.with_scopes(held)
}

impl CachedKey {
    /// Creates the entry of a record that was loaded in an epoch, from an instant on.
    ///
    /// A record without an environment has that of its format. Scopes that are not publishable are
    /// removed from a publishable key.
    pub(super) fn new(
        record: KeyRecord,
        format: FormatFacts,
        key_services: Arc<KeyServices>,
        epoch: Epoch,
        since: u64,
    ) -> Self {
        let plan = key_services.enforcer.rules.current().plan_of(&record);
        let record = match &format.publishable {
            Some(publishable) => with_at_most(record, publishable),
            None => record,
        };
        let environment = record.environment().unwrap_or(&format.environment);
        let environment = environment.clone();
        let is_digest = record.verifier().pepper().is_none()
            && record
                .verifier()
                .as_bytes()
                .starts_with(record.id().as_bytes());
        let mut key = Self {
            epoch,
            since,
            plan,
            traits: Traits::default()
                .with(Traits::LIVE, environment == Environment::LIVE)
                .with(
                    Traits::UNRESTRICTED,
                    record.is_unrestricted() && format.publishable.is_none(),
                )
                .with(Traits::DIGEST, is_digest),
            usage: AtomicU8::new(0),
            verifier: record.verifier().clone(),
            cold: None,
        };
        let mut cold = Box::new(Cold {
            record,
            environment,
            format,
            observer_slots: ObserverSlots::new(key_services.observers),
            meter: OnceLock::new(),
            watch: OnceLock::new(),
            key_services,
            weight: 0,
        });
        cold.weight = u32::try_from(cold.measure()).unwrap_or(u32::MAX);
        key.cold = Some(cold);
        key
    }

    /// Creates an entry without a key.
    pub(super) fn blank() -> Self {
        Self {
            epoch: Epoch::default(),
            since: 0,
            plan: PlanIndex::default(),
            traits: Traits::default(),
            usage: AtomicU8::new(0),
            verifier: Verifier::sha256(KeyDigest::from_bytes([0; 32])),
            cold: None,
        }
    }

    fn cold(&self) -> &Cold {
        let cold = self.cold.as_deref();
        cold.expect("an entry is filled before it is shared")
    }

    /// Returns the entry of a newer record of the key, loaded at the same time.
    pub(super) fn with_record(&self, record: KeyRecord) -> Self {
        let key_services = Arc::clone(&self.cold().key_services);
        Self::new(
            record,
            self.cold().format.clone(),
            key_services,
            self.epoch,
            self.since,
        )
    }

    /// Returns the same entry without the values of observers.
    pub(super) fn without_slots(&self) -> Self {
        let key = self.with_record(self.cold().record.clone());
        key.set_uses(self.uses());
        key.keep_counts_of(self);
        key
    }

    /// Returns the meter of the key, created on first use.
    #[inline]
    pub(crate) fn meter_in(&self, table: &Arc<UsageTable>) -> &Arc<Meter> {
        let cold = self.cold();
        let create = || table.meter(&cold.record, &cold.environment);
        cold.meter.get_or_init(create)
    }

    /// Returns the meter of the key, if its usage is counted.
    pub(crate) fn meter(&self) -> Option<&Arc<Meter>> {
        self.cold().meter.get()
    }

    /// Returns the watch of the key, created on first use. Anybody may use a publishable key, so
    /// that it has none.
    #[inline]
    pub(crate) fn watch_in(&self, table: &Arc<WatchTable>) -> Option<&Arc<Watch>> {
        if self.kind() == KeyKind::Publishable {
            return None;
        }
        let cold = self.cold();
        Some(cold.watch.get_or_init(|| table.watch(&cold.record)))
    }

    /// Goes on with the meter and the watch of an older entry, unless its counts are those of another
    /// account, or what is watched may be another.
    pub(super) fn keep_counts_of(&self, older: &Self) {
        let cold = self.cold();
        if let Some(meter) = older.meter()
            && meter.is_of(&cold.record, &cold.environment)
        {
            let _ = cold.meter.set(Arc::clone(meter)); // a request may have been faster
        }
        if let Some(watch) = older.cold().watch.get()
            && watch.is_of(&cold.record)
        {
            let _ = cold.watch.set(Arc::clone(watch));
        }
    }

    #[inline]
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    #[inline]
    pub(super) fn meta(&self) -> EntryMeta {
        EntryMeta {
            epoch: self.epoch,
            since: self.since,
            was_found: true,
        }
    }

    /// Counts a use, and returns whether the count has changed. A key in steady use writes nothing.
    /// Concurrent uses may be counted as one, since the count only ranks keys.
    #[inline]
    pub(super) fn count_use(&self) -> bool {
        let usage = self.usage.load(Ordering::Relaxed);
        if usage == MOST {
            return false;
        }
        let uses = usage & MOST;
        let is_counted = uses < MOST;
        self.usage
            .store(uses + u8::from(is_counted), Ordering::Relaxed);
        is_counted
    }

    /// Returns the uses and loads lately, up to 15.
    #[inline]
    pub(super) fn uses(&self) -> u8 {
        self.usage.load(Ordering::Relaxed) & MOST
    }

    /// Sets the uses, and begins with no samples.
    pub(super) fn set_uses(&self, uses: u8) {
        self.usage.store(uses.min(MOST), Ordering::Relaxed);
    }

    /// Halves the uses.
    pub(super) fn age(&self) {
        let usage = self.usage.load(Ordering::Relaxed);
        let aged = (usage & !MOST) | ((usage & MOST) / 2);
        self.usage.store(aged, Ordering::Relaxed);
    }

    /// Counts that the key is in a sample of the eviction policy, and returns in how many it was
    /// since its last use.
    pub(super) fn count_sample(&self) -> u8 {
        const ONE: u8 = MOST + 1;
        let usage = self.usage.load(Ordering::Relaxed);
        let samples = (usage / ONE + 1).min(MOST);
        self.usage
            .store(samples * ONE + (usage & MOST), Ordering::Relaxed);
        samples
    }

    pub(crate) fn record(&self) -> &KeyRecord {
        &self.cold().record
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.cold().environment
    }

    pub(crate) fn observer_slots(&self) -> &ObserverSlots {
        &self.cold().observer_slots
    }

    pub(crate) fn key_services(&self) -> &Arc<KeyServices> {
        &self.cold().key_services
    }

    /// Returns whether this is the entry of a key.
    #[inline]
    pub(super) fn is(&self, id: &KeyId) -> bool {
        if self.traits.have(Traits::DIGEST) {
            return self.verifier.as_bytes().starts_with(id.as_bytes());
        }
        self.cold().record.id() == *id
    }

    #[inline]
    pub(crate) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// Returns the status of the key at an instant.
    #[inline]
    pub(crate) fn lifecycle(&self, now: SystemTime, warning: WarningWindow) -> Lifecycle {
        if self.traits.have(Traits::UNRESTRICTED) {
            return Lifecycle::ACTIVE; // at any time
        }
        self.cold().record.lifecycle(now, warning)
    }

    /// Returns the networks that the key may be used from, if it is restricted to some.
    #[inline]
    pub(crate) fn networks(&self) -> Option<&AllowedNetworks> {
        let networks =
            (!self.traits.have(Traits::UNRESTRICTED)).then(|| self.cold().record.networks());
        networks.filter(|networks| networks.list().is_some())
    }

    /// Returns the kind of the key, which its format tells.
    #[inline]
    pub(crate) fn kind(&self) -> KeyKind {
        if self.traits.have(Traits::UNRESTRICTED) || self.cold().format.publishable.is_none() {
            return KeyKind::Secret;
        }
        KeyKind::Publishable
    }

    /// Returns the web origins that the key may be used from, if it is restricted to some.
    #[inline]
    pub(crate) fn origins(&self) -> Option<&AllowedOrigins> {
        let is_bound = self.kind() == KeyKind::Publishable;
        let origins = is_bound.then(|| self.cold().record.origins());
        origins.filter(|origins| origins.list().is_some())
    }

    /// Returns whether the key belongs to one of these environments.
    #[inline]
    pub(crate) fn is_of(&self, environments: &[Environment]) -> bool {
        let is_it = |accepted: &Environment| {
            (self.traits.have(Traits::LIVE) && *accepted == Environment::LIVE)
                || accepted == self.environment()
        };
        environments.iter().any(is_it)
    }

    /// Returns the facts that limits need about the key. `id` is its id.
    #[inline]
    pub(crate) fn charged_key(&self, id: KeyId) -> ChargedKey<'_> {
        let record = &self.cold().record;
        ChargedKey {
            record,
            environment: self.environment(),
            plan: self.plan,
            budget: if self.traits.have(Traits::UNRESTRICTED) {
                id
            } else {
                record.budget()
            },
            has_limits: !self.traits.have(Traits::UNRESTRICTED),
        }
    }

    /// Returns the memory that the entry takes, in bytes.
    pub(super) fn weight(&self) -> u64 {
        self.cold().weight.into()
    }
}

impl Cold {
    /// Measures the allocations of the entry and its share of the table, in bytes.
    fn measure(&self) -> usize {
        /// Sixteen bytes for each slot of a table that is between 3/8 and 3/4 full.
        const SLOT: usize = 29;
        /// The two counts of an `Arc`.
        const COUNTS: usize = 2 * size_of::<usize>();
        SLOT + allocation(size_of::<CachedKey>() + COUNTS)
            + allocation(size_of::<Self>())
            + self.record.verifier().heap() // of the copy beside the record
            + self.observer_slots.heap()
            + self.record.heap()
    }
}

impl fmt::Debug for CachedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedKey")
            .field("record", self.record())
            .field("environment", self.environment())
            .finish_non_exhaustive()
    }
}
