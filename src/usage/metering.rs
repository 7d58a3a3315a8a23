//! Settings of the metering.

use std::time::Duration;

/// The settings of the metering: see
/// [`ApiKeysBuilder::metering`](crate::ApiKeysBuilder::metering).
///
/// By default, usage is counted by UTC day, and recorded every 30 seconds. Nothing is counted
/// without a [worker](crate::ApiKeys::worker), or if the store records no usage.
///
/// ```
/// use tower_api_key::usage::Metering;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// let keys = ApiKeys::builder(MemoryStore::new())
///     .metering(Metering::new().by_hour())
///     .build()?;
/// # Ok::<(), tower_api_key::BuildError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metering {
    pub(super) by_hour: bool,
    pub(crate) most_keys: usize,
    pub(crate) record_every: Duration,
}

impl Metering {
    /// The default of [`max_keys`](Self::max_keys).
    const MOST_KEYS: usize = 100_000;

    /// Creates the default settings.
    pub const fn new() -> Self {
        Self {
            by_hour: false,
            most_keys: Self::MOST_KEYS,
            record_every: Duration::from_secs(30),
        }
    }

    /// Counts by hour. Default: by day.
    ///
    /// Reports by hour need this. A store keeps up to 24 times as many rows.
    #[must_use]
    pub const fn by_hour(mut self) -> Self {
        self.by_hour = true;
        self
    }

    /// Sets the time between two records of the same key. Default: 30 seconds. The
    /// time is clamped to one second to one day.
    ///
    /// For each record, a process draws 80 to 120 % of the time, so that not all record at once.
    /// Counts are recorded earlier if half of [`max_keys`](Self::max_keys) wait. A process that is
    /// killed loses the counts of this time. The first use of a key in a process is recorded within
    /// a second in any case.
    #[must_use]
    pub const fn record_every(mut self, time: Duration) -> Self {
        let seconds = time.as_secs();
        self.record_every = if seconds < 1 {
            Duration::from_secs(1)
        } else if seconds >= 86_400 {
            Duration::from_secs(86_400)
        } else {
            time
        };
        self
    }

    /// Sets the most keys whose counts wait to be recorded. Default: 100,000; at least 1.
    ///
    /// 100,000 keys take about 30 MB. While the store is down, days or hours go by: as many counts
    /// of periods that are over wait, too, which take about 65 MB. Counts beyond that are added to
    /// the account at once. Units with names take room of their own.
    ///
    /// More keys wait only if the store is down for long, or if more are used between two records.
    /// Counts of further keys stay in the cache until there is room. When a key leaves the cache
    /// before, its counts are added to those of its account, without the key; and beyond 10,000
    /// sums of account, environment and period, to a sum without an account. [`Health::usage`]
    /// counts both.
    ///
    /// [`Health::usage`]: crate::manage::Health::usage
    #[must_use]
    pub const fn max_keys(mut self, keys: usize) -> Self {
        self.most_keys = if keys == 0 { 1 } else { keys };
        self
    }
}

impl Default for Metering {
    fn default() -> Self {
        Self::new()
    }
}
