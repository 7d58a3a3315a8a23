//! The builder and its settings, each with its default and the risk of changing it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::{ApiKeys, Managed};
use crate::anomaly::{AnomalyDetection, WatchTable};
use crate::backend::memory::limiter::MemoryLimiter;
use crate::cache::adoption::{Adopter, Adoption};
use crate::cache::{Cache, KeyCache};
use crate::events::{DynEventSink, DynWebhooks, EventSink};
use crate::http::request_head::RequestHead;
use crate::key::format::{KeyFormat, KeyFormatError};
use crate::key::formats::KeyFormats;
use crate::key::lifecycle::WarningWindow;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::verifier::PepperRing;
use crate::limit::enforcer::Enforcer;
use crate::limit::failed_attempts::FailedAttempts;
use crate::limit::key_services::KeyServices;
use crate::limit::limiter::{DynRateLimiter, RateLimiter};
use crate::limit::limits::Limits;
use crate::limit::outage::{LimiterOutage, OutageLimiter};
use crate::limit::rule::LimitsError;
use crate::limit::rule_editions::RuleEditions;
use crate::manage::policy::IssuePolicy;
use crate::manage::retire::SHORTEST_IDLE;
use crate::observe::countries::Countries;
use crate::observe::nearly_used::NearlyUsed;
use crate::observe::{Observer, Observers};
use crate::shared::{FollowedFeed, Heartbeat, IdleEnds, LogThrottles, Shared, Subjects};
use crate::store::{ChangeFeed, DynChangeFeed, DynKeyStore, DynManagedKeyStore, Endpoint};
use crate::usage::{Metering, UsageTable};
use crate::util::clock::{Clock, SystemClock};
use crate::util::log_throttle::LineBudget;

/// A builder for [`ApiKeys`].
#[must_use = "nothing is set up until it is built"]
pub struct ApiKeysBuilder<A = Managed> {
    store: Arc<dyn DynKeyStore>,
    access: A,
    clock: Arc<dyn Clock>,
    formats: Option<Vec<KeyFormat>>,
    peppers: PepperRing,
    warning: WarningWindow,
    limits: Limits,
    limiter: Option<Arc<dyn DynRateLimiter>>,
    limiter_outage: LimiterOutage,
    failed_attempts: Option<Quota>,
    publishable: ScopeSet,
    subjects: Subjects,
    observers: Vec<Arc<dyn Observer>>,
    hides_addresses: bool,
    feed: Option<Arc<dyn DynChangeFeed>>,
    managed_store: Option<Arc<dyn DynManagedKeyStore>>,
    metering: Metering,
    detection: Option<AnomalyDetection>,
    countries: Option<Arc<dyn Countries>>,
    sinks: BTreeMap<String, Arc<dyn DynEventSink>>,
    pub(super) webhooks: Option<Arc<dyn DynWebhooks>>,
    pub(super) adopted: Vec<(KeyFormat, Arc<Adopter>)>,
    cache: Cache,
    idle: IdleEnds,
}

impl ApiKeysBuilder {
    /// Adds a sink that events are delivered to. Default: none. For each name, the last sink counts.
    ///
    /// The name is that of the [endpoint](crate::store::Endpoint) of the sink: 1 to 64 letters,
    /// digits, `_` and `-`. Use the same name in all processes. The [worker](ApiKeys::worker)
    /// creates the endpoint when it starts for the first time, and the sink gets the events from
    /// then on. If you remove a sink, delete its endpoint: its events wait there.
    ///
    /// ```
    /// # use tower_api_key::events::{EventSink, KeptEvent, SinkError};
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// struct Printed;
    ///
    /// impl EventSink for Printed {
    ///     async fn take(&self, kept: &KeptEvent) -> Result<(), SinkError> {
    ///         println!("{} {}", kept.event.kind, kept.event.data);
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let keys = ApiKeys::builder(MemoryStore::new()).sink("printed", Printed).build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn sink(mut self, name: impl Into<String>, sink: impl EventSink) -> Self {
        self.sinks.insert(name.into(), Arc::new(sink));
        self
    }

    /// Switches [anomaly detection](crate::anomaly) on. Default: off.
    ///
    /// The [worker](ApiKeys::worker) detects: without one in a process, the requests to it are not
    /// seen. The store must keep [profiles](crate::ManagedKeyStore::profiles).
    ///
    /// ```
    /// use tower_api_key::anomaly::{Actions, AnomalyDetection, CountryHeader};
    /// use tower_api_key::{ApiKeys, MemoryStore};
    ///
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .anomaly_detection(AnomalyDetection::new().actions(Actions::recommended()).dry_run())
    ///     .countries(CountryHeader::new("cf-ipcountry")?)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn anomaly_detection(mut self, detection: AnomalyDetection) -> Self {
        self.detection = Some(detection);
        self
    }

    /// Sets the source of the countries of clients, for anomaly detection. Default: none, and no
    /// country is new.
    ///
    /// The address of the client is that of
    /// [`ApiKeyLayer::client_address`](crate::ApiKeyLayer::client_address). A client whose address is
    /// not known has no country.
    pub fn countries(mut self, countries: impl Countries) -> Self {
        self.countries = Some(Arc::new(countries));
        self
    }

    /// Sets the policy of issuing. Default: everything is allowed.
    pub fn issue_policy(mut self, policy: IssuePolicy) -> Self {
        self.idle = IdleEnds {
            keys: policy.idle_end,
            rotated: policy.idle_grace_end,
        };
        self.access.policy = Arc::new(policy);
        self
    }
}

impl<A> ApiKeysBuilder<A> {
    pub(super) fn new(store: Arc<dyn DynKeyStore>, access: A) -> Self {
        Self {
            store,
            access,
            clock: Arc::new(SystemClock),
            formats: None,
            peppers: PepperRing::default(),
            warning: WarningWindow::default(),
            limits: Limits::new(),
            limiter: None,
            limiter_outage: LimiterOutage::default(),
            failed_attempts: None,
            publishable: ScopeSet::default(),
            subjects: Subjects::new(),
            observers: Vec::new(),
            hides_addresses: false,
            feed: None,
            managed_store: None,
            metering: Metering::new(),
            detection: None,
            countries: None,
            sinks: BTreeMap::new(),
            webhooks: None,
            adopted: Vec::new(),
            cache: Cache::default(),
            idle: IdleEnds::default(),
        }
    }

    /// Sets the store that uses of keys are recorded in.
    pub(super) fn managed_store(mut self, store: Arc<dyn DynManagedKeyStore>) -> Self {
        self.managed_store = Some(store);
        self
    }

    /// Sets the formats of keys. Default: `sk_live` for the environment `live` and `sk_test` for
    /// `test`, each with 32 random bytes and a checksum.
    ///
    /// Keys in other formats are not recognized: keep a format in the list for as long as its keys
    /// are in use.
    ///
    /// ```
    /// # use tower_api_key::key::KeyFormat;
    /// # use tower_api_key::{ApiKeys, Environment, MemoryStore};
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .formats([
    ///         KeyFormat::new("acme_live", Environment::LIVE)?,
    ///         KeyFormat::new("acme_test", Environment::TEST)?,
    ///         KeyFormat::new("acme_pub", Environment::LIVE)?.secret_bytes(16)?.publishable(),
    ///     ])
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn formats(mut self, formats: impl IntoIterator<Item = KeyFormat>) -> Self {
        self.formats = Some(formats.into_iter().collect());
        self
    }

    /// Declares the scopes that [publishable](KeyFormat::publishable) keys may hold. Default: none.
    ///
    /// Issuing a publishable key with any other scope is an error, and records of publishable keys
    /// with other scopes are not trusted.
    ///
    /// ```
    /// # use tower_api_key::key::KeyFormat;
    /// # use tower_api_key::{ApiKeys, Environment, MemoryStore, Scope};
    /// const SEARCH: Scope = Scope::from_static("search");
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .formats([
    ///         KeyFormat::new("acme_live", Environment::LIVE)?,
    ///         KeyFormat::new("acme_pub", Environment::LIVE)?.publishable(),
    ///     ])
    ///     .publishable_scopes([SEARCH])
    ///     .build()?;
    /// let key = keys.issue("acme").publishable().scopes([SEARCH]).await?;
    /// assert!(key.expose_secret().starts_with("acme_pub_"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn publishable_scopes(mut self, scopes: impl IntoIterator<Item = Scope>) -> Self {
        self.publishable = scopes.into_iter().collect();
        self
    }

    /// Sets the peppers: the secrets under which verifiers are computed. Default: none; verifiers
    /// are plain SHA-256.
    ///
    /// Danger: a key whose record names a pepper that is not in the ring cannot be verified (503).
    /// Keep retired peppers in the ring until no record names them. Before you introduce peppers
    /// for existing keys, convert their records to a pepper, or accept them for a transition with
    /// [`PepperRing::dangerous_accept_unpeppered`].
    ///
    /// ```
    /// # use tower_api_key::key::PepperRing;
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// # let secret = [7; 32];
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .peppers(PepperRing::new("2026-11", &secret)?)
    ///     .build()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn peppers(mut self, peppers: PepperRing) -> Self {
        self.peppers = peppers;
        self
    }

    /// Sets how long before its expiry a key counts as deprecated. Default: 30 days, or the last
    /// quarter of the key's lifetime if that is shorter.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_api_key::key::WarningWindow;
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// let week = Duration::from_secs(7 * 86_400);
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .warning_window(WarningWindow::at_most(week))
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn warning_window(mut self, window: WarningWindow) -> Self {
        self.warning = window;
        self
    }

    /// Sets the limits that requests are charged against. Default: none.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
    /// const PER_MINUTE: Quota = Quota::per_minute(600);
    ///
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .limits(Limits::new().per_key(PER_MINUTE))
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets the limiter, which stores the budgets of the limits. Default: a [`MemoryLimiter`] in
    /// this process.
    ///
    /// A `MemoryLimiter` is exact within one process, and never fails. With *n* processes, a client
    /// gets up to *n* times each quota. All budgets end with the process, even those of a month: a
    /// calendar quota in a `MemoryLimiter` is logged as a warning. For the failures of other
    /// limiters, see [`limiter_outage`](Self::limiter_outage).
    ///
    /// ```
    /// # use tower_api_key::limit::MemoryLimiter;
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .limiter(MemoryLimiter::with_memory(256 << 20))
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn limiter(mut self, limiter: impl RateLimiter) -> Self {
        self.limiter = Some(Arc::new(limiter));
        self
    }

    /// Sets how requests are decided when the limiter fails, or does not answer in time. Default:
    /// [`LimiterOutage::refuse`], after 250 milliseconds.
    ///
    /// ```
    /// # use tower_api_key::limit::LimiterOutage;
    /// # use tower_api_key::{ApiKeys, MemoryStore, Quota};
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .limiter_outage(LimiterOutage::admit(Quota::per_second(500)))
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn limiter_outage(mut self, outage: LimiterOutage) -> Self {
        self.limiter_outage = outage;
        self
    }

    /// Sets how keys are cached, and how a store that fails or is slow is handled. Default:
    /// [`Cache::new`], with which a key that is revoked elsewhere is admitted for up to 10 seconds.
    ///
    /// ```
    /// # use std::time::Duration;
    /// # use tower_api_key::{ApiKeys, Cache, MemoryStore};
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .cache(Cache::new().max_staleness(Duration::from_secs(60)))
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn cache(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// Sets the quota of keys that do not exist, per client address. Default: unlimited.
    ///
    /// Over the quota, unknown keys from the address are refused with 429
    /// `too_many_failed_attempts`, without a lookup in the store. A key that was found before, and
    /// is still in the cache, always passes. Only well-formed unknown keys count; a key that is
    /// being looked up counts until it is found. The same unknown key counts each time. An IPv6
    /// client is its /64.
    ///
    /// A quota of any kind is counted as a rate: 300 per minute are 300 at once, and then one every
    /// 200 milliseconds. Attempts therefore expire soon, and even strangers with many addresses
    /// rarely fill the 4 MiB of memory for addresses. If they do, new addresses are counted with
    /// their networks, as in [`MemoryLimiter`].
    ///
    /// Behind a proxy, first configure [`ClientAddress`](crate::http::ClientAddress). If the
    /// client's address is not known, the peer's address counts. If neither is known, clients
    /// cannot be told apart: keys that were not found before may then use only a sixteenth of the
    /// loads in flight ([`Cache::max_loads`]), and get 503 beyond that; keys that were found before
    /// pass. This is logged once at `ERROR`.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, MemoryStore, Quota};
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .failed_attempts(Quota::per_minute(300))
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn failed_attempts(mut self, per_address: Quota) -> Self {
        self.failed_attempts = Some(per_address);
        self
    }

    /// Adds an observer, which is told about each decision after it is logged. Default: none.
    ///
    /// ```
    /// # use tower_api_key::observe::{Decision, Observer};
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// struct Printed;
    ///
    /// impl Observer for Printed {
    ///     fn decided(&self, decision: &Decision<'_>) {
    ///         println!("{} {:?}", decision.route(), decision.rejection());
    ///     }
    /// }
    ///
    /// let keys = ApiKeys::builder(MemoryStore::new()).add_observer(Printed).build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn add_observer(mut self, observer: impl Observer) -> Self {
        self.observers.push(Arc::new(observer));
        self
    }

    /// Sets the feed of changes by other processes. Default: the
    /// [feed of the store](crate::KeyStore::feed), if it has one. Without a feed, a key that is
    /// revoked elsewhere is admitted until its cache entry is too old: see
    /// [`Cache::max_staleness`].
    ///
    /// The [worker](ApiKeys::worker) follows the feed: without a worker, a feed has no effect.
    /// [`Health`](crate::manage::Health) reports the state of the feed.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// let store = MemoryStore::new();
    /// let keys = ApiKeys::builder(store.clone()).feed(store).build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn feed(mut self, feed: impl ChangeFeed) -> Self {
        self.feed = Some(Arc::new(feed));
        self
    }

    /// Sets how usage is counted. Default: [by UTC day, every 30 seconds](Metering).
    ///
    /// ```
    /// # use tower_api_key::usage::Metering;
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .metering(Metering::new().by_hour())
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn metering(mut self, metering: Metering) -> Self {
        self.metering = metering;
        self
    }

    /// Sets the clock. Default: [`SystemClock`].
    ///
    /// ```
    /// # use std::time::SystemTime;
    /// # use tower_api_key::clock::ManualClock;
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
    /// let keys = ApiKeys::builder(MemoryStore::new()).clock(clock.clone()).build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Leaves client addresses out of the log, and out of what is recorded of the last use of a
    /// key. Default: a refusal is logged with the client's address, and a use is recorded with it.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, MemoryStore};
    /// let keys = ApiKeys::builder(MemoryStore::new()).log_without_addresses().build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn log_without_addresses(mut self) -> Self {
        self.hides_addresses = true;
        self
    }

    /// Adds a function that finds a subject of the application's own in a request, for limits [per
    /// subject](Limits::per). Default: none. For each name, the last function counts.
    ///
    /// The function is called for each request that is charged, so it must not block. If it returns
    /// `None`, the limits do not apply to the request.
    ///
    /// Danger: if clients can choose the subject, for example by a header, they get any number of
    /// budgets, and crowd the budgets of keys and accounts out of the limiter's memory. Derive the
    /// subject from the key, or from data that was verified before.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, Limits, MemoryStore, Quota};
    /// #[derive(Clone)]
    /// struct User(String); // verified by an outer layer
    ///
    /// let keys = ApiKeys::builder(MemoryStore::new())
    ///     .limits(Limits::new().per("user", Quota::per_minute(60)))
    ///     .add_subject("user", |request, _key| {
    ///         request.extensions.get::<User>().map(|user| user.0.clone())
    ///     })
    ///     .build()?;
    /// # Ok::<(), tower_api_key::BuildError>(())
    /// ```
    pub fn add_subject(
        mut self,
        name: impl Into<String>,
        subject: impl Fn(RequestHead<'_>, Option<&KeyRecord>) -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        let name = name.into().into_boxed_str();
        self.subjects.retain(|(other, _)| *other != name);
        self.subjects.push((name, Box::new(subject)));
        self
    }

    /// Builds the [`ApiKeys`], or returns an error if the settings cannot work.
    pub fn build(mut self) -> Result<ApiKeys<A>, BuildError> {
        let formats = match (self.formats.take(), &self.adopted[..]) {
            (None, []) => KeyFormats::default(),
            (formats, adopted) => {
                let formats =
                    formats.unwrap_or_else(|| KeyFormats::default().iter().cloned().collect());
                let adopted = adopted.iter().map(|(format, _)| format.clone());
                KeyFormats::new(formats.into_iter().chain(adopted))?
            }
        };
        self.limits.validate(&subject_names(&self.subjects))?;
        let ends = [self.idle.keys, self.idle.rotated];
        if ends.into_iter().flatten().any(|idle| idle < SHORTEST_IDLE) {
            return Err(BuildError::IdleTooShort);
        }
        if let Some(name) = self.sinks.keys().find(|name| !Endpoint::is_id(name)) {
            return Err(BuildError::SinkName(name.clone()));
        }
        if let Some(name) = self.detection.as_ref().and_then(|it| it.bad_name()) {
            return Err(BuildError::DetectorName(name.to_owned()));
        }
        let has_outbox = self
            .managed_store
            .as_ref()
            .is_some_and(|it| it.outbox().is_some());
        if !has_outbox && (!self.sinks.is_empty() || self.webhooks.is_some()) {
            return Err(BuildError::NoOutbox);
        }
        Ok(self.assemble(formats))
    }

    pub(super) fn assemble(self, formats: KeyFormats) -> ApiKeys<A> {
        // Initialize the clock here, so that no request waits for it.
        self.clock.readings();
        let limiter = self.limiter;
        let limiter = limiter.unwrap_or_else(|| Arc::new(MemoryLimiter::new()));
        let time_limit = self.limiter_outage.time_limit;
        let is_kept = limiter.keep_time_limit(time_limit);
        let enforcer = Enforcer {
            rules: RuleEditions::new(self.limits),
            limiter,
            time_limit: (!is_kept).then_some(time_limit),
            outage_limiter: OutageLimiter::new(
                self.limiter_outage.policy,
                Arc::new(MemoryLimiter::new()),
            ),
        };
        enforcer.warn_of_calendar();
        let refusals = Arc::<LineBudget>::default();
        let hides_addresses = self.hides_addresses;
        let observers = Observers::new(self.observers, hides_addresses, Arc::clone(&refusals));
        let throttle = self.failed_attempts.map(|quota| {
            let limiter = MemoryLimiter::with_memory(THROTTLE_MEMORY);
            FailedAttempts::new(quota, Arc::new(limiter))
        });
        let adopters = self.adopted.into_iter().filter_map(|(adopted, adopter)| {
            let index = formats.iter().position(|format| *format == adopted)?;
            Some((index, adopter))
        });
        let adoption = Adoption::new(
            adopters.collect(),
            self.managed_store.clone(),
            self.peppers.clone(),
        );
        let feed = self.feed.or_else(|| self.store.feed().map(|feed| feed.0));
        let clock = self.clock;
        let key_services = Arc::new(KeyServices {
            enforcer,
            clock: Arc::clone(&clock),
            observers: observers.count(),
            refusals,
        });
        let shared = Shared {
            cache: KeyCache::new(
                Arc::clone(&self.store),
                Arc::clone(&clock),
                Arc::clone(&key_services),
                adoption,
                self.cache,
            ),
            store: self.store,
            clock,
            formats,
            peppers: self.peppers,
            warning: self.warning,
            key_services,
            throttle,
            publishable: Arc::new(self.publishable),
            subjects: self.subjects,
            log_throttles: LogThrottles::default(),
            observers,
            nearly_used: NearlyUsed::default(),
            worker: Heartbeat::default(),
            feed: feed.map(|feed| FollowedFeed {
                feed,
                heartbeat: Heartbeat::default(),
            }),
            usage: UsageTable::new(self.metering, hides_addresses),
            watch: self.detection.map(|mut detection| {
                detection.hides_addresses = hides_addresses;
                WatchTable::new(detection)
            }),
            countries: self.countries,
            outbox: self.managed_store.as_ref().and_then(|store| store.outbox()),
            managed_store: self.managed_store,
            sinks: self.sinks,
            webhooks: self.webhooks,
            idle: self.idle,
        };
        ApiKeys {
            shared: Arc::new(shared),
            access: self.access,
        }
    }
}

/// Returns the names of subjects.
pub(super) fn subject_names(subjects: &Subjects) -> Vec<&str> {
    subjects.iter().map(|(name, _)| &**name).collect()
}

/// The memory of the limiter for failed attempts, of which addresses get a quarter.
const THROTTLE_MEMORY: usize = 16 << 20;

impl<A> fmt::Debug for ApiKeysBuilder<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKeysBuilder")
            .field("formats", &self.formats)
            .field("peppers", &self.peppers)
            .field("warning", &self.warning)
            .finish_non_exhaustive()
    }
}

/// An error for settings of an `ApiKeys` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no format, or two formats conflict.
    #[error(transparent)]
    Formats(#[from] KeyFormatError),
    /// The limits are invalid.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Keys would end after less than a day without a use.
    #[error("keys are ended after a day without a use, or later: see IssuePolicy::end_when_idle")]
    IdleTooShort,
    /// The name of a sink is not 1 to 64 ASCII letters, digits, `_` and `-`.
    #[error("{0:?} is no name of a sink: use 1 to 64 letters, digits, '_' and '-'")]
    SinkName(String),
    /// The name of a detector is not 1 to 64 lower-case letters, digits and `_`, or another detector
    /// has it.
    #[error(
        "{0:?} is no name of a detector, or that of another one: use 1 to 64 lower-case letters, \
         digits and '_'"
    )]
    DetectorName(String),
    /// There is a sink, or webhooks are set up, and the store delivers no events.
    #[error("the store delivers no events to sinks and webhooks: its `outbox` returns none")]
    NoOutbox,
}
