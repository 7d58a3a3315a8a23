//! The chain of the trail: hashes that an edit of the trail or of a key breaks.
//!
//! Each record of the trail is hashed with the hash of the record before it, and with the state
//! that the key had afterwards. Keys are chained one by one, so that changes of different keys do
//! not wait for each other; an update of a key compares its version, so that its chain cannot fork.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::cell::Cell;
use crate::key::digest::KeyId;
use crate::store::AuditKey;

/// A hash of the chain.
pub(super) type Link = [u8; 32];

/// The predecessor of a record whose key was edited behind the trail. No record has this hash, so
/// the chain stays broken for all to see, while the key can be changed, and revoked.
pub(super) const BROKEN: Link = [0xff; 32];

/// The hash of the chain: HMAC-SHA-256 under the audit key, or SHA-256 without one.
enum Hasher {
    Keyed(Box<Hmac<Sha256>>),
    Plain(Sha256),
}

impl Hasher {
    fn new(key: Option<&AuditKey>, what: &str) -> Self {
        let mut hasher = match key {
            None => Self::Plain(Sha256::new()),
            Some(key) => Self::Keyed(Box::new(
                Hmac::new_from_slice(key.expose_secret()).expect("HMAC takes keys of any length"),
            )),
        };
        hasher.add(what.as_bytes());
        hasher
    }

    /// Adds bytes with their length, which separates them from the next ones.
    fn add(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_be_bytes();
        for part in [&length[..], bytes] {
            match self {
                Self::Keyed(hmac) => hmac.update(part),
                Self::Plain(sha256) => sha256.update(part),
            }
        }
    }

    fn add_cells<'c>(&mut self, cells: impl Iterator<Item = (&'c str, &'c Cell)>) {
        for (column, cell) in cells.filter(|(_, cell)| !cell.is_null()) {
            self.add(column.as_bytes());
            match cell {
                Cell::Integer(number) => self.add(&number.unwrap_or_default().to_be_bytes()),
                Cell::Text(text) => self.add(text.as_deref().unwrap_or_default().as_bytes()),
                Cell::Bytes(bytes) => self.add(bytes.as_deref().unwrap_or_default()),
            }
        }
    }

    fn finish(self) -> Link {
        match self {
            Self::Keyed(hmac) => hmac.finalize().into_bytes().into(),
            Self::Plain(sha256) => sha256.finalize().into(),
        }
    }
}

/// Hashes the state of a key: its columns and their cells.
pub(super) fn state(key: Option<&AuditKey>, columns: &[&str], cells: &[Cell]) -> Link {
    let mut hasher = Hasher::new(key, "state");
    hasher.add_cells(columns.iter().copied().zip(cells));
    hasher.finish()
}

/// Returns the state of a key that was deleted.
pub(super) fn gone(key: Option<&AuditKey>) -> Link {
    state(key, &[], &[])
}

/// Hashes a record of the trail, with the hash of the one before it.
pub(super) fn link(
    key: Option<&AuditKey>,
    previous: Option<&Link>,
    columns: &[&str],
    cells: &[Cell],
) -> Link {
    let mut hasher = Hasher::new(key, "trail");
    hasher.add(previous.map_or(&[], |link| &link[..]));
    hasher.add_cells(columns.iter().copied().zip(cells));
    hasher.finish()
}

/// Seals what a purge leaves of a trail: the last version and hash that were dropped.
pub(super) fn seal(
    key: Option<&AuditKey>,
    id: KeyId,
    version: u64,
    digest: &Link,
    at: i64,
) -> Link {
    let mut hasher = Hasher::new(key, "stub");
    hasher.add(id.as_bytes());
    hasher.add(&version.to_be_bytes());
    hasher.add(digest);
    hasher.add(&at.to_be_bytes());
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell() -> impl Strategy<Value = Cell> {
        prop_oneof![
            any::<Option<i64>>().prop_map(Cell::Integer),
            any::<Option<String>>().prop_map(Cell::Text),
            any::<Option<Vec<u8>>>().prop_map(Cell::Bytes),
        ]
    }

    proptest! {
        /// No two rows have the same hash, unless they differ in nulls only.
        #[test]
        fn rows_that_differ_have_other_hashes(
            one in prop::collection::vec(cell(), 3),
            other in prop::collection::vec(cell(), 3),
        ) {
            let columns = ["a", "b", "ab"];
            let hash = |cells: &[Cell]| state(None, &columns, cells);
            let is_same = one.iter().zip(&other).all(|(one, other)| {
                one == other || (one.is_null() && other.is_null())
            });
            prop_assert_eq!(hash(&one) == hash(&other), is_same || bytes(&one) == bytes(&other));
        }
    }

    /// Returns the bytes that are hashed, without their types.
    fn bytes(cells: &[Cell]) -> Vec<Option<Vec<u8>>> {
        let bytes = |cell: &Cell| match cell {
            Cell::Integer(number) => number.map(|number| number.to_be_bytes().to_vec()),
            Cell::Text(text) => text.clone().map(String::into_bytes),
            Cell::Bytes(bytes) => bytes.clone(),
        };
        cells.iter().map(bytes).collect()
    }

    #[test]
    fn texts_that_are_moved_between_columns_change_the_hash() {
        let hash = |columns: &[&str], cells: &[&str]| {
            let cells: Vec<Cell> = cells.iter().map(|text| Cell::text(*text)).collect();
            link(None, None, columns, &cells)
        };
        assert_ne!(
            hash(&["a", "b"], &["xy", ""]),
            hash(&["a", "b"], &["x", "y"])
        );
        assert_ne!(
            hash(&["a", "b"], &["x", "y"]),
            hash(&["b", "a"], &["x", "y"])
        );
        assert_ne!(hash(&["ab"], &["x"]), hash(&["a"], &["bx"]));
    }

    #[test]
    fn each_kind_of_hash_depends_on_the_key() {
        let keys = [
            None,
            Some(AuditKey::new(&[1; 32]).unwrap()),
            Some(AuditKey::new(&[2; 32]).unwrap()),
        ];
        let id = KeyId::from_bytes([7; 16]);
        let mut hashes = Vec::new();
        for key in &keys {
            let key = key.as_ref();
            let cells = [Cell::text("x")];
            hashes.push(state(key, &["a"], &cells));
            hashes.push(link(key, None, &["a"], &cells));
            hashes.push(link(key, Some(&[0; 32]), &["a"], &cells));
            hashes.push(seal(key, id, 1, &[0; 32], 1));
            hashes.push(seal(key, id, 2, &[0; 32], 1));
        }
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
    }
}
