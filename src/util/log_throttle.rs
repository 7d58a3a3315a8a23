//! Log throttles: once per process, once per period and key, at most 20 lines a minute, or once a
//! second while an outage lasts.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use crate::util::timestamp;

/// Logs an event once per process.
#[derive(Debug, Default)]
pub(crate) struct LogOnce(AtomicBool);

impl LogOnce {
    pub(crate) fn run(&self, log: impl FnOnce()) {
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            log();
        }
    }
}

/// Logs an event about each of many keys at most once in a period, in bounded memory.
///
/// The keys share a fixed number of slots. Of two keys in one slot, only the first is logged in a
/// period.
pub(crate) struct LogOncePer<const SECONDS: u64>([AtomicU64; 512]);

impl<const SECONDS: u64> LogOncePer<SECONDS> {
    /// Returns whether the event about the key with this hash is to be logged now.
    pub(crate) fn is_due(&self, hash: u64, at: SystemTime) -> bool {
        let [low, high, ..] = hash.to_le_bytes();
        let slot = &self.0[usize::from(u16::from_le_bytes([low, high])) % self.0.len()];
        let period = period_number(at, SECONDS);
        slot.load(Ordering::Relaxed) != period && slot.swap(period, Ordering::Relaxed) != period
    }
}

impl<const SECONDS: u64> Default for LogOncePer<SECONDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const SECONDS: u64> fmt::Debug for LogOncePer<SECONDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LogOncePer")
    }
}

/// Returns the number of a period since 1970, starting at 1. Slots that are 0 have seen no period.
fn period_number(at: SystemTime, seconds: u64) -> u64 {
    timestamp::unix_seconds(at) / seconds + 1
}

/// Allows at most 20 log lines a minute, and counts the suppressed ones.
#[derive(Debug, Default)]
pub(crate) struct LineBudget {
    minute: AtomicU64,
    written: AtomicU32,
    suppressed: AtomicU64,
}

impl LineBudget {
    /// The maximum number of lines in a minute.
    const MOST: u32 = 20;

    /// Returns whether one more line may be written now. The number of lines that were suppressed
    /// in an earlier minute is reported once.
    pub(crate) fn may_write(&self, at: SystemTime, report: impl FnOnce(u64)) -> bool {
        self.flush(at, report);
        if self.written.load(Ordering::Relaxed) < Self::MOST
            && self.written.fetch_add(1, Ordering::Relaxed) < Self::MOST
        {
            return true;
        }
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Reports the number of suppressed lines, if the minute is over.
    pub(crate) fn flush(&self, at: SystemTime, report: impl FnOnce(u64)) {
        let minute = period_number(at, 60);
        if self.minute.load(Ordering::Relaxed) == minute
            || self.minute.swap(minute, Ordering::Relaxed) == minute
        {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let suppressed = self.suppressed.swap(0, Ordering::Relaxed);
        if suppressed > 0 {
            report(suppressed);
        }
    }
}

/// Logs failures at most once a second, with their number, and the recovery once.
#[derive(Debug, Default)]
pub(crate) struct OutageLog {
    /// The number of the second of the last line; 0 while there is no outage.
    logged: AtomicU64,
    failures: AtomicU64,
}

impl OutageLog {
    /// Counts a failure. Returns the number of failures since the last line, if a line is due.
    pub(crate) fn failed(&self, at: SystemTime) -> Option<u64> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let second = period_number(at, 1);
        let is_due = self.logged.load(Ordering::Relaxed) != second
            && self.logged.swap(second, Ordering::Relaxed) != second;
        is_due.then(|| self.failures.swap(0, Ordering::Relaxed))
    }

    /// Ends the outage, if there is one. Returns the number of failures that were not logged yet.
    #[inline]
    pub(crate) fn recovered(&self) -> Option<u64> {
        if self.logged.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let was_out = self.logged.swap(0, Ordering::Relaxed) != 0;
        was_out.then(|| self.failures.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn a_key_is_logged_at_most_once_an_hour() {
        let hourly = LogOncePer::<3600>::default();
        assert!(hourly.is_due(1, at(0)));
        assert!(!hourly.is_due(1, at(3599)));
        assert!(hourly.is_due(2, at(3599)));
        assert!(hourly.is_due(1, at(3600)));
        assert!(!hourly.is_due(1, at(3600)));
    }

    #[test]
    fn twenty_lines_a_minute_are_written_and_the_rest_counted() {
        let lines = LineBudget::default();
        for minute in 0..3 {
            let mut reported = 0;
            let now = at(minute * 60);
            let written = (0..100).filter(|_| lines.may_write(now, |count| reported += count));
            assert_eq!(written.count(), 20);
            assert_eq!(reported, if minute == 0 { 0 } else { 80 });
        }
        let mut reported = Vec::new();
        lines.flush(at(179), |count| reported.push(count));
        lines.flush(at(180), |count| reported.push(count));
        lines.flush(at(240), |count| reported.push(count));
        assert_eq!(reported, [80]);
    }

    #[test]
    fn an_outage_is_reported_once_a_second_and_its_end_once() {
        let outage = OutageLog::default();
        assert_eq!(outage.recovered(), None);
        for (second, failures) in [(0, 1), (1, 100), (2, 100)] {
            assert_eq!(outage.failed(at(second)), Some(failures));
            assert!((1..100).all(|_| outage.failed(at(second)).is_none()));
        }
        assert_eq!(outage.recovered(), Some(99));
        assert_eq!(outage.recovered(), None);
        assert_eq!(outage.failed(at(2)), Some(1));
    }
}
