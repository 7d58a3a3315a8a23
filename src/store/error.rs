//! What can go wrong in a store, in kinds that callers match.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// A store could not do what it was asked to.
///
/// ```
/// use tower_api_key::store::{StoreError, StoreErrorKind};
///
/// let error = StoreError::unavailable("connection refused");
/// assert_eq!(error.kind(), StoreErrorKind::Unavailable);
/// assert_eq!(error.to_string(), "the key store is unavailable");
/// ```
#[derive(Debug, Clone)]
pub struct StoreError {
    kind: StoreErrorKind,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

/// What went wrong in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A record to create was there already.
    AlreadyExists,
    /// A record to update was changed by somebody else, or is gone; or a batch of usage is missing.
    Conflict,
    /// The store does not do what it was asked to, or does not keep a field of a record.
    Refused,
    /// The key stands where it cannot be changed, such as in a file.
    ReadOnly,
    /// A cursor was made by another store, for another query, or by nobody.
    InvalidCursor,
    /// The store could not be reached, or did not answer.
    Unavailable,
    /// The store answered with something that is no record.
    Corrupt,
}

impl StoreError {
    /// A record to create was there already.
    pub fn already_exists() -> Self {
        Self::without_source(StoreErrorKind::AlreadyExists)
    }

    /// A record to update was changed by somebody else, or is gone.
    pub fn conflict() -> Self {
        Self::without_source(StoreErrorKind::Conflict)
    }

    /// The store does not do what it was asked to, or does not keep a field of a record.
    ///
    /// The source says what, and what to do instead.
    pub fn refused(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::Refused,
            source: Some(source.into().into()),
        }
    }

    /// The key stands where it cannot be changed. The source says where.
    pub fn read_only(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::ReadOnly,
            source: Some(source.into().into()),
        }
    }

    /// A cursor was made by another store, for another query, or by nobody.
    pub fn invalid_cursor() -> Self {
        Self::without_source(StoreErrorKind::InvalidCursor)
    }

    /// The store could not be reached, or did not answer.
    ///
    /// The source is logged: strip it of connection strings.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::Unavailable,
            source: Some(source.into().into()),
        }
    }

    /// The store answered with something that is no record.
    ///
    /// The source is logged: it must name the column, not its content.
    pub fn corrupt(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::Corrupt,
            source: Some(source.into().into()),
        }
    }

    /// What went wrong.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }

    fn without_source(kind: StoreErrorKind) -> Self {
        Self { kind, source: None }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            StoreErrorKind::AlreadyExists => "the key exists already",
            StoreErrorKind::Conflict => "something else was written first",
            StoreErrorKind::Refused => "the key store does not support this",
            StoreErrorKind::ReadOnly => "the key stands where it cannot be changed",
            StoreErrorKind::InvalidCursor => {
                "the cursor is not of this list: begin with the first page"
            }
            StoreErrorKind::Unavailable => "the key store is unavailable",
            StoreErrorKind::Corrupt => "the key store holds a record that cannot be read",
        })
    }
}

impl Error for StoreError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
