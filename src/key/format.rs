//! The text of a key: `PREFIX_SECRET[CHECKSUM]`, made and recognized.

use std::ops::RangeInclusive;

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::key::alphabet::Alphabet;
use crate::key::base62;
use crate::key::environment::Environment;
use crate::key::kind::KeyKind;
use crate::key::plaintext::PlaintextKey;
use crate::key::token::{is_connector, is_of_token};

/// The fewest random bytes that a key may have: 128 bits.
pub(crate) const MIN_SECRET_BYTES: usize = 16;
/// The most random bytes that a key may have: 512 bits.
pub(crate) const MAX_SECRET_BYTES: usize = 64;
/// The longest key of any format, so that nobody makes us hash a novel.
pub(crate) const MAX_KEY_LENGTH: usize = 512;
/// Below this many bits a secret may be found by trying (NIST SP 800-63B, ASVS 6.5.2).
const MIN_IMPORTED_BITS: f64 = 112.0;
const CHECKSUM_LENGTH: usize = 6;
/// So many connectors may stand behind an imported key.
const REACH_OF_SLIPS: usize = 8;

/// So many characters of a secret behind its lead are no accident, and are short of every secret.
const CLAIMING_LENGTH: usize = 16;
const MAX_PREFIX_LENGTH: usize = 32;

/// How the keys of one kind are written, and the environment they belong to.
///
/// A key is `PREFIX_SECRET[CHECKSUM]`. The secret is 32 random bytes from the operating system,
/// written in base 62 (letters and digits); the checksum is the CRC-32 of that text in six base-62
/// digits, as GitHub writes it. It authenticates nothing: it lets typos, truncated pastes and junk
/// be refused without a look into the store, and secret scanners be sure.
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
    /// What a key begins with, the separator included.
    lead: Box<str>,
    environment: Environment,
    kind: KeyKind,
    body: Body,
}

/// What follows the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// Made here: so many random bytes in base 62, and perhaps a checksum.
    Issued { secret_bytes: usize, checksum: bool },
    /// Made elsewhere: any text of this alphabet and length.
    Imported {
        alphabet: Alphabet,
        length: RangeInclusive<usize>,
        in_authorization: bool,
    },
}

impl KeyFormat {
    /// Keys that this crate issues, such as `sk_live_…` for the prefix `sk_live`.
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

    /// Keys that begin with `lead`, which is known to be good.
    pub(crate) fn issued(lead: impl Into<Box<str>>, environment: Environment) -> Self {
        Self {
            lead: lead.into(),
            environment,
            kind: KeyKind::Secret,
            body: Body::Issued {
                secret_bytes: 32,
                checksum: true,
            },
        }
    }

    /// Keys that exist already and were made elsewhere: `lead`, then `length` characters of
    /// `alphabet`. They are recognized, and never issued.
    ///
    /// The lead is what the keys begin with, the separator included: `acme-`. It may be empty, but
    /// then nothing tells such a key from a user's token, so it is not looked for under
    /// `Authorization: Bearer` (see
    /// [`dangerous_in_authorization`](Self::dangerous_in_authorization)), only where nothing but
    /// our keys stands: in `X-API-Key` and under `Authorization: ApiKey`.
    ///
    /// The alphabet and the shortest length must allow for 112 bits, since what is stored of a key
    /// is a fast hash, and shorter secrets can be found from that by trying. Whether the keys were
    /// drawn at random is not seen here: a UUID of version 1 or 7, made of a time, is guessable all
    /// the same.
    ///
    /// A text belongs to the imported format that it wholly matches. A set is
    /// [refused](KeyFormatError::Overlapping) if a text could match two, and also if a key of an
    /// imported format could begin as issued keys do, since those claim all that begins so: without
    /// a lead, keys of [`Alphabet::BASE64URL`] could, and keys of `HEX`, `UUID` and `ALPHANUMERIC`
    /// could not.
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

    /// As [`imported`](Self::imported), for keys of less than 112 bits.
    ///
    /// Danger: whoever reads the table of hashes can find such keys by trying, peppered or not
    /// (the key's id is a plain digest). Rotate these keys as soon as their owners can.
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
            body: Body::Imported {
                alphabet,
                length,
                in_authorization: !lead.is_empty(),
            },
        })
    }

    /// Looks for keys without a lead in `Authorization`, too.
    ///
    /// Danger: every Bearer token of this alphabet and length, also a user's, is then taken for a
    /// key of ours, and refused if it is not one. No effect on formats that have a lead.
    #[must_use]
    pub fn dangerous_in_authorization(mut self) -> Self {
        if let Body::Imported {
            in_authorization, ..
        } = &mut self.body
        {
            *in_authorization = true;
        }
        self
    }

    /// How many random bytes a key has: 16 to 64, 32 (256 bits) by default.
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
        if let Body::Issued { secret_bytes, .. } = &mut self.body {
            *secret_bytes = bytes;
        }
        Ok(self)
    }

    /// Makes the keys of this format publishable: they may stand in a web page or an app, where anybody
    /// can read them. Default: secret.
    ///
    /// Such a key holds only scopes that the application
    /// [declared publishable](crate::ApiKeysBuilder::publishable_scopes), whatever its record says,
    /// may be bound to [origins](crate::manage::IssueKey::origins), and opens only layers that
    /// [accept its kind](crate::ApiKeyLayer::kinds).
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

    /// Leaves out the checksum, to match keys that exist already.
    ///
    /// Junk of the right length then costs a look into the store. No effect on imported formats.
    #[must_use]
    pub fn without_checksum(mut self) -> Self {
        if let Body::Issued { checksum, .. } = &mut self.body {
            *checksum = false;
        }
        self
    }

    /// The environment that keys of this format belong to.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// What a key of this format begins with, without the separator `_`: safe to show and to log.
    pub fn prefix(&self) -> &str {
        self.lead.strip_suffix('_').unwrap_or(&self.lead)
    }

    /// Whether keys of this format can be issued, or are only recognized.
    pub fn is_issued(&self) -> bool {
        matches!(self.body, Body::Issued { .. })
    }

    /// Whether a text is written as the keys of this format are.
    pub fn matches(&self, text: &str) -> bool {
        text.as_bytes()
            .strip_prefix(self.lead.as_bytes())
            .is_some_and(|rest| self.body_matches(rest))
    }

    /// A new key from the operating system's generator.
    ///
    /// Use [`ApiKeys::issue`](crate::ApiKeys::issue) to make keys that the layer knows.
    pub fn generate(&self) -> Result<PlaintextKey, GenerateError> {
        let Body::Issued {
            secret_bytes,
            checksum,
        } = self.body
        else {
            return Err(GenerateError::Imported);
        };
        let mut bytes = Zeroizing::new([0u8; MAX_SECRET_BYTES]);
        let bytes = &mut bytes[..secret_bytes];
        SysRng
            .try_fill_bytes(bytes)
            .map_err(|error| GenerateError::Entropy(Box::new(error)))?;

        let lead = self.lead.len();
        // The whole capacity at once: growing would leave a copy of the secret behind.
        let mut text = String::with_capacity(lead + base62::width(secret_bytes) + CHECKSUM_LENGTH);
        text.push_str(&self.lead);
        base62::encode_into(&mut text, bytes);
        if checksum {
            let digits = checksum_of(&text.as_bytes()[lead..]);
            text.extend(digits.map(char::from));
        }
        Ok(PlaintextKey::from(text))
    }

    /// What a key of this format begins with, the separator included.
    pub(super) fn lead(&self) -> &str {
        &self.lead
    }

    /// What follows the lead.
    pub(super) fn body(&self) -> &Body {
        &self.body
    }

    /// The length of an issued key behind its lead; 0 of an imported format.
    pub(super) fn issued_length(&self) -> usize {
        match self.body {
            Body::Issued {
                secret_bytes,
                checksum,
            } => base62::width(secret_bytes) + if checksum { CHECKSUM_LENGTH } else { 0 },
            Body::Imported { .. } => 0,
        }
    }

    pub(super) fn body_matches(&self, rest: &[u8]) -> bool {
        match &self.body {
            Body::Imported {
                alphabet, length, ..
            } => length.contains(&rest.len()) && rest.iter().all(|byte| alphabet.contains(*byte)),
            Body::Issued {
                secret_bytes,
                checksum,
            } => {
                let secret = base62::width(*secret_bytes);
                let length = secret + if *checksum { CHECKSUM_LENGTH } else { 0 };
                // The checksum goes first: with it, what is not ours is rarely looked at twice.
                rest.len() == length
                    && (!checksum || checksum_of(&rest[..secret]) == rest[secret..])
                    && are_alphanumeric(rest)
            }
        }
    }

    /// Returns whether a text begins as a key of ours and goes on as one for so long that it is
    /// meant as one, whatever follows.
    pub(super) fn claims(&self, text: &[u8]) -> bool {
        // Asked of every word that a stranger sends: the first character tells nearly all apart.
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
            Body::Issued { .. } => body
                .get(..CLAIMING_LENGTH)
                .is_some_and(|body| body.iter().all(may_have)),
            // Of others' keys only a whole one is known for one: as a part of a longer run, it is
            // somebody else's digest or signature.
            Body::Imported { length, .. } => {
                // No further than a key may go: this is asked at each word of a stranger's text.
                let most = body.len().min(length.end() + 1);
                let own = body[..most]
                    .iter()
                    .take_while(|byte| may_have(byte))
                    .count();
                let behind = &body[own..];
                let is_over = |text: &[u8]| !text.first().copied().is_some_and(is_of_token);
                // A full stop or the like behind a key is a slip.
                let slips = behind.iter().take_while(|byte| is_connector(**byte));
                length.contains(&own) && is_over(&behind[slips.take(REACH_OF_SLIPS).count()..])
            }
        }
    }

    /// Returns whether a character may stand behind the lead.
    pub(super) fn body_may_have(&self, byte: u8) -> bool {
        match &self.body {
            Body::Imported { alphabet, .. } => alphabet.contains(byte),
            Body::Issued { .. } => byte.is_ascii_alphanumeric(),
        }
    }

    /// Whether such keys are looked for under a scheme that others use, too.
    pub(super) fn is_read_from_authorization(&self) -> bool {
        match &self.body {
            Body::Imported {
                in_authorization, ..
            } => *in_authorization,
            Body::Issued { .. } => true,
        }
    }
}

/// Looks at all of them, since nearly all are: that takes the processor less than to stop at one.
fn are_alphanumeric(bytes: &[u8]) -> bool {
    let is_one = |byte: u8| (byte | 0x20).wrapping_sub(b'a') < 26 || byte.wrapping_sub(b'0') < 10;
    bytes.iter().fold(true, |all, byte| all & is_one(*byte))
}

fn checksum_of(secret: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    base62::six_digits(crc32fast::hash(secret))
}

#[expect(clippy::cast_precision_loss, reason = "at most 512")]
fn characters(count: usize) -> f64 {
    count.min(MAX_KEY_LENGTH) as f64
}

/// A format that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyFormatError {
    /// The prefix is empty, too long, or has characters that a key cannot begin with.
    #[error(
        "{0:?} cannot begin a key: use 1 to 32 letters, digits and '_', with none of '_' at the edges \
         (imported keys: up to 32 visible ASCII characters)"
    )]
    Prefix(String),
    /// The number of random bytes is not 16 to 64.
    #[error("a secret of {0} bytes: use 16 to 64, and 32 without a reason for another")]
    SecretBytes(usize),
    /// The length of an imported key is zero, empty, or beyond 512 characters in all.
    #[error("imported keys of {0:?} characters: use 1 to 512 in all, lead included")]
    Length(RangeInclusive<usize>),
    /// An imported format whose secrets could be found by trying.
    #[error(
        "this alphabet and length allow for less than 112 bits, which can be found by trying: \
         re-issue such keys, or say KeyFormat::dangerous_guessable"
    )]
    Guessable,
    /// Two formats of one set begin alike, and one of them is issued, which claims all that begins
    /// so.
    #[error("two formats begin with {0:?}: give each its own prefix")]
    SamePrefix(String),
    /// Keys of one format may begin as those of another, which would then be taken for its own.
    #[error(
        "keys that begin with {shadowed:?} may also begin with {by:?}, and would be lost: issue \
         keys with another prefix, or narrow the alphabet or the lengths of the imported ones"
    )]
    #[non_exhaustive]
    Shadowed {
        /// What the keys begin with that would be lost.
        shadowed: String,
        /// What would claim them.
        by: String,
    },
    /// One text could be a key of two imported formats.
    #[error(
        "one text could be a key of the format that begins with {one:?} and of that with \
         {other:?}: narrow the alphabet or the lengths of one"
    )]
    #[non_exhaustive]
    Overlapping {
        /// What keys of the first begin with.
        one: String,
        /// What keys of the second begin with.
        other: String,
    },
    /// A set without a single format accepts nothing.
    #[error("no format: name at least one")]
    Empty,
}

/// A key could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GenerateError {
    /// The operating system gave no randomness.
    #[error("the operating system's random generator failed")]
    Entropy(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The format describes keys that were made elsewhere.
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
    fn the_checksum_is_githubs() {
        for (secret, checksum) in [
            ("zQWBuTSOoRi4A9spHcVY5ncnsDkxkJ", "0mLq17"),
            ("adE7dp8rHP6gUTuPwxLTZjZdtya3sV", "0UQzQM"),
            ("H3xbiBdlzffNx7Y56iNsPw3joObj7U", "2nO29h"),
            ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "0uCPlr"),
        ] {
            assert_eq!(checksum_of(secret.as_bytes()), checksum.as_bytes());
        }
    }

    #[test]
    fn a_right_checksum_makes_no_other_characters_right() {
        for (character, matches) in [("a", true), ("-", false), ("_", false), ("é", false)] {
            let mut key = "sk_live_".to_owned();
            key.push_str(character);
            while key.len() < "sk_live_".len() + 43 {
                key.push('0');
            }
            let checksum = checksum_of(&key.as_bytes()["sk_live_".len()..]);
            key.extend(checksum.map(char::from));
            assert_eq!(live("sk_live").matches(&key), matches, "{key}");
        }
    }

    #[test]
    fn what_cannot_be_a_format_is_refused() {
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
        fn what_is_generated_parses(format in any_issued()) {
            let key = format.generate().unwrap();
            prop_assert!(format.matches(key.expose_secret()));
            let key = key.expose_secret().as_bytes();
            prop_assert!(key.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'_'));
            prop_assert!(key.len() <= MAX_KEY_LENGTH);
        }

        #[test]
        fn one_changed_character_is_caught(at in 0..57usize, to in any::<u8>()) {
            let format = live("sk_live");
            let key = format.generate().unwrap();
            let mut bytes = key.expose_secret().as_bytes().to_vec();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            prop_assert!(!format.matches(&String::from_utf8_lossy(&bytes)));
        }
    }
}
