//! Unique ids of changes.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// The id of a [`Change`](crate::store::Change).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChangeId([u8; 16]);

impl ChangeId {
    /// Creates an id that no process creates a second time.
    pub(crate) fn unique() -> Self {
        /// A random number per process. The standard library takes it from the operating system.
        static PROCESS: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(0_u64));
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed);
        let mut id = [0; 16];
        id[..8].copy_from_slice(&(*PROCESS ^ number).to_be_bytes());
        id[8..].copy_from_slice(&KEYS.hash_one(number).to_be_bytes());
        Self(id)
    }

    /// Creates an id from its bytes, for stores that read their trail.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes, for stores.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Prints 32 lower-case hexadecimal digits.
impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ChangeId({self})")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_change_has_a_unique_id() {
        let ids: HashSet<_> = (0..10_000).map(|_| ChangeId::unique()).collect();
        assert_eq!(ids.len(), 10_000);
    }
}
