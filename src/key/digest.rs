//! What is kept of a key: its id, and the verifier that a presented key is compared with.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// The public name of a key: the first 16 bytes of its SHA-256, as 32 lower-case hex digits.
///
/// It is safe in logs and is what stores index. Whoever holds a key can compute its id; nobody can
/// come from the id to the key.
///
/// ```
/// use tower_api_key::{KeyDigest, KeyId};
///
/// let id = KeyDigest::of("sk_live_example").id();
/// assert_eq!(id.to_string().len(), 32);
/// assert_eq!(id.to_string().parse::<KeyId>()?, id);
/// # Ok::<(), tower_api_key::InvalidKeyId>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId([u8; 16]);

impl KeyId {
    /// The id that was kept as 16 bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes, to keep.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The first and the last SHA-256 that begin with this id.
    ///
    /// A table with a unique index on the SHA-256 of its keys serves as it is, with a `BETWEEN`:
    /// two keys share an id with a probability of 2⁻¹²⁸.
    pub fn sha256_range(&self) -> ([u8; 32], [u8; 32]) {
        let bound = |fill| {
            let mut bytes = [fill; 32];
            bytes[..16].copy_from_slice(&self.0);
            bytes
        };
        (bound(0x00), bound(0xff))
    }

    /// As [`sha256_range`](Self::sha256_range), in lower-case hex digits.
    ///
    /// ```
    /// # use tower_api_key::KeyDigest;
    /// let digest = KeyDigest::of("an existing key");
    /// let (first, last) = digest.id().hex_range();
    /// // SELECT … FROM api_keys WHERE key_sha256 BETWEEN $1 AND $2
    /// assert!((first..=last).contains(&digest.to_hex()));
    /// ```
    pub fn hex_range(&self) -> (String, String) {
        let (first, last) = self.sha256_range();
        (hex(&first), hex(&last))
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
    type Err = InvalidKeyId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        unhex(text).map(Self).ok_or(InvalidKeyId)
    }
}

/// Text that is not 32 lower-case hex digits. (It is not repeated here: it may be a key.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a key id is 32 lower-case hex digits")]
pub struct InvalidKeyId;

/// The SHA-256 of a key.
///
/// ```
/// use tower_api_key::KeyDigest;
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

    /// A SHA-256 that was kept elsewhere.
    pub const fn from_bytes(sha256: [u8; 32]) -> Self {
        Self(sha256)
    }

    /// A SHA-256 that was kept as 64 lower-case hex digits; `None` if this is not one.
    pub fn from_hex(sha256: &str) -> Option<Self> {
        unhex(sha256).map(Self)
    }

    /// The digest in lower-case hex digits.
    pub fn to_hex(&self) -> String {
        hex(&self.0)
    }

    /// The id of the key.
    pub fn id(&self) -> KeyId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.0[..16]);
        KeyId(id)
    }
}

/// Compares in constant time.
impl PartialEq for KeyDigest {
    fn eq(&self, other: &Self) -> bool {
        equal(words(&self.0), words(&other.0))
    }
}

impl Eq for KeyDigest {}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest([REDACTED])")
    }
}

/// What a record keeps to verify a presented key: the key's SHA-256, or an HMAC of it.
#[derive(Clone)]
pub struct Verifier {
    expected: [u8; 32],
    pepper: Option<PepperId>,
}

impl Verifier {
    /// The plain SHA-256 of the key.
    pub const fn sha256(digest: KeyDigest) -> Self {
        Self {
            expected: digest.0,
            pepper: None,
        }
    }

    /// The HMAC-SHA-256 of the key's SHA-256 under the named pepper.
    pub const fn peppered(hmac: [u8; 32], pepper: PepperId) -> Self {
        Self {
            expected: hmac,
            pepper: Some(pepper),
        }
    }

    /// The 32 bytes, to keep.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.expected
    }

    /// The pepper that the bytes were made with, to keep beside them.
    pub const fn pepper(&self) -> Option<&PepperId> {
        self.pepper.as_ref()
    }
}

/// Compares in constant time.
impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        self.pepper == other.pepper && equal(words(&self.expected), words(&other.expected))
    }
}

impl Eq for Verifier {}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier")
            .field("expected", &"[REDACTED]")
            .field("pepper", &self.pepper)
            .finish()
    }
}

/// The name of a pepper, such as `2026-11`: kept in records, safe in logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PepperId(Box<str>);

impl PepperId {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for PepperId {
    fn from(name: &str) -> Self {
        Self(name.into())
    }
}

impl From<String> for PepperId {
    fn from(name: String) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PepperId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The secret keys under which verifiers are made, so that nobody plants a key by writing a table.
///
/// New records are made under the current pepper; those of retired peppers are still accepted. A
/// record without a pepper is not, unless
/// [`dangerous_accept_unpeppered`](Self::dangerous_accept_unpeppered) says so; a record whose
/// pepper is not in the ring cannot be judged, which is an outage (503) and never a refusal.
///
/// A pepper does not hide guessable keys: the id beside the verifier is a plain digest.
///
/// ```
/// use tower_api_key::{ApiKeys, MemoryStore, PepperRing};
///
/// # fn secret(_: &str) -> [u8; 32] { [7; 32] }
/// let ring = PepperRing::new("2026-11", &secret("PEPPER_2026_11"))?
///     .retired("2025-11", &secret("PEPPER_2025_11"))?;
/// let keys = ApiKeys::builder(MemoryStore::new()).peppers(ring).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PepperRing {
    /// The current pepper first.
    peppers: Vec<(PepperId, Hmac<Sha256>)>,
    accept_unpeppered: bool,
}

impl PepperRing {
    /// A ring with its current pepper: at least 32 random bytes from a secret store.
    pub fn new(id: impl Into<PepperId>, pepper: &[u8]) -> Result<Self, PepperError> {
        Self {
            peppers: Vec::new(),
            accept_unpeppered: false,
        }
        .retired(id, pepper)
    }

    /// Accepts the records of a pepper that was current once.
    pub fn retired(mut self, id: impl Into<PepperId>, pepper: &[u8]) -> Result<Self, PepperError> {
        let id = id.into();
        if pepper.len() < 32 {
            return Err(PepperError::TooShort(id));
        }
        if self.peppers.iter().any(|(known, _)| *known == id) {
            return Err(PepperError::SameName(id));
        }
        let keyed = Hmac::new_from_slice(pepper).map_err(|_| PepperError::TooShort(id.clone()))?;
        self.peppers.push((id, keyed));
        Ok(self)
    }

    /// Also accepts records that have no pepper.
    ///
    /// Danger: whoever can write the table can then plant keys. Use it only while existing
    /// records are being peppered.
    #[must_use]
    pub fn dangerous_accept_unpeppered(mut self) -> Self {
        self.accept_unpeppered = true;
        self
    }

    /// The verifier of a key under the current pepper. It needs the digest alone, so that imported
    /// hashes can be peppered without their keys.
    pub fn verifier(&self, digest: &KeyDigest) -> Verifier {
        match self.peppers.first() {
            Some((id, keyed)) => Verifier::peppered(hmac(keyed, digest), id.clone()),
            None => Verifier::sha256(*digest),
        }
    }

    /// Whether the key of this digest is the one that the verifier was made of: one comparison in
    /// constant time.
    pub fn verify(&self, verifier: &Verifier, digest: &KeyDigest) -> Result<bool, PepperError> {
        let presented = match &verifier.pepper {
            None if self.accept_unpeppered => digest.0,
            None => return Err(PepperError::Unpeppered),
            Some(id) => {
                let (_, keyed) = self
                    .peppers
                    .iter()
                    .find(|(known, _)| known == id)
                    .ok_or_else(|| PepperError::Unknown(id.clone()))?;
                hmac(keyed, digest)
            }
        };
        Ok(equal(words(&presented), words(&verifier.expected)))
    }

    /// The work of [`verify`](Self::verify) where there is nothing to compare with, so that time
    /// does not tell whether a key exists.
    pub(crate) fn verify_dummy(&self, digest: &KeyDigest) {
        let dummy = match self.peppers.first() {
            Some((_, keyed)) => hmac(keyed, digest),
            None => digest.0,
        };
        std::hint::black_box(equal(words(&dummy), std::hint::black_box([0; 4])));
    }

    /// The peppers by which records can be judged.
    pub fn ids(&self) -> impl Iterator<Item = &PepperId> {
        self.peppers.iter().map(|(id, _)| id)
    }
}

/// No pepper: verifiers are plain SHA-256.
impl Default for PepperRing {
    fn default() -> Self {
        Self {
            peppers: Vec::new(),
            accept_unpeppered: true,
        }
    }
}

impl fmt::Debug for PepperRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PepperRing")
            .field("ids", &self.ids().collect::<Vec<_>>())
            .field("accept_unpeppered", &self.accept_unpeppered)
            .finish_non_exhaustive()
    }
}

/// Peppers and records that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PepperError {
    /// A pepper shorter than 32 bytes.
    #[error("the pepper {0} is too short: use at least 32 random bytes")]
    TooShort(PepperId),
    /// Two peppers of one name.
    #[error("the pepper {0} is in the ring already")]
    SameName(PepperId),
    /// A record names a pepper that is not in the ring.
    #[error("the record names the pepper {0}, which is not in the ring")]
    Unknown(PepperId),
    /// A record without a pepper, and a ring that does not accept it.
    #[error("the record has no pepper, and the ring does not accept that")]
    Unpeppered,
}

fn hmac(keyed: &Hmac<Sha256>, digest: &KeyDigest) -> [u8; 32] {
    keyed
        .clone()
        .chain_update(digest.0)
        .finalize()
        .into_bytes()
        .into()
}

/// Four words compare in far less time than 32 bytes.
fn words(bytes: &[u8; 32]) -> [u64; 4] {
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|at| u64::from_ne_bytes(words[at]))
}

/// In constant time: all words are read and folded before anything is decided.
fn equal(left: [u64; 4], right: [u64; 4]) -> bool {
    let difference = left
        .iter()
        .zip(right)
        .fold(0, |difference, (left, right)| difference | (left ^ right));
    difference.ct_eq(&0).into()
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let nibble = |character: u8| match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    let (pairs, _) = text.as_bytes().as_chunks::<2>();
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = nibble(*high)? << 4 | nibble(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CURRENT: &[u8] = &[1; 32];
    const RETIRED: &[u8] = &[2; 32];

    #[test]
    fn the_id_is_the_head_of_the_sha256() {
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
    fn a_peppered_verifier_is_the_hmac_of_the_digest() {
        // Python: hmac.new(bytes([1]) * 32, sha256(b"abc").digest(), "sha256").hexdigest()
        let ring = PepperRing::new("now", CURRENT).unwrap();
        let verifier = ring.verifier(&KeyDigest::of("abc"));
        assert_eq!(
            hex(verifier.as_bytes()),
            "67a782af2dbd92253f592f996d654a6276a1ef081e28ab9df3cdadd5474b6a71"
        );
    }

    #[test]
    fn retired_peppers_are_accepted_and_unknown_ones_are_an_error() {
        let digest = KeyDigest::of("key");
        let old = PepperRing::new("old", RETIRED).unwrap().verifier(&digest);
        let ring = PepperRing::new("now", CURRENT).unwrap();
        assert_eq!(
            ring.verify(&old, &digest),
            Err(PepperError::Unknown("old".into()))
        );
        let ring = ring.retired("old", RETIRED).unwrap();
        assert_eq!(ring.verify(&old, &digest), Ok(true));
        assert_eq!(ring.verify(&old, &KeyDigest::of("other")), Ok(false));
        assert_eq!(ring.verifier(&digest).pepper(), Some(&"now".into()));
    }

    #[test]
    fn a_planted_record_without_pepper_is_not_accepted() {
        let digest = KeyDigest::of("planted");
        let planted = Verifier::sha256(digest);
        let ring = PepperRing::new("now", CURRENT).unwrap();
        assert_eq!(ring.verify(&planted, &digest), Err(PepperError::Unpeppered));
        let ring = ring.dangerous_accept_unpeppered();
        assert_eq!(ring.verify(&planted, &digest), Ok(true));
        assert_eq!(PepperRing::default().verify(&planted, &digest), Ok(true));
    }

    #[test]
    fn a_weak_or_doubled_pepper_is_refused() {
        let error = PepperRing::new("short", &[0; 31]).unwrap_err();
        assert_eq!(error, PepperError::TooShort("short".into()));
        let error = PepperRing::new("a", CURRENT)
            .unwrap()
            .retired("a", RETIRED)
            .unwrap_err();
        assert_eq!(error, PepperError::SameName("a".into()));
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
            assert_eq!(bad.parse::<KeyId>(), Err(InvalidKeyId), "{bad}");
        }
        assert!(good.replace('0', "é").parse::<KeyId>().is_err());
    }

    proptest! {
        #[test]
        fn equal_is_equality(left: [u8; 32], at in 0..32usize, bit in 0..8u32) {
            let mut right = left;
            prop_assert!(equal(words(&left), words(&right)));
            right[at] ^= 1 << bit;
            prop_assert!(!equal(words(&left), words(&right)));
        }
    }
}
