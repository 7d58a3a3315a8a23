//! Redaction of whole texts.

use std::borrow::Cow;
use std::string::FromUtf8Error;

use crate::redact::search::{REDACTED, Search};
use crate::redact::shape::Place;

/// Returns a text without its secrets. If `is_named`, the text is the value of a field whose name
/// announces a credential.
pub(super) fn redact<'t>(search: &Search, text: &'t str, is_named: bool) -> Cow<'t, str> {
    let Cow::Owned(safe) = redact_bytes(search, text.as_bytes(), is_named) else {
        return Cow::Borrowed(text);
    };
    // Secrets are of ASCII characters, so what is left is UTF-8.
    let lossy = |error: FromUtf8Error| String::from_utf8_lossy(error.as_bytes()).into_owned();
    Cow::Owned(String::from_utf8(safe).unwrap_or_else(lossy))
}

/// Returns bytes without the secrets in them.
pub(super) fn redact_bytes<'t>(search: &Search, text: &'t [u8], is_named: bool) -> Cow<'t, [u8]> {
    let mut place = Place::START;
    let mut safe = Vec::new();
    while let Some(secret) = search.next_secret(text, &place, is_named) {
        if safe.is_empty() {
            safe.reserve(text.len());
        }
        safe.extend_from_slice(&text[place.at..secret.start]);
        safe.extend_from_slice(REDACTED.as_bytes());
        place = secret.behind();
    }
    if safe.is_empty() {
        return Cow::Borrowed(text);
    }
    safe.extend_from_slice(&text[place.at..]);
    Cow::Owned(safe)
}
