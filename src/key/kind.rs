//! The kinds of keys: secret ones, and ones that may stand in a browser.

use std::fmt;

/// The kind of a key, which the format that it is written in says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KeyKind {
    /// A secret of a server: whoever holds it is the application.
    Secret,
    /// A key that anybody may read, such as one in a web page or an app. It holds only scopes that
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
