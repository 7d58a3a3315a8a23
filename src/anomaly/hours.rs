//! Hours: of the time since 1970, and of the UTC day.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::util::timestamp::unix_seconds;

/// The seconds of an hour.
pub(super) const HOUR: u64 = 3_600;

/// Returns the hours since 1970.
pub(super) fn hour_of(at: SystemTime) -> u32 {
    u32::try_from(unix_seconds(at) / HOUR).unwrap_or(u32::MAX)
}

/// Returns the part of the current hour that is over, from 0 to 1.
pub(super) fn part_of_hour(at: SystemTime) -> f64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = u32::try_from(since.as_secs() % HOUR).unwrap_or_default();
    f64::from(seconds) / 3_600.0
}

/// Returns the hour of the UTC day, from 0 to 23.
pub(super) const fn hour_of_day(hour: u32) -> usize {
    (hour % 24) as usize
}

/// A set of hours of the UTC day, by a bit for each.
pub(super) const ALL_HOURS: u32 = (1 << 24) - 1;
