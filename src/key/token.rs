//! Characters of tokens: token68 (RFC 9110 §11.2).

/// Returns whether a token may go on with a byte: token68 (RFC 9110 §11.2) without its padding,
/// which ends a token, so that a parameter's value (`key=KEY`) begins one.
pub(super) fn is_of_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || is_connector(byte)
}

pub(super) fn is_connector(byte: u8) -> bool {
    matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'/')
}
