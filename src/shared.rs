//! The state that all clones and layers of an `ApiKeys` share: store, cache, formats, peppers,
//! limits and clock.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::anomaly::{WatchTable, network_of, number_of};
use crate::cache::{CachedKey, FormatFacts, KeyCache};
use crate::events::{DynEventSink, DynWebhooks};
use crate::http::rejection::Rejection;
use crate::http::request_head::RequestHead;
use crate::key::format::KeyFormat;
use crate::key::formats::KeyFormats;
use crate::key::kind::KeyKind;
use crate::key::lifecycle::WarningWindow;
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;
use crate::key::verifier::PepperRing;
use crate::limit::failed_attempts::FailedAttempts;
use crate::limit::key_services::KeyServices;
use crate::observe::Observers;
use crate::observe::countries::Countries;
use crate::observe::nearly_used::NearlyUsed;
use crate::store::{BoxedOutbox, DynChangeFeed, DynKeyStore, DynManagedKeyStore};
use crate::usage::{Counted, UsageTable};
use crate::util::clock::{Clock, Now};
use crate::util::log_throttle::{LogOnce, OutageLog};
use crate::util::timestamp::nanoseconds;

/// The shared state of an `ApiKeys`, for the request path and the management calls.
pub(crate) struct Shared {
    pub(crate) store: Arc<dyn DynKeyStore>,
    pub(crate) cache: KeyCache,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) formats: KeyFormats,
    pub(crate) peppers: PepperRing,
    pub(crate) warning: WarningWindow,
    pub(crate) key_services: Arc<KeyServices>,
    pub(crate) throttle: Option<FailedAttempts>,
    /// The scopes that publishable keys may have.
    pub(crate) publishable: Arc<ScopeSet>,
    /// The application's own subjects of limits, by name.
    pub(crate) subjects: Subjects,
    pub(crate) log_throttles: LogThrottles,
    pub(crate) observers: Observers,
    pub(crate) nearly_used: NearlyUsed,
    /// The last work of the worker.
    pub(crate) worker: Heartbeat,
    pub(crate) feed: Option<FollowedFeed>,
    pub(crate) usage: Arc<UsageTable>,
    /// The watches of keys, if anomalies are detected.
    pub(crate) watch: Option<Arc<WatchTable>>,
    /// The source of the countries of clients.
    pub(crate) countries: Option<Arc<dyn Countries>>,
    /// The store for changes, usage and events. `None` if the store is only read.
    pub(crate) managed_store: Option<Arc<dyn DynManagedKeyStore>>,
    /// The outbox of the store, if it has one.
    pub(crate) outbox: Option<BoxedOutbox>,
    /// The sinks of the application, by the ids of their endpoints.
    pub(crate) sinks: BTreeMap<String, Arc<dyn DynEventSink>>,
    /// The sender of webhooks, if they are set up.
    pub(crate) webhooks: Option<Arc<dyn DynWebhooks>>,
    pub(crate) idle: IdleEnds,
}

/// The times without a use after which the worker ends keys. `None` is never.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct IdleEnds {
    pub(crate) keys: Option<Duration>,
    /// Keys that were rotated.
    pub(crate) rotated: Option<Duration>,
}

/// Functions that find the application's own subjects of limits, by name.
pub(crate) type Subjects = Vec<(Box<str>, Box<FindSubject>)>;

pub(crate) type FindSubject =
    dyn Fn(RequestHead<'_>, Option<&KeyRecord>) -> Option<String> + Send + Sync;

/// The feed of changes that the worker follows.
pub(crate) struct FollowedFeed {
    pub(crate) feed: Arc<dyn DynChangeFeed>,
    /// The last call that the feed answered.
    pub(crate) heartbeat: Heartbeat,
}

/// The time of the last background work, shared between the worker and health checks.
#[derive(Debug, Default)]
pub(crate) struct Heartbeat(AtomicU64);

/// The last beat of a [`Heartbeat`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastBeat {
    Never,
    /// In nanoseconds of the monotonic clock.
    At(u64),
    Stopped,
}

impl Heartbeat {
    const STOPPED: u64 = u64::MAX;

    pub(crate) fn beat(&self, now: Duration) {
        let at = nanoseconds(now).saturating_add(1).min(Self::STOPPED - 1);
        self.0.store(at, Ordering::Relaxed);
    }

    pub(crate) fn stop(&self) {
        self.0.store(Self::STOPPED, Ordering::Relaxed);
    }

    pub(crate) fn last(&self) -> LastBeat {
        match self.0.load(Ordering::Relaxed) {
            0 => LastBeat::Never,
            Self::STOPPED => LastBeat::Stopped,
            at => LastBeat::At(at - 1),
        }
    }
}

/// Throttles for log lines that are not written for each request.
#[derive(Debug, Default)]
pub(crate) struct LogThrottles {
    pub(crate) untrusted_forwarding: LogOnce,
    pub(crate) later_profile: LogOnce,
    pub(crate) no_address_for_allow_list: LogOnce,
    pub(crate) no_address_for_limits: LogOnce,
    pub(crate) store: OutageLog,
    pub(crate) loads: OutageLog,
    pub(crate) limiter: OutageLog,
}

impl Shared {
    pub(crate) fn now(&self) -> SystemTime {
        self.clock.now()
    }

    /// Returns the facts that follow from the format of a key.
    pub(crate) fn format_facts(&self, format: &KeyFormat) -> FormatFacts {
        let is_publishable = format.kind() == KeyKind::Publishable;
        FormatFacts {
            environment: format.environment().clone(),
            publishable: is_publishable.then(|| Arc::clone(&self.publishable)),
        }
    }

    /// Returns the subject with this name in a request.
    pub(crate) fn subject(
        &self,
        name: &str,
        request: RequestHead<'_>,
        key: Option<&KeyRecord>,
    ) -> Option<Box<str>> {
        let (_, subject) = self.subjects.iter().find(|(other, _)| **other == *name)?;
        subject(request, key).map(String::into)
    }

    /// Counts an admitted request of a key.
    #[inline]
    pub(crate) fn count_admission(
        &self,
        key: &CachedKey,
        now: SystemTime,
        cost: u64,
        client: impl FnOnce() -> Option<IpAddr>,
    ) {
        let table = &self.usage;
        if table.is_on() {
            let meter = key.meter_in(table);
            meter.admitted(now, cost, || table.shown(client()));
        }
    }

    /// Counts a denied request of a key.
    pub(crate) fn count_denial(&self, key: &CachedKey, now: SystemTime, rejection: &Rejection) {
        let table = &self.usage;
        if !table.is_on() {
            return;
        }
        let as_ = match rejection {
            Rejection::RateLimited { .. } | Rejection::CostExceedsQuota { .. } => Counted::Limited,
            _ => Counted::Refused,
        };
        key.meter_in(table).denied(now, as_);
    }

    /// Lets anomaly detection see a request of a key.
    #[inline]
    pub(crate) fn see(
        &self,
        key: &CachedKey,
        now: SystemTime,
        request: RequestHead<'_>,
        client: impl FnOnce() -> Option<IpAddr>,
    ) {
        let Some(table) = self.watch.as_ref().filter(|table| table.is_on()) else {
            return;
        };
        let Some(watch) = key.watch_in(table) else {
            return;
        };
        let Some(countries) = &self.countries else {
            return watch.see(now, None, || None);
        };
        if countries.needs_address() {
            let client = client();
            let place = || Some((countries.country(client, request)?, client));
            return watch.see(now, client.map(network_of), place);
        }
        let country = countries.country(None, request);
        watch.see(now, country.map(number_of), || Some((country?, client())));
    }

    /// Lets anomaly detection see a use of a key that came in no request.
    pub(crate) fn see_use(&self, key: &CachedKey, now: SystemTime) {
        let Some(table) = self.watch.as_ref().filter(|table| table.is_on()) else {
            return;
        };
        if let Some(watch) = key.watch_in(table) {
            watch.see(now, None, || None);
        }
    }

    /// Returns the readings of both clocks, for decisions about a request.
    pub(crate) fn readings(&self) -> Now {
        self.clock.readings()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("formats", &self.formats)
            .field("peppers", &self.peppers)
            .field("warning", &self.warning)
            .field("key_services", &self.key_services)
            .field("throttle", &self.throttle)
            .finish_non_exhaustive()
    }
}
