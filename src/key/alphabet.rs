//! Alphabets of imported keys.

use std::fmt;

/// The set of characters in the keys of an imported format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alphabet(u128);

impl Alphabet {
    /// Lower-case hexadecimal digits.
    pub const HEX: Self = Self::from_static("0123456789abcdef");
    /// Lower-case hexadecimal digits and `-`.
    pub const UUID: Self = Self::from_static("0123456789abcdef-");
    /// Letters and digits.
    pub const ALPHANUMERIC: Self =
        Self::from_static("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz");
    /// Letters, digits, `-` and `_`: unpadded base64 for URLs.
    pub const BASE64URL: Self =
        Self::from_static("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_");

    /// Creates an alphabet of visible ASCII characters.
    ///
    /// # Panics
    /// If a character is not visible ASCII; in a `const` that is a compile error.
    pub const fn from_static(characters: &'static str) -> Self {
        let characters = characters.as_bytes();
        let mut set = 0;
        let mut at = 0;
        while at < characters.len() {
            assert!(
                characters[at].is_ascii_graphic(),
                "an alphabet is made of visible ASCII characters"
            );
            set |= 1 << characters[at];
            at += 1;
        }
        Self(set)
    }

    /// Returns the characters of both alphabets.
    pub(crate) const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(crate) fn contains(self, byte: u8) -> bool {
        byte < 128 && self.0 >> byte & 1 == 1
    }

    /// Returns the characters in the order of ASCII.
    pub(super) fn characters(self) -> impl Iterator<Item = u8> + Clone {
        (0..128u8).filter(move |byte| self.contains(*byte))
    }

    /// Returns whether the alphabets have a character in common.
    pub(super) fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) fn bits_per_character(self) -> f64 {
        f64::from(self.0.count_ones()).log2().max(0.0)
    }
}

impl fmt::Debug for Alphabet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let characters: String = self.characters().map(char::from).collect();
        f.debug_tuple("Alphabet").field(&characters).finish()
    }
}
