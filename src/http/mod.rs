//! Requests and answers, without tower: what is read from the one, and what is written into the
//! other.

pub(crate) mod api_error;
pub(crate) mod browser;
pub(crate) mod caller;
pub(crate) mod carriers;
pub(crate) mod client_address;
pub(crate) mod credential;
pub(crate) mod framework;
pub(crate) mod rejection;
pub(crate) mod render;
pub(crate) mod request_head;

/// Takes away HTTP's optional white space around a text: spaces and tabs, and nothing else.
pub(crate) fn trim(bytes: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(is_text).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}
