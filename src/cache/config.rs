//! The settings of the cache of keys.

use std::time::Duration;

/// The cache of keys in this process, and its behaviour while the store is in trouble.
///
/// Expiry, suspension and revocation are checked at every request, also for cached keys. A change
/// by this process applies at once. A change elsewhere applies after
/// [`max_staleness`](Self::max_staleness) at the latest.
///
/// ```
/// use std::time::Duration;
/// use tower_api_key::{ApiKeys, Cache, MemoryStore};
///
/// let keys = ApiKeys::builder(MemoryStore::new())
///     .cache(Cache::new().max_staleness(Duration::from_secs(5)).memory(256 << 20))
///     .build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a cache is used only if ApiKeysBuilder::cache is given it"]
pub struct Cache {
    pub(super) memory: u64,
    pub(super) max_staleness: Duration,
    pub(super) negative_ttl: Duration,
    pub(super) time_limit: Duration,
    pub(super) max_loads: usize,
    pub(super) stale_for: Option<Duration>,
}

impl Cache {
    /// Creates a cache with the defaults that each setter names.
    pub fn new() -> Self {
        Self {
            memory: 64 << 20,
            max_staleness: Duration::from_secs(10),
            negative_ttl: Duration::from_secs(1),
            time_limit: Duration::from_secs(2),
            max_loads: 1024,
            stale_for: None,
        }
    }

    /// Creates a cache that keeps nothing: each request asks the store. Concurrent requests with
    /// the same key share one lookup.
    pub fn none() -> Self {
        Self::new()
            .max_staleness(Duration::ZERO)
            .negative_ttl(Duration::ZERO)
    }

    /// Sets the memory for keys, in bytes. Default: 64 MiB, which holds at least 100,000 plain keys
    /// (about 600 bytes each).
    ///
    /// When the memory is full, the keys that are used least are evicted, and loaded again when
    /// they are used. Keys that do not exist have memory of their own. The counts of
    /// [usage](crate::usage) take 200 bytes more for each key in use, which are not part of this.
    pub fn memory(mut self, bytes: u64) -> Self {
        self.memory = bytes;
        self
    }

    /// Sets how long a cached key may be used without asking the store again. Default: 10 seconds.
    /// Zero asks the store for each request.
    ///
    /// Danger: a key that was revoked elsewhere, by another process or in the table itself, is
    /// admitted during this time. With zero, it is admitted by lookups that began before the
    /// revocation, which other requests for the key join.
    pub fn max_staleness(mut self, time: Duration) -> Self {
        self.max_staleness = time;
        self
    }

    /// Sets how long the absence of a key is cached (negative caching). Default: 1 second.
    ///
    /// A key that is issued by this process works as soon as the store finds it. A key that is
    /// created elsewhere may be unknown here during this time.
    pub fn negative_ttl(mut self, time: Duration) -> Self {
        self.negative_ttl = time;
        self
    }

    /// Sets the time limit of a lookup in the store, after which it has failed. Default: 2 seconds.
    pub fn store_time_limit(mut self, time: Duration) -> Self {
        self.time_limit = time;
        self
    }

    /// Bounds how many different keys are looked up in the store at the same time. Default: 1,024.
    ///
    /// Beyond it, keys that are not cached are answered with 503, and the log names this setting;
    /// cached keys never wait. Keys that were not found before may use only three quarters of the
    /// lookups, 768 of 1,024, so that a flood of them does not take all; of fewer than four, keys
    /// that were found before have one lookup more. After a restart, no key was found before.
    ///
    /// The time limit begins with the lookup, so a lookup that waits for a connection uses it up:
    /// more than the store has connections are of little use.
    pub fn max_loads(mut self, loads: usize) -> Self {
        self.max_loads = loads.max(1);
        self
    }

    /// Admits stale keys while the store is unavailable: those that were loaded no longer ago than
    /// this. Default: never; requests with a stale key are answered with 503.
    ///
    /// Danger: a key that was revoked elsewhere is admitted while the store is unavailable, up to
    /// this time. A key that this process revoked is not, if it is among the latest 4,096 that it
    /// changed.
    ///
    /// Danger: clients who can overload the store make it unavailable, and so keep a key alive that
    /// was revoked elsewhere. Bound their lookups with [`max_loads`](Self::max_loads) and
    /// [`failed_attempts`](crate::ApiKeysBuilder::failed_attempts).
    ///
    /// A store is unavailable if it cannot be reached or does not answer in time. If it answers
    /// with an invalid record, or if too many lookups are running, which clients can cause, the
    /// answer is 503.
    ///
    /// A change that was begun ends this for its key, even if the change fails, and for one in
    /// 1,024 of the other keys.
    ///
    /// Each request first waits for its lookup to fail: while the store hangs, for the
    /// [`store_time_limit`](Self::store_time_limit).
    pub fn dangerous_serve_stale(mut self, up_to: Duration) -> Self {
        self.stale_for = Some(up_to);
        self
    }
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}
