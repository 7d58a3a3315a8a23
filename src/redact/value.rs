//! Credentials that are told by the word before them: how they look.

use crate::redact::escape;
use crate::redact::run::Run;

/// The maximum length of the name of a scheme that signs requests.
const SIGNING_SCHEME: usize = 24;
/// The number of characters of a credential that are searched for signs of randomness.
pub(super) const SIGNS: usize = 64;

/// Returns whether a character may be in a token.
pub(super) fn is_token(byte: u8) -> bool {
    Run::TOKEN.contains(byte)
}

/// Returns whether a character after this text goes on with a token.
fn is_inside_token(text: &[u8]) -> bool {
    match escape::ending(text) {
        Some(escape) => escape.character.is_some_and(is_token),
        None => text.last().is_some_and(|byte| is_token(*byte)),
    }
}

/// Returns whether a place is within a token or an escape.
pub(super) fn is_inside(text: &[u8], at: usize) -> bool {
    is_inside_token(&text[..at]) || escape::is_inside(text, at)
}

/// Returns whether a credential looks random rather than like a word: it has a digit, or an upper
/// case letter after its first character.
pub(super) fn is_random(value: &[u8]) -> bool {
    let mut near = value.iter().take(SIGNS).enumerate();
    near.any(|(at, byte)| byte.is_ascii_digit() || at > 0 && byte.is_ascii_uppercase())
}

/// Returns whether a token is the name of a scheme that signs requests, such as `AWS4-HMAC-SHA256`.
pub(super) fn is_signing_scheme(value: &[u8]) -> bool {
    let ends = [&b"-SHA256"[..], b"-SHA384", b"-SHA512"];
    may_be_signing_scheme(value) && ends.iter().any(|end| value.ends_with(end))
}

/// Returns whether a token is the name of such a scheme, or the beginning of one.
pub(super) fn may_be_signing_scheme(value: &[u8]) -> bool {
    let is_in_name =
        |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'-';
    value.len() <= SIGNING_SCHEME && value.iter().all(is_in_name)
}
