//! Key formats: `PREFIX_SECRET[CHECKSUM]`, generated and recognized.

use std::ops::RangeInclusive;

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::key::alphabet::Alphabet;
use crate::key::base62;
use crate::key::checksum::{CHECKSUM_LENGTH, Checksum, ChecksumRing, plain};
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::plaintext::PlaintextKey;
use crate::key::token::{is_connector, is_token_byte};

/// The minimum number of random bytes in a key: 128 bits.
pub(crate) const MIN_SECRET_BYTES: usize = 16;
/// The maximum number of random bytes in a key: 512 bits.
pub(crate) const MAX_SECRET_BYTES: usize = 64;
/// The maximum length of a key in any format, to bound the cost of hashing.
pub(crate) const MAX_KEY_LENGTH: usize = 512;
/// The minimum number of bits of an imported secret. A shorter one may be found by brute force
/// (NIST SP 800-63B, ASVS 6.5.2).
const MIN_IMPORTED_BITS: f64 = 112.0;
/// The number of connectors that may follow an imported key as a typo.
const REACH_OF_SLIPS: usize = 8;

/// The number of characters after a prefix that cannot be an accident. It is shorter than every
/// secret.
pub(crate) const CLAIMING_LENGTH: usize = 16;
const MAX_PREFIX_LENGTH: usize = 32;

/// A format of keys, with their environment and kind.
///
/// A key is `PREFIX_SECRET[CHECKSUM]`. The secret is 32 random bytes from the operating system, in
/// base 62 (letters and digits). The checksum is the CRC-32 of the secret's text in six base-62
/// digits, as in GitHub's tokens. It authenticates nothing: typos, truncated pastes and junk are
/// refused without a lookup in the store, and secret scanners find keys reliably. Anybody can
/// compute it; a [keyed checksum](Self::keyed_checksum) only who has its secret.
///
/// ```
/// use tower_api_key::key::KeyFormat;
/// use tower_api_key::Environment;
///
/// let format = KeyFormat::new("acme_live", Environment::LIVE)?;
/// let key = format.generate()?;
/// assert!(key.expose_secret().starts_with("acme_live_"));
/// assert_eq!(key.expose_secret().len(), "acme_live_".len() + 43 + 6);
/// assert!(format.matches(key.expose_secret()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFormat {
    /// The prefix of a key, including the separator.
    lead: Box<str>,
    environment: Environment,
    kind: KeyKind,
    body: KeyBody,
}

/// The part of a key after its lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyBody {
    /// A key issued by this crate: random bytes in base 62, and perhaps a checksum.
    Issued {
        secret_bytes: usize,
        checksum: Checksum,
    },
    /// A key issued elsewhere: any text of this alphabet and length.
    Imported {
        alphabet: Alphabet,
        length: RangeInclusive<usize>,
        in_authorization: bool,
    },
}

impl KeyFormat {
    /// Creates a format of keys that this crate issues, such as `sk_live_…` for the prefix
    /// `sk_live`.
    ///
    /// The prefix is 1 to 32 letters, digits and `_`, and neither begins nor ends with `_`.
    pub fn new(prefix: &str, environment: Environment) -> Result<Self, KeyFormatError> {
        let allowed = prefix
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let edges = prefix.starts_with('_') || prefix.ends_with('_');
        if prefix.is_empty() || prefix.len() > MAX_PREFIX_LENGTH || !allowed || edges {
            return Err(KeyFormatError::Prefix(prefix.to_owned()));
        }
        Ok(Self::issued(format!("{prefix}_"), environment))
    }

    /// Creates a format of issued keys that begin with `lead`, which is not checked.
    pub(crate) fn issued(lead: impl Into<Box<str>>, environment: Environment) -> Self {
        Self {
            lead: lead.into(),
            environment,
            kind: KeyKind::Secret,
            body: KeyBody::Issued {
                secret_bytes: 32,
                checksum: Checksum::Plain,
            },
        }
    }

    /// Creates a format of existing keys that were issued elsewhere: `lead`, then `length`
    /// characters of `alphabet`. Such keys are recognized, but never issued.
    ///
    /// The lead is the prefix of the keys including the separator, such as `acme-`. It may be
    /// empty, but then a key cannot be told from a user's token. Such keys are therefore not read
    /// from `Authorization: Bearer` (see
    /// [`dangerous_in_authorization`](Self::dangerous_in_authorization)), but only from places that
    /// are meant for our keys: `X-API-Key` and `Authorization: ApiKey`.
    ///
    /// The alphabet and the shortest length must allow for 112 bits: the stored hash is fast, so
    /// shorter secrets can be found from it by brute force. The randomness of the keys cannot be
    /// checked: a UUID of version 1 or 7, which contains a time, is guessable all the same.
    ///
    /// A text belongs to the imported format that it matches as a whole. A set of formats is
    /// [refused](KeyFormatError::Overlapping) if a text could match two of them. It is also refused
    /// if a key of an imported format could begin with the prefix of an issued format, which claims
    /// all such texts: without a lead, keys of [`Alphabet::BASE64URL`] could; keys of `HEX`, `UUID`
    /// and `ALPHANUMERIC` could not.
    ///
    /// ```
    /// use tower_api_key::key::{Alphabet, KeyFormat};
    /// use tower_api_key::Environment;
    ///
    /// let uuids = KeyFormat::imported("", Alphabet::UUID, 36..=36, Environment::LIVE)?;
    /// assert!(uuids.matches("0af6b3a8-1f0e-4a63-9b9e-6f1d4c1e2a77"));
    /// assert!(KeyFormat::imported("acme-", Alphabet::HEX, 16..=16, Environment::LIVE).is_err());
    /// # Ok::<(), tower_api_key::key::KeyFormatError>(())
    /// ```
    pub fn imported(
        lead: &str,
        alphabet: Alphabet,
        length: RangeInclusive<usize>,
        environment: Environment,
    ) -> Result<Self, KeyFormatError> {
        let bits = alphabet.bits_per_character() * characters(*length.start());
        if bits < MIN_IMPORTED_BITS {
            return Err(KeyFormatError::Guessable);
        }
        Self::dangerous_guessable(lead, alphabet, length, environment)
    }

    /// Creates a format like [`imported`](Self::imported), but also for keys of less than 112 bits.
    ///
    /// Danger: anybody who can read the table of hashes can find such keys by brute force, with or
    /// without a pepper (the key's id is a plain digest). Rotate these keys as soon as their owners
    /// can.
    pub fn dangerous_guessable(
        lead: &str,
        alphabet: Alphabet,
        length: RangeInclusive<usize>,
        environment: Environment,
    ) -> Result<Self, KeyFormatError> {
        if lead.len() > MAX_PREFIX_LENGTH || !lead.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(KeyFormatError::Prefix(lead.to_owned()));
        }
        if *length.start() == 0
            || length.is_empty()
            || lead.len().saturating_add(*length.end()) > MAX_KEY_LENGTH
        {
            return Err(KeyFormatError::Length(length));
        }
        Ok(Self {
            lead: lead.into(),
            environment,
            kind: KeyKind::Secret,
            body: KeyBody::Imported {
                alphabet,
                length,
                in_authorization: !lead.is_empty(),
            },
        })
    }

    /// Also reads keys without a lead from `Authorization`.
    ///
    /// Danger: every Bearer token of this alphabet and length, even a user's, is then taken for a
    /// key of ours, and refused if it is none. No effect on formats with a lead.
    #[must_use]
    pub fn dangerous_in_authorization(mut self) -> Self {
        if let KeyBody::Imported {
            in_authorization, ..
        } = &mut self.body
        {
            *in_authorization = true;
        }
        self
    }

    /// Sets the number of random bytes in a key: 16 to 64. Default: 32 (256 bits).
    ///
    /// Keys that were issued with another number are then no longer recognized. No effect on
    /// imported formats.
    ///
    /// ```
    /// use tower_api_key::key::KeyFormat;
    /// use tower_api_key::Environment;
    ///
    /// let format = KeyFormat::new("sk_live", Environment::LIVE)?.secret_bytes(64)?;
    /// assert_eq!(format.generate()?.expose_secret().len(), "sk_live_".len() + 86 + 6);
    /// assert!(format.secret_bytes(15).is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn secret_bytes(mut self, bytes: usize) -> Result<Self, KeyFormatError> {
        if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&bytes) {
            return Err(KeyFormatError::SecretBytes(bytes));
        }
        if let KeyBody::Issued { secret_bytes, .. } = &mut self.body {
            *secret_bytes = bytes;
        }
        Ok(self)
    }

    /// Makes the keys of this format publishable: they may be shown in a web page or an app, where
    /// anybody can read them. Default: secret.
    ///
    /// A publishable key has only scopes that the application [declared
    /// publishable](crate::ApiKeysBuilder::publishable_scopes), even if its record has others. It
    /// may be restricted to [web origins](crate::manage::IssueKey::origins), and is accepted only
    /// by layers that [accept its kind](crate::ApiKeyLayer::kinds).
    ///
    /// ```
    /// # use tower_api_key::key::KeyFormat;
    /// # use tower_api_key::Environment;
    /// let format = KeyFormat::new("acme_pub", Environment::LIVE)?.publishable();
    /// # Ok::<(), tower_api_key::key::KeyFormatError>(())
    /// ```
    #[must_use]
    pub fn publishable(mut self) -> Self {
        self.kind = KeyKind::Publishable;
        self
    }

    /// Returns the kind of the keys of this format.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Leaves out the checksum, to match existing keys.
    ///
    /// Junk of the right length then costs a lookup in the store. No effect on imported formats.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let KeyBody::Issued { checksum, .. } = &mut self.body {
            *checksum = Checksum::None;
        }
        self
    }

    /// Computes the checksum under a secret, so that forged keys are refused without a lookup.
    /// Default: the CRC-32, which anybody can compute.
    ///
    /// The six digits come from an HMAC-SHA-256 of the secret under the ring, bound to the prefix.
    /// Without the ring, one in 62⁶ forged keys (5.7 × 10¹⁰, 35.7 bits) is hashed and looked up, for
    /// each secret in the ring; all others are refused as malformed. A malformed key of the right
    /// length and alphabet costs an HMAC for each secret in the ring, where it would cost a CRC-32:
    /// its answer takes 1.4 times as long under one secret, and 1.9 times under two. That of a
    /// cached key takes 1.15 times as long (`benches/overhead`).
    ///
    /// - It authenticates nothing. A key is proved by its record, as always, and a key that is
    ///   revoked, expired or deleted keeps its checksum.
    /// - Keys that were issued with another checksum are refused as malformed, unless the ring has
    ///   their secret, or
    ///   [accepts the plain checksum](ChecksumRing::dangerous_accept_unkeyed). If a secret is lost,
    ///   so are the keys under it.
    /// - All processes need the same ring: see [in a fleet](ChecksumRing#in-a-fleet).
    /// - Secret scanners cannot check it. The keys look the same.
    ///
    /// No effect on imported formats.
    ///
    /// ```
    /// use tower_api_key::key::{ChecksumRing, KeyFormat};
    /// use tower_api_key::Environment;
    ///
    /// # fn secret(_: &str) -> [u8; 32] { [7; 32] }
    /// let ring = ChecksumRing::new(&secret("KEY_CHECKSUM_2026_11"))?;
    /// let plain = KeyFormat::new("acme_live", Environment::LIVE)?;
    /// let keyed = plain.clone().keyed_checksum(&ring);
    ///
    /// let forged = plain.generate()?; // anybody can do so
    /// assert!(!keyed.matches(forged.expose_secret()));
    /// assert!(keyed.matches(keyed.generate()?.expose_secret()));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn keyed_checksum(mut self, ring: &ChecksumRing) -> Self {
        if let KeyBody::Issued { checksum, .. } = &mut self.body {
            *checksum = Checksum::Keyed(ring.for_lead(&self.lead));
        }
        self
    }

    /// Returns the environment of the keys of this format.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Returns the prefix of the keys of this format, without the separator `_`. It is safe to show
    /// and to log.
    pub fn prefix(&self) -> &str {
        self.lead.strip_suffix('_').unwrap_or(&self.lead)
    }

    /// Returns whether keys of this format can be issued. Imported formats are only recognized.
    pub fn is_issued(&self) -> bool {
        matches!(self.body, KeyBody::Issued { .. })
    }

    /// Returns whether a text has this format.
    pub fn matches(&self, text: &str) -> bool {
        text.as_bytes()
            .strip_prefix(self.lead.as_bytes())
            .is_some_and(|rest| self.body_matches(rest))
    }

    /// Generates a key with the operating system's random generator.
    ///
    /// To issue a key that layers accept, use [`ApiKeys::issue`](crate::ApiKeys::issue).
    pub fn generate(&self) -> Result<PlaintextKey, GenerateError> {
        let KeyBody::Issued {
            secret_bytes,
            checksum,
        } = &self.body
        else {
            return Err(GenerateError::Imported);
        };
        let mut bytes = Zeroizing::new([0u8; MAX_SECRET_BYTES]);
        let bytes = &mut bytes[..*secret_bytes];
        SysRng
            .try_fill_bytes(bytes)
            .map_err(|error| GenerateError::Entropy(Box::new(error)))?;

        let lead = self.lead.len();
        // Allocate the final size: growing would leave a copy of the secret behind.
        let mut text = String::with_capacity(lead + base62::width(*secret_bytes) + CHECKSUM_LENGTH);
        text.push_str(&self.lead);
        base62::encode_into(&mut text, bytes);
        if let Some(digits) = checksum.of(&text.as_bytes()[lead..]) {
            text.extend(digits.map(char::from));
        }
        Ok(PlaintextKey::from(text))
    }

    /// Returns the prefix of the keys of this format, including the separator.
    pub(crate) fn lead(&self) -> &str {
        &self.lead
    }

    /// Returns the part of a key after its lead.
    pub(crate) fn body(&self) -> &KeyBody {
        &self.body
    }

    /// Returns the length of an issued key after its lead; 0 for an imported format.
    pub(crate) fn issued_length(&self) -> usize {
        match &self.body {
            KeyBody::Issued {
                secret_bytes,
                checksum,
            } => base62::width(*secret_bytes) + checksum.length(),
            KeyBody::Imported { .. } => 0,
        }
    }

    /// Returns the length of the secret, if keys have only the checksum that anybody can compute.
    pub(super) fn plainly_checked_secret(&self) -> Option<usize> {
        match self.body {
            KeyBody::Issued {
                secret_bytes,
                checksum: Checksum::Plain,
            } => Some(base62::width(secret_bytes)),
            _ => None,
        }
    }

    pub(crate) fn body_matches(&self, rest: &[u8]) -> bool {
        match &self.body {
            KeyBody::Imported {
                alphabet, length, ..
            } => length.contains(&rest.len()) && rest.iter().all(|byte| alphabet.contains(*byte)),
            KeyBody::Issued {
                secret_bytes,
                checksum,
            } => {
                let secret = base62::width(*secret_bytes);
                if rest.len() != secret + checksum.length() {
                    return false;
                }
                let (secret, digits) = rest.split_at(secret);
                match checksum {
                    Checksum::None => are_alphanumeric(rest),
                    // Check the checksum first: it alone refuses nearly all junk.
                    Checksum::Plain => plain(secret) == digits && are_alphanumeric(rest),
                    Checksum::Keyed(keyed) => {
                        are_alphanumeric(rest) && keyed.matches(secret, digits)
                    }
                }
            }
        }
    }

    /// Returns whether a text begins with a key of ours, or with enough of one to be meant as a
    /// key, whatever follows.
    pub(super) fn claims(&self, text: &[u8]) -> bool {
        // Compare the first character first: this function runs for every word that a stranger
        // sends.
        if text.first() != self.lead.as_bytes().first() {
            return false;
        }
        let Some(body) = text.strip_prefix(self.lead.as_bytes()) else {
            return false;
        };
        if self.lead.is_empty() {
            return false;
        }
        let may_have = |byte: &u8| self.body_may_have(*byte);
        match &self.body {
            KeyBody::Issued { .. } => body
                .get(..CLAIMING_LENGTH)
                .is_some_and(|body| body.iter().all(may_have)),
            // An imported key is recognized only as a whole: as a part of a longer run, it is
            // somebody else's digest or signature.
            KeyBody::Imported { length, .. } => {
                // Read no further than a key can reach: this function runs for every word of a
                // stranger's text.
                let most = body.len().min(length.end() + 1);
                let run = body[..most]
                    .iter()
                    .take_while(|byte| may_have(byte))
                    .count();
                let behind = &body[run..];
                let is_over = |text: &[u8]| !text.first().copied().is_some_and(is_token_byte);
                // A full stop or the like after a key is a typo.
                let slips = behind.iter().take_while(|byte| is_connector(**byte));
                length.contains(&run) && is_over(&behind[slips.take(REACH_OF_SLIPS).count()..])
            }
        }
    }

    /// Returns whether a character may occur after the lead.
    pub(super) fn body_may_have(&self, byte: u8) -> bool {
        match &self.body {
            KeyBody::Imported { alphabet, .. } => alphabet.contains(byte),
            KeyBody::Issued { .. } => byte.is_ascii_alphanumeric(),
        }
    }

    /// Returns whether keys of this format are read from schemes that other credentials use, too.
    pub(super) fn is_read_from_authorization(&self) -> bool {
        match &self.body {
            KeyBody::Imported {
                in_authorization, ..
            } => *in_authorization,
            KeyBody::Issued { .. } => true,
        }
    }
}

/// Returns whether all bytes are letters or digits. There is no early exit: nearly all keys pass,
/// and a loop without branches is faster.
fn are_alphanumeric(bytes: &[u8]) -> bool {
    let is_one = |byte: u8| (byte | 0x20).wrapping_sub(b'a') < 26 || byte.wrapping_sub(b'0') < 10;
    bytes.iter().fold(true, |all, byte| all & is_one(*byte))
}

#[expect(clippy::cast_precision_loss, reason = "at most 512")]
fn characters(count: usize) -> f64 {
    count.min(MAX_KEY_LENGTH) as f64
}

/// An error for a format, or a set of formats, that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFormatError {
    /// The prefix is empty, too long, or has characters that a prefix cannot have.
    #[error(
        "{0:?} cannot begin a key: use 1 to 32 letters, digits and '_', with none of '_' at the edges \
         (imported keys: up to 32 visible ASCII characters)"
    )]
    Prefix(String),
    /// The number of random bytes is not 16 to 64.
    #[error("a secret of {0} bytes: use 16 to 64; the default is 32")]
    SecretBytes(usize),
    /// The length of an imported key is zero, an empty range, or beyond 512 characters in all.
    #[error("imported keys of {0:?} characters: use 1 to 512 in all, lead included")]
    Length(RangeInclusive<usize>),
    /// The secrets of an imported format could be found by brute force.
    #[error(
        "this alphabet and length allow for less than 112 bits, which can be found by trying: \
         re-issue such keys, or say KeyFormat::dangerous_guessable"
    )]
    Guessable,
    /// Two formats have the same prefix, and at least one of them is issued and claims all keys
    /// with it.
    #[error("two formats begin with {0:?}: give each its own prefix")]
    SamePrefix(String),
    /// Keys of one format may begin with the prefix of another, and would be taken for its keys.
    #[error(
        "keys that begin with {shadowed:?} may also begin with {by:?}, and would be lost: issue \
         keys with another prefix, or narrow the alphabet or the lengths of the imported ones"
    )]
    #[non_exhaustive]
    Shadowed {
        /// The prefix of the keys that would be lost.
        shadowed: String,
        /// The prefix that would claim them.
        by: String,
    },
    /// A text could be a key of two imported formats.
    #[error(
        "one text could be a key of the format that begins with {one:?} and of that with \
         {other:?}: narrow the alphabet or the lengths of one"
    )]
    #[non_exhaustive]
    Overlapping {
        /// The prefix of the first format.
        one: String,
        /// The prefix of the second format.
        other: String,
    },
    /// The set has no format, so it accepts no key.
    #[error("no format: name at least one")]
    Empty,
}

/// An error for a key that could not be generated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The operating system provided no randomness.
    #[error("the operating system's random generator failed")]
    Entropy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The format is an imported one.
    #[error("keys of an imported format are recognized, not issued")]
    Imported,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn live(prefix: &str) -> KeyFormat {
        KeyFormat::new(prefix, Environment::LIVE).unwrap()
    }

    #[test]
    fn a_valid_checksum_does_not_excuse_invalid_characters() {
        for (character, matches) in [("a", true), ("-", false), ("_", false), ("é", false)] {
            let mut key = "sk_live_".to_owned();
            key.push_str(character);
            while key.len() < "sk_live_".len() + 43 {
                key.push('0');
            }
            let checksum = plain(&key.as_bytes()["sk_live_".len()..]);
            key.extend(checksum.map(char::from));
            assert_eq!(live("sk_live").matches(&key), matches, "{key}");
        }
    }

    #[test]
    fn an_invalid_format_is_refused() {
        for prefix in [
            "",
            "_sk",
            "sk_",
            "sk-live",
            "sk live",
            "ключ",
            &"a".repeat(33),
        ] {
            let error = KeyFormat::new(prefix, Environment::LIVE).unwrap_err();
            assert_eq!(error, KeyFormatError::Prefix(prefix.to_owned()));
        }
        for bytes in [0, 15, 65] {
            let error = live("sk").secret_bytes(bytes).unwrap_err();
            assert_eq!(error, KeyFormatError::SecretBytes(bytes));
        }
        let imported = |alphabet, length| {
            KeyFormat::imported("x-", alphabet, length, Environment::LIVE).unwrap_err()
        };
        assert_eq!(imported(Alphabet::HEX, 27..=64), KeyFormatError::Guessable);
        assert_eq!(
            imported(Alphabet::from_static("a"), 500..=500),
            KeyFormatError::Guessable
        );
        assert_eq!(
            imported(Alphabet::HEX, 64..=511),
            KeyFormatError::Length(64..=511)
        );
        #[expect(clippy::reversed_empty_ranges)]
        let empty = 64..=63;
        assert_eq!(
            imported(Alphabet::HEX, 32..=usize::MAX),
            KeyFormatError::Length(32..=usize::MAX)
        );
        assert_eq!(
            imported(Alphabet::HEX, empty.clone()),
            KeyFormatError::Length(empty)
        );
    }

    fn any_issued() -> impl Strategy<Value = KeyFormat> {
        (
            "[A-Za-z0-9]{1,10}(_[A-Za-z0-9]{1,10}){0,2}",
            16..=64usize,
            any::<bool>(),
        )
            .prop_map(|(prefix, bytes, checksum)| {
                let format = live(&prefix).secret_bytes(bytes).unwrap();
                if checksum {
                    format
                } else {
                    format.without_checksum()
                }
            })
    }

    proptest! {
        #[test]
        fn a_generated_key_matches_its_format(format in any_issued()) {
            let key = format.generate().unwrap();
            prop_assert!(format.matches(key.expose_secret()));
            let key = key.expose_secret().as_bytes();
            prop_assert!(key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_'));
            prop_assert!(key.len() <= MAX_KEY_LENGTH);
        }

        #[test]
        fn a_single_changed_character_is_detected(at in 0..57usize, to in any::<u8>()) {
            let format = live("sk_live");
            let key = format.generate().unwrap();
            let mut bytes = key.expose_secret().as_bytes().to_vec();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert!(!format.matches(&String::from_utf8_lossy(&bytes)));
        }
    }
}
