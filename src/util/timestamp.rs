//! Timestamps as text: RFC 3339, and the HTTP-date of RFC 9110.
//!
//! A store may return any time, and a strange record must not panic a request. Each function
//! therefore clamps times to the years that both formats can represent: 1970 to 9999.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The last second of the year 9999.
const LAST: u64 = 253_402_300_799;

/// Returns the whole seconds since 1970, rounded down, clamped to the years 1970 to 9999.
pub(crate) fn unix_seconds(instant: SystemTime) -> u64 {
    instant
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs().min(LAST))
}

/// Converts a duration to nanoseconds, at most 584 years.
#[inline]
pub(crate) fn nanoseconds(time: Duration) -> u64 {
    let seconds = time.as_secs().saturating_mul(1_000_000_000);
    seconds.saturating_add(u64::from(time.subsec_nanos()))
}

/// Formats a time as RFC 3339, such as `2024-06-30T23:59:59Z`.
pub(crate) fn rfc3339(instant: SystemTime) -> String {
    let seconds = unix_seconds(instant);
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Returns the whole seconds since 1970 of the time `after` nanoseconds after an instant, rounded
/// up.
#[inline]
pub(crate) fn unix_seconds_up(instant: SystemTime, after: u64) -> u64 {
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    let nanoseconds = after.saturating_add(u64::from(since.subsec_nanos()));
    let seconds = since
        .as_secs()
        .saturating_add(nanoseconds.div_ceil(1_000_000_000));
    seconds.min(LAST)
}

/// Rounds a time down to a microsecond.
pub(crate) fn microseconds_down(instant: SystemTime) -> SystemTime {
    let Ok(since) = instant.duration_since(UNIX_EPOCH) else {
        return instant;
    };
    instant - Duration::from_nanos(u64::from(since.subsec_nanos() % 1_000))
}

/// Rounds a time up to a microsecond.
pub(crate) fn microseconds_up(instant: SystemTime) -> SystemTime {
    let down = microseconds_down(instant);
    if down == instant {
        return instant;
    }
    let up = down.checked_add(Duration::from_micros(1));
    // The last microsecond of the year 9999 is rounded down.
    up.filter(|up| is_representable(*up)).unwrap_or(down)
}

/// Returns whether a time is in the years 1970 to 9999.
pub(crate) fn is_representable(instant: SystemTime) -> bool {
    let since = instant.duration_since(UNIX_EPOCH);
    since.is_ok_and(|since| since.as_secs() <= LAST)
}

/// Formats a time like [`rfc3339`], with the fraction of the second in as few digits as possible.
pub(crate) fn rfc3339_exact(instant: SystemTime) -> String {
    let mut text = rfc3339(instant);
    let since = instant.duration_since(UNIX_EPOCH).unwrap_or_default();
    if since.subsec_nanos() > 0 && since.as_secs() <= LAST {
        text.pop();
        let fraction = format!("{:09}", since.subsec_nanos());
        text += ".";
        text += fraction.trim_end_matches('0');
        text += "Z";
    }
    text
}

/// Formats a time like [`rfc3339`], rounded up to a second.
pub(crate) fn rfc3339_up(instant: SystemTime) -> String {
    let second = Duration::from_nanos(999_999_999);
    rfc3339(instant.checked_add(second).unwrap_or(instant))
}

/// Formats a time as an HTTP-date, such as `Sun, 30 Jun 2024 23:59:59 GMT`.
pub(crate) fn http_date(instant: SystemTime) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(unix_seconds(instant)))
}

/// Returns the first day of the month that contains a day, and the first day of the next month.
/// Days are counted from 1970-01-01.
pub(crate) fn month_around(day: u64) -> (u64, u64) {
    let (_, _, day_of_month) = civil_date(day);
    let first = day - (day_of_month - 1);
    // 31 days after the first of a month is one of the first days of the next month.
    let (_, _, beyond) = civil_date(first + 31);
    (first, first + 31 - (beyond - 1))
}

/// Returns the proleptic Gregorian date of a day, counted from 1970-01-01.
///
/// The computation uses years that begin in March, so that the leap day is the last of its year
/// (Howard Hinnant, `civil_from_days`).
pub(crate) fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    let days = days_since_1970 + 719_468; // since 0000-03-01
    let era = days / 146_097; // 400 years
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn known_instants_are_formatted_correctly() {
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(at(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(at(1_719_791_999)), "2024-06-30T23:59:59Z");
        assert_eq!(
            http_date(at(1_719_791_999)),
            "Sun, 30 Jun 2024 23:59:59 GMT"
        );
        assert_eq!(rfc3339(at(LAST)), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn instants_that_the_formats_cannot_write_are_clamped() {
        for strange in [at(LAST + 1), at(u64::MAX >> 2)] {
            assert_eq!(rfc3339(strange), "9999-12-31T23:59:59Z");
            assert_eq!(http_date(strange), "Fri, 31 Dec 9999 23:59:59 GMT");
        }
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00Z");
        assert_eq!(http_date(before), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    #[test]
    fn months_have_their_calendar_lengths() {
        let day = |date: &str| {
            let date = httpdate::parse_http_date(date).unwrap();
            unix_seconds(date) / 86_400
        };
        let february = day("Sat, 01 Feb 2025 00:00:00 GMT");
        assert_eq!(month_around(february), (february, february + 28));
        assert_eq!(month_around(february + 27), (february, february + 28));
        let leap = day("Thu, 01 Feb 2024 00:00:00 GMT");
        assert_eq!(month_around(leap + 28), (leap, leap + 29));
        let december = day("Sun, 01 Dec 2024 00:00:00 GMT");
        assert_eq!(month_around(december + 30), (december, december + 31));
    }

    proptest! {
        #[test]
        fn a_month_contains_exactly_its_own_days(day in 0..LAST / 86_400 - 31) {
            let (first, next) = month_around(day);
            prop_assert!((first..next).contains(&day) && (28..=31).contains(&(next - first)));
            let month = |day| (civil_date(day).0, civil_date(day).1);
            prop_assert_eq!(month(first), month(day));
            prop_assert_eq!((month(next - 1), civil_date(next).2), (month(day), 1));
        }

        /// `httpdate` computes the calendar in another way; both must agree on every day.
        #[test]
        fn both_formats_name_the_same_instant(seconds in 0..=LAST) {
            const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                        "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let http = http_date(at(seconds));
            let mut word = http.split([' ', ',']).skip(2);
            let (day, month, year, time) =
                (word.next().unwrap(), word.next().unwrap(), word.next().unwrap(), word.next().unwrap());
            let month = MONTHS.iter().position(|name| *name == month).unwrap() + 1;
            prop_assert_eq!(rfc3339(at(seconds)), format!("{year}-{month:02}-{day}T{time}Z"));
        }
    }

    #[test]
    fn seconds_after_an_instant_are_rounded_up() {
        let nearly = UNIX_EPOCH + Duration::new(10, 999_999_999);
        for (instant, after, second) in [
            (UNIX_EPOCH, 0, 0),
            (UNIX_EPOCH, 1, 1),
            (UNIX_EPOCH, 1_000_000_000, 1),
            (nearly, 0, 11),
            (nearly, 1, 11),
            (nearly, 2, 12),
            (UNIX_EPOCH - Duration::from_secs(1), 0, 0),
            (UNIX_EPOCH, u64::MAX, u64::MAX / 1_000_000_000 + 1),
            (UNIX_EPOCH + Duration::from_secs(u64::MAX >> 2), 1, LAST),
        ] {
            assert_eq!(
                unix_seconds_up(instant, after),
                second,
                "{instant:?} {after}"
            );
        }
    }
}
