//! Digests and ids of keys.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::util::hex::{hex, unhex_array};

/// The public id of a key: the first 16 bytes of its SHA-256, as 32 lower-case hex digits.
///
/// The id is safe in logs, and stores index it. It can be computed from a key, but a key cannot be
/// computed from its id.
///
/// ```
/// use tower_api_key::key::KeyDigest;
/// use tower_api_key::KeyId;
///
/// let id = KeyDigest::of("sk_live_example").id();
/// assert_eq!(id.to_string().len(), 32);
/// assert_eq!(id.to_string().parse::<KeyId>()?, id);
/// # Ok::<(), tower_api_key::key::KeyIdError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(align(8))] // a copy is two 8-byte moves
pub struct KeyId([u8; 16]);

impl KeyId {
    /// Creates an id from its 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the first and the last SHA-256 that begin with this id.
    ///
    /// A table with a unique index on the SHA-256 of its keys can be queried with `BETWEEN`,
    /// without another column: two keys share an id with a probability of 2⁻¹²⁸.
    pub fn sha256_range(&self) -> ([u8; 32], [u8; 32]) {
        let bound = |fill| {
            let mut bytes = [fill; 32];
            bytes[..16].copy_from_slice(&self.0);
            bytes
        };
        (bound(0x00), bound(0xff))
    }

    /// Returns the same range as [`sha256_range`](Self::sha256_range) in lower-case hex digits, for
    /// a text column that is compared byte by byte.
    ///
    /// ```
    /// # use tower_api_key::key::KeyDigest;
    /// let digest = KeyDigest::of("an existing key");
    /// let (first, last) = digest.id().hex_range();
    /// // SELECT … FROM api_keys WHERE key_sha256 BETWEEN $1 AND $2
    /// assert!((first..=last).contains(&digest.to_hex()));
    /// ```
    pub fn hex_range(&self) -> (String, String) {
        let (first, last) = self.sha256_range();
        (hex(&first), hex(&last))
    }

    /// Returns the two halves of the id. The first half alone is nearly always unique.
    #[expect(clippy::cast_possible_truncation, reason = "each is half of it")]
    pub(crate) fn halves(&self) -> (u64, u64) {
        let bits = u128::from_le_bytes(self.0);
        (bits as u64, (bits >> 64) as u64)
    }

    /// Returns the first [half](Self::halves).
    pub(crate) fn half(&self) -> u64 {
        self.halves().0
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl FromStr for KeyId {
    type Err = KeyIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex_array(text).map(Self).ok_or(KeyIdError)
    }
}

/// An error for a text that is not 32 lower-case hex digits. It does not show the text, which may
/// be a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 32 lower-case hex digits")]
pub struct KeyIdError;

/// The SHA-256 of a key.
///
/// ```
/// use tower_api_key::key::KeyDigest;
///
/// let digest = KeyDigest::of("sk_live_example");
/// assert_eq!(KeyDigest::from_hex(&digest.to_hex()), Some(digest));
/// ```
#[derive(Clone, Copy)]
pub struct KeyDigest([u8; 32]);

impl KeyDigest {
    /// Hashes the whole text of a key, its prefix included.
    pub fn of(plaintext: &str) -> Self {
        Self::of_bytes(plaintext.as_bytes())
    }

    pub(crate) fn of_bytes(plaintext: &[u8]) -> Self {
        Self(Sha256::digest(plaintext).into())
    }

    /// Creates a digest from its 32 bytes.
    pub const fn from_bytes(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// Parses 64 hex digits, in lower or upper case; `None` for any other text.
    pub fn from_hex(sha256: &str) -> Option<Self> {
        unhex_array(&sha256.to_ascii_lowercase()).map(Self)
    }

    pub(super) const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the digest in lower-case hex digits.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// Returns the id of the key.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        KeyId(id)
    }
}

/// Compares in constant time.
impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest([REDACTED])")
    }
}

/// Converts to four words, which compare much faster than 32 bytes.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
}

/// Compares in constant time: all words are read and folded before the decision.
pub(super) fn constant_time_eq(left: &[u8; 32], right: &[u8; 32]) -> bool {
    let difference = words(left)
        .iter()
        .zip(words(right))
        .fold(0, |difference, (left, right)| difference | (left ^ right));
    difference.ct_eq(&0).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_id_is_the_first_half_of_the_sha256() {
        // FIPS 180-4, "abc".
        let digest = KeyDigest::of("abc");
        let sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest.to_hex(), sha256);
        assert_eq!(digest.id().to_string(), sha256[..32]);
        assert_eq!(
            digest.id().hex_range().0,
            sha256[..32].to_owned() + &"0".repeat(32)
        );
        assert_eq!(
            digest.id().hex_range().1,
            sha256[..32].to_owned() + &"f".repeat(32)
        );
    }

    #[test]
    fn only_lower_case_hex_of_the_right_length_is_an_id() {
        let good = "0123456789abcdef0123456789abcdef";
        assert!(good.parse::<KeyId>().is_ok());
        for bad in [
            &good[1..],
            &good.to_uppercase(),
            "",
            &good.replace('0', "g"),
            &format!("{good}0"),
        ] {
            assert_eq!(bad.parse::<KeyId>(), Err(KeyIdError), "{bad}");
        }
        assert!(good.replace('0', "é").parse::<KeyId>().is_err());
    }

    proptest! {
        #[test]
        fn equal_detects_a_single_flipped_bit(left: [u8; 32], at in 0..32usize, bit in 0..8u32) {
            let mut right = left;
            prop_assert!(constant_time_eq(&left, &right));
            right[at] ^= 1 << bit;
            prop_assert!(!constant_time_eq(&left, &right));
        }
    }
}
