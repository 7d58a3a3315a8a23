//! Limits on how often a thing is said: once, seldom, so many times a minute, or while an outage lasts.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::SystemTime;

use crate::util::timestamp;

/// Says a thing once in a life.
#[derive(Debug, Default)]
pub(crate) struct Once(AtomicBool);

impl Once {
    pub(crate) fn run(&self, say: impl FnOnce()) {
        if !self.0.load(Ordering::Relaxed) && !self.0.swap(true, Ordering::Relaxed) {
            say();
        }
    }
}

/// Says a thing about each of many at most once in a period, in bounded memory.
///
/// They share a fixed number of slots. Where two meet in one, the second is silent for that time.
pub(crate) struct Seldom<const SECONDS: u64>([AtomicU64; 512]);

impl<const SECONDS: u64> Seldom<SECONDS> {
    /// Returns whether to speak now of the one with this hash.
    pub(crate) fn is_due(&self, hash: u64, at: SystemTime) -> bool {
        let [low, high, ..] = hash.to_le_bytes();
        let slot = &self.0[usize::from(u16::from_le_bytes([low, high])) % self.0.len()];
        let period = period_of(at, SECONDS);
        slot.load(Ordering::Relaxed) != period && slot.swap(period, Ordering::Relaxed) != period
    }
}

impl<const SECONDS: u64> Default for Seldom<SECONDS> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const SECONDS: u64> fmt::Debug for Seldom<SECONDS> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seldom")
    }
}

/// The number of a period since 1970, from 1: 0 is one that never was.
fn period_of(at: SystemTime, seconds: u64) -> u64 {
    timestamp::unix_seconds(at) / seconds + 1
}

/// Says at most twenty things a minute, and counts those that are left out.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    minute: AtomicU64,
    written: AtomicU32,
    left_out: AtomicU64,
}

impl Lines {
    /// The most lines in a minute.
    const MOST: u32 = 20;

    /// Returns whether one more line may be written now. The number of those that were left out in
    /// an earlier minute is told, once.
    pub(crate) fn may_write(&self, at: SystemTime, tell: impl FnOnce(u64)) -> bool {
        self.flush(at, tell);
        if self.written.load(Ordering::Relaxed) < Self::MOST
            && self.written.fetch_add(1, Ordering::Relaxed) < Self::MOST
        {
            return true;
        }
        self.left_out.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Tells how many lines were left out, if the minute is over.
    pub(crate) fn flush(&self, at: SystemTime, tell: impl FnOnce(u64)) {
        let minute = period_of(at, 60);
        if self.minute.load(Ordering::Relaxed) == minute
            || self.minute.swap(minute, Ordering::Relaxed) == minute
        {
            return;
        }
        self.written.store(0, Ordering::Relaxed);
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tell(left_out);
        }
    }
}

/// Says once a second that something fails, with a count, and once that it works again.
#[derive(Debug, Default)]
pub(crate) struct Outage {
    /// The second of the last line; 0 while all is well.
    said: AtomicU64,
    failures: AtomicU64,
}

impl Outage {
    /// Counts a failure. Returns how many there were since the last line, if one is due.
    pub(crate) fn failed(&self, at: SystemTime) -> Option<u64> {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let second = period_of(at, 1);
        let is_due = self.said.load(Ordering::Relaxed) != second
            && self.said.swap(second, Ordering::Relaxed) != second;
        is_due.then(|| self.failures.swap(0, Ordering::Relaxed))
    }

    /// Notes that it works. Returns how many failures nobody was told of, if it failed before.
    #[inline]
    pub(crate) fn works(&self) -> Option<u64> {
        if self.said.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let failed = self.said.swap(0, Ordering::Relaxed) != 0;
        failed.then(|| self.failures.swap(0, Ordering::Relaxed))
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
    fn a_key_is_spoken_of_once_an_hour() {
        let hourly = Seldom::<3600>::default();
        assert!(hourly.is_due(1, at(0)));
        assert!(!hourly.is_due(1, at(3599)));
        assert!(hourly.is_due(2, at(3599)));
        assert!(hourly.is_due(1, at(3600)));
        assert!(!hourly.is_due(1, at(3600)));
    }

    #[test]
    fn twenty_lines_a_minute_are_written_and_the_others_counted() {
        let lines = Lines::default();
        for minute in 0..3 {
            let mut told = 0;
            let written = (0..100).filter(|_| lines.may_write(at(minute * 60), |it| told += it));
            assert_eq!(written.count(), 20);
            assert_eq!(told, if minute == 0 { 0 } else { 80 });
        }
        let mut told = Vec::new();
        lines.flush(at(179), |it| told.push(it));
        lines.flush(at(180), |it| told.push(it));
        lines.flush(at(240), |it| told.push(it));
        assert_eq!(told, [80]);
    }

    #[test]
    fn an_outage_is_told_once_a_second_and_its_end_once() {
        let outage = Outage::default();
        assert_eq!(outage.works(), None);
        for (second, told) in [(0, 1), (1, 100), (2, 100)] {
            assert_eq!(outage.failed(at(second)), Some(told));
            assert!((1..100).all(|_| outage.failed(at(second)).is_none()));
        }
        assert_eq!(outage.works(), Some(99));
        assert_eq!(outage.works(), None);
        assert_eq!(outage.failed(at(2)), Some(1));
    }
}
