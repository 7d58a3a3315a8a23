//! How much may be used in how much time: values that cannot be wrong.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::util::timestamp;

/// The longest period: 400 days.
const MAX_PERIOD: Duration = Duration::from_secs(400 * 86_400);

/// A number of units that may be used in a time, in one of three shapes.
///
/// | shape | constructors | what it guarantees |
/// |---|---|---|
/// | **window** | [`per_second`](Self::per_second) … [`per_day`](Self::per_day), [`per`](Self::per) | never more than *n* in *any* window of that length; nobody waits for longer than the window; a use may count for up to 1/60 of the window longer than it must |
/// | **rate** | [`smooth`](Self::smooth), [`burst`](Self::burst) | in any time *t*, never more than the burst plus *n·t*/period (GCRA); what is idle fills up evenly |
/// | **calendar** | [`per_utc_day`](Self::per_utc_day), [`per_utc_month`](Self::per_utc_month) | never more than *n* in a day or month of UTC; whole again at its end |
///
/// A unit is a request, unless it costs more. Zero does not compile:
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
    shape: Shape,
}

/// In which way a quota counts, for those who implement a [`RateLimiter`](crate::limit::RateLimiter) or
/// keep quotas in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum QuotaShape {
    /// At most the limit in any window of this length.
    Window {
        /// The length of the window.
        period: Duration,
    },
    /// One unit each interval; at most the limit at once from idle.
    Rate {
        /// The time in which one unit comes back.
        interval: Duration,
    },
    /// At most the limit in each day of UTC.
    UtcDay,
    /// At most the limit in each month of UTC.
    UtcMonth,
}

/// In which way a quota counts; times in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// At most the limit in any window of this length.
    Window { period: u64 },
    /// One unit each `interval`; at most `limit` at once from idle.
    Rate { interval: u64 },
    /// At most the limit in each day or month of UTC.
    Calendar(Calendar),
}

/// A period of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Calendar {
    Day,
    Month,
}

impl Quota {
    /// The most units that a quota can grant: 999,999,999,999,999, as much as a structured field
    /// can write (RFC 9651).
    pub const MAX: u64 = 999_999_999_999_999;

    /// A sliding window: at most `limit` units in any period of one second.
    ///
    /// # Panics
    /// If the number is zero or above [`MAX`](Self::MAX); in a `const` that is a compile error. For
    /// numbers that are not known at compile time, use [`try_per_second`](Self::try_per_second), or
    /// [parse](Self#impl-FromStr-for-Quota) a text.
    #[track_caller]
    pub const fn per_second(limit: u64) -> Self {
        Self::in_any(limit, 1)
    }

    /// A sliding window: at most `limit` units in any period of one minute.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_minute(limit: u64) -> Self {
        Self::in_any(limit, 60)
    }

    /// A sliding window: at most `limit` units in any period of one hour.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_hour(limit: u64) -> Self {
        Self::in_any(limit, 3600)
    }

    /// A sliding window: at most `limit` units in any period of 24 hours.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_day(limit: u64) -> Self {
        Self::in_any(limit, 86_400)
    }

    /// A sliding window of this length: at most `limit` units in any such period, from 1 second to
    /// 400 days.
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
            shape: Shape::Window { period },
        })
    }

    /// As [`per_second`](Self::per_second), for numbers that are not known at compile time.
    pub fn try_per_second(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(1))
    }

    /// As [`per_minute`](Self::per_minute), for numbers that are not known at compile time.
    pub fn try_per_minute(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(60))
    }

    /// As [`per_hour`](Self::per_hour), for numbers that are not known at compile time.
    pub fn try_per_hour(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(3600))
    }

    /// As [`per_day`](Self::per_day), for numbers that are not known at compile time.
    pub fn try_per_day(limit: u64) -> Result<Self, QuotaError> {
        Self::per(limit, Duration::from_secs(86_400))
    }

    /// As [`per_utc_day`](Self::per_utc_day), for numbers that are not known at compile time.
    pub fn try_per_utc_day(limit: u64) -> Result<Self, QuotaError> {
        Self::from_shape(limit, QuotaShape::UtcDay)
    }

    /// As [`per_utc_month`](Self::per_utc_month), for numbers that are not known at compile time.
    pub fn try_per_utc_month(limit: u64) -> Result<Self, QuotaError> {
        Self::from_shape(limit, QuotaShape::UtcMonth)
    }

    /// As [`smooth`](Self::smooth), for quotas that are not known at compile time.
    pub fn try_smooth(self) -> Result<Self, QuotaError> {
        match self.shape {
            Shape::Window { period } if self.limit > period => {
                Err(QuotaError::Interval(Duration::ZERO))
            }
            Shape::Calendar(_) => Err(QuotaError::NotSmooth),
            Shape::Window { .. } | Shape::Rate { .. } => Ok(self.smooth()),
        }
    }

    /// As [`burst`](Self::burst), for numbers that are not known at compile time.
    pub fn try_burst(self, burst: u64) -> Result<Self, QuotaError> {
        match self.shape() {
            rate @ QuotaShape::Rate { .. } => Self::from_shape(burst, rate),
            _ => Err(QuotaError::NotSmooth),
        }
    }

    /// Creates a quota of a shape: the inverse of [`limit`](Self::limit) and [`shape`](Self::shape),
    /// for stores and configurations.
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
        let shape = match shape {
            QuotaShape::Window { period } => return Self::per(limit, period),
            QuotaShape::Rate { interval } => {
                let whole_in = interval.as_nanos().saturating_mul(u128::from(limit));
                if interval.is_zero() || whole_in > MAX_PERIOD.as_nanos() {
                    return Err(QuotaError::Interval(interval));
                }
                let interval = timestamp::nanoseconds(interval);
                Shape::Rate { interval }
            }
            QuotaShape::UtcDay => Shape::Calendar(Calendar::Day),
            QuotaShape::UtcMonth => Shape::Calendar(Calendar::Month),
        };
        Ok(Self { limit, shape })
    }

    /// A quota of the calendar: at most `limit` units in each day of UTC, from midnight to midnight.
    ///
    /// A [`MemoryLimiter`](crate::limit::MemoryLimiter) forgets what was used when the process ends.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_utc_day(limit: u64) -> Self {
        Self {
            limit: checked(limit),
            shape: Shape::Calendar(Calendar::Day),
        }
    }

    /// A quota of the calendar: at most `limit` units in each month of UTC.
    ///
    /// A [`MemoryLimiter`](crate::limit::MemoryLimiter) forgets what was used when the process ends, and
    /// each process has budgets of its own. Where a month is billed, keep its budgets in a limiter
    /// that is [durable](crate::limit::RateLimiter::is_durable). A log line at `WARN` reminds of that when
    /// the limits are built.
    ///
    /// # Panics
    /// As [`per_second`](Self::per_second).
    #[track_caller]
    pub const fn per_utc_month(limit: u64) -> Self {
        Self {
            limit: checked(limit),
            shape: Shape::Calendar(Calendar::Month),
        }
    }

    /// The same amount, spread evenly: one unit each period / n, rounded up to whole nanoseconds,
    /// and a burst of n, unless [`burst`](Self::burst) says otherwise.
    ///
    /// The rounding adds up: seven of seven in a minute take a few nanoseconds more than a minute,
    /// so a request that costs all of the burst may be told to wait for a second more than the
    /// period.
    ///
    /// # Panics
    /// If the quota is one of the calendar, or more than one unit a nanosecond; in a `const` that
    /// is a compile error.
    #[must_use]
    #[track_caller]
    pub const fn smooth(self) -> Self {
        match self.shape {
            Shape::Window { period } => {
                assert!(self.limit <= period, "more than one unit a nanosecond");
                Self {
                    limit: self.limit,
                    shape: Shape::Rate {
                        interval: period.div_ceil(self.limit),
                    },
                }
            }
            Shape::Rate { .. } => self,
            Shape::Calendar(_) => panic!("a quota of the calendar cannot be smooth"),
        }
    }

    /// How much may be used at once from idle. Only of a [`smooth`](Self::smooth) quota.
    ///
    /// # Panics
    /// If the quota is not smooth, the number is zero, or the burst takes more than 400 days to
    /// fill up; in a `const` that is a compile error.
    #[must_use]
    #[track_caller]
    pub const fn burst(self, burst: u64) -> Self {
        match self.shape {
            Shape::Rate { interval } => {
                let burst = checked(burst);
                let longest = MAX_PERIOD.as_nanos();
                assert!(
                    interval as u128 * burst as u128 <= longest,
                    "a burst that takes more than 400 days to fill up"
                );
                Self {
                    limit: burst,
                    shape: self.shape,
                }
            }
            _ => panic!("only a smooth quota has a burst"),
        }
    }

    /// The most that can be used at once: the limit, or the burst of a smooth quota.
    pub const fn limit(&self) -> u64 {
        self.limit
    }

    /// The length of the window; of a rate, the time in which an empty budget is whole; a month is
    /// taken to have 31 days.
    pub fn window(&self) -> Duration {
        match self.shape {
            Shape::Window { period } => Duration::from_nanos(period),
            Shape::Rate { interval } => Duration::from_nanos(interval * self.limit),
            Shape::Calendar(Calendar::Day) => Duration::from_secs(86_400),
            Shape::Calendar(Calendar::Month) => Duration::from_secs(31 * 86_400),
        }
    }

    /// The [window](Self::window) in whole seconds, rounded up, as callers are told.
    ///
    /// The interval of a rate is rounded up to a nanosecond, so seven of seven in a minute take a
    /// few nanoseconds more than a minute. That is not told as 61 seconds.
    pub(crate) fn window_seconds(&self) -> u64 {
        let microseconds = self.window().as_nanos() / 1_000;
        u64::try_from(microseconds.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// The name of the [window](Self::window): `second`, `minute`, `hour`, `day` or `month`, and
    /// otherwise its length in seconds, such as `10s`.
    pub(crate) fn window_name(&self) -> Cow<'static, str> {
        if let Shape::Calendar(Calendar::Month) = self.shape {
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

    /// One of so many equal shares, rounded down, but at least 1.
    pub(crate) fn shared_by(self, nodes: NonZeroU32) -> Self {
        let nodes = u64::from(nodes.get());
        let limit = (self.limit / nodes).max(1);
        let shape = match self.shape {
            Shape::Rate { interval } => {
                let longest = u64::try_from(MAX_PERIOD.as_nanos()).unwrap_or(u64::MAX);
                let interval = interval.saturating_mul(nodes).min(longest / limit);
                Shape::Rate { interval }
            }
            other => other,
        };
        Self { limit, shape }
    }

    /// The same quota of so much at least, for a share of one.
    pub(crate) fn at_least(self, limit: u64) -> Self {
        match self.shape {
            Shape::Rate { interval } => {
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

    /// In which way the quota counts. With [`limit`](Self::limit), that is all there is to it.
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
        match self.shape {
            Shape::Window { period } => QuotaShape::Window {
                period: Duration::from_nanos(period),
            },
            Shape::Rate { interval } => QuotaShape::Rate {
                interval: Duration::from_nanos(interval),
            },
            Shape::Calendar(Calendar::Day) => QuotaShape::UtcDay,
            Shape::Calendar(Calendar::Month) => QuotaShape::UtcMonth,
        }
    }

    /// The same amount over the same time as a rate, of whatever shape it is.
    pub(crate) fn as_rate(self) -> Self {
        let interval = match self.shape {
            Shape::Rate { interval } => interval,
            _ => timestamp::nanoseconds(self.window()).div_ceil(self.limit),
        };
        Self {
            limit: self.limit,
            shape: Shape::Rate { interval },
        }
    }

    pub(crate) const fn is_calendar(&self) -> bool {
        matches!(self.shape, Shape::Calendar(_))
    }

    pub(crate) const fn is_rate(&self) -> bool {
        matches!(self.shape, Shape::Rate { .. })
    }

    pub(crate) const fn form(&self) -> Shape {
        self.shape
    }

    /// A number that differs where the budgets of one name and subject are apart: by shape, and by
    /// the period of a window, whose uses would be forgotten too early under a shorter one.
    #[inline]
    pub(crate) const fn form_hash(&self) -> u64 {
        match self.shape {
            Shape::Window { period } => period,
            // A rate tells what was used under another interval or burst.
            Shape::Rate { .. } => 0,
            Shape::Calendar(Calendar::Day) => 1,
            Shape::Calendar(Calendar::Month) => 2,
        }
    }

    #[track_caller]
    const fn in_any(limit: u64, seconds: u64) -> Self {
        Self {
            limit: checked(limit),
            shape: Shape::Window {
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
        match self.shape {
            Shape::Window { period } => write!(f, "{limit} per {:?}", Duration::from_nanos(period)),
            Shape::Rate { interval } => {
                let interval = Duration::from_nanos(interval);
                write!(f, "1 per {interval:?}, burst {limit}")
            }
            Shape::Calendar(Calendar::Day) => write!(f, "{limit} per UTC day"),
            Shape::Calendar(Calendar::Month) => write!(f, "{limit} per UTC month"),
        }
    }
}

/// Numbers that are no quota.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum QuotaError {
    /// Not 1 to 999,999,999,999,999.
    #[error("a quota of {0}: use 1 to 999,999,999,999,999")]
    Limit(u64),
    /// Not 1 second to 400 days.
    #[error("a quota per {0:?}: use 1 second to 400 days")]
    Period(Duration),
    /// The interval of a rate is zero, or its burst takes more than 400 days to fill up.
    #[error(
        "a unit each {0:?}: use at least 1 nanosecond, and at most 400 days for the whole burst"
    )]
    Interval(Duration),
    /// A quota of the calendar has no rate, and only a smooth quota has a burst.
    #[error("only a window can be made smooth, and only a smooth quota has a burst")]
    NotSmooth,
    /// A text that is no quota.
    #[error(
        "{0:?} is not a quota: write it as 600/min, 5/30s, 50/s smooth burst 100 or 10000/utc_month"
    )]
    Syntax(String),
}
