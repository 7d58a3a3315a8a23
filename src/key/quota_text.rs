//! Quotas as text, for configurations.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::key::quota::{Quota, QuotaError, QuotaShape};

/// Units of time, the shortest first. The first name is written; all names are parsed. `m` is not
/// accepted, since it could be a minute or a month.
const UNITS: [(Duration, &[&str]); 7] = [
    (Duration::from_nanos(1), &["ns"]),
    (Duration::from_micros(1), &["us"]),
    (Duration::from_millis(1), &["ms"]),
    (Duration::from_secs(1), &["s", "sec", "second", "seconds"]),
    (Duration::from_secs(60), &["min", "minute", "minutes"]),
    (Duration::from_secs(3600), &["h", "hour", "hours"]),
    (Duration::from_secs(86_400), &["d", "day", "days"]),
];
const UTC_DAY: &str = "utc_day";
const UTC_MONTH: &str = "utc_month";

/// Parses a quota: `LIMIT/PERIOD`, or for a rate `LIMIT/PERIOD smooth` or `LIMIT/PERIOD smooth
/// burst N`.
///
/// | text | quota |
/// |---|---|
/// | `600/min` | [`Quota::per_minute(600)`](Quota::per_minute) |
/// | `5/30s` | [`Quota::per(5, Duration::from_secs(30))`](Quota::per) |
/// | `50/s smooth burst 100` | `Quota::per_second(50).smooth().burst(100)` |
/// | `10_000/utc_month` | [`Quota::per_utc_month(10_000)`](Quota::per_utc_month) |
///
/// A period is a number (1 if left out) and a unit: `ns`, `us`, `ms`, `s`, `min`, `h` or `d`, or
/// its English name, in lower case and without blanks. Digits may be separated by `_`. `utc_day`
/// and `utc_month` are calendar periods. [`Display`] writes the same syntax, and parsing its output
/// returns the same quota.
///
/// [`Display`]: fmt::Display
///
/// ```
/// use tower_api_key::Quota;
///
/// let quota: Quota = "50/s smooth burst 100".parse()?;
/// assert_eq!(quota, Quota::per_second(50).smooth().burst(100));
/// assert_eq!(Quota::per_minute(600).to_string(), "600/min");
/// # Ok::<(), tower_api_key::limit::QuotaError>(())
/// ```
impl FromStr for Quota {
    type Err = QuotaError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let syntax = || QuotaError::Syntax(text.to_owned());
        let mut words = text.split_whitespace();
        let (limit, period) = words
            .next()
            .and_then(|grant| grant.split_once('/'))
            .ok_or_else(syntax)?;
        let limit = number(limit).ok_or_else(syntax)?;
        let words: Vec<&str> = words.collect();
        let burst = match words[..] {
            [] => None,
            ["smooth"] => Some(limit),
            ["smooth", "burst", burst] => Some(number(burst).ok_or_else(syntax)?),
            _ => return Err(syntax()),
        };
        let calendar = match period {
            UTC_DAY => Some(QuotaShape::UtcDay),
            UTC_MONTH => Some(QuotaShape::UtcMonth),
            _ => None,
        };
        if let Some(shape) = calendar {
            if burst.is_some() {
                return Err(QuotaError::NotSmooth);
            }
            return Self::from_shape(limit, shape);
        }
        let period = self::period(period).ok_or_else(syntax)?;
        let Some(burst) = burst else {
            return Self::per(limit, period);
        };
        if limit == 0 || limit > Self::MAX {
            return Err(QuotaError::Limit(limit));
        }
        let interval = period.as_nanos().div_ceil(u128::from(limit));
        let interval = u64::try_from(interval).map_err(|_| QuotaError::Period(period))?;
        let interval = Duration::from_nanos(interval);
        Self::from_shape(burst, QuotaShape::Rate { interval })
    }
}

/// Writes a quota in the syntax of [`FromStr`]. A rate is written with its interval, which is all
/// that it stores: `60/min smooth` becomes `1/s smooth burst 60`.
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = self.limit();
        match self.shape() {
            QuotaShape::Window { period } => write!(f, "{limit}/{}", PeriodText(period)),
            QuotaShape::Rate { interval } => {
                write!(f, "1/{} smooth burst {limit}", PeriodText(interval))
            }
            QuotaShape::UtcDay => write!(f, "{limit}/{UTC_DAY}"),
            QuotaShape::UtcMonth => write!(f, "{limit}/{UTC_MONTH}"),
        }
    }
}

/// Parses a decimal number, whose digits may be separated by `_`.
fn number(text: &str) -> Option<u64> {
    if text.starts_with('_') || text.ends_with('_') {
        return None;
    }
    let digits: String = text.chars().filter(|character| *character != '_').collect();
    let is_decimal = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal.then(|| digits.parse().ok())?
}

fn period(text: &str) -> Option<Duration> {
    let digits = text.len()
        - text
            .trim_start_matches(|c: char| c.is_ascii_digit() || c == '_')
            .len();
    let (count, unit) = text.split_at(digits);
    let count = if count.is_empty() { 1 } else { number(count)? };
    let (unit, _) = UNITS.iter().find(|(_, names)| names.contains(&unit))?;
    let nanoseconds = unit.as_nanos().checked_mul(u128::from(count))?;
    u64::try_from(nanoseconds).ok().map(Duration::from_nanos)
}

/// Displays a period in the longest unit that is exact.
struct PeriodText(Duration);

impl fmt::Display for PeriodText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = self.0.as_nanos();
        let fits = |(unit, _): &&(Duration, _)| whole.is_multiple_of(unit.as_nanos());
        let (unit, names) = UNITS.iter().rev().find(fits).unwrap_or(&UNITS[0]);
        let count = whole / unit.as_nanos();
        if count != 1 {
            write!(f, "{count}")?;
        }
        f.write_str(names[0])
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn quotas() -> impl Strategy<Value = Quota> {
        let shape = prop_oneof![
            (1_000_000_000..400 * 86_400 * 1_000_000_000_u64).prop_map(|ns| QuotaShape::Window {
                period: Duration::from_nanos(ns)
            }),
            (1..400 * 86_400_u64).prop_map(|seconds| QuotaShape::Window {
                period: Duration::from_secs(seconds)
            }),
            (1..100_000_000_000_u64).prop_map(|ns| QuotaShape::Rate {
                interval: Duration::from_nanos(ns)
            }),
            Just(QuotaShape::UtcDay),
            Just(QuotaShape::UtcMonth),
        ];
        (1..300_000_u64, shape).prop_map(|(limit, shape)| Quota::from_shape(limit, shape).unwrap())
    }

    proptest! {
        #[test]
        fn a_quota_round_trips_through_text(quota in quotas()) {
            let text = quota.to_string();
            prop_assert_eq!(text.parse(), Ok(quota), "{}", text);
        }

        #[test]
        fn any_text_is_parsed_without_panic(text in "[0-9_/a-z ]{0,24}|.{0,12}") {
            let _ = text.parse::<Quota>();
        }
    }

    #[test]
    fn every_notation_of_a_quota_is_parsed() {
        let seconds = |limit, seconds| Quota::per(limit, Duration::from_secs(seconds)).unwrap();
        for (text, quota) in [
            ("600/min", Quota::per_minute(600)),
            (" 1_000/hour ", Quota::per_hour(1000)),
            ("5/30s", seconds(5, 30)),
            ("5/30seconds", seconds(5, 30)),
            ("7/2days", seconds(7, 2 * 86_400)),
            (
                "7/1500ms",
                Quota::per(7, Duration::from_millis(1500)).unwrap(),
            ),
            ("50/s smooth", Quota::per_second(50).smooth()),
            (
                "50/s  smooth burst 100",
                Quota::per_second(50).smooth().burst(100),
            ),
            ("7/min smooth", Quota::per_minute(7).smooth()),
            ("100/utc_day", Quota::per_utc_day(100)),
            ("10_000/utc_month", Quota::per_utc_month(10_000)),
        ] {
            assert_eq!(text.parse(), Ok(quota), "{text}");
        }
        for text in [
            "",
            "600",
            "/min",
            "600/",
            "600/m",
            "600/month",
            "600 / min",
            "-1/min",
            "+1/min",
            "1.5/min",
            "_1/min",
            "1_/min",
            "600/min burst 5",
            "600/min smooth burst",
            "600/min fast",
            "600/min smooth burst 5 more",
            "600/MIN",
            "600/9999999999999999999999s",
            "٣/min",
        ] {
            assert_eq!(
                text.parse::<Quota>(),
                Err(QuotaError::Syntax(text.to_owned())),
                "{text}"
            );
        }
        for (text, error) in [
            ("0/min", QuotaError::Limit(0)),
            ("5/10ms", QuotaError::Period(Duration::from_millis(10))),
            (
                "5/401d",
                QuotaError::Period(Duration::from_secs(401 * 86_400)),
            ),
            ("5/utc_day smooth", QuotaError::NotSmooth),
            (
                "1/d smooth burst 401",
                QuotaError::Interval(Duration::from_secs(86_400)),
            ),
        ] {
            assert_eq!(text.parse::<Quota>(), Err(error), "{text}");
        }
    }
}
