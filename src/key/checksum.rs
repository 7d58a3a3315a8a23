//! Checksums of issued keys: the plain one, which anybody can compute, and the keyed one.

use std::fmt;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::key::base62;
use crate::key::digest::constant_time_eq;

/// The number of digits of every checksum.
pub(super) const CHECKSUM_LENGTH: usize = 6;

/// Separates these HMACs from all else that a secret may be used for, and from later versions.
const LABEL: &[u8] = b"tower-api-key checksum v1";

/// The checksum at the end of issued keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Checksum {
    None,
    /// The CRC-32 of the secret.
    Plain,
    Keyed(KeyedChecksum),
}

impl Checksum {
    /// Returns the number of digits.
    pub(super) fn length(&self) -> usize {
        match self {
            Self::None => 0,
            Self::Plain | Self::Keyed(_) => CHECKSUM_LENGTH,
        }
    }

    /// Returns the digits for a secret, if the keys have a checksum.
    pub(super) fn of(&self, secret: &[u8]) -> Option<[u8; CHECKSUM_LENGTH]> {
        match self {
            Self::None => None,
            Self::Plain => Some(plain(secret)),
            Self::Keyed(keyed) => Some(keyed.of(secret)),
        }
    }
}

/// Returns the CRC-32 of a secret, in digits.
pub(super) fn plain(secret: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    base62::six_digits(crc32fast::hash(secret).into())
}

/// The ring of secrets under which [keyed checksums](crate::key::KeyFormat::keyed_checksum) are
/// computed.
///
/// New keys get the checksum under the current secret. Checksums under retired secrets are still
/// accepted: keep a secret in the ring for as long as its keys are in use. Keep secrets outside of
/// the database, such as in the environment or a secret manager.
///
/// A checksum authenticates nothing. With a stolen secret, a stranger can write keys that are
/// looked up, as under the plain checksum, and gets in with none of them.
///
/// # In a fleet
///
/// All processes need the same secrets. A process without the secret of a key refuses the key as
/// malformed (401), since nothing tells it from a forged one. So bring a secret to all processes
/// before any process issues keys under it:
///
/// | change | first, in all processes | then |
/// |---|---|---|
/// | to a keyed checksum | [`dangerous_issue_unkeyed`] | [`dangerous_accept_unkeyed`] |
/// | to another secret | `new(&old)?.add_retired(&new)?` | `new(&new)?.add_retired(&old)?` |
/// | back to the plain checksum | [`dangerous_issue_unkeyed`] | no ring, when the keyed keys have ended |
///
/// [`dangerous_issue_unkeyed`]: Self::dangerous_issue_unkeyed
/// [`dangerous_accept_unkeyed`]: Self::dangerous_accept_unkeyed
///
/// ```
/// use tower_api_key::key::{ChecksumRing, KeyFormat};
/// use tower_api_key::{ApiKeys, Environment, MemoryStore};
///
/// # fn secret(_: &str) -> [u8; 32] { std::array::from_fn(|at| at as u8) }
/// # fn old_secret(_: &str) -> [u8; 32] { [7; 32] }
/// let ring = ChecksumRing::new(&secret("KEY_CHECKSUM_2026_11"))?
///     .add_retired(&old_secret("KEY_CHECKSUM_2025_11"))?;
/// let keys = ApiKeys::builder(MemoryStore::new())
///     .formats([KeyFormat::new("acme_live", Environment::LIVE)?.keyed_checksum(&ring)])
///     .build()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct ChecksumRing {
    /// The secrets, the current one first.
    secrets: Vec<Zeroizing<Vec<u8>>>,
    unkeyed: Unkeyed,
}

impl ChecksumRing {
    const SHORTEST: usize = 32;

    /// Creates a ring with its current secret: at least 32 random bytes from a secret store.
    pub fn new(secret: &[u8]) -> Result<Self, ChecksumRingError> {
        Self {
            secrets: Vec::new(),
            unkeyed: Unkeyed::Refused,
        }
        .add_retired(secret)
    }

    /// Adds a retired secret, whose checksums are still accepted.
    ///
    /// Each secret adds an HMAC to the cost of a malformed key, and a chance of 1 in 62⁶ that a
    /// forged key is looked up.
    pub fn add_retired(mut self, secret: &[u8]) -> Result<Self, ChecksumRingError> {
        if secret.len() < Self::SHORTEST {
            return Err(ChecksumRingError::TooShort(secret.len()));
        }
        let is_known = |known: &Zeroizing<Vec<u8>>| bool::from(known.as_slice().ct_eq(secret));
        if self.secrets.iter().any(is_known) {
            return Err(ChecksumRingError::Repeated);
        }
        self.secrets.push(Zeroizing::new(secret.to_vec()));
        Ok(self)
    }

    /// Also accepts keys with the plain checksum, which were issued before.
    ///
    /// Danger: anybody can compute the plain checksum, so forged keys are hashed and looked up
    /// again, as without a ring. Use it only until the keys that were issued before have ended or
    /// were rotated.
    #[must_use]
    pub fn dangerous_accept_unkeyed(mut self) -> Self {
        self.unkeyed = Unkeyed::Accepted;
        self
    }

    /// Issues keys with the plain checksum, and accepts both.
    ///
    /// This is the first of the two steps to a keyed checksum [in a fleet](Self#in-a-fleet).
    ///
    /// Danger: as long as it is set, the ring keeps no forged key from the store.
    #[must_use]
    pub fn dangerous_issue_unkeyed(mut self) -> Self {
        self.unkeyed = Unkeyed::Issued;
        self
    }

    /// Returns the checksum of the keys with this lead.
    pub(super) fn for_lead(&self, lead: &str) -> KeyedChecksum {
        KeyedChecksum {
            secrets: self
                .secrets
                .iter()
                .map(|it| LeadSecret::derive(it, lead))
                .collect(),
            unkeyed: self.unkeyed,
        }
    }
}

/// Shows the number of secrets only.
impl fmt::Debug for ChecksumRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChecksumRing")
            .field("secrets", &self.secrets.len())
            .field("unkeyed", &self.unkeyed)
            .finish()
    }
}

/// The treatment of keys with the plain checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unkeyed {
    Refused,
    Accepted,
    /// New keys have it, and it is accepted.
    Issued,
}

/// An error for a secret that cannot be used for checksums.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChecksumRingError {
    /// The secret can be guessed.
    #[error("a checksum secret of {0} bytes can be guessed: use at least 32 random bytes")]
    TooShort(usize),
    /// The ring has this secret already.
    #[error("two secrets of the checksum ring are the same: name each once")]
    Repeated,
}

/// The checksum of the keys with one lead, under the secrets of a ring.
#[derive(Clone)]
pub(crate) struct KeyedChecksum {
    /// The secrets, the current one first.
    secrets: Arc<[LeadSecret]>,
    unkeyed: Unkeyed,
}

impl KeyedChecksum {
    /// Returns the digits of a new key.
    fn of(&self, secret: &[u8]) -> [u8; CHECKSUM_LENGTH] {
        match self.secrets.first() {
            Some(current) if self.unkeyed != Unkeyed::Issued => current.digits(secret),
            _ => plain(secret),
        }
    }

    /// Returns whether the digits belong to a secret. Digits are compared in constant time.
    pub(super) fn matches(&self, secret: &[u8], digits: &[u8]) -> bool {
        let is_right = |expected: [u8; CHECKSUM_LENGTH]| bool::from(expected.ct_eq(digits));
        if self.secrets.iter().any(|it| is_right(it.digits(secret))) {
            return true;
        }
        self.accepts_unkeyed() && is_right(plain(secret))
    }

    /// Returns whether keys with the plain checksum are accepted, too.
    fn accepts_unkeyed(&self) -> bool {
        self.unkeyed != Unkeyed::Refused
    }
}

/// Compares the secrets in constant time.
impl PartialEq for KeyedChecksum {
    fn eq(&self, other: &Self) -> bool {
        self.unkeyed == other.unkeyed && self.secrets == other.secrets
    }
}

impl Eq for KeyedChecksum {}

/// Shows the number of secrets only.
impl fmt::Debug for KeyedChecksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedChecksum")
            .field("secrets", &self.secrets.len())
            .field("unkeyed", &self.unkeyed)
            .finish()
    }
}

/// A secret for the keys with one lead, so that a checksum cannot be moved to another lead.
struct LeadSecret {
    derived: Zeroizing<[u8; 32]>,
    /// The HMAC after its key, which saves half of the work for each credential.
    keyed: Hmac<Sha256>,
}

impl LeadSecret {
    fn derive(secret: &[u8], lead: &str) -> Self {
        let mut mac = hmac_under(secret);
        mac.update(LABEL);
        mac.update(lead.as_bytes());
        let mut bytes = mac.finalize().into_bytes();
        let mut derived = Zeroizing::new([0; 32]);
        derived.copy_from_slice(&bytes);
        bytes.as_mut_slice().zeroize();
        Self {
            keyed: hmac_under(&*derived),
            derived,
        }
    }

    /// Returns the lowest six digits of the first 64 bits of the HMAC: 35.7 bits.
    fn digits(&self, secret: &[u8]) -> [u8; CHECKSUM_LENGTH] {
        let mac = self.keyed.clone().chain_update(secret).finalize();
        let mac = mac.into_bytes();
        base62::six_digits(u64::from_be_bytes(std::array::from_fn(|at| mac[at])))
    }
}

/// Compares in constant time.
impl PartialEq for LeadSecret {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.derived, &other.derived)
    }
}

fn hmac_under(secret: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(secret).expect("HMAC takes keys of any length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::environment::Environment;
    use crate::key::format::KeyFormat;
    use proptest::prelude::*;

    const CURRENT: &[u8] = &[1; 32];
    const RETIRED: &[u8] = &[2; 32];

    fn ring(secret: &[u8]) -> ChecksumRing {
        ChecksumRing::new(secret).unwrap()
    }

    fn live(prefix: &str) -> KeyFormat {
        KeyFormat::new(prefix, Environment::LIVE).unwrap()
    }

    fn keyed(ring: &ChecksumRing) -> KeyFormat {
        live("acme_live").keyed_checksum(ring)
    }

    fn issued(format: &KeyFormat) -> String {
        format.generate().unwrap().expose_secret().to_owned()
    }

    #[test]
    fn the_plain_checksum_agrees_with_github_tokens() {
        for (secret, checksum) in [
            ("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ", "0mLq17"),
            ("adE7dp8rHP6gUTuPwxLTZjZdtya3sV", "0UQzQM"),
            ("H3xbiBdlzffNx7Y56iNsPw3joObj7U", "2nO29h"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "0uCPlr"),
        ] {
            assert_eq!(plain(secret.as_bytes()), checksum.as_bytes());
        }
    }

    /// A release that computes another checksum refuses every key that was issued under a ring.
    ///
    /// ```python
    /// label = b"tower-api-key checksum v1"
    /// derived = hmac.new(bytes([1]) * 32, label + b"acme_live_", "sha256").digest()
    /// mac = hmac.new(derived, b"A" * 43, "sha256").digest()
    /// number = int.from_bytes(mac[:8], "big") % 62**6
    /// # and in base 62 (0-9A-Za-z), on the left with zeros: the digits
    /// ```
    #[test]
    fn the_keyed_checksum_never_changes() {
        let key = format!("acme_live_{}1upGJm", "A".repeat(43));
        assert!(keyed(&ring(CURRENT)).matches(&key));
    }

    #[test]
    fn a_key_under_a_retired_secret_is_accepted() {
        let old = issued(&keyed(&ring(RETIRED)));
        assert!(!keyed(&ring(CURRENT)).matches(&old));
        let both = keyed(&ring(CURRENT).add_retired(RETIRED).unwrap());
        assert!(both.matches(&old));
        let new = issued(&both);
        assert!(
            keyed(&ring(CURRENT)).matches(&new),
            "the current one is used"
        );
        assert!(!keyed(&ring(RETIRED)).matches(&new));
    }

    #[test]
    fn a_checksum_cannot_be_moved_to_another_lead() {
        let ring = ring(CURRENT);
        let key = issued(&keyed(&ring));
        let moved = key.replace("acme_live_", "acme_test_");
        assert!(!live("acme_test").keyed_checksum(&ring).matches(&moved));
        let moved = key.replace("acme_live_", "acme_");
        assert!(!live("acme").keyed_checksum(&ring).matches(&moved));
    }

    #[test]
    fn a_plain_checksum_is_refused_unless_it_is_allowed() {
        let old = issued(&live("acme_live"));
        assert!(!keyed(&ring(CURRENT)).matches(&old));
        let during = keyed(&ring(CURRENT).dangerous_accept_unkeyed());
        assert!(during.matches(&old));
        let new = issued(&during);
        assert!(during.matches(&new));
        assert!(keyed(&ring(CURRENT)).matches(&new), "new keys are keyed");
        assert!(!live("acme_live").matches(&new));
    }

    #[test]
    fn a_fleet_changes_over_in_two_steps_without_refusing_a_key() {
        let before = live("acme_live");
        let first = keyed(&ring(CURRENT).dangerous_issue_unkeyed());
        let then = keyed(&ring(CURRENT).dangerous_accept_unkeyed());
        for (issues, verifies) in [
            (&before, &first),
            (&first, &before),
            (&first, &then),
            (&then, &first),
        ] {
            assert!(verifies.matches(&issued(issues)));
        }
    }

    #[test]
    fn the_last_call_decides_what_the_checksum_is() {
        let none = keyed(&ring(CURRENT)).without_checksum();
        assert_eq!(none, live("acme_live").without_checksum());
        assert_eq!(none.keyed_checksum(&ring(CURRENT)), keyed(&ring(CURRENT)));
    }

    #[test]
    fn a_secret_that_can_be_guessed_or_is_repeated_is_refused() {
        let error = ChecksumRing::new(&[1; 31]).unwrap_err();
        assert_eq!(error, ChecksumRingError::TooShort(31));
        let error = ring(CURRENT).add_retired(&[2; 31]).unwrap_err();
        assert_eq!(error, ChecksumRingError::TooShort(31));
        let error = ring(CURRENT).add_retired(CURRENT).unwrap_err();
        assert_eq!(error, ChecksumRingError::Repeated);
    }

    #[test]
    fn formats_are_equal_if_their_secrets_are() {
        let both = ring(CURRENT).add_retired(RETIRED).unwrap();
        assert_eq!(keyed(&ring(CURRENT)), keyed(&ring(CURRENT)));
        assert_eq!(keyed(&both), keyed(&both).clone());
        for other in [
            &ring(RETIRED),
            &both,
            &ring(CURRENT).dangerous_accept_unkeyed(),
        ] {
            assert_ne!(keyed(&ring(CURRENT)), keyed(other));
        }
        assert_ne!(keyed(&ring(CURRENT)), live("acme_live"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let ring = ring(b"0123456789 a secret to be searched for").add_retired(&[0xAB; 32]);
        let ring = ring.unwrap();
        let expected = "ChecksumRing { secrets: 2, unkeyed: Refused }";
        assert_eq!(format!("{ring:?}"), expected);
        let format = format!("{:?}", keyed(&ring));
        let expected = "Keyed(KeyedChecksum { secrets: 2, unkeyed: Refused })";
        assert!(format.contains(expected), "{format}");
        assert!(
            !format.contains("171") && !format.contains("48, 49"),
            "{format}"
        );
    }

    proptest! {
        #[test]
        fn a_generated_key_matches_and_with_a_changed_character_it_does_not(
            prefix in "[A-Za-z0-9]{1,10}(_[A-Za-z0-9]{1,10}){0,2}",
            bytes in 16..=64usize,
            current: [u8; 32],
            retired: [u8; 40],
            at: prop::sample::Index,
            to in 0..128u8,
        ) {
            let ring = ring(&current).add_retired(&retired).unwrap();
            let format = live(&prefix).secret_bytes(bytes).unwrap().keyed_checksum(&ring);
            let key = issued(&format);
            prop_assert!(format.matches(&key));
            let at = at.index(key.len());
            let mut changed = key.clone().into_bytes();
            prop_assume!(changed[at] != to);
            changed[at] = to;
            prop_assert!(!format.matches(&String::from_utf8(changed).unwrap()));
            prop_assert!(!format.matches(&key[..key.len() - 1]));
        }
    }
}
