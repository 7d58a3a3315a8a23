//! Observers: every decision about a request, announced once.
//!
//! [`Observer`] is the port. The logs of this library are based on the same announcements.

pub(crate) mod countries;
mod log;
#[cfg(feature = "metrics")]
pub(crate) mod metrics;
pub(crate) mod nearly_used;

use std::any::Any;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{Method, StatusCode};

use crate::cache::CachedKey;
use crate::http::carriers::Carriers;
use crate::http::rejection::Rejection;
use crate::http::request_head::RequestHead;
use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::key::record::KeyRecord;
use crate::limit::charge::Charge;
use crate::limit::verdict::{BudgetStatus, Verdict};
use crate::util::clock::Now;
use crate::util::log_throttle::LineBudget;
use log::Log;
#[cfg(feature = "metrics")]
pub use metrics::Metrics;

/// The port to observers of decisions: for usage, metrics, anomalies.
///
/// An observer is called in the request's own task, so it must not block, and a panic in it unwinds
/// that task. It cannot deny requests.
///
/// Add an observer with [`ApiKeysBuilder::add_observer`](crate::ApiKeysBuilder::add_observer).
/// Facts that only observers need are not derived if there is none.
///
/// ```
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_api_key::observe::{Decision, Observer};
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// #[derive(Clone, Default)]
/// struct Refusals(Arc<AtomicU64>);
///
/// impl Observer for Refusals {
///     fn decided(&self, decision: &Decision<'_>) {
///         if decision.rejection().is_some() {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let keys = ApiKeys::builder(MemoryStore::new()).add_observer(Refusals::default()).build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an `Observer`",
    note = "implement `Observer::decided` or `Observer::answered`; both default to doing nothing"
)]
pub trait Observer: Send + Sync + 'static {
    /// Called once for each decision about a request, when it is made.
    fn decided(&self, decision: &Decision<'_>) {
        let _ = decision;
    }

    /// Called when a request has waited for its record, or for a remote limiter, before the
    /// decision is made.
    fn waited(&self, wait: &Wait) {
        let _ = wait;
    }

    /// Called once for each request that was admitted with a key, when the status of its response
    /// is known. There is no call if the client disconnects first, or if the service fails with an
    /// error of its own.
    fn answered(&self, answer: &Answered<'_>) {
        let _ = answer;
    }
}

impl<O: Observer + ?Sized> Observer for Arc<O> {
    fn decided(&self, decision: &Decision<'_>) {
        (**self).decided(decision);
    }

    fn waited(&self, wait: &Wait) {
        (**self).waited(wait);
    }

    fn answered(&self, answer: &Answered<'_>) {
        (**self).answered(answer);
    }
}

/// A wait of a request, as reported to [observers](Observer::waited).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wait {
    /// The port that the request waited for.
    pub on: WaitFor,
    /// The duration of the wait, by the application's clock.
    pub time: Duration,
    /// `true` if there was an answer. A key that does not exist, or a limit that is used up, is an
    /// answer.
    pub is_ok: bool,
}

/// The port that a request waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WaitFor {
    /// The key store.
    Store,
    /// The rate limiter.
    Limiter,
}

/// The way in which the key of a request was looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum KeyLookup {
    /// No lookup: there is no key, it is malformed, or the address sent too many unknown keys.
    #[default]
    None,
    /// Found in the cache of this process.
    Cached,
    /// Loaded from the store, after a wait.
    Loaded,
}

/// A decision about a request, with all facts that are known at that time.
pub struct Decision<'a> {
    pub(crate) outcome: Result<(), &'a Rejection>,
    pub(crate) key: Option<KeyFacts<'a>>,
    pub(crate) request: &'a dyn RequestFacts,
    pub(crate) carriers: Carriers,
    pub(crate) charges: &'a [Charge<'a>],
    pub(crate) verdict: Option<&'a Verdict>,
    pub(crate) reported: &'a [Rejection],
}

/// Facts of a request that are derived on demand.
pub(crate) trait RequestFacts {
    fn head(&self) -> RequestHead<'_>;
    fn now(&self) -> Now;
    fn client(&self) -> Option<IpAddr>;
    fn route(&self) -> &str;
    fn lookup(&self) -> KeyLookup;
    /// Returns whether a path contains a key of ours.
    fn has_key_in(&self, path: &str) -> bool;
    /// Returns the query parameters that carried the key.
    fn parameters(&self, carriers: Carriers) -> Vec<&str>;
}

impl<'a> Decision<'a> {
    /// Returns whether the request was admitted.
    pub const fn is_admitted(&self) -> bool {
        self.outcome.is_ok()
    }

    /// Returns the rejection of a request that was denied.
    pub const fn rejection(&self) -> Option<&'a Rejection> {
        match self.outcome {
            Ok(()) => None,
            Err(rejection) => Some(rejection),
        }
    }

    /// Returns the key, if its secret was right.
    pub const fn key(&self) -> Option<KeyFacts<'a>> {
        self.key
    }

    /// Returns the address of the client; `None` if no trusted source tells it.
    pub fn client(&self) -> Option<IpAddr> {
        self.request.client()
    }

    /// Returns the method of the request.
    pub fn method(&self) -> &Method {
        self.request.head().method
    }

    /// Returns the route of the request: from [`route_by`](crate::ApiKeyLayer::route_by), from a
    /// framework's router, or else the path.
    pub fn route(&self) -> &str {
        self.request.route()
    }

    /// Returns the way in which the key was looked up.
    pub fn lookup(&self) -> KeyLookup {
        self.request.lookup()
    }

    /// Returns the request without its body. The credential is still among its headers.
    pub fn request(&self) -> RequestHead<'_> {
        self.request.head()
    }

    /// Returns each charge of the request with the state of its budget. Empty if the limiter was
    /// not asked, or failed. A denied request was not charged.
    pub fn charges(&self) -> impl Iterator<Item = (&'a Charge<'a>, &'a BudgetStatus)> {
        let statuses = self.verdict.map_or(&[][..], Verdict::statuses);
        self.charges.iter().zip(statuses)
    }

    /// Returns the charges of report-only limits that would have denied the request.
    pub fn report_only_hits(&self) -> impl Iterator<Item = &'a Charge<'a>> {
        let hits = self
            .charges()
            .filter(|(charge, status)| charge.is_report_only() && !status.is_admissible());
        hits.map(|(charge, _)| charge)
    }

    /// Returns the rejections of an admitted request by scopes and networks that are [only
    /// reported](crate::ApiKeyLayer::require_report_only).
    pub const fn report_only_rejections(&self) -> &'a [Rejection] {
        self.reported
    }

    /// Returns the wall-clock time of the decision.
    pub fn at(&self) -> SystemTime {
        self.request.now().wall()
    }
}

impl fmt::Debug for Decision<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("outcome", &self.outcome)
            .field("key", &self.key)
            .field("request", &self.request.head())
            .finish_non_exhaustive()
    }
}

/// The response to a request that was admitted with a key.
pub struct Answered<'a> {
    pub(crate) key: KeyFacts<'a>,
    pub(crate) status: StatusCode,
    pub(crate) rejection: Option<&'a Rejection>,
}

impl<'a> Answered<'a> {
    /// Returns the key of the request.
    pub const fn key(&self) -> KeyFacts<'a> {
        self.key
    }

    /// Returns the HTTP status of the response. Refusals in gRPC have 200.
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Returns the rejection that a handler or [`RequireScope`](crate::RequireScope) responded
    /// with.
    pub const fn rejection(&self) -> Option<&'a Rejection> {
        self.rejection
    }
}

impl fmt::Debug for Answered<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answered")
            .field("key", &self.key)
            .field("status", &self.status)
            .field("rejection", &self.rejection)
            .finish()
    }
}

/// The key of a decision.
#[derive(Clone, Copy)]
pub struct KeyFacts<'a> {
    key: &'a CachedKey,
    lifecycle: Lifecycle,
    /// The index of the observer that is called.
    observer: usize,
}

impl<'a> KeyFacts<'a> {
    pub(crate) const fn new(key: &'a CachedKey, lifecycle: Lifecycle) -> Self {
        Self {
            key,
            lifecycle,
            observer: 0,
        }
    }

    /// Returns the same facts for the observer at an index, which has its own slots.
    const fn for_observer(mut self, at: usize) -> Self {
        self.observer = at;
        self
    }

    pub(crate) const fn cached_key(&self) -> &'a CachedKey {
        self.key
    }

    /// Returns the record of the key.
    pub fn record(&self) -> &'a KeyRecord {
        self.key.record()
    }

    /// Returns the public id of the key, which is safe in logs.
    pub fn id(&self) -> KeyId {
        self.record().id()
    }

    /// Returns the account of the key.
    pub fn account(&self) -> &'a str {
        self.record().account()
    }

    /// Returns the environment of the key.
    pub fn environment(&self) -> &'a Environment {
        self.key.environment()
    }

    /// Returns the status of the key as of the decision.
    pub const fn status(&self) -> KeyStatus {
        self.lifecycle.status()
    }

    pub(crate) const fn lifecycle(&self) -> Lifecycle {
        self.lifecycle
    }

    /// Returns this observer's own value in the cache entry of the key, created on first use.
    ///
    /// An observer that counts by key thus needs no map of its own. The value is dropped when no
    /// request uses the cache entry any more, and the entry has left the cache: the key was
    /// reloaded, changed or evicted, or it is idle and the [worker](crate::manage::Worker) swept
    /// the cache. To collect the final counts, implement `Drop` for the value. Keep the value
    /// small: [`Cache::memory`](crate::Cache::memory) does not count it.
    ///
    /// # Panics
    /// If this observer has asked for a value of another type before.
    pub fn slot<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> &'a T {
        self.key.observer_slots().get(self.observer, make)
    }
}

impl fmt::Debug for KeyFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFacts")
            .field("id", &self.id())
            .field("account", &self.account())
            .field("status", &self.status())
            .finish()
    }
}

/// The logs, and the observers of the application.
#[derive(Default)]
pub(crate) struct Observers {
    log: Log,
    added: Box<[Arc<dyn Observer>]>,
}

impl Observers {
    pub(crate) fn new(
        added: Vec<Arc<dyn Observer>>,
        hides_addresses: bool,
        refusals: Arc<LineBudget>,
    ) -> Self {
        Self {
            log: Log::new(hides_addresses, refusals),
            added: added.into(),
        }
    }

    /// Returns whether there are observers beside the logs.
    pub(crate) fn has_observers(&self) -> bool {
        !self.added.is_empty()
    }

    /// Returns the number of observers beside the logs.
    pub(crate) fn count(&self) -> usize {
        self.added.len()
    }

    /// Returns whether an admission with these facts is logged or observed.
    pub(crate) fn need_admission(&self, key: Option<KeyFacts<'_>>, carriers: Carriers) -> bool {
        self.has_observers() || Log::logs_admission(key, carriers)
    }

    pub(crate) fn decided(&self, decision: &Decision<'_>) {
        self.log.decided(decision);
        if self.has_observers() {
            self.announce(decision);
        }
    }

    fn announce(&self, decision: &Decision<'_>) {
        for (at, observer) in self.added.iter().enumerate() {
            let key = decision.key.map(|key| key.for_observer(at));
            observer.decided(&Decision { key, ..*decision });
        }
    }

    /// Logs the number of refusals that were left out, if the minute is over.
    pub(crate) fn flush(&self, at: SystemTime) {
        self.log.flush(at);
    }

    /// Reports a wait that began at `since`.
    pub(crate) fn waited(&self, on: WaitFor, since: Duration, now: Duration, is_ok: bool) {
        let time = now.saturating_sub(since);
        for observer in &self.added {
            observer.waited(&Wait { on, time, is_ok });
        }
    }

    /// Reports the response to a request with this key.
    pub(crate) fn answered(
        &self,
        key: KeyFacts<'_>,
        status: StatusCode,
        rejection: Option<&Rejection>,
    ) {
        for (at, observer) in self.added.iter().enumerate() {
            observer.answered(&Answered {
                key: key.for_observer(at),
                status,
                rejection,
            });
        }
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observers").field(&self.added.len()).finish()
    }
}
