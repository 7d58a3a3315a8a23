//! How long answers of the store may be used, and what happens when it gives none.

use std::time::Duration;

/// How this process remembers keys, and how it bears a store in trouble.
///
/// A remembered key is judged at every request as a loaded one is: its expiry, suspension and
/// revocation as the record has them. What this process changes itself holds at once; what is
/// changed elsewhere, after [`max_staleness`](Self::max_staleness) at the latest.
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
    pub(super) misses_for: Duration,
    pub(super) time_limit: Duration,
    pub(super) most_loads: usize,
    pub(super) stale_for: Option<Duration>,
}

impl Cache {
    /// The defaults that each setter names.
    pub fn new() -> Self {
        Self {
            memory: 64 << 20,
            max_staleness: Duration::from_secs(10),
            misses_for: Duration::from_secs(1),
            time_limit: Duration::from_secs(2),
            most_loads: 1024,
            stale_for: None,
        }
    }

    /// Remembers nothing: each request asks the store, together with those that ask for the same
    /// key at the same moment.
    pub fn none() -> Self {
        Self::new()
            .max_staleness(Duration::ZERO)
            .misses_for(Duration::ZERO)
    }

    /// About how many bytes good keys may take. Default: 64 MiB, which is about 60,000 keys.
    ///
    /// Too little makes the store be asked more often, never a wrong answer.
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

    /// Sets how long it is remembered that a key does not exist. Default: 1 second.
    ///
    /// A key that is issued here works as soon as the store finds it. One that is created elsewhere
    /// may be unknown here during this time.
    pub fn misses_for(mut self, time: Duration) -> Self {
        self.misses_for = time;
        self
    }

    /// How long a look into the store may take; then it counts as failed. Default: 2 seconds.
    pub fn store_time_limit(mut self, time: Duration) -> Self {
        self.time_limit = time;
        self
    }

    /// Bounds how many different keys are looked up in the store at the same time. Default: 1,024.
    ///
    /// Beyond it, keys that are not cached are answered with 503, and the log names this setting;
    /// cached keys never wait. A quarter of it is kept for keys that were found before, so that a
    /// flood of others does not take all; of fewer than four, one lookup more is kept for those.
    ///
    /// The time limit begins with the lookup, so a lookup that waits for a connection uses it up:
    /// more than the store has connections are of little use.
    pub fn max_loads(mut self, loads: usize) -> Self {
        self.most_loads = loads.max(1);
        self
    }

    /// Lets in keys that were good when they were last loaded, no longer ago than this, while the
    /// store is unavailable. Default: never; they are answered with 503.
    ///
    /// Danger: a key that was revoked elsewhere is admitted while the store is unavailable, up to this
    /// time. A key that this process revoked is not, if it is among the latest 4,096 that it changed.
    ///
    /// Danger: clients who can overload the store make it unavailable, and so keep a key alive that
    /// was revoked elsewhere. Bound their lookups with [`max_loads`](Self::max_loads) and
    /// [`failed_attempts`](crate::ApiKeysBuilder::failed_attempts).
    ///
    /// Only a store that cannot be reached or does not answer in time is unavailable. If it answers
    /// with something that is no record, or if there are too many lookups at a time, which clients
    /// can bring about, the answer is 503.
    ///
    /// A change that was begun, whether or not it succeeds, ends this for the key and for one key
    /// in 1,024 others.
    ///
    /// Each request first waits for its look to fail: while the store hangs, for as long as
    /// [`store_time_limit`](Self::store_time_limit) says.
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
