//! Characters of tokens: token68 (RFC 9110 §11.2).

/// Returns whether a byte can continue a token: token68 (RFC 9110 §11.2) without its padding.
/// Padding ends a token, so that the value of a parameter (`key=KEY`) begins a new one.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_connector(byte)
}

pub(super) fn is_connector(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
}
