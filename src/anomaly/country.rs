//! Countries, as codes of two characters.

use std::fmt;
use std::str::FromStr;

/// A country: a code of two letters, such as `DE` (ISO 3166-1 alpha-2), or a code of two letters
/// and digits that a source of countries adds, such as `T1` for Tor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Country([u8; 2]);

/// An error for a text that is no country.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no country: use a code of two letters, such as \"DE\"")]
pub struct CountryError(String);

impl Country {
    /// Creates a country from its code, in upper or lower case.
    ///
    /// ```
    /// use tower_api_key::anomaly::Country;
    ///
    /// assert_eq!(Country::new("de")?.as_str(), "DE");
    /// assert!(Country::new("Germany").is_err());
    /// # Ok::<(), tower_api_key::anomaly::CountryError>(())
    /// ```
    pub fn new(code: &str) -> Result<Self, CountryError> {
        match code.as_bytes() {
            [first, second] if first.is_ascii_alphabetic() && second.is_ascii_alphanumeric() => Ok(
                Self([*first, *second].map(|byte| byte.to_ascii_uppercase())),
            ),
            _ => Err(CountryError(code.chars().take(32).collect())),
        }
    }

    /// Returns the code, in upper case.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default() // it is ASCII
    }

    pub(super) const fn to_bytes(self) -> [u8; 2] {
        self.0
    }
}

impl FromStr for Country {
    type Err = CountryError;

    fn from_str(code: &str) -> Result<Self, Self::Err> {
        Self::new(code)
    }
}

impl fmt::Display for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Country {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Country({self})")
    }
}
