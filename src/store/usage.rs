//! Usage: counts of requests by key, in numbered batches.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::time::SystemTime;

use crate::key::digest::KeyId;
use crate::key::environment::Environment;
use crate::key::text::{self, KeyRecordError};
use crate::util::timestamp;

/// A batch of usage counts, to be recorded exactly once.
///
/// A process that counts usage is a node, with an id that it draws at startup. It numbers its
/// batches from 1 and sends one at a time. If a response is lost, it sends the same batch again,
/// and the store does not record the batch twice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageBatch {
    node: [u8; 16],
    number: u64,
    usage: Vec<KeyUsage>,
}

/// The counts of one key in one period, to be added to the recorded counts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyUsage {
    /// The key. `None` for usage that is no longer itemized by key.
    pub key: Option<KeyId>,
    /// The account that the key belongs to. `None` for usage that is not itemized by account.
    pub account: Option<String>,
    /// The environment of the key.
    pub environment: Option<Environment>,
    /// The period of the counts.
    pub period: UsagePeriod,
    /// The first use in the batch.
    pub first_used_at: SystemTime,
    /// The last use in the batch.
    pub last_used_at: SystemTime,
    /// The address of the last use.
    pub last_address: Option<IpAddr>,
    /// The number of requests that were admitted.
    pub allowed: u64,
    /// The number of requests that a limit denied.
    pub limited: u64,
    /// The number of requests that were denied for another reason.
    pub refused: u64,
    /// The units that were charged, by name.
    pub units: BTreeMap<String, u64>,
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
    /// Creates a batch. Counts with the same account, key, environment and period are added up.
    ///
    /// # Errors
    /// If the number is 0 or above 2⁶³ − 1, or if a count, a text or a time is one that not every
    /// store can keep.
    pub fn new(
        node: [u8; 16],
        number: u64,
        usage: impl IntoIterator<Item = KeyUsage>,
    ) -> Result<Self, KeyRecordError> {
        if number == 0 || i64::try_from(number).is_err() {
            return Err(KeyRecordError::Number("the number of a batch"));
        }
        let mut folded: BTreeMap<_, KeyUsage> = BTreeMap::new();
        for counts in usage {
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
            counts.first_used_at = timestamp::microseconds_down(counts.first_used_at);
            counts.last_used_at = timestamp::microseconds_down(counts.last_used_at);
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

impl KeyUsage {
    /// Creates the counts of a key that was used once. All counts are zero.
    pub fn new(
        key: KeyId,
        account: impl Into<String>,
        period: UsagePeriod,
        used_at: SystemTime,
    ) -> Self {
        Self {
            key: Some(key),
            account: Some(account.into()),
            environment: None,
            period,
            first_used_at: used_at,
            last_used_at: used_at,
            last_address: None,
            allowed: 0,
            limited: 0,
            refused: 0,
            units: BTreeMap::new(),
        }
    }

    /// Adds other counts of the same key and period.
    fn add(&mut self, other: Self) {
        if other.last_used_at >= self.last_used_at {
            self.last_used_at = other.last_used_at;
            self.last_address = other.last_address.or(self.last_address);
        }
        self.first_used_at = self.first_used_at.min(other.first_used_at);
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.limited = self.limited.saturating_add(other.limited);
        self.refused = self.refused.saturating_add(other.refused);
        for (unit, count) in other.units {
            let sum = self.units.entry(unit).or_default();
            *sum = sum.saturating_add(count);
        }
    }

    fn check(&self) -> Result<(), KeyRecordError> {
        text::check_indexed("the account", self.account.as_deref().unwrap_or_default())?;
        for unit in self.units.keys() {
            if unit.is_empty() {
                return Err(KeyRecordError::Empty("the name of a unit"));
            }
            text::check_indexed("the name of a unit", unit)?;
        }
        let counts = [self.allowed, self.limited, self.refused];
        if counts
            .iter()
            .chain(self.units.values())
            .any(|count| i64::try_from(*count).is_err())
        {
            return Err(KeyRecordError::Number("a count"));
        }
        text::check_instant("the first use", Some(self.first_used_at))?;
        text::check_instant("the last use", Some(self.last_used_at))
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::key::digest::KeyDigest;

    fn counts(key: &str, second: u64) -> KeyUsage {
        let at = UNIX_EPOCH + Duration::from_nanos(second * 1_000_000_000 + 1);
        let key = KeyDigest::of(key).id();
        KeyUsage::new(key, "acme", UsagePeriod::Day(7), at)
    }

    #[test]
    fn counts_of_the_same_key_and_period_are_summed() {
        let mut first = counts("a", 20);
        (first.allowed, first.limited) = (2, 1);
        first.units.insert("tokens".to_owned(), 40);
        let mut second = counts("a", 10);
        second.allowed = 3;
        second.units.insert("tokens".to_owned(), 2);
        let mut hour = counts("a", 30);
        hour.period = UsagePeriod::Hour(7);
        let mut anonymous = counts("a", 30);
        anonymous.key = None;
        let batch = UsageBatch::new([1; 16], 1, [first, second, hour, anonymous, counts("b", 5)]);
        let batch = batch.unwrap();
        assert_eq!(batch.usage().len(), 4);
        let of_key = |usage: &&KeyUsage| usage.allowed > 0;
        let added = batch.usage().iter().find(of_key).unwrap();
        assert_eq!((added.allowed, added.limited), (5, 1));
        assert_eq!(added.units["tokens"], 42);
        let since = |at: SystemTime| at.duration_since(UNIX_EPOCH).unwrap();
        assert_eq!(since(added.first_used_at), Duration::from_secs(10));
        assert_eq!(since(added.last_used_at), Duration::from_secs(20));
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
        assert!(of(|usage| usage.allowed = u64::MAX).is_err());
        assert!(of(|usage| usage.units = [("u".repeat(256), 1)].into()).is_err());
        assert!(of(|usage| usage.units = [(String::new(), 1)].into()).is_err());
        assert!(of(|usage| usage.units = [("u".to_owned(), u64::MAX)].into()).is_err());
        for number in [0, 1 << 63, u64::MAX] {
            assert!(UsageBatch::new([1; 16], number, []).is_err());
        }
    }
}
