//! Cells: the values of columns, the same for all databases.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::key::digest::KeyId;
use crate::store::StoreError;

/// The value of a column. A null has a type, since `PostgreSQL` asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Integer(Option<i64>),
    Text(Option<String>),
    Bytes(Option<Vec<u8>>),
}

impl Cell {
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self::Text(Some(text.into()))
    }

    pub(super) fn optional_text(text: Option<impl Into<String>>) -> Self {
        Self::Text(text.map(Into::into))
    }

    pub(super) fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Bytes(Some(bytes.into()))
    }

    pub(super) fn optional_bytes(bytes: Option<impl Into<Vec<u8>>>) -> Self {
        Self::Bytes(bytes.map(Into::into))
    }

    pub(super) fn id(id: KeyId) -> Self {
        Self::bytes(*id.as_bytes())
    }

    pub(super) fn optional_id(id: Option<KeyId>) -> Self {
        Self::optional_bytes(id.map(|id| *id.as_bytes()))
    }

    pub(super) fn integer(number: i64) -> Self {
        Self::Integer(Some(number))
    }

    /// Creates the cell of a count, which changes hold to at most 2⁶³ − 1.
    pub(super) fn count(count: u64) -> Self {
        Self::integer(i64::try_from(count).unwrap_or(i64::MAX))
    }

    /// Creates the cell of a time, in microseconds since 1970.
    pub(super) fn instant(at: SystemTime) -> Self {
        Self::integer(microseconds(at))
    }

    pub(super) fn optional_instant(at: Option<SystemTime>) -> Self {
        Self::Integer(at.map(microseconds))
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(
            self,
            Self::Integer(None) | Self::Text(None) | Self::Bytes(None)
        )
    }
}

/// Returns the microseconds since 1970. Changes hold times to the years 1970 to 9999.
pub(super) fn microseconds(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// A row of a result, whose cells are read from left to right.
///
/// Each read names the column, for the error if the cell has another type than it should have.
#[derive(Debug)]
pub(super) struct Row(std::vec::IntoIter<Cell>);

impl Row {
    pub(super) fn new(cells: Vec<Cell>) -> Self {
        Self(cells.into_iter())
    }

    /// Reads so many cells as they are.
    pub(super) fn take(&mut self, count: usize) -> Vec<Cell> {
        self.0.by_ref().take(count).collect()
    }

    pub(super) fn optional_integer(
        &mut self,
        column: &'static str,
    ) -> Result<Option<i64>, StoreError> {
        match self.0.next() {
            Some(Cell::Integer(number)) => Ok(number),
            Some(cell) if cell.is_null() => Ok(None),
            _ => Err(corrupt(column)),
        }
    }

    pub(super) fn integer(&mut self, column: &'static str) -> Result<i64, StoreError> {
        self.optional_integer(column)?
            .ok_or_else(|| corrupt(column))
    }

    pub(super) fn count(&mut self, column: &'static str) -> Result<u64, StoreError> {
        u64::try_from(self.integer(column)?).map_err(|_| corrupt(column))
    }

    pub(super) fn optional_text(
        &mut self,
        column: &'static str,
    ) -> Result<Option<String>, StoreError> {
        match self.0.next() {
            Some(Cell::Text(text)) => Ok(text),
            Some(cell) if cell.is_null() => Ok(None),
            _ => Err(corrupt(column)),
        }
    }

    pub(super) fn text(&mut self, column: &'static str) -> Result<String, StoreError> {
        self.optional_text(column)?.ok_or_else(|| corrupt(column))
    }

    /// Reads bytes of any number.
    pub(super) fn any_bytes(&mut self, column: &'static str) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Cell::Bytes(Some(bytes))) => Ok(bytes),
            _ => Err(corrupt(column)),
        }
    }

    pub(super) fn optional_bytes<const N: usize>(
        &mut self,
        column: &'static str,
    ) -> Result<Option<[u8; N]>, StoreError> {
        let bytes = match self.0.next() {
            Some(Cell::Bytes(bytes)) => bytes,
            Some(cell) if cell.is_null() => None,
            _ => return Err(corrupt(column)),
        };
        let sized = bytes.map(<[u8; N]>::try_from).transpose();
        sized.map_err(|_| corrupt(column))
    }

    pub(super) fn bytes<const N: usize>(
        &mut self,
        column: &'static str,
    ) -> Result<[u8; N], StoreError> {
        self.optional_bytes(column)?.ok_or_else(|| corrupt(column))
    }

    pub(super) fn optional_id(
        &mut self,
        column: &'static str,
    ) -> Result<Option<KeyId>, StoreError> {
        Ok(self.optional_bytes(column)?.map(KeyId::from_bytes))
    }

    pub(super) fn id(&mut self, column: &'static str) -> Result<KeyId, StoreError> {
        self.bytes(column).map(KeyId::from_bytes)
    }

    pub(super) fn optional_instant(
        &mut self,
        column: &'static str,
    ) -> Result<Option<SystemTime>, StoreError> {
        let Some(microseconds) = self.optional_integer(column)? else {
            return Ok(None);
        };
        let since = u64::try_from(microseconds).map_err(|_| corrupt(column))?;
        Ok(Some(UNIX_EPOCH + Duration::from_micros(since)))
    }

    pub(super) fn instant(&mut self, column: &'static str) -> Result<SystemTime, StoreError> {
        self.optional_instant(column)?
            .ok_or_else(|| corrupt(column))
    }
}

/// Creates the error for a column whose content cannot be read. The content is left out.
pub(super) fn corrupt(column: &'static str) -> StoreError {
    StoreError::corrupt(format!("the column {column} cannot be read"))
}
