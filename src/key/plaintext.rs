//! The plaintext of a key. [`PlaintextKey::expose_secret`] is the only access to it.

use std::fmt;

use zeroize::Zeroizing;

/// The plaintext of an API key, for its owner and nobody else.
///
/// `Debug` prints no character of the key, there is no `Display`, and the memory is wiped on drop.
///
/// ```
/// use tower_api_key::PlaintextKey;
///
/// let key = PlaintextKey::from("sk_live_correct-horse".to_owned());
/// assert_eq!(key.expose_secret(), "sk_live_correct-horse");
/// assert_eq!(format!("{key:?}"), "PlaintextKey([REDACTED])");
/// ```
pub struct PlaintextKey(Zeroizing<String>);

impl PlaintextKey {
    /// Returns the key. Show it to its owner once; do not log it, and do not store it.
    pub fn expose_secret(&self) -> &str {
        &self.0
    }
}

impl From<String> for PlaintextKey {
    fn from(plaintext: String) -> Self {
        Self(Zeroizing::new(plaintext))
    }
}

impl fmt::Debug for PlaintextKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlaintextKey([REDACTED])")
    }
}
