//! Texts in records: optional texts, and limits that every store can keep.

use std::fmt;
use std::time::SystemTime;

use crate::util::timestamp;

/// An optional text of a record, converted from a text or an `Option` of a text.
///
/// Setters take it as `impl Into<OptionalText>`, so that a nullable column of a table needs no `if
/// let`:
///
/// ```
/// use tower_api_key::key::KeyDigest;
/// use tower_api_key::KeyRecord;
///
/// let plan: Option<String> = None; // from a column
/// let record = KeyRecord::imported(KeyDigest::of("…"), "acme")
///     .with_name("nightly export")
///     .with_plan(plan);
/// assert_eq!(record.plan(), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OptionalText(pub(crate) Option<Box<str>>);

impl From<&str> for OptionalText {
    fn from(text: &str) -> Self {
        Self(Some(text.into()))
    }
}

impl From<String> for OptionalText {
    fn from(text: String) -> Self {
        Self(Some(text.into()))
    }
}

impl From<&String> for OptionalText {
    fn from(text: &String) -> Self {
        Self(Some(text.as_str().into()))
    }
}

impl<T: Into<Box<str>>> From<Option<T>> for OptionalText {
    fn from(text: Option<T>) -> Self {
        Self(text.map(Into::into))
    }
}

/// The longest text in a record, in bytes: 16 KiB.
const LONGEST: usize = 16 << 10;

/// The longest text that stores have an index for, in bytes. Indexes of `PostgreSQL` allow 2,700.
const LONGEST_INDEXED: usize = 255;

/// The maximum size of all metadata of a record, in bytes: 64 KiB.
const MOST_METADATA: usize = 64 << 10;

/// An error for a record, or a part of a change, that not every store can keep.
///
/// All stores refuse the same values, so that a record can be moved from any store to another.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyRecordError {
    /// A text contains the character NUL, which `PostgreSQL` cannot store.
    #[error("{0} has the character NUL: leave it out")]
    Nul(&'static str),
    /// A text is too long. The maximum is 255 bytes for texts with an index (account, prefix, plan,
    /// actor, request id), 16 KiB for others, and 64 KiB for all metadata together.
    #[error("{0} is too long: use at most {1} bytes")]
    TooLong(&'static str, usize),
    /// A text is empty that must not be.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// A time is before 1970 or after the year 9999.
    #[error("{0} is not in the years 1970 to 9999")]
    Instant(&'static str),
    /// The version is 0, or above 2⁶³ − 1.
    #[error("version {0} is not 1 to 9,223,372,036,854,775,807")]
    Version(u64),
    /// An update would replace the record of one key by that of another.
    #[error("an update cannot replace the record of one key by that of another: use one id")]
    OfAnotherKey,
    /// The kind of an event is not 1 to 64 lower-case ASCII letters, digits, `_` and `.`.
    #[error("{0:?} is no kind of an event: use 1 to 64 lower-case letters, digits, '_' and '.'")]
    EventKind(String),
    /// The id of an endpoint is not 1 to 64 ASCII letters, digits, `_` and `-`.
    #[error("{0:?} is no id of an endpoint: use 1 to 64 letters, digits, '_' and '-'")]
    EndpointId(String),
    /// There are too many of something.
    #[error("there are too many {0}: use at most {1}")]
    TooMany(&'static str, usize),
    /// The generation of a secret is 0.
    #[error("generation 0 of a secret does not exist: the first one is 1")]
    Generation,
    /// The data of an event is not a JSON object.
    #[error("the data of an event must be a JSON object")]
    EventData,
    /// A count or the number of a batch is above 2⁶³ − 1, or the number of a batch is 0.
    #[error(
        "{0} is out of range: use at most 9,223,372,036,854,775,807, and for a batch at least 1"
    )]
    Number(&'static str),
}

/// Checks one text.
pub(crate) fn check(field: &'static str, text: &str) -> Result<(), KeyRecordError> {
    check_within(field, text, LONGEST)
}

/// Checks a text that stores have an index for.
pub(crate) fn check_indexed(field: &'static str, text: &str) -> Result<(), KeyRecordError> {
    check_within(field, text, LONGEST_INDEXED)
}

/// Returns the beginning of a text of at most so many bytes, which ends with a whole character.
pub(crate) fn beginning(text: &str, most: usize) -> &str {
    let mut ends = (0..=most.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

fn check_within(field: &'static str, text: &str, longest: usize) -> Result<(), KeyRecordError> {
    if text.contains('\0') {
        return Err(KeyRecordError::Nul(field));
    }
    if text.len() > longest {
        return Err(KeyRecordError::TooLong(field, longest));
    }
    Ok(())
}

/// Returns whether a name is 1 to 64 lower-case ASCII letters, digits, `_` and `.`.
pub(crate) fn is_dotted_name(name: &str) -> bool {
    let fits = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(fits)
}

/// Checks metadata.
pub(super) fn check_all<'t>(
    field: &'static str,
    texts: impl Iterator<Item = (&'t str, &'t str)>,
) -> Result<(), KeyRecordError> {
    let mut bytes = 0;
    for (name, value) in texts {
        check(field, name)?;
        check(field, value)?;
        bytes += name.len() + value.len();
    }
    if bytes > MOST_METADATA {
        return Err(KeyRecordError::TooLong(field, MOST_METADATA));
    }
    Ok(())
}

/// Checks a time.
pub(crate) fn check_instant(
    field: &'static str,
    instant: Option<SystemTime>,
) -> Result<(), KeyRecordError> {
    match instant {
        Some(instant) if !timestamp::is_representable(instant) => {
            Err(KeyRecordError::Instant(field))
        }
        _ => Ok(()),
    }
}

/// Prints a time in RFC 3339, in `Debug`.
pub(super) struct Rfc3339(pub(super) SystemTime);

impl fmt::Debug for Rfc3339 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&timestamp::rfc3339_exact(self.0))
    }
}
