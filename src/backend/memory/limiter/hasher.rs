//! Which budget a charge is about, as a number.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use crate::limit::{Charge, Subject};

/// Which budget: a subject under a limit's name and the form of its quota, hashed. Two that share a
/// hash, one pair in 2⁶⁴, share a budget: stricter, never laxer.
pub(super) type BudgetKey = u64;

/// Hashes under secrets of one limiter, so that nobody can choose subjects that meet.
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

    #[inline]
    pub(super) fn key(&self, charge: &Charge<'_>) -> BudgetKey {
        let [a, b, _] = self.secrets;
        let (kind, subject) = match charge.subject() {
            Subject::Key(id) => (1, u128::from_ne_bytes(*id.as_bytes())),
            Subject::Account(account) => (2, u128::from(self.text(account))),
            Subject::Address(IpAddr::V4(address)) => (3, u128::from(address.to_bits())),
            Subject::Address(IpAddr::V6(address)) => (4, address.to_bits()),
            Subject::Global => (5, 0),
        };
        let (low, high) = halves(subject);
        fold(low ^ rule(charge) ^ a, high ^ b ^ kind)
    }

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

/// What a charge's budget has in common with those of other subjects: the limit's name, and the form
/// of the quota.
#[inline]
pub(super) fn rule(charge: &Charge<'_>) -> u64 {
    charge.name().hash() ^ charge.quota().form_hash()
}

#[expect(clippy::cast_possible_truncation, reason = "each half on its own")]
#[inline]
const fn halves(whole: u128) -> (u64, u64) {
    (whole as u64, (whole >> 64) as u64)
}

/// All bits of both, mixed.
#[inline]
const fn fold(left: u64, right: u64) -> u64 {
    let (low, high) = halves(left as u128 * right as u128);
    low ^ high
}
