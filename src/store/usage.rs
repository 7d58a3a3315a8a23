//! Usage: counts of requests by key, in numbered batches.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::text::{self, KeyRecordError};
use crate::store::event::Event;
use crate::store::kinds::API_KEY_FIRST_USED;
use crate::util::timestamp;

/// A batch of usage counts, to be recorded exactly once.
///
/// A process that counts usage is a node, with an id that is drawn at startup. The process numbers
/// its batches from 1 and sends one at a time. If a response is lost, the same batch is sent again,
/// and the store does not record the batch twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBatch {
    node: [u8; 16],
    number: u64,
    usage: Vec<KeyUsage>,
}

/// The counts of one key in one period, to be added to the recorded counts.
///
/// Counts without a key are those of an account, and counts without an account those of nobody in
/// particular: a process in which too many keys were in use while the store was down has added them
/// up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// The key. `None` for usage that is not itemized by key.
    pub key: Option<KeyId>,
    /// The first key of its chain of rotations; the key itself if it was never rotated.
    pub lineage: Option<KeyId>,
    /// The account that the key belongs to. `None` for usage that is not itemized by account.
    pub account: Option<String>,
    /// The environment of the key.
    pub environment: Option<Environment>,
    /// The period of the counts.
    pub period: UsagePeriod,
    /// The times of the requests that were admitted. `None` if there were none.
    pub used: Option<UseTimes>,
    /// The counts.
    pub counts: UsageCounts,
}

/// The times at which a key was used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct UseTimes {
    /// The first use.
    pub first: SystemTime,
    /// The last use.
    pub last: SystemTime,
    /// The address of a late use, if it is known.
    pub last_address: Option<IpAddr>,
}

/// Counts of requests and units.
///
/// No count that is kept is above [`MOST`](Self::MOST), nor below −`MOST`: sums stop there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct UsageCounts {
    /// The number of requests that were admitted.
    pub allowed: u64,
    /// The number of requests that a limit denied.
    pub limited: u64,
    /// The number of requests that were denied for another reason.
    pub refused: u64,
    /// The units that were used, by name, less those that were refunded. `requests` are the costs
    /// of the admitted requests. A refund counts when it is made, so the units of a period can be
    /// negative.
    pub units: BTreeMap<String, i64>,
}

/// A period that usage is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum UsagePeriod {
    /// A UTC day, in days since 1 January 1970.
    Day(u32),
    /// An hour, in hours since the beginning of 1 January 1970, UTC.
    Hour(u32),
}

impl UsageBatch {
    /// Creates a batch. Counts with the same account, key, environment and period are added up. A
    /// count above [`UsageCounts::MOST`] is lowered to it.
    ///
    /// # Errors
    /// If the number is 0 or above 2⁶³ − 1, or if a text or a time is one that not every store can
    /// keep.
    pub fn new(
        node: [u8; 16],
        number: u64,
        usage: impl IntoIterator<Item = KeyUsage>,
    ) -> Result<Self, KeyRecordError> {
        if number == 0 || i64::try_from(number).is_err() {
            return Err(KeyRecordError::Number("the number of a batch"));
        }
        let mut folded: BTreeMap<_, KeyUsage> = BTreeMap::new();
        for mut counts in usage {
            counts.counts.saturate();
            let environment = counts.environment.as_ref();
            let environment = environment.map(|it| it.as_str().to_owned());
            let account = counts.account.clone();
            let key = counts.key.map(|key| *key.as_bytes());
            match folded.entry((account, key, environment, counts.period)) {
                Entry::Vacant(entry) => {
                    entry.insert(counts);
                }
                Entry::Occupied(mut entry) => entry.get_mut().add(counts),
            }
        }
        for counts in folded.values_mut() {
            counts.check()?;
            if let Some(used) = &mut counts.used {
                used.first = timestamp::microseconds_down(used.first);
                used.last = timestamp::microseconds_down(used.last);
            }
        }
        Ok(Self {
            node,
            number,
            usage: folded.into_values().collect(),
        })
    }

    /// Returns the id of the process that counted.
    pub fn node(&self) -> &[u8; 16] {
        &self.node
    }

    /// Returns the number of the batch among those of the node, at least 1.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Returns the counts, one for each account, key, environment and period, sorted in this order.
    /// Stores that lock rows in this order do not deadlock with each other.
    pub fn usage(&self) -> &[KeyUsage] {
        &self.usage
    }
}

impl UsagePeriod {
    /// Returns the day, or the hour, of a time. Times are clamped to the years 1970 to 9999.
    pub fn at(at: SystemTime, by_hour: bool) -> Self {
        let hours = u32::try_from(timestamp::unix_seconds(at) / 3_600).unwrap_or(u32::MAX);
        if by_hour {
            Self::Hour(hours)
        } else {
            Self::Day(hours / 24)
        }
    }

    /// Returns the time at which the period begins.
    pub fn begins_at(self) -> SystemTime {
        let hours = match self {
            Self::Day(day) => u64::from(day) * 24,
            Self::Hour(hour) => u64::from(hour),
        };
        UNIX_EPOCH + Duration::from_secs(hours * 3_600)
    }

    /// Returns the day that the period is, or is a part of, in days since 1 January 1970, UTC.
    pub const fn day(self) -> u32 {
        match self {
            Self::Day(day) => day,
            Self::Hour(hour) => hour / 24,
        }
    }
}

impl UsageCounts {
    /// The largest count that is kept: 10¹⁵ − 1. Thousands of such counts can be added up without
    /// an overflow, and JSON can hold each.
    pub const MOST: i64 = 999_999_999_999_999;

    /// Returns whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        let requests = [self.allowed, self.limited, self.refused];
        requests == [0; 3] && self.units.values().all(|units| *units == 0)
    }

    /// Adds other counts. Sums stop at [`MOST`](Self::MOST), and at −`MOST`.
    pub fn add(&mut self, other: Self) {
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.limited = self.limited.saturating_add(other.limited);
        self.refused = self.refused.saturating_add(other.refused);
        for (unit, count) in other.units {
            let sum = self.units.entry(unit).or_default();
            *sum = sum.saturating_add(count);
        }
        self.saturate();
    }

    fn saturate(&mut self) {
        for count in [&mut self.allowed, &mut self.limited, &mut self.refused] {
            *count = (*count).min(Self::MOST.unsigned_abs());
        }
        for units in self.units.values_mut() {
            *units = (*units).clamp(-Self::MOST, Self::MOST);
        }
    }
}

impl UseTimes {
    /// Creates the times of one use, from an unknown address.
    pub const fn once(at: SystemTime) -> Self {
        Self {
            first: at,
            last: at,
            last_address: None,
        }
    }

    fn add(&mut self, other: Self) {
        if other.last >= self.last {
            self.last = other.last;
            self.last_address = other.last_address.or(self.last_address);
        }
        self.first = self.first.min(other.first);
    }
}

impl KeyUsage {
    /// Creates the usage of a key that was not used and never rotated. All counts are zero.
    pub fn new(key: KeyId, account: impl Into<String>, period: UsagePeriod) -> Self {
        Self {
            key: Some(key),
            lineage: Some(key),
            account: Some(account.into()),
            environment: None,
            period,
            used: None,
            counts: UsageCounts::default(),
        }
    }

    /// Adds a use at a time, from an unknown address.
    #[must_use]
    pub fn used_at(mut self, at: SystemTime) -> Self {
        let once = UseTimes::once(at);
        match &mut self.used {
            Some(used) => used.add(once),
            None => self.used = Some(once),
        }
        self
    }

    /// Returns the event that a store keeps with the first use of a key: if the usage has a use, and
    /// the store knows the key and no use of it.
    pub fn first_use(&self) -> Option<Event> {
        let (key, used) = (self.key?, self.used?);
        let data = serde_json::json!({
            "key_id": key.to_string(),
            "account": self.account,
            "environment": self.environment.as_ref().map(Environment::as_str),
        });
        let data = data.to_string();
        let event = Event::new(API_KEY_FIRST_USED, used.first).with_key(key);
        Some(event.with_account(self.account.clone()).with_data(data))
    }

    /// Leaves the key out.
    pub(crate) fn fold_into_account(&mut self) {
        self.key = None;
        self.lineage = None;
        self.used = None;
    }

    /// Leaves the account out.
    pub(crate) fn fold_into_rest(&mut self) {
        self.fold_into_account();
        self.account = None;
        self.environment = None;
    }

    /// Adds other usage of the same key and period.
    pub(crate) fn add(&mut self, other: Self) {
        match (&mut self.used, other.used) {
            (Some(used), Some(other)) => used.add(other),
            (used, other) => *used = used.or(other),
        }
        self.counts.add(other.counts);
    }

    fn check(&self) -> Result<(), KeyRecordError> {
        text::check_indexed("the account", self.account.as_deref().unwrap_or_default())?;
        for unit in self.counts.units.keys() {
            if unit.is_empty() {
                return Err(KeyRecordError::Empty("the name of a unit"));
            }
            text::check_indexed("the name of a unit", unit)?;
        }
        let (first, last) = self.used.map(|used| (used.first, used.last)).unzip();
        text::check_instant("the first use", first)?;
        text::check_instant("the last use", last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::digest::KeyDigest;

    fn counts(key: &str, second: u64) -> KeyUsage {
        let at = UNIX_EPOCH + Duration::from_nanos(second * 1_000_000_000 + 1);
        let key = KeyDigest::of(key).id();
        KeyUsage::new(key, "acme", UsagePeriod::Day(7)).used_at(at)
    }

    #[test]
    fn counts_of_the_same_key_and_period_are_summed() {
        let mut first = counts("a", 20);
        (first.counts.allowed, first.counts.limited) = (2, 1);
        first.counts.units.insert("tokens".to_owned(), 40);
        let mut second = counts("a", 10);
        second.counts.allowed = 3;
        second.counts.units.insert("tokens".to_owned(), 2);
        let mut hour = counts("a", 30);
        hour.period = UsagePeriod::Hour(7);
        let mut anonymous = counts("a", 30);
        anonymous.key = None;
        let batch = UsageBatch::new([1; 16], 1, [first, second, hour, anonymous, counts("b", 5)]);
        let batch = batch.unwrap();
        assert_eq!(batch.usage().len(), 4);
        let of_key = |usage: &&KeyUsage| usage.counts.allowed > 0;
        let added = batch.usage().iter().find(of_key).unwrap();
        assert_eq!((added.counts.allowed, added.counts.limited), (5, 1));
        assert_eq!(added.counts.units["tokens"], 42);
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(since(added.used.unwrap().first), Duration::from_secs(10));
        assert_eq!(since(added.used.unwrap().last), Duration::from_secs(20));
    }

    /// Stores lock rows in this order.
    #[test]
    fn a_batch_is_sorted_by_account_key_environment_and_period() {
        let environments = [None, Some(Environment::LIVE), Some(Environment::TEST)];
        let periods = [
            UsagePeriod::Day(3),
            UsagePeriod::Day(20),
            UsagePeriod::Hour(7),
        ];
        let mut usage = Vec::new();
        for account in [None, Some(""), Some("acme"), Some("globex")] {
            for key in [None, Some("a"), Some("b"), Some("c")] {
                for environment in &environments {
                    usage.extend(periods.map(|period| KeyUsage {
                        account: account.map(str::to_owned),
                        key: key.map(|key| KeyDigest::of(key).id()),
                        environment: environment.clone(),
                        period,
                        ..counts("a", 1)
                    }));
                }
            }
        }
        let sort_key = |usage: &KeyUsage| {
            let environment = usage.environment.as_ref();
            let environment = environment.map(|it| it.as_str().to_owned());
            let key = usage.key.map(|key| *key.as_bytes());
            (usage.account.clone(), key, environment, usage.period)
        };
        let mut sorted = usage.clone();
        sorted.sort_by_key(sort_key);
        for step in [1, 5, 71, 143] {
            // A step that has no divisor in common with 144 comes to each of them.
            let shuffled = (0..usage.len()).map(|at| usage[at * step % usage.len()].clone());
            let batch = UsageBatch::new([1; 16], 1, shuffled).unwrap();
            let places: Vec<_> = batch.usage().iter().map(sort_key).collect();
            let expected: Vec<_> = sorted.iter().map(sort_key).collect();
            assert_eq!(places, expected, "a step of {step}");
        }
    }

    #[test]
    fn the_address_is_that_of_the_latest_use_with_one() {
        let from = |second: u64, address: Option<[u8; 4]>| {
            let mut usage = counts("a", second);
            let used = usage.used.as_mut().unwrap();
            used.last_address = address.map(IpAddr::from);
            usage
        };
        let [one, other] = [Some([192, 0, 2, 1]), Some([192, 0, 2, 2])];
        for (first, second, expected) in [
            (from(10, one), from(20, other), other),
            (from(10, one), from(20, None), one),
            (from(20, one), from(10, other), one),
            (from(20, one), from(10, None), one),
        ] {
            let batch = UsageBatch::new([1; 16], 1, [first, second]).unwrap();
            let used = batch.usage()[0].used.unwrap();
            assert_eq!(used.last_address, expected.map(IpAddr::from));
            let since = used.last.duration_since(UNIX_EPOCH).unwrap();
            assert_eq!(since, Duration::from_secs(20));
        }
    }

    #[test]
    fn counts_stop_at_the_largest_that_is_kept() {
        let mut usage = counts("a", 1);
        (usage.counts.allowed, usage.counts.limited) = (u64::MAX, 3);
        let units = [("tokens", i64::MAX), ("refunds", i64::MIN), ("few", -7)];
        usage.counts.units = units.map(|(unit, count)| (unit.to_owned(), count)).into();
        let most = UsageCounts::MOST;
        for usage in [vec![usage.clone()], vec![usage.clone(), usage.clone()]] {
            let times = usage.len();
            let batch = UsageBatch::new([1; 16], 1, usage).unwrap();
            let kept = &batch.usage()[0].counts;
            assert_eq!(kept.allowed, most.unsigned_abs());
            assert_eq!(kept.limited, 3 * times as u64);
            assert_eq!((kept.units["tokens"], kept.units["refunds"]), (most, -most));
            assert_eq!(kept.units["few"], if times == 1 { -7 } else { -14 });
        }
    }

    #[test]
    fn invalid_usage_is_refused() {
        let of = |change: fn(&mut KeyUsage)| {
            let mut usage = counts("a", 1);
            change(&mut usage);
            UsageBatch::new([1; 16], 1, [usage])
        };
        assert!(of(|_| ()).is_ok());
        assert!(of(|usage| usage.account = Some("\0".to_owned())).is_err());
        assert!(of(|usage| usage.counts.units = [("u".repeat(256), 1)].into()).is_err());
        assert!(of(|usage| usage.counts.units = [(String::new(), 1)].into()).is_err());
        for number in [0, 1 << 63, u64::MAX] {
            assert!(UsageBatch::new([1; 16], number, []).is_err());
        }
    }
}
