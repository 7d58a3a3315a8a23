//! The kinds of keys: secret and publishable.

use std::fmt;

/// The kind of a key, which depends on its format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// A secret of a server: its holder acts as the application.
    Secret,
    /// A key that anybody may read, for example in a web page or an app. It has only scopes that
    /// the application [declared publishable](crate::ApiKeysBuilder::publishable_scopes).
    Publishable,
}

impl KeyKind {
    /// Returns `secret` or `publishable`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::Publishable => "publishable",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
