//! Keys of budgets: a charge is hashed to the key of its budget.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::limit::charge::{Charge, Subject};

/// The key of a budget: a hash of the subject, the limit's name, the shape of the quota and the
/// period of a window. Two budgets with the same hash, one pair in 2⁶⁴, are one budget, which is
/// stricter.
pub(super) type BudgetKey = u64;

/// A keyed hash with random secrets for each limiter, so that nobody can choose subjects that
/// collide.
pub(super) struct Hasher {
    secrets: [u64; 3],
}

impl Hasher {
    pub(super) fn new() -> Self {
        let random = RandomState::new();
        Self {
            secrets: [0, 1, 2].map(|at| random.hash_one(at)),
        }
    }

    /// Returns the key of a charge's budget.
    #[inline]
    pub(super) fn key(&self, charge: &Charge<'_>) -> BudgetKey {
        let [a, b, c] = self.secrets;
        let (kind, subject) = match charge.subject() {
            Subject::Key(id) => (1, u128::from_ne_bytes(*id.as_bytes())),
            Subject::Account(account) => (2, u128::from(self.text(account))),
            Subject::AccountIn(account, environment) => {
                let environment = self.text(environment.as_str());
                let account = self.text(account);
                (6, u128::from(environment) << 64 | u128::from(account))
            }
            Subject::Address(IpAddr::V4(address)) => (3, u128::from(address.to_bits())),
            Subject::Address(IpAddr::V6(address)) => (4, address.to_bits()),
            Subject::Global => (5, 0),
            Subject::UnknownAddress => (7, 0),
            Subject::Custom(subject) => (8, u128::from(self.text(subject))),
        };
        let (low, high) = halves(subject);
        // One fold is enough for most secrets. With a few secrets, consecutive addresses would
        // collide.
        let once = fold(low ^ rule(charge) ^ a, high ^ b ^ kind);
        fold(once ^ b, c)
    }

    /// Hashes a text.
    fn text(&self, text: &str) -> u64 {
        let [a, b, c] = self.secrets;
        let (words, rest) = text.as_bytes().as_chunks::<16>();
        let mut last = [0; 16];
        last[..rest.len()].copy_from_slice(rest);
        let words = words.iter().chain([&last]);
        words.fold(a ^ text.len() as u64, |hash, word| {
            let (low, high) = halves(u128::from_le_bytes(*word));
            fold(hash ^ low ^ b, high ^ c) ^ hash.rotate_left(23)
        })
    }
}

/// Returns a hash of the rule that a charge belongs to: the limit's name, the shape of the quota,
/// and the period of a window.
#[inline]
pub(super) fn rule(charge: &Charge<'_>) -> u64 {
    charge.name().hash() ^ charge.quota().kind_hash()
}

#[expect(clippy::cast_possible_truncation, reason = "each half on its own")]
#[inline]
const fn halves(number: u128) -> (u64, u64) {
    (number as u64, (number >> 64) as u64)
}

/// Mixes all bits of two numbers (folded multiplication).
#[inline]
const fn fold(left: u64, right: u64) -> u64 {
    let (low, high) = halves(left as u128 * right as u128);
    low ^ high
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::quota::Quota;
    use crate::limit::charge::LimitName;
    use std::net::{Ipv4Addr, Ipv6Addr};

    /// Checks the bits that choose a shard, and those that choose a bucket in its table.
    #[test]
    fn consecutive_subjects_are_spread_under_all_secrets() {
        let (name, quota) = (LimitName::new("ip"), Quota::per_minute(1));
        let v4: fn(u32) -> IpAddr = |at| Ipv4Addr::from_bits(0x0a00_0000 + at).into();
        let v6: fn(u32) -> IpAddr = |at| {
            let network = 0x2001_0db8_0000_0000_u64 + u64::from(at);
            Ipv6Addr::from_bits(u128::from(network) << 64).into()
        };
        for address in [v4, v6] {
            for _ in 0..500 {
                let hasher = Hasher::new();
                let (mut shards, mut buckets) = ([0u32; 64], [0u32; 64]);
                for at in 0..64 * 64 {
                    let subject = Subject::Address(address(at));
                    let key = hasher.key(&Charge::new(&name, subject, quota, 1));
                    shards[(key % 64) as usize] += 1;
                    buckets[(key >> 58) as usize] += 1;
                }
                for counts in [shards, buckets] {
                    let range = counts.iter().min()..counts.iter().max();
                    assert!(
                        range.start >= Some(&20) && range.end <= Some(&120),
                        "{range:?}"
                    );
                }
            }
        }
    }
}
