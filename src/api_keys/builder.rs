//! The builder: what an application chooses, each with its default and the risk of changing it.

use std::fmt;
use std::sync::Arc;

use super::{ApiKeys, Managed};
use crate::backend::memory::limiter::MemoryLimiter;
use crate::cache::{Cache, KeyCache};
use crate::http::request_head::RequestHead;
use crate::key::format::{KeyFormat, KeyFormatError};
use crate::key::formats::KeyFormats;
use crate::key::lifecycle::WarningWindow;
use crate::key::quota::Quota;
use crate::key::record::KeyRecord;
use crate::key::scope::{Scope, ScopeSet};
use crate::key::verifier::PepperRing;
use crate::keyring::{Following, Keyring, LastSign, Notices, Subjects};
use crate::limit::editions::Editions;
use crate::limit::limiter::{DynRateLimiter, RateLimiter};
use crate::limit::limiting::Limiting;
use crate::limit::metering::Metering;
use crate::limit::outage::{Emergency, LimiterOutage};
use crate::limit::rule::LimitsError;
use crate::limit::rules::Limits;
use crate::limit::throttle::Throttle;
use crate::observe::{Observer, Observers};
use crate::store::{ChangeFeed, DynChangeFeed, DynKeyStore};
use crate::util::clock::{Clock, SystemClock};
use crate::util::notice::Lines;

/// Sets up an [`ApiKeys`].
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
    cache: Cache,
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
            cache: Cache::default(),
        }
    }

    /// How keys are written. Default: `sk_live` for the environment `live` and `sk_test` for
    /// `test`, each with 32 random bytes and a checksum.
    ///
    /// What is not listed is no longer recognized: leave a format in the list for as long as its
    /// keys are in use.
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
    /// Issuing a publishable key refuses others, and a record that names others is not believed.
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

    /// The secrets that verifiers are made under. Default: none, verifiers are plain SHA-256.
    ///
    /// Danger: without the pepper that its record names, a key cannot be judged (503). Keep
    /// retired peppers in the ring until no record names them. To begin with peppers over existing
    /// keys, put their records under one first, or bridge the time with
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

    /// How long before its expiry a key counts as deprecated. Default: 30 days, or the last
    /// quarter of the key's life if that is shorter.
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

    /// The limits that requests are charged against. Default: none.
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

    /// Where the budgets of the limits are kept. Default: a [`MemoryLimiter`] of this process.
    ///
    /// A `MemoryLimiter` is exact in one process, and never fails. Of several processes, each grants
    /// every quota once. Its budgets end with the process, those of a month, too: a quota of the
    /// calendar over it is warned about in the log. What happens when another limiter fails is said
    /// by [`limiter_outage`](Self::limiter_outage).
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

    /// What happens to requests when the limiter fails, or does not answer in time. Default:
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

    /// How this process remembers keys, and how it bears a store in trouble. Default:
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

    /// How often one client address may try keys that do not exist. Default: any number.
    ///
    /// Beyond it, keys from that address that this process does not know are refused with 429
    /// `too_many_failed_attempts`, without a look into the store. A key that was found before, and
    /// is still in the cache, always passes. Only well-formed unknown keys count, and a key that is
    /// being looked up, until it is found. The same unknown key counts each time. An IPv6 client is
    /// its /64.
    ///
    /// The quota is counted as a rate, of whatever shape it is: 300 a minute are 300 at once, and
    /// then one each 200 milliseconds. So an attempt is forgotten soon, and strangers with many
    /// addresses hardly use up the memory for them, 4 MiB. Should they, a newcomer is counted with
    /// its own network, as [`MemoryLimiter`] says.
    ///
    /// Behind a proxy, say first how the address is found: by
    /// [`ClientAddress`](crate::http::ClientAddress). If it is not known, the peer's is taken. Without
    /// either nobody can be told from anybody, so a sixteenth of the loads in flight
    /// ([`Cache::max_loads`]) is left to keys that were not found before; others are answered with
    /// 503, and keys that were found before pass. The log says so once at `ERROR`.
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

    /// Adds an observer, which is told of each decision after the logs are. Default: none.
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

    /// Sets the feed that tells of changes by other processes. Default: none, so that a key that is
    /// revoked elsewhere is let in until what is cached of it is too old: see
    /// [`Cache::max_staleness`].
    ///
    /// The [worker](ApiKeys::worker) follows it: without a worker, a feed does nothing.
    /// [`Health`](crate::manage::Health) tells how it does.
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

    /// Where the time comes from. Default: [`SystemClock`].
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

    /// Leaves the addresses of clients out of the log. Default: a refusal is logged with the address
    /// of its client.
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

    /// Says which subject of the application's own a request has, for limits that count
    /// [by it](Limits::per). Default: none. The last function of a name holds.
    ///
    /// It is called for each request that is charged, so it must neither block nor wait. `None` is
    /// a request that those limits are not about.
    ///
    /// Danger: what a client can choose, such as a header, gives it as many budgets as it likes, and
    /// crowds those of keys and accounts out of the limiter's memory. Take the subject from the key,
    /// or from what was verified before.
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
        self.subjects.retain(|(known, _)| *known != name);
        self.subjects.push((name, Box::new(subject)));
        self
    }

    /// Puts it together, or says what cannot work.
    pub fn build(mut self) -> Result<ApiKeys<A>, BuildError> {
        let formats = match self.formats.take() {
            Some(formats) => KeyFormats::new(formats)?,
            None => KeyFormats::default(),
        };
        self.limits.validate(&names_of(&self.subjects))?;
        Ok(self.assemble(formats))
    }

    pub(super) fn assemble(self, formats: KeyFormats) -> ApiKeys<A> {
        // A clock that must be set up does it now, and not while a request waits.
        self.clock.readings();
        let limiter = self.limiter;
        let limiting = Limiting {
            rules: Editions::new(self.limits),
            limiter: limiter.unwrap_or_else(|| Arc::new(MemoryLimiter::new())),
            time_limit: self.limiter_outage.time_limit,
            emergency: Emergency::new(self.limiter_outage.policy, Arc::new(MemoryLimiter::new())),
        };
        limiting.warn_of_calendar();
        let refusals = Arc::<Lines>::default();
        let hides_addresses = self.hides_addresses;
        let observers = Observers::new(self.observers, hides_addresses, Arc::clone(&refusals));
        let throttle = self.failed_attempts.map(|quota| {
            let limiter = MemoryLimiter::with_memory(THROTTLE_MEMORY);
            Throttle::new(quota, Arc::new(limiter))
        });
        let clock = self.clock;
        let metering = Arc::new(Metering {
            limiting,
            clock: Arc::clone(&clock),
            observers: observers.count(),
            refusals,
        });
        let keyring = Keyring {
            cache: KeyCache::new(
                Arc::clone(&self.store),
                Arc::clone(&clock),
                Arc::clone(&metering),
                self.cache,
            ),
            store: self.store,
            clock,
            formats,
            peppers: self.peppers,
            warning: self.warning,
            metering,
            throttle,
            publishable: Arc::new(self.publishable),
            subjects: self.subjects,
            notices: Notices::default(),
            observers,
            worker: LastSign::default(),
            following: self.feed.map(|feed| Following {
                feed,
                health: LastSign::default(),
            }),
        };
        ApiKeys {
            keyring: Arc::new(keyring),
            access: self.access,
        }
    }
}

/// Returns the names of subjects.
pub(super) fn names_of(subjects: &Subjects) -> Vec<&str> {
    subjects.iter().map(|(name, _)| &**name).collect()
}

/// The memory for failed attempts by address.
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

/// An `ApiKeys` that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// There is no format, or two that do not go together.
    #[error(transparent)]
    Formats(#[from] KeyFormatError),
    /// The limits cannot be kept.
    #[error(transparent)]
    Limits(#[from] LimitsError),
}
