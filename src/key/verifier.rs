//! Verifiers that presented keys are compared with, and their peppers.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::key::digest::{KeyDigest, constant_time_eq};

/// A verifier of a key: the key's SHA-256, or an HMAC of it.
#[derive(Clone)]
pub struct Verifier {
    expected: [u8; 32],
    pepper: Option<Box<PepperId>>,
}

impl Verifier {
    /// Creates a verifier from the plain SHA-256 of the key.
    pub const fn sha256(digest: KeyDigest) -> Self {
        Self {
            expected: *digest.as_bytes(),
            pepper: None,
        }
    }

    /// Creates a verifier from the HMAC-SHA-256 of the key's SHA-256 under the named pepper.
    pub fn peppered(hmac: [u8; 32], pepper: PepperId) -> Self {
        Self {
            expected: hmac,
            pepper: Some(Box::new(pepper)),
        }
    }

    /// Returns the 32 bytes, for stores.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.expected
    }

    /// Returns the approximate heap memory in bytes.
    pub(crate) fn heap(&self) -> usize {
        let pepper = self.pepper();
        pepper.map_or(0, |id| size_of::<PepperId>() + id.as_str().len())
    }

    /// Returns the pepper of the HMAC, for stores.
    pub fn pepper(&self) -> Option<&PepperId> {
        self.pepper.as_deref()
    }
}

/// Compares in constant time.
impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        self.pepper == other.pepper && constant_time_eq(&self.expected, &other.expected)
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

/// The name of a pepper, such as `2026-11`. Records contain it, and it is safe in logs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PepperId(Box<str>);

impl PepperId {
    /// Returns the name.
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

/// The secret peppers of verifiers. With a pepper, write access to the table is not enough to plant
/// a key.
///
/// New records use the current pepper; those with a retired pepper are still accepted. A record
/// without a pepper is refused, unless
/// [`dangerous_accept_unpeppered`](Self::dangerous_accept_unpeppered) is set. A record whose pepper
/// is not in the ring cannot be verified: this is an outage (503), never a refusal.
///
/// A pepper does not protect guessable keys: the id beside the verifier is a plain digest.
///
/// ```
/// use tower_api_key::key::PepperRing;
/// use tower_api_key::{ApiKeys, MemoryStore};
///
/// # fn secret(_: &str) -> [u8; 32] { [7; 32] }
/// let ring = PepperRing::new("2026-11", &secret("PEPPER_2026_11"))?
///     .add_retired("2025-11", &secret("PEPPER_2025_11"))?;
/// let keys = ApiKeys::builder(MemoryStore::new()).peppers(ring).build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct PepperRing {
    /// The peppers, the current one first.
    peppers: Vec<(PepperId, Hmac<Sha256>)>,
    accept_unpeppered: bool,
}

impl PepperRing {
    /// Creates a ring with its current pepper: at least 32 random bytes from a secret store.
    pub fn new(id: impl Into<PepperId>, pepper: &[u8]) -> Result<Self, PepperError> {
        Self {
            peppers: Vec::new(),
            accept_unpeppered: false,
        }
        .add_retired(id, pepper)
    }

    /// Adds a retired pepper, whose records are still accepted.
    pub fn add_retired(
        mut self,
        id: impl Into<PepperId>,
        pepper: &[u8],
    ) -> Result<Self, PepperError> {
        let id = id.into();
        if pepper.len() < 32 {
            return Err(PepperError::TooShort(id));
        }
        if self.peppers.iter().any(|(name, _)| *name == id) {
            return Err(PepperError::SameName(id));
        }
        if self.peppers.is_empty() {
            self.accept_unpeppered = false; // with a pepper, records without one are refused
        }
        let keyed = Hmac::new_from_slice(pepper).map_err(|_| PepperError::TooShort(id.clone()))?;
        self.peppers.push((id, keyed));
        Ok(self)
    }

    /// Also accepts records without a pepper.
    ///
    /// Danger: anybody who can write to the table can then plant keys. Use it only until existing
    /// records have been converted.
    #[must_use]
    pub fn dangerous_accept_unpeppered(mut self) -> Self {
        self.accept_unpeppered = true;
        self
    }

    /// Returns the verifier of a key under the current pepper. Only the digest is needed, so
    /// imported hashes can be converted without their keys.
    pub fn verifier(&self, digest: &KeyDigest) -> Verifier {
        match self.peppers.first() {
            Some((id, keyed)) => Verifier::peppered(hmac(keyed, digest), id.clone()),
            None => Verifier::sha256(*digest),
        }
    }

    /// Returns whether the verifier belongs to the key with this digest, by one comparison in
    /// constant time.
    pub fn verify(&self, verifier: &Verifier, digest: &KeyDigest) -> Result<bool, PepperError> {
        let presented = match verifier.pepper() {
            None if self.accept_unpeppered => *digest.as_bytes(),
            None => return Err(PepperError::Unpeppered),
            Some(id) => {
                let (_, keyed) = self
                    .peppers
                    .iter()
                    .find(|(name, _)| name == id)
                    .ok_or_else(|| PepperError::Unknown(id.clone()))?;
                hmac(keyed, digest)
            }
        };
        Ok(constant_time_eq(&presented, &verifier.expected))
    }

    /// Does the work of [`verify`](Self::verify) without a verifier, so that timing does not tell
    /// whether a key exists.
    pub(crate) fn verify_dummy(&self, digest: &KeyDigest) {
        let dummy = match self.peppers.first() {
            Some((_, keyed)) => hmac(keyed, digest),
            None => *digest.as_bytes(),
        };
        std::hint::black_box(constant_time_eq(&dummy, std::hint::black_box(&[0; 32])));
    }

    /// Returns the peppers of the ring.
    pub fn ids(&self) -> impl Iterator<Item = &PepperId> {
        self.peppers.iter().map(|(id, _)| id)
    }
}

/// Creates an empty ring: verifiers are plain SHA-256.
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

/// An error for peppers, or for a record and a ring that do not match.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PepperError {
    /// The pepper is shorter than 32 bytes.
    #[error("the pepper {0} is too short: use at least 32 random bytes")]
    TooShort(PepperId),
    /// Two peppers have the same name.
    #[error("the pepper {0} is in the ring already")]
    SameName(PepperId),
    /// The record names a pepper that is not in the ring.
    #[error("the record names the pepper {0}, which is not in the ring")]
    Unknown(PepperId),
    /// The record has no pepper, and the ring does not accept that.
    #[error("the record has no pepper, and the ring does not accept that")]
    Unpeppered,
}

fn hmac(keyed: &Hmac<Sha256>, digest: &KeyDigest) -> [u8; 32] {
    keyed
        .clone()
        .chain_update(digest.as_bytes())
        .finalize()
        .into_bytes()
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::util::hex::hex;

    const CURRENT: &[u8] = &[1; 32];
    const RETIRED: &[u8] = &[2; 32];

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
        let ring = ring.add_retired("old", RETIRED).unwrap();
        assert_eq!(ring.verify(&old, &digest), Ok(true));
        assert_eq!(ring.verify(&old, &KeyDigest::of("other")), Ok(false));
        assert_eq!(ring.verifier(&digest).pepper(), Some(&"now".into()));
    }

    #[test]
    fn a_planted_record_without_a_pepper_is_not_accepted() {
        let digest = KeyDigest::of("planted");
        let planted = Verifier::sha256(digest);
        let ring = PepperRing::new("now", CURRENT).unwrap();
        assert_eq!(ring.verify(&planted, &digest), Err(PepperError::Unpeppered));
        let ring = ring.dangerous_accept_unpeppered();
        assert_eq!(ring.verify(&planted, &digest), Ok(true));
        let begun = PepperRing::default().add_retired("now", CURRENT).unwrap();
        assert_eq!(
            begun.verify(&planted, &digest),
            Err(PepperError::Unpeppered)
        );
        assert_eq!(PepperRing::default().verify(&planted, &digest), Ok(true));
    }

    #[test]
    fn a_short_or_duplicate_pepper_is_refused() {
        let error = PepperRing::new("short", &[0; 31]).unwrap_err();
        assert_eq!(error, PepperError::TooShort("short".into()));
        let error = PepperRing::new("a", CURRENT)
            .unwrap()
            .add_retired("a", RETIRED)
            .unwrap_err();
        assert_eq!(error, PepperError::SameName("a".into()));
    }
}
