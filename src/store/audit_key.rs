//! The key of the audit trail.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

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
/// let key = AuditKey::new(b"32 random bytes from a safe place")?;
/// assert_eq!(format!("{key:?}"), "AuditKey([REDACTED])");
/// # Ok::<(), tower_api_key::store::AuditKeyError>(())
/// ```
#[derive(Clone)]
pub struct AuditKey(Arc<Zeroizing<Vec<u8>>>);

/// An error for an audit key that is too short.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an audit key of {0} bytes can be guessed: use at least 32 random bytes")]
pub struct AuditKeyError(usize);

impl AuditKey {
    const SHORTEST: usize = 32;

    /// Creates an audit key from at least 32 random bytes.
    pub fn new(bytes: &[u8]) -> Result<Self, AuditKeyError> {
        if bytes.len() < Self::SHORTEST {
            return Err(AuditKeyError(bytes.len()));
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
