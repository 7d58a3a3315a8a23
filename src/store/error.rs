//! Errors of stores, in kinds that callers match.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// An error of a store.
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

/// The kind of a [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// A record to create exists already.
    AlreadyExists,
    /// A record to update was changed by somebody else, or is gone. For usage: a batch is missing.
    Conflict,
    /// The change would exceed a [cap](crate::store::AccountCap) on the keys of an account, or a cap
    /// on its [endpoints](crate::store::Outbox::create_endpoint).
    CapReached,
    /// The store does not support the operation, or cannot keep a field of a record.
    Refused,
    /// The key is stored in a place that cannot be changed, such as a file.
    ReadOnly,
    /// The cursor is not one of this store for this query.
    InvalidCursor,
    /// The store could not be reached, or did not answer.
    Unavailable,
    /// The store returned a malformed record.
    Corrupt,
}

impl StoreError {
    /// Creates an error for a record to create that exists already.
    pub fn already_exists() -> Self {
        Self::without_source(StoreErrorKind::AlreadyExists)
    }

    /// Creates an error for a record to update that was changed by somebody else, or is gone.
    pub fn conflict() -> Self {
        Self::without_source(StoreErrorKind::Conflict)
    }

    /// Creates an error for a change that would exceed a cap on the keys or endpoints of an account.
    pub fn cap_reached() -> Self {
        Self::without_source(StoreErrorKind::CapReached)
    }

    /// Creates an error for an operation that the store does not support, or a field of a record
    /// that it cannot keep.
    ///
    /// The source tells what was refused, and what to do instead.
    pub fn refused(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::Refused,
            source: Some(source.into().into()),
        }
    }

    /// Creates an error for a key in a place that cannot be changed. The source tells the place.
    pub fn read_only(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::ReadOnly,
            source: Some(source.into().into()),
        }
    }

    /// Creates an error for a cursor that is not one of this store for this query.
    pub fn invalid_cursor() -> Self {
        Self::without_source(StoreErrorKind::InvalidCursor)
    }

    /// Creates an error for a store that could not be reached, or did not answer.
    ///
    /// The source is logged: remove connection strings from it.
    pub fn unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::Unavailable,
            source: Some(source.into().into()),
        }
    }

    /// Creates an error for a malformed record.
    ///
    /// The source is logged: name the column in it, not the content.
    pub fn corrupt(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self {
            kind: StoreErrorKind::Corrupt,
            source: Some(source.into().into()),
        }
    }

    /// Returns the kind of the error.
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
            StoreErrorKind::CapReached => "the account has as many as it may have",
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
