//! Hexadecimal digits.

/// Returns the bytes as lower-case digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|nibble| char::from(DIGITS[usize::from(nibble)]))
        .collect()
}

/// Returns the bytes of lower-case digits; `None` if the text is something else.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let nibble = |character: u8| match character {
        b'0'..=b'9' => Some(character - b'0'),
        b'a'..=b'f' => Some(character - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    // With room for all from the beginning: digits may be a secret, and growing leaves copies.
    let mut bytes = Vec::with_capacity(pairs.len());
    for [high, low] in pairs {
        bytes.push(nibble(*high)? << 4 | nibble(*low)?);
    }
    Some(bytes)
}

/// Returns `N` bytes of lower-case digits; `None` if the text is something else.
pub(crate) fn unhex_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != 2 * N {
        return None;
    }
    unhex(text)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written_and_nothing_else_is() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        assert_eq!(unhex_array("00ff"), Some([0, 255]));
        for text in ["0", "0g", "+f", "FF", "0x", "ä"] {
            assert_eq!(unhex(text), None, "{text}");
        }
        assert_eq!(unhex_array::<2>("00"), None);
    }
}
