//! The facts that are read from a request: the credential, and the client's address.

pub(crate) mod basic;
pub(crate) mod client_address;
pub(crate) mod credential;
pub(crate) mod forwarded;
pub(crate) mod head;
pub(crate) mod query;

/// Takes away HTTP's optional white space around a text: spaces and tabs, and nothing else.
fn trim(bytes: &[u8]) -> &[u8] {
    let is_text = |byte: &u8| !matches!(byte, b' ' | b'\t');
    let start = bytes.iter().position(is_text).unwrap_or(bytes.len());
    let end = bytes
        .iter()
        .rposition(is_text)
        .map_or(start, |last| last + 1);
    &bytes[start..end]
}
