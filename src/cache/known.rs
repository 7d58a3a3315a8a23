//! A key, as the path needs it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use super::guard::Stamp;
use super::guarded::Origin;
use super::uses::UseCount;
use crate::cache::slot::Slots;
use crate::key::digest::{KeyDigest, KeyId};
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::{Lifecycle, WarningWindow};
use crate::key::network::AllowedNetworks;
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;
use crate::key::verifier::Verifier;
use crate::key::web_origin::AllowedOrigins;
use crate::limit::metering::Metering;
use crate::limit::rulebook::{Holder, PlanIndex};

/// A record, the environment that it stands for, and what its requests are metered by.
///
/// What each request looks at stands together, and is small: with ten thousand keys in use, where
/// they are in memory costs more than what is done with them.
#[repr(C)] // in the order that it is looked at, behind the count of its owners
pub(crate) struct KnownKey {
    stamp: Stamp,
    /// When it was asked for, in nanoseconds of the monotonic clock.
    since: u64,
    plan: PlanIndex,
    /// Whether its environment is that of nearly all keys.
    is_live: bool,
    /// Whether its record has nothing that few keys have.
    is_plain: bool,
    /// Whether its id is the head of its verifier.
    is_digest: bool,
    uses: UseCount,
    verifier: Verifier,
    details: Arc<Details>,
}

pub(super) struct Details {
    /// Which key it is of all that were ever loaded.
    serial: u64,
    record: KeyRecord,
    /// The record's own, or that of the format that the key is written in.
    environment: Environment,
    written: Written,
    metering: Arc<Metering>,
    /// What observers keep of the key.
    slots: Slots,
}

/// The facts of a key that the format says which it is written in.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    pub(crate) environment: Environment,
    /// All that the key can hold, if it is publishable.
    pub(crate) publishable: Option<Arc<ScopeSet>>,
}

/// Takes away the scopes that are not among these.
fn with_at_most(record: KeyRecord, scopes: &ScopeSet) -> KeyRecord {
    if record.scopes().is_subset(scopes) {
        return record;
    }
    let held = record.scopes().iter();
    let held = held.filter(|scope| scopes.contains(scope)).cloned();
    let held = held.collect();
    record.with_scopes(held)
}

static SERIAL: AtomicU64 = AtomicU64::new(1);

const _: () = assert!(size_of::<KnownKey>() <= 72);

impl KnownKey {
    /// The key of a record that was loaded from this stamp and instant on. If the record names no
    /// environment, it is that of the key's format. Scopes that are not publishable are not believed
    /// of a publishable key.
    pub(super) fn new(
        record: KeyRecord,
        written: Written,
        metering: Arc<Metering>,
        stamp: Stamp,
        since: u64,
    ) -> Self {
        let plan = metering.limiting.rules.current().plan_of(&record);
        let format = &written.environment;
        let environment = record.environment().unwrap_or(format).clone();
        let record = match &written.publishable {
            Some(publishable) => with_at_most(record, publishable),
            None => record,
        };
        Self {
            stamp,
            since,
            plan,
            is_live: environment == Environment::LIVE,
            is_plain: record.is_plain() && written.publishable.is_none(),
            is_digest: record.verifier().pepper().is_none()
                && record
                    .verifier()
                    .as_bytes()
                    .starts_with(record.id().as_bytes()),
            uses: UseCount::default(),
            verifier: record.verifier().clone(),
            details: Arc::new(Details {
                serial: SERIAL.fetch_add(1, Ordering::Relaxed),
                record,
                environment,
                written,
                slots: Slots::new(metering.observers),
                metering,
            }),
        }
    }

    /// The same key as of a newer record, loaded at the same time.
    pub(super) fn with_record(&self, record: KeyRecord) -> Self {
        let Details {
            written, metering, ..
        } = &*self.details;
        let (written, metering) = (written.clone(), Arc::clone(metering));
        Self::new(record, written, metering, self.stamp, self.since)
    }

    /// The same key, loaded at the same time, of which observers keep nothing.
    pub(super) fn without_slots(&self) -> Self {
        let Details {
            serial,
            record,
            environment,
            written,
            metering,
            ..
        } = &*self.details;
        let uses = UseCount::default();
        uses.inherit(&self.uses);
        Self {
            uses,
            verifier: self.verifier.clone(),
            details: Arc::new(Details {
                serial: *serial,
                record: record.clone(),
                environment: environment.clone(),
                written: written.clone(),
                slots: Slots::new(metering.observers),
                metering: Arc::clone(metering),
            }),
            ..*self
        }
    }

    /// What stands in a [`Pool`](super::pool::Pool) for a key.
    pub(super) fn blank(details: &Arc<Details>) -> Self {
        Self {
            stamp: Stamp::default(),
            since: 0,
            plan: PlanIndex::default(),
            is_live: false,
            is_plain: false,
            is_digest: false,
            uses: UseCount::default(),
            verifier: Verifier::sha256(KeyDigest::from_bytes([0; 32])),
            details: Arc::clone(details),
        }
    }

    #[inline]
    pub(crate) fn stamp(&self) -> Stamp {
        self.stamp
    }

    #[inline]
    pub(super) fn origin(&self) -> Origin {
        Origin {
            stamp: self.stamp,
            since: self.since,
            found: true,
        }
    }

    #[inline]
    pub(super) fn uses(&self) -> &UseCount {
        &self.uses
    }

    /// What tells it from an older or newer record of the same key.
    pub(super) fn serial(&self) -> u64 {
        self.details.serial
    }

    pub(crate) fn record(&self) -> &KeyRecord {
        &self.details.record
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.details.environment
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.details.slots
    }

    pub(crate) fn metering(&self) -> &Arc<Metering> {
        &self.details.metering
    }

    /// Whether this is its id.
    #[inline]
    pub(super) fn is(&self, id: &KeyId) -> bool {
        if self.is_digest {
            return self.verifier.as_bytes().starts_with(id.as_bytes());
        }
        self.record().id() == *id
    }

    #[inline]
    pub(crate) fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// The status of the key at an instant.
    #[inline]
    pub(crate) fn lifecycle(&self, now: SystemTime, warning: WarningWindow) -> Lifecycle {
        if self.is_plain {
            return Lifecycle::ACTIVE; // at any time
        }
        self.record().lifecycle(now, warning)
    }

    /// Where it may be used from, if not from anywhere.
    #[inline]
    pub(crate) fn networks(&self) -> Option<&AllowedNetworks> {
        let networks = (!self.is_plain).then(|| self.record().networks());
        networks.filter(|networks| networks.list().is_some())
    }

    /// Returns the kind of the key, as the format that it is written in says.
    #[inline]
    pub(crate) fn kind(&self) -> KeyKind {
        if self.is_plain || self.details.written.publishable.is_none() {
            return KeyKind::Secret;
        }
        KeyKind::Publishable
    }

    /// Returns the web origins that it may be used from, if it is bound to some.
    #[inline]
    pub(crate) fn origins(&self) -> Option<&AllowedOrigins> {
        let is_bound = self.kind() == KeyKind::Publishable;
        let origins = is_bound.then(|| self.record().origins());
        origins.filter(|origins| origins.list().is_some())
    }

    /// Whether it is of one of these environments; `live` is known at a glance.
    #[inline]
    pub(crate) fn is_of(&self, environments: &[Environment]) -> bool {
        let is_it = |accepted: &Environment| {
            (self.is_live && *accepted == Environment::LIVE) || accepted == self.environment()
        };
        environments.iter().any(is_it)
    }

    /// What the limits must know of the key, whose id this is.
    #[inline]
    pub(crate) fn holder(&self, id: KeyId) -> Holder<'_> {
        let record = self.record();
        Holder {
            record,
            environment: self.environment(),
            plan: self.plan,
            budget: if self.is_plain { id } else { record.budget() },
            has_limits: !self.is_plain,
        }
    }

    /// The memory that it takes, in bytes.
    pub(super) fn weight(&self) -> usize {
        // The verifier is in the record, too.
        let heap = self.record().heap() + 2 * self.verifier.heap();
        size_of::<Self>() + size_of::<Details>() + heap
    }
}

impl Details {
    /// Those of no key at all.
    pub(super) fn of_none(metering: Arc<Metering>) -> Arc<Self> {
        Arc::new(Self {
            serial: 0,
            record: KeyRecord::imported(KeyDigest::from_bytes([0; 32]), ""),
            environment: Environment::LIVE,
            written: Written {
                environment: Environment::LIVE,
                publishable: None,
            },
            slots: Slots::default(),
            metering,
        })
    }
}

impl fmt::Debug for KnownKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KnownKey")
            .field("record", self.record())
            .field("environment", self.environment())
            .finish_non_exhaustive()
    }
}
