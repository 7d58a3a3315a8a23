//! Quotas: numbers of units per time, checked when they are created.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::util::timestamp;

/// The longest period: 400 days.
const MAX_PERIOD: Duration = Duration::from_secs(400 * 86_400);

/// A quota: the number of units that may be used in a time. There are three kinds.
///
/// - A **window** ([`per_second`](Self::per_second) … [`per_day`](Self::per_day),
///   [`per`](Self::per)) admits at most *n* units in *any* period of its length. Nobody waits
///   longer than the window. A use may count for up to 1/60 of the window too long.
/// - A **rate** ([`smooth`](Self::smooth), [`burst`](Self::burst)) admits at most the burst plus
///   *n·t*/period in any time *t* (GCRA). Unused units come back evenly.
/// - A **calendar** quota ([`per_utc_day`](Self::per_utc_day),
///   [`per_utc_month`](Self::per_utc_month)) admits at most *n* units in a UTC day or month. The
///   budget is full again when the period ends.
///
/// A unit is a request, unless the request costs more. A quota of zero does not compile:
///
/// ```
/// use tower_api_key::Quota;
///
/// const FREE: Quota = Quota::per_minute(60);
/// const PRO: Quota = Quota::per_second(50).smooth().burst(100);
/// const MONTHLY: Quota = Quota::per_utc_month(10_000);
/// # let _ = (FREE, PRO, MONTHLY);
/// ```
///
/// ```compile_fail
/// # use tower_api_key::Quota;
/// const NONE: Quota = Quota::per_minute(0);
/// # let _ = NONE;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    limit: u64,
    kind: QuotaKind,
}

/// The kind of a quota, for implementations of [`RateLimiter`](crate::limit::RateLimiter) and for
/// stores of quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuotaShape {
    /// A sliding window: at most the limit in any period of this length.
    Window {
        /// The length of the window.
        period: Duration,
    },
    /// A rate (GCRA): one unit per interval, and at most the limit at once.
    Rate {
        /// The time in which one unit comes back.
        interval: Duration,
    },
    /// A calendar quota: at most the limit in each UTC day.
    UtcDay,
    /// A calendar quota: at most the limit in each UTC month.
    UtcMonth,
}

/// The kind of a quota, with times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum QuotaKind {
    /// At most the limit in any period of this length.
    Window { period: u64 },
    /// One unit per `interval`, and at most `limit` at once.
    Rate { interval: u64 },
    /// At most the limit in each UTC day or month.
    Calendar(Calendar),
}

/// A calendar period in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Calendar {
    Day,
    Month,
}

impl Quota {
    /// The highest limit of a quota: 999,999,999,999,999, the largest integer in a structured field
    /// (RFC 9651).
    pub const MAX: u64 = 999_999_999_999_999;

    /// Creates a sliding window: at most `limit` units in any period of one second.
    ///
    /// # Panics
    /// If the limit is zero or above [`MAX`](Self::MAX); in a `const` that is a compile error. If
    /// the limit is not known at compile time, use [`try_per_second`](Self::try_per_second), or
    /// [parse](Self#impl-FromStr-for-Quota) a text.
    #[track_caller]
    pub const fn per_second(limit: u64) -> Self {
        Self::in_any(limit, 1)
    }

    /// Creates a sliding window: at most `limit` units in any period of one minute.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_minute(limit: u64) -> Self {
        Self::in_any(limit, 60)
    }

    /// Creates a sliding window: at most `limit` units in any period of one hour.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_hour(limit: u64) -> Self {
        Self::in_any(limit, 3600)
    }

    /// Creates a sliding window: at most `limit` units in any period of 24 hours.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_day(limit: u64) -> Self {
        Self::in_any(limit, 86_400)
    }

    /// Creates a sliding window: at most `limit` units in any period of this length, from 1 second
    /// to 400 days.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_api_key::Quota;
    ///
    /// let configured = 500; // from a file
    /// let quota = Quota::per(configured, Duration::from_secs(10))?;
    /// assert!(Quota::per(0, Duration::from_secs(10)).is_err());
    /// # Ok::<(), tower_api_key::limit::QuotaError>(())
    /// ```
    pub fn per(limit: u64, period: Duration) -> Result<Self, QuotaError> {
        if limit == 0 || limit > Self::MAX {
            return Err(QuotaError::Limit(limit));
        }
        if period < Duration::from_secs(1) || period > MAX_PERIOD {
            return Err(QuotaError::Period(period));
        }
        let period = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX); // 400 days fit
        Ok(Self {
            limit,
            kind: QuotaKind::Window { period },
        })
    }

    /// Creates a window like [`per_second`](Self::per_second), or returns an error instead of a
    /// panic.
    pub fn try_per_second(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(1))
    }

    /// Creates a window like [`per_minute`](Self::per_minute), or returns an error instead of a
    /// panic.
    pub fn try_per_minute(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(60))
    }

    /// Creates a window like [`per_hour`](Self::per_hour), or returns an error instead of a panic.
    pub fn try_per_hour(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(3600))
    }

    /// Creates a window like [`per_day`](Self::per_day), or returns an error instead of a panic.
    pub fn try_per_day(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(86_400))
    }

    /// Creates a quota like [`per_utc_day`](Self::per_utc_day), or returns an error instead of a
    /// panic.
    pub fn try_per_utc_day(limit: u64) -> Result<Self, QuotaError> {
        Self::from_shape(limit, QuotaShape::UtcDay)
    }

    /// Creates a quota like [`per_utc_month`](Self::per_utc_month), or returns an error instead of
    /// a panic.
    pub fn try_per_utc_month(limit: u64) -> Result<Self, QuotaError> {
        Self::from_shape(limit, QuotaShape::UtcMonth)
    }

    /// Creates a rate like [`smooth`](Self::smooth), or returns an error instead of a panic.
    pub fn try_smooth(self) -> Result<Self, QuotaError> {
        match self.kind {
            QuotaKind::Window { period } if self.limit > period => {
                Err(QuotaError::Interval(Duration::ZERO))
            }
            QuotaKind::Calendar(_) => Err(QuotaError::NotSmooth),
            QuotaKind::Window { .. } | QuotaKind::Rate { .. } => Ok(self.smooth()),
        }
    }

    /// Sets the burst like [`burst`](Self::burst), or returns an error instead of a panic.
    pub fn try_burst(self, burst: u64) -> Result<Self, QuotaError> {
        match self.shape() {
            rate @ QuotaShape::Rate { .. } => Self::from_shape(burst, rate),
            _ => Err(QuotaError::NotSmooth),
        }
    }

    /// Creates a quota from its [`limit`](Self::limit) and [`shape`](Self::shape), for stores and
    /// configurations.
    ///
    /// ```
    /// use tower_api_key::Quota;
    ///
    /// let quota = Quota::per_minute(7).smooth().burst(3);
    /// assert_eq!(Quota::from_shape(quota.limit(), quota.shape())?, quota);
    /// # Ok::<(), tower_api_key::limit::QuotaError>(())
    /// ```
    pub fn from_shape(limit: u64, shape: QuotaShape) -> Result<Self, QuotaError> {
        if limit == 0 || limit > Self::MAX {
            return Err(QuotaError::Limit(limit));
        }
        let kind = match shape {
            QuotaShape::Window { period } => return Self::per(limit, period),
            QuotaShape::Rate { interval } => {
                let full_in = interval.as_nanos().saturating_mul(u128::from(limit));
                if interval.is_zero() || full_in > MAX_PERIOD.as_nanos() {
                    return Err(QuotaError::Interval(interval));
                }
                let interval = timestamp::nanoseconds(interval);
                QuotaKind::Rate { interval }
            }
            QuotaShape::UtcDay => QuotaKind::Calendar(Calendar::Day),
            QuotaShape::UtcMonth => QuotaKind::Calendar(Calendar::Month),
        };
        Ok(Self { limit, kind })
    }

    /// Creates a calendar quota: at most `limit` units in each UTC day, from midnight to midnight.
    ///
    /// A [`MemoryLimiter`](crate::limit::MemoryLimiter) forgets its usage when the process ends.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_utc_day(limit: u64) -> Self {
        Self {
            limit: checked(limit),
            kind: QuotaKind::Calendar(Calendar::Day),
        }
    }

    /// Creates a calendar quota: at most `limit` units in each UTC month.
    ///
    /// A [`MemoryLimiter`](crate::limit::MemoryLimiter) forgets its usage when the process ends,
    /// and each process has its own budgets. If you bill by month, use a
    /// [durable](crate::limit::RateLimiter::is_durable) limiter. A log line at `WARN` reminds of
    /// this when the limits are built.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_utc_month(limit: u64) -> Self {
        Self {
            limit: checked(limit),
            kind: QuotaKind::Calendar(Calendar::Month),
        }
    }

    /// Spreads the quota evenly: one unit per period / n, rounded up to whole nanoseconds, with a
    /// burst of n unless [`burst`](Self::burst) sets another.
    ///
    /// The rounding adds up: seven units at seven per minute take a few nanoseconds more than a
    /// minute. A request that costs the whole burst may therefore be told to wait one second longer
    /// than the period.
    ///
    /// # Panics
    /// If the quota is a calendar quota, or has more than one unit per nanosecond; in a `const`
    /// that is a compile error.
    #[must_use]
    #[track_caller]
    pub const fn smooth(self) -> Self {
        match self.kind {
            QuotaKind::Window { period } => {
                assert!(self.limit <= period, "more than one unit a nanosecond");
                Self {
                    limit: self.limit,
                    kind: QuotaKind::Rate {
                        interval: period.div_ceil(self.limit),
                    },
                }
            }
            QuotaKind::Rate { .. } => self,
            QuotaKind::Calendar(_) => panic!("a quota of the calendar cannot be smooth"),
        }
    }

    /// Sets the number of units that may be used at once, for a [`smooth`](Self::smooth) quota.
    ///
    /// # Panics
    /// If the quota is not smooth, the burst is zero, or the burst takes more than 400 days to come
    /// back; in a `const` that is a compile error.
    #[must_use]
    #[track_caller]
    pub const fn burst(self, burst: u64) -> Self {
        match self.kind {
            QuotaKind::Rate { interval } => {
                let burst = checked(burst);
                let longest = MAX_PERIOD.as_nanos();
                assert!(
                    interval as u128 * burst as u128 <= longest,
                    "a burst that takes more than 400 days to fill up"
                );
                Self {
                    limit: burst,
                    kind: self.kind,
                }
            }
            _ => panic!("only a smooth quota has a burst"),
        }
    }

    /// Returns the most units that can be used at once: the limit, or the burst of a smooth quota.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns the length of the window. For a rate, it is the time in which an empty budget
    /// becomes full; for a calendar month, 31 days.
    pub fn window(&self) -> Duration {
        match self.kind {
            QuotaKind::Window { period } => Duration::from_nanos(period),
            QuotaKind::Rate { interval } => Duration::from_nanos(interval * self.limit),
            QuotaKind::Calendar(Calendar::Day) => Duration::from_secs(86_400),
            QuotaKind::Calendar(Calendar::Month) => Duration::from_secs(31 * 86_400),
        }
    }

    /// Returns the [window](Self::window) in whole seconds, rounded up, for headers.
    ///
    /// The interval of a rate is rounded up to a nanosecond, so seven units at seven per minute
    /// take a few nanoseconds more than a minute. Fractions of a microsecond are dropped, so that
    /// the result is not 61 seconds.
    pub(crate) fn window_seconds(&self) -> u64 {
        let microseconds = self.window().as_nanos() / 1_000;
        u64::try_from(microseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// Returns the name of the [window](Self::window): `second`, `minute`, `hour`, `day` or
    /// `month`, or else its length in seconds, such as `10s`.
    pub(crate) fn window_name(&self) -> Cow<'static, str> {
        if let QuotaKind::Calendar(Calendar::Month) = self.kind {
            return "month".into();
        }
        match self.window_seconds() {
            1 => "second".into(),
            60 => "minute".into(),
            3600 => "hour".into(),
            86_400 => "day".into(),
            seconds => format!("{seconds}s").into(),
        }
    }

    /// Returns one of `nodes` equal shares, rounded down, but at least 1.
    pub(crate) fn shared_by(self, nodes: NonZeroU32) -> Self {
        let nodes = u64::from(nodes.get());
        let limit = (self.limit / nodes).max(1);
        let kind = match self.kind {
            QuotaKind::Rate { interval } => {
                let longest = u64::try_from(MAX_PERIOD.as_nanos()).unwrap_or(u64::MAX);
                let interval = interval.saturating_mul(nodes).min(longest / limit);
                QuotaKind::Rate { interval }
            }
            other => other,
        };
        Self { limit, kind }
    }

    /// Returns the quota with at least this limit, for a share of it.
    pub(crate) fn at_least(self, limit: u64) -> Self {
        match self.kind {
            QuotaKind::Rate { interval } => {
                let longest = timestamp::nanoseconds(MAX_PERIOD);
                let limit = self.limit.max(limit).min(longest / interval.max(1));
                Self { limit, ..self }
            }
            _ => Self {
                limit: self.limit.max(limit),
                ..self
            },
        }
    }

    /// Returns the kind of the quota. Together with [`limit`](Self::limit), it defines the quota.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_api_key::limit::QuotaShape;
    /// use tower_api_key::Quota;
    ///
    /// let minute = Duration::from_secs(60);
    /// assert_eq!(Quota::per_minute(60).shape(), QuotaShape::Window { period: minute });
    /// let interval = Duration::from_secs(1);
    /// assert_eq!(Quota::per_minute(60).smooth().shape(), QuotaShape::Rate { interval });
    /// ```
    pub const fn shape(&self) -> QuotaShape {
        match self.kind {
            QuotaKind::Window { period } => QuotaShape::Window {
                period: Duration::from_nanos(period),
            },
            QuotaKind::Rate { interval } => QuotaShape::Rate {
                interval: Duration::from_nanos(interval),
            },
            QuotaKind::Calendar(Calendar::Day) => QuotaShape::UtcDay,
            QuotaKind::Calendar(Calendar::Month) => QuotaShape::UtcMonth,
        }
    }

    /// Returns a rate with the same number of units over the same time, for a quota of any kind.
    pub(crate) fn as_rate(self) -> Self {
        let interval = match self.kind {
            QuotaKind::Rate { interval } => interval,
            _ => timestamp::nanoseconds(self.window()).div_ceil(self.limit),
        };
        Self {
            limit: self.limit,
            kind: QuotaKind::Rate { interval },
        }
    }

    pub(crate) const fn is_calendar(&self) -> bool {
        matches!(self.kind, QuotaKind::Calendar(_))
    }

    pub(crate) const fn is_rate(&self) -> bool {
        matches!(self.kind, QuotaKind::Rate { .. })
    }

    pub(crate) const fn kind(&self) -> QuotaKind {
        self.kind
    }

    /// Returns a number that differs for quotas whose budgets must be separate: it depends on the
    /// kind, and on the period of a window, whose uses a shorter window would forget too early.
    pub(crate) const fn kind_hash(&self) -> u64 {
        match self.kind {
            QuotaKind::Window { period } => period,
            // A rate can continue from the state under another interval or burst.
            QuotaKind::Rate { .. } => 0,
            QuotaKind::Calendar(Calendar::Day) => 1,
            QuotaKind::Calendar(Calendar::Month) => 2,
        }
    }

    #[track_caller]
    const fn in_any(limit: u64, seconds: u64) -> Self {
        Self {
            limit: checked(limit),
            kind: QuotaKind::Window {
                period: seconds * 1_000_000_000,
            },
        }
    }
}

#[track_caller]
const fn checked(limit: u64) -> u64 {
    assert!(limit > 0, "a quota of nothing: use at least 1");
    assert!(limit <= Quota::MAX, "a quota above 999,999,999,999,999");
    limit
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit;
        match self.kind {
            QuotaKind::Window { period } => {
                write!(f, "{limit} per {:?}", Duration::from_nanos(period))
            }
            QuotaKind::Rate { interval } => {
                let interval = Duration::from_nanos(interval);
                write!(f, "1 per {interval:?}, burst {limit}")
            }
            QuotaKind::Calendar(Calendar::Day) => write!(f, "{limit} per UTC day"),
            QuotaKind::Calendar(Calendar::Month) => write!(f, "{limit} per UTC month"),
        }
    }
}

/// An error for numbers or a text that are not a quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// The limit is not 1 to 999,999,999,999,999.
    #[error("a quota of {0}: use 1 to 999,999,999,999,999")]
    Limit(u64),
    /// The period is not 1 second to 400 days.
    #[error("a quota per {0:?}: use 1 second to 400 days")]
    Period(Duration),
    /// The interval of a rate is zero, or its burst takes more than 400 days to come back.
    #[error(
        "a unit each {0:?}: use at least 1 nanosecond, and at most 400 days for the whole burst"
    )]
    Interval(Duration),
    /// A calendar quota cannot be made smooth, and only a smooth quota has a burst.
    #[error("only a window can be made smooth, and only a smooth quota has a burst")]
    NotSmooth,
    /// The text is not a quota.
    #[error(
        "{0:?} is not a quota: write it as 600/min, 5/30s, 50/s smooth burst 100 or 10000/utc_month"
    )]
    Syntax(String),
}
