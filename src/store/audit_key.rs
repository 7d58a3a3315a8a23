//! The key of the audit trail.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::util::hex::unhex;

/// The secret key under which a store chains its audit trail.
///
/// Keep it outside of the database, such as in the environment or a secret manager. Whoever can
/// write the database but does not have the key cannot edit the trail, or a key behind it, without
/// being found by `verify_trail`. Without an audit key the chain is a plain hash, which finds
/// accidents, but no editor who knows this library.
///
/// ```
/// use tower_api_key::store::AuditKey;
///
/// // The output of `openssl rand -hex 32`.
/// let digits = "6d1f0e3c5b8a79421097a5c4e3f2d1b06d1f0e3c5b8a79421097a5c4e3f2d1b0";
/// let key = AuditKey::from_hex(digits)?;
/// assert_eq!(format!("{key:?}"), "AuditKey([REDACTED])");
/// # Ok::<(), tower_api_key::store::AuditKeyError>(())
/// ```
#[derive(Clone)]
pub struct AuditKey(Arc<Zeroizing<Vec<u8>>>);

/// An error for a text or bytes that are no audit key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AuditKeyError {
    /// The key has fewer than 32 bytes. The number is in the error.
    #[error("an audit key of {0} bytes can be guessed: use at least 32 random bytes")]
    TooShort(usize),
    /// The text has something else than pairs of hexadecimal digits.
    #[error("the audit key has something else than pairs of hexadecimal digits")]
    NotHexadecimal,
}

impl AuditKey {
    const SHORTEST: usize = 32;

    /// Creates an audit key from at least 64 hexadecimal digits, such as the output of
    /// `openssl rand -hex 32`. Blanks around them are ignored.
    ///
    /// The digits are decoded: [`new`](Self::new) with their bytes would be another key.
    ///
    /// # Errors
    /// If there are fewer digits, or something else.
    pub fn from_hex(digits: &str) -> Result<Self, AuditKeyError> {
        let digits = Zeroizing::new(digits.trim().to_ascii_lowercase());
        let bytes = unhex(&digits).map(Zeroizing::new);
        Self::new(&bytes.ok_or(AuditKeyError::NotHexadecimal)?)
    }

    /// Creates an audit key from at least 32 random bytes.
    ///
    /// # Errors
    /// If there are fewer.
    pub fn new(bytes: &[u8]) -> Result<Self, AuditKeyError> {
        if bytes.len() < Self::SHORTEST {
            return Err(AuditKeyError::TooShort(bytes.len()));
        }
        Ok(Self(Arc::new(Zeroizing::new(bytes.to_vec()))))
    }

    /// Returns the bytes, for stores.
    pub fn expose_secret(&self) -> &[u8] {
        &self.0
    }
}

/// Redacts the key.
impl fmt::Debug for AuditKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuditKey([REDACTED])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_decoded() {
        let key = AuditKey::from_hex(&format!(" {}\n", "aB".repeat(32))).unwrap();
        assert_eq!(key.expose_secret(), [0xab; 32]);
        let short = AuditKey::from_hex(&"ab".repeat(31));
        assert_eq!(short.unwrap_err(), AuditKeyError::TooShort(31));
        for text in ["", "abc", "32 random bytes from a safe place"] {
            assert!(AuditKey::from_hex(text).is_err(), "{text}");
        }
    }
}
