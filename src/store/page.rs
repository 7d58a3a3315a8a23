//! Keyset pagination.

/// The position and size of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    after: Option<Cursor>,
    limit: u32,
}

impl Paging {
    /// The maximum number of items on a page.
    pub const MOST: u32 = 1_000;

    /// Reads the first page, with at most `limit` items. `limit` is clamped to 1 through
    /// [`MOST`](Self::MOST).
    pub fn first(limit: u32) -> Self {
        Self {
            after: None,
            limit: limit.clamp(1, Self::MOST),
        }
    }

    /// Reads the page after a cursor.
    #[must_use]
    pub fn after(mut self, cursor: impl Into<Option<Cursor>>) -> Self {
        self.after = cursor.into();
        self
    }

    /// Returns the cursor: the [`next`](Page::next) of the previous page, or `None` for the first
    /// page.
    pub fn cursor(&self) -> Option<&Cursor> {
        self.after.as_ref()
    }

    /// Returns the maximum number of items to read, at least 1.
    pub fn limit(&self) -> u32 {
        self.limit
    }
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Page<T> {
    /// The items, in the order of the list. There may be fewer than requested, or none, even if
    /// more follow: a store examines only a limited number of records per page.
    pub items: Vec<T>,
    /// The cursor of the next page; `None` at the end of the list.
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Creates a page.
    pub fn new(items: Vec<T>, next: Option<Cursor>) -> Self {
        Self { items, next }
    }
}

/// A position in a list, a trail or a feed, in the store's own encoding.
///
/// A cursor may be given to clients: it contains no secret, and a store refuses a cursor that it
/// did not create for the same query with
/// [`InvalidCursor`](crate::store::StoreErrorKind::InvalidCursor).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Cursor(String);

impl Cursor {
    /// Creates a cursor from its text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
