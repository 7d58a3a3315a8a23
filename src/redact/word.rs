//! Words before a credential: the schemes of `Authorization`, and names of headers and parameters.

use crate::redact::escape;
use crate::redact::shape::is_boundary;

/// The maximum number of bytes between a word and the credential: three colours, and more.
const GAP: usize = 96;
/// The maximum length of a scheme or a parameter that is not known.
const SCHEME: usize = 24;
/// The maximum length of a name that is added; of a longer one, the end counts.
const NAME: usize = 64;
/// What may stand in a gap and has letters or digits in it.
const IN_GAP: [&[u8]; 6] = [
    b"Some(", b"String(", b"&quot;", b"&#34;", b"&#39;", b"&#x27;",
];

/// The word before a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// A scheme, or the parameter `key`, which may stand in prose, too.
    Scheme,
    /// The name of a header or a field, with its `:` or `=`.
    Name,
}

/// The words that announce a credential: the known ones, and names that are added.
#[derive(Clone)]
pub(super) struct Words {
    names: Vec<Box<[u8]>>,
    /// For each byte, whether it ends a word.
    ends: [bool; 256],
}

/// The text between a word and the credential.
struct Gap {
    start: usize,
    /// Whether the gap has a `:` or `=`.
    assigns: bool,
    /// Whether the gap has nothing but blanks and colours.
    is_blank: bool,
    /// Whether the gap has nothing but these and `:`.
    is_plain: bool,
}

impl Words {
    pub(super) fn new() -> Self {
        let mut words = Self {
            names: Vec::new(),
            ends: [false; 256],
        };
        for byte in *b"yYnNrRcC" {
            words.ends[usize::from(byte)] = true;
        }
        words
    }

    /// Adds the name of a header, a field or a parameter. An empty one adds nothing.
    pub(super) fn add_name(&mut self, name: &str) {
        let name = name.as_bytes();
        let name = &name[name.len().saturating_sub(NAME)..];
        let Some(last) = name.last() else { return };
        for byte in [last.to_ascii_lowercase(), last.to_ascii_uppercase()] {
            self.ends[usize::from(byte)] = true;
        }
        self.names.push(name.into());
    }

    /// Returns the word before a place of a text. `is_named` tells that the whole text is the value
    /// of a field whose name announces a credential.
    pub(super) fn before(&self, text: &[u8], at: usize, is_named: bool) -> Option<Word> {
        let gap = Gap::before(text, at);
        if gap.start == 0 {
            return is_named.then_some(Word::Name);
        }
        if gap.start == at {
            return None;
        }
        let text = &text[..gap.start];
        // Nearly all words differ in their last letter already.
        let may_be_word = text.last().is_some_and(|it| self.ends[usize::from(*it)]);
        if !may_be_word && !gap.is_blank {
            return None;
        }
        if gap.assigns && self.names_credential(text) {
            let is_module = gap.is_plain && ends_longer_name(text);
            return Some(if is_module { Word::Scheme } else { Word::Name });
        }
        if gap.assigns && is_parameter_key(text) {
            return Some(Word::Scheme);
        }
        let is_in_header = if gap.is_blank {
            is_in_authorization(text, is_named)
        } else {
            gap.assigns && is_parameter_token(text, is_named)
        };
        if is_in_header {
            return Some(Word::Name);
        }
        is_scheme(text).then_some(Word::Scheme)
    }

    /// Returns whether a text ends with a name that announces a credential: `authorization`, all
    /// that end with `api key` in one word, and the names that were added.
    pub(super) fn names_credential(&self, text: &[u8]) -> bool {
        let is_name = |name: &[u8]| {
            let at = text.len().checked_sub(name.len());
            at.is_some_and(|at| is_same_name(&text[at..], name) && is_boundary(text, at))
        };
        names_api_key(text)
            || names_authorization(text)
            || self.names.iter().any(|name| is_name(name))
    }
}

impl Gap {
    fn before(text: &[u8], at: usize) -> Self {
        let mut gap = Self {
            start: at,
            assigns: false,
            is_blank: true,
            is_plain: true,
        };
        while at - gap.start < GAP {
            let rest = &text[..gap.start];
            if let Some(length) = opening(rest, text[gap.start..].first()) {
                (gap.is_blank, gap.is_plain) = (false, false);
                gap.start -= length;
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
                b':' => (gap.assigns, gap.is_blank) = (true, false),
                b'=' => (gap.assigns, gap.is_blank, gap.is_plain) = (true, false, false),
                b'"' | b'\'' | b'`' | b'<' | b'>' | b'[' | b'(' | b'\\' => {
                    (gap.is_blank, gap.is_plain) = (false, false);
                }
                _ => break,
            }
            gap.start -= length;
        }
        gap
    }
}

/// Returns the length of `Some(`, `&quot;` and the like at the end of a text, and of the `b` in
/// `b"…"`, where `next` is the quote or its backslash.
fn opening(text: &[u8], next: Option<&u8>) -> Option<usize> {
    match (text, next) {
        ([.., b'(' | b';'], _) => {
            let opening = IN_GAP.iter().find(|opening| text.ends_with(opening));
            opening.map(|opening| opening.len())
        }
        ([before @ .., b'b'], Some(b'"' | b'\'' | b'\\')) => {
            let is_inside = before.last().is_some_and(u8::is_ascii_alphanumeric);
            (!is_inside).then_some(1)
        }
        _ => None,
    }
}

/// Returns whether names are the same but for case, and for `-` instead of `_`.
fn is_same_name(one: &[u8], other: &[u8]) -> bool {
    let plain = |byte: &u8| match byte {
        b'_' => b'-',
        _ => byte.to_ascii_lowercase(),
    };
    one.iter().map(plain).eq(other.iter().map(plain))
}

/// Returns whether the name `api_key` at the end of a text is the end of a longer one, such as the
/// name of this crate, and not of `x_api_key`.
fn ends_longer_name(text: &[u8]) -> bool {
    let name = b"_api_key";
    if !ends_with(text, name) {
        return false;
    }
    match &text[..text.len() - name.len()] {
        [b'x' | b'X'] => false,
        [.., before, b'x' | b'X'] => before.is_ascii_alphanumeric(),
        before => before.last().is_some_and(u8::is_ascii_alphanumeric),
    }
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

/// Returns whether a text ends with `authorization: SCHEME token`, where a `=` follows; also with
/// longer names of the parameter, such as `oauth_token`.
fn is_parameter_token(text: &[u8], is_named: bool) -> bool {
    if !ends_with(text, b"token") {
        return false;
    }
    let is_letter = |byte: &&u8| byte.is_ascii_alphanumeric() || matches!(**byte, b'-' | b'_');
    let name = text.iter().rev().take(SCHEME).take_while(is_letter).count();
    let name = text.len() - name;
    let gap = Gap::before(text, name);
    gap.is_blank && gap.start < name && is_in_authorization(&text[..gap.start], is_named)
}

fn ends_with(text: &[u8], word: &[u8]) -> bool {
    let end = text.len().checked_sub(word.len()).map(|at| &text[at..]);
    end.is_some_and(|end| end.eq_ignore_ascii_case(word))
}
