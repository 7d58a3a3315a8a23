//! The environment of a key, which keeps test keys out of production.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

/// The environment of a key, such as `live` or `test`.
///
/// The name is 1 to 32 lower-case ASCII letters, digits, `-` and `_`.
///
/// ```
/// use tower_api_key::Environment;
///
/// const STAGING: Environment = Environment::from_static("staging");
/// assert_eq!("staging".parse::<Environment>()?, STAGING);
/// assert!("Live!".parse::<Environment>().is_err());
/// # Ok::<(), tower_api_key::key::EnvironmentError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Environment(Cow<'static, str>);

impl Environment {
    /// Production: the default of keys and of layers.
    pub const LIVE: Self = Self::from_static("live");
    /// For callers who experiment.
    pub const TEST: Self = Self::from_static("test");

    /// Creates an environment from a name that is known at compile time.
    ///
    /// # Panics
    /// If the name is not valid; in a `const` that is a compile error.
    pub const fn from_static(name: &'static str) -> Self {
        assert!(
            is_valid(name),
            "an environment is 1 to 32 of a-z, 0-9, '-' and '_'"
        );
        Self(Cow::Borrowed(name))
    }

    /// Returns the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Environment {
    type Err = EnvironmentError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if is_valid(name) {
            Ok(Self(Cow::Owned(name.to_owned())))
        } else {
            Err(EnvironmentError(name.to_owned()))
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error for a name that is not 1 to 32 of `a-z`, `0-9`, `-` and `_`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an environment: use 1 to 32 of a-z, 0-9, '-' and '_'")]
pub struct EnvironmentError(String);

const fn is_valid(name: &str) -> bool {
    let name = name.as_bytes();
    let mut at = 0;
    while at < name.len() {
        if !matches!(name[at], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_') {
            return false;
        }
        at += 1;
    }
    !name.is_empty() && name.len() <= 32
}
