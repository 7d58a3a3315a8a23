//! The text of a key: `PREFIX_SECRET[CHECKSUM]`, made and recognized.

use std::cmp::Reverse;
use std::fmt;
use std::ops::RangeInclusive;

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::Zeroizing;

use crate::key::base62;
use crate::key::environment::Environment;
use crate::secret::PlaintextKey;

/// The fewest random bytes that a key may have: 128 bits.
pub(crate) const MIN_SECRET_BYTES: usize = 16;
/// The most random bytes that a key may have: 512 bits.
pub(crate) const MAX_SECRET_BYTES: usize = 64;
/// The longest key of any format, so that nobody makes us hash a novel.
pub(crate) const MAX_KEY_LENGTH: usize = 512;
/// Below this many bits a secret may be found by trying (NIST SP 800-63B, ASVS 6.5.2).
const MIN_IMPORTED_BITS: f64 = 112.0;
const CHECKSUM_LENGTH: usize = 6;
const MAX_PREFIX_LENGTH: usize = 32;

/// How the keys of one kind are written, and the environment they belong to.
///
/// A key is `PREFIX_SECRET[CHECKSUM]`. The secret is 32 random bytes from the operating system,
/// written in base 62 (letters and digits); the checksum is the CRC-32 of that text in six base-62
/// digits, as GitHub writes it. It authenticates nothing: it lets typos, truncated pastes and junk
/// be refused without a look into the store, and secret scanners be sure.
///
/// ```
/// use tower_api_key::{Environment, KeyFormat};
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
    body: Body,
}

/// What follows the lead.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Body {
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
        Ok(Self {
            lead: format!("{prefix}_").into(),
            environment,
            body: Body::Issued {
                secret_bytes: 32,
                checksum: true,
            },
        })
    }

    /// Keys that exist already and were made elsewhere: `lead`, then `length` characters of
    /// `alphabet`. They are recognized, and never issued.
    ///
    /// The lead is what the keys begin with, the separator included: `acme-`. It may be empty, but
    /// then nothing tells such a key from a user's token, so it is not looked for in
    /// `Authorization` (see [`dangerous_in_authorization`](Self::dangerous_in_authorization)).
    ///
    /// The alphabet and the shortest length must allow for 112 bits, since what is stored of a
    /// key is a fast hash, and shorter secrets can be found from that by trying.
    ///
    /// ```
    /// use tower_api_key::{Alphabet, Environment, KeyFormat};
    ///
    /// let uuids = KeyFormat::imported("", Alphabet::UUID, 36..=36, Environment::LIVE)?;
    /// assert!(uuids.matches("0af6b3a8-1f0e-4a63-9b9e-6f1d4c1e2a77"));
    /// assert!(KeyFormat::imported("acme-", Alphabet::HEX, 16..=16, Environment::LIVE).is_err());
    /// # Ok::<(), tower_api_key::KeyFormatError>(())
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
        if *length.start() == 0 || length.is_empty() || lead.len() + length.end() > MAX_KEY_LENGTH {
            return Err(KeyFormatError::Length(length));
        }
        Ok(Self {
            lead: lead.into(),
            environment,
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
    /// use tower_api_key::{Environment, KeyFormat};
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

    fn body_matches(&self, rest: &[u8]) -> bool {
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
                rest.len() == length
                    && rest.iter().all(u8::is_ascii_alphanumeric)
                    && (!checksum || checksum_of(&rest[..secret]) == rest[secret..])
            }
        }
    }

    fn is_read_from(&self, place: Place) -> bool {
        match (&self.body, place) {
            (
                Body::Imported {
                    in_authorization, ..
                },
                Place::Authorization,
            ) => *in_authorization,
            _ => true,
        }
    }
}

fn checksum_of(secret: &[u8]) -> [u8; CHECKSUM_LENGTH] {
    base62::six_digits(crc32fast::hash(secret))
}

#[expect(clippy::cast_precision_loss, reason = "at most 512")]
fn characters(count: usize) -> f64 {
    count.min(MAX_KEY_LENGTH) as f64
}

/// The characters that the keys of an imported format are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alphabet(u128);

impl Alphabet {
    /// Lower-case hexadecimal digits.
    pub const HEX: Self = Self::from_static("0123456789abcdef");
    /// Lower-case hexadecimal digits and `-`.
    pub const UUID: Self = Self::from_static("0123456789abcdef-");
    /// Letters and digits.
    pub const ALPHANUMERIC: Self =
        Self::from_static("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    /// Letters, digits, `-` and `_`: unpadded base64 for URLs.
    pub const BASE64URL: Self =
        Self::from_static("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_");

    /// An alphabet of visible ASCII characters.
    ///
    /// # Panics
    /// If a character is not visible ASCII; in a `const` that is a compile error.
    pub const fn from_static(characters: &'static str) -> Self {
        let characters = characters.as_bytes();
        let mut set = 0;
        let mut at = 0;
        while at < characters.len() {
            assert!(
                characters[at].is_ascii_graphic(),
                "an alphabet is made of visible ASCII characters"
            );
            set |= 1 << characters[at];
            at += 1;
        }
        Self(set)
    }

    fn contains(self, byte: u8) -> bool {
        byte < 128 && self.0 >> byte & 1 == 1
    }

    fn bits_per_character(self) -> f64 {
        f64::from(self.0.count_ones()).log2().max(0.0)
    }
}

impl fmt::Debug for Alphabet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let characters: String = (0..128u8)
            .filter(|byte| self.contains(*byte))
            .map(char::from)
            .collect();
        f.debug_tuple("Alphabet").field(&characters).finish()
    }
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
    /// Two formats of one set begin alike, so that a key could belong to both.
    #[error("two formats begin with {0:?}: give each its own prefix")]
    SamePrefix(String),
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

/// The formats that are accepted together, such as live, test and a company's old one.
///
/// The longest prefix wins; a text that begins with it is judged by that format alone.
///
/// ```
/// use tower_api_key::{Environment, KeyFormat, KeyFormats};
///
/// let formats = KeyFormats::new([
///     KeyFormat::new("sk", Environment::LIVE)?,
///     KeyFormat::new("sk_test", Environment::TEST)?,
/// ])?;
/// # Ok::<(), tower_api_key::KeyFormatError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFormats {
    /// As they were given: the first of an environment is the one that is issued by default.
    given: Box<[KeyFormat]>,
    /// Indices into `given`, longest lead first; a format without a lead is last.
    by_lead: Box<[usize]>,
}

impl KeyFormats {
    /// A set of formats that begin differently.
    pub fn new(formats: impl IntoIterator<Item = KeyFormat>) -> Result<Self, KeyFormatError> {
        let given: Box<[KeyFormat]> = formats.into_iter().collect();
        if given.is_empty() {
            return Err(KeyFormatError::Empty);
        }
        let mut by_lead: Box<[usize]> = (0..given.len()).collect();
        by_lead.sort_by_key(|&at| (Reverse(given[at].lead.len()), &given[at].lead));
        for pair in by_lead.windows(2) {
            if given[pair[0]].lead == given[pair[1]].lead {
                return Err(KeyFormatError::SamePrefix(given[pair[0]].lead.to_string()));
            }
        }
        Ok(Self { given, by_lead })
    }

    /// The formats, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &KeyFormat> {
        self.given.iter()
    }

    /// What a credential is to us.
    pub(crate) fn recognize(&self, credential: &[u8], place: Place) -> Recognized {
        for format in self.by_lead.iter().map(|&at| &self.given[at]) {
            let Some(rest) = credential.strip_prefix(format.lead.as_bytes()) else {
                continue;
            };
            if !format.is_read_from(place) {
                continue;
            }
            if format.body_matches(rest) {
                return Recognized::WellFormed;
            }
            // A lead is a claim to be ours; without one, there is only the shape to tell.
            if !format.lead.is_empty() {
                return Recognized::Malformed;
            }
        }
        match place {
            Place::Authorization => Recognized::Foreign,
            Place::Own => Recognized::Malformed,
        }
    }
}

/// `sk_live` and `sk_test`.
impl Default for KeyFormats {
    fn default() -> Self {
        let format = |prefix: &str, environment| KeyFormat {
            lead: prefix.into(),
            environment,
            body: Body::Issued {
                secret_bytes: 32,
                checksum: true,
            },
        };
        Self {
            given: Box::new([
                format("sk_live_", Environment::LIVE),
                format("sk_test_", Environment::TEST),
            ]),
            by_lead: Box::new([0, 1]),
        }
    }
}

/// Where a credential stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In `Authorization`, under a scheme that we share with others.
    Authorization,
    /// Where nothing but a key of ours is expected.
    Own,
}

/// What a credential is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recognized {
    /// Written as one of our keys.
    WellFormed,
    /// Meant as one of our keys, and not one.
    Malformed,
    /// Somebody else's.
    Foreign,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn formats(formats: impl IntoIterator<Item = KeyFormat>) -> KeyFormats {
        KeyFormats::new(formats).unwrap()
    }

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
    fn the_default_set_is_what_its_constructors_make() {
        let test = KeyFormat::new("sk_test", Environment::TEST).unwrap();
        assert_eq!(KeyFormats::default(), formats([live("sk_live"), test]));
    }

    #[test]
    fn the_longest_prefix_wins_and_nothing_falls_through_it() {
        let short = live("sk").without_checksum();
        let long = live("sk_live");
        // A text that the short format alone would accept, were it not the long one's.
        let old = KeyFormat::imported("", Alphabet::BASE64URL, 20..=90, Environment::LIVE).unwrap();
        let set = formats([old, short.clone(), long]);
        let claimed = format!("sk_live_{}", "A".repeat(43));
        assert!(
            KeyFormat::imported("sk_", Alphabet::BASE64URL, 48..=48, Environment::LIVE)
                .unwrap()
                .matches(&claimed)
        );
        assert_eq!(
            set.recognize(claimed.as_bytes(), Place::Own),
            Recognized::Malformed
        );
        let short = short.generate().unwrap();
        let short = short.expose_secret().as_bytes();
        assert_eq!(set.recognize(short, Place::Own), Recognized::WellFormed);
    }

    #[test]
    fn a_format_without_a_lead_claims_nothing_in_authorization_unless_told() {
        let bare = KeyFormat::imported("", Alphabet::HEX, 32..=64, Environment::LIVE).unwrap();
        let token = "0123456789abcdef0123456789abcdef".as_bytes();
        let careful = formats([bare.clone()]);
        assert_eq!(careful.recognize(token, Place::Own), Recognized::WellFormed);
        assert_eq!(
            careful.recognize(token, Place::Authorization),
            Recognized::Foreign
        );
        let told = formats([bare.dangerous_in_authorization()]);
        assert_eq!(
            told.recognize(token, Place::Authorization),
            Recognized::WellFormed
        );
        assert_eq!(
            told.recognize(b"a.jwt.token", Place::Authorization),
            Recognized::Foreign
        );
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
            imported(Alphabet::HEX, empty.clone()),
            KeyFormatError::Length(empty)
        );
        let twice = KeyFormats::new([live("sk"), live("sk").without_checksum()]).unwrap_err();
        assert_eq!(twice, KeyFormatError::SamePrefix("sk_".to_owned()));
        assert_eq!(KeyFormats::new([]).unwrap_err(), KeyFormatError::Empty);
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
            prop_assert_eq!(
                formats([format]).recognize(key, Place::Authorization), Recognized::WellFormed);
        }

        #[test]
        fn one_changed_character_is_caught(at in 0..57usize, to in any::<u8>()) {
            let format = live("sk_live");
            let key = format.generate().unwrap();
            let mut bytes = key.expose_secret().as_bytes().to_vec();
            prop_assume!(bytes[at] != to);
            bytes[at] = to;
            let set = formats([format]);
            prop_assert_ne!(set.recognize(&bytes, Place::Own), Recognized::WellFormed);
        }

        #[test]
        fn any_bytes_are_recognized_without_panic(bytes: Vec<u8>) {
            let bare = KeyFormat::imported("", Alphabet::HEX, 32..=64, Environment::LIVE).unwrap();
            let set = formats([live("sk"), live("sk_live"), bare]);
            for place in [Place::Own, Place::Authorization] {
                prop_assert_ne!(set.recognize(&bytes, place), Recognized::WellFormed);
            }
        }
    }
}
