//! Words before a credential: the schemes of `Authorization`, and names of headers and parameters.

use crate::redact::escape;
use crate::redact::shape::is_boundary;

/// The maximum number of bytes between a word and the credential.
const GAP: usize = 48;
/// The maximum length of a scheme that is not known.
const SCHEME: usize = 24;

/// The word before a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A scheme, or the parameter `key`, which may stand in prose, too.
    Scheme,
    /// The name of a header or a field, with its `:` or `=`.
    Name,
}

/// The text between a word and the credential.
struct Gap {
    start: usize,
    /// Whether the gap has a `:` or `=`.
    assigns: bool,
    /// Whether the gap has nothing but blanks and colours.
    is_blank: bool,
}

impl Word {
    /// Returns the word before a place of a text. `is_named` tells that the whole text is the value
    /// of a field whose name announces a credential.
    pub(super) fn before(text: &[u8], at: usize, is_named: bool) -> Option<Self> {
        let gap = Gap::before(text, at);
        if gap.start == 0 {
            return is_named.then_some(Self::Name);
        }
        if gap.start == at {
            return None;
        }
        let text = &text[..gap.start];
        // Nearly all words differ in their last letter already.
        let may_be_word = matches!(
            text,
            [.., b'y' | b'Y' | b'n' | b'N' | b'r' | b'R' | b'c' | b'C']
        );
        if !may_be_word && !gap.is_blank {
            return None;
        }
        if gap.assigns && (names_api_key(text) || names_authorization(text)) {
            return Some(Self::Name);
        }
        if gap.assigns && is_parameter_key(text) {
            return Some(Self::Scheme);
        }
        if gap.is_blank && is_in_authorization(text, is_named) {
            return Some(Self::Name);
        }
        is_scheme(text).then_some(Self::Scheme)
    }
}

impl Gap {
    fn before(text: &[u8], at: usize) -> Self {
        let mut gap = Self {
            start: at,
            assigns: false,
            is_blank: true,
        };
        while at - gap.start < GAP {
            let rest = &text[..gap.start];
            if rest.ends_with(b"Some(") {
                gap.start -= "Some(".len();
                continue;
            }
            let (length, character) = match rest.last() {
                Some(last) if last.is_ascii_alphanumeric() => match escape::ending(rest) {
                    Some(escape) => (escape.length, escape.character.unwrap_or(b' ')),
                    None => break,
                },
                Some(last) => (1, *last),
                None => break,
            };
            match character {
                b' ' | b'\t' => {}
                b':' | b'=' => (gap.assigns, gap.is_blank) = (true, false),
                b'"' | b'\'' | b'`' | b'<' | b'>' | b'[' | b'\\' => gap.is_blank = false,
                _ => break,
            }
            gap.start -= length;
        }
        gap
    }
}

/// Returns whether the name of a field announces a credential: `authorization`, and all that end
/// with `api key` in one word.
pub(super) fn is_name(name: &str) -> bool {
    names_api_key(name.as_bytes()) || names_authorization(name.as_bytes())
}

fn names_api_key(text: &[u8]) -> bool {
    let forms = [&b"apikey"[..], b"api_key", b"api-key"];
    ends_with(text, b"key") && forms.iter().any(|form| ends_with(text, form))
}

fn names_authorization(text: &[u8]) -> bool {
    ends_with(text, b"authorization")
}

/// Returns whether a text ends with a scheme of `Authorization`.
fn is_scheme(text: &[u8]) -> bool {
    let schemes = [&b"bearer"[..], b"basic"];
    let scheme = schemes.iter().find(|scheme| ends_with(text, scheme));
    let is_word = |scheme: &&[u8]| is_boundary(text, text.len() - scheme.len());
    names_api_key(text) || scheme.is_some_and(is_word)
}

/// Returns whether a text ends with the parameter `key` of a query.
fn is_parameter_key(text: &[u8]) -> bool {
    let Some((before, name)) = text.split_last_chunk::<3>() else {
        return false;
    };
    let separators = [&b"?"[..], b"&", b"&amp;", b"%3F", b"%26"];
    let is_separated = || separators.iter().any(|it| ends_with(before, it));
    name.eq_ignore_ascii_case(b"key") && is_separated()
}

/// Returns whether a text ends with `authorization: SCHEME`, whatever the scheme.
fn is_in_authorization(text: &[u8], is_named: bool) -> bool {
    let is_letter = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'-' | b'_');
    let scheme = text.iter().rev().take(SCHEME).take_while(is_letter).count();
    let gap = Gap::before(text, text.len() - scheme);
    if gap.start == 0 {
        return is_named;
    }
    gap.assigns && names_authorization(&text[..gap.start])
}

fn ends_with(text: &[u8], word: &[u8]) -> bool {
    let end = text.len().checked_sub(word.len()).map(|at| &text[at..]);
    end.is_some_and(|end| end.eq_ignore_ascii_case(word))
}
