//! Marks of events that are told once.

use std::fmt;

use sha2::{Digest, Sha256};

/// The mark of an event that is told once, such as the reminder of an expiry.
///
/// A store keeps the mark with the event, and leaves out further events with the same mark. So of
/// several processes that find the same fact, only the first one publishes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Once([u8; 16]);

impl Once {
    /// Creates the mark of a fact. Equal parts, in the same order, make the same mark.
    ///
    /// ```
    /// use tower_api_key::store::Once;
    ///
    /// let mark = Once::of(["acme.invoice_due", "acme", "2026-11"]);
    /// assert_ne!(mark, Once::of(["acme.invoice_due", "acme2026", "-11"]));
    /// ```
    pub fn of<'p>(parts: impl IntoIterator<Item = &'p str>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        let mut mark = [0; 16];
        mark.copy_from_slice(&hash.finalize()[..16]);
        Self(mark)
    }

    /// Returns the bytes, for stores.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// Prints 32 lower-case hexadecimal digits.
impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
