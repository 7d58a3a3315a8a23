//! Keys of the format `sk_live`, as the library issues them but from a generator with a seed, so
//! that each run has the same.

use tower_api_key::key::{ChecksumRing, KeyDigest, KeyFormat};
use tower_api_key::{Environment, KeyRecord, MemoryStore};

use super::random::Random;

const LEAD: &str = "sk_live_";
const SECRET: usize = 43;
const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// So many different keys.
pub(crate) fn keys(seed: u64, count: usize) -> Vec<Box<str>> {
    let mut random = Random::new(seed);
    let keys: Vec<_> = (0..count).map(|_| key(&mut random)).collect();
    let format = format();
    assert!(keys.iter().all(|key| format.matches(key)));
    keys
}

/// A key that nothing is wrong with but its checksum.
pub(crate) fn bad_checksum(key: &str) -> Box<str> {
    let (secret, last) = key.split_at(key.len() - 1);
    let other = if last == "0" { "1" } else { "0" };
    let key = format!("{secret}{other}");
    assert!(!format().matches(&key));
    key.into()
}

/// A store that has these keys, each of an account of its own.
pub(crate) fn store(keys: &[Box<str>]) -> MemoryStore {
    let records = keys
        .iter()
        .enumerate()
        .map(|(at, key)| KeyRecord::imported(KeyDigest::of(key), format!("account-{at}")));
    records.collect()
}

/// The format with a keyed checksum, under a ring of these secrets.
pub(crate) fn keyed_format(secrets: &[u8]) -> KeyFormat {
    let ring = ChecksumRing::new(&[secrets[0]; 32]);
    let ring = secrets[1..].iter().fold(ring, |ring, secret| {
        ring.and_then(|ring| ring.add_retired(&[*secret; 32]))
    });
    format().keyed_checksum(&ring.expect("secrets of 32 bytes"))
}

fn format() -> KeyFormat {
    KeyFormat::new("sk_live", Environment::LIVE).expect("it is the default format")
}

/// Another key each time.
pub(crate) fn key(random: &mut Random) -> Box<str> {
    let mut text = String::with_capacity(LEAD.len() + SECRET + 6);
    text.push_str(LEAD);
    for _ in 0..SECRET {
        text.push(char::from(*random.pick(DIGITS)));
    }
    let mut checksum = crc32fast::hash(&text.as_bytes()[LEAD.len()..]) as usize;
    let mut digits = [0; 6];
    for digit in digits.iter_mut().rev() {
        *digit = DIGITS[checksum % 62];
        checksum /= 62;
    }
    text.extend(digits.map(char::from));
    text.into()
}
