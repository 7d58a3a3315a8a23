//! Runs of characters that are redacted as one.

use crate::key::Alphabet;
use crate::redact::escape::{self, Read};

/// A kind of run: the characters that go on with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    characters: Alphabet,
    /// Whether escapes of these characters go on with the run, too.
    is_encoded: bool,
    /// Whether any number of `=` may follow.
    is_padded: bool,
}

/// The end of a run in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// The end of its characters.
    pub(super) characters: usize,
    /// The end of the run, with its padding.
    pub(super) at: usize,
    /// Whether the text ends, so that the run may go on in more text.
    pub(super) is_open: bool,
}

impl Run {
    /// A token: token68 (RFC 9110 §11.2), also with escapes in it.
    pub(super) const TOKEN: Self =
        Self::encoded(Alphabet::ALPHANUMERIC.and(Alphabet::from_static("-._~+/")));
    /// Base64 in both alphabets, also with escapes in it.
    pub(super) const BASE64: Self =
        Self::encoded(Alphabet::ALPHANUMERIC.and(Alphabet::from_static("-_+/")));
    /// The padding of a token of which a part is redacted already.
    const PADDING: Self = Self {
        characters: Alphabet::from_static(""),
        is_encoded: false,
        is_padded: true,
    };

    const fn encoded(characters: Alphabet) -> Self {
        Self {
            characters,
            is_encoded: true,
            is_padded: true,
        }
    }

    /// Creates a run of characters, without escapes and padding.
    pub(super) const fn of(characters: Alphabet) -> Self {
        Self {
            characters,
            is_encoded: false,
            is_padded: false,
        }
    }

    /// Returns whether escapes of its characters go on with the run.
    pub(super) fn is_encoded(self) -> bool {
        self.is_encoded
    }

    pub(super) fn contains(self, byte: u8) -> bool {
        self.characters.contains(byte)
    }

    /// Returns the end of the run that begins at a place of a text.
    pub(super) fn end(self, text: &[u8], begin: usize) -> End {
        let mut at = begin;
        while let Some(byte) = text.get(at) {
            if self.contains(*byte) {
                at += 1;
                continue;
            }
            if !self.is_encoded {
                break;
            }
            match escape::read(&text[at..]) {
                Read::Whole(escape) if self.may_be(escape.character) => at += escape.length,
                Read::Cut => {
                    return End {
                        characters: at,
                        at,
                        is_open: true,
                    };
                }
                Read::Whole(_) | Read::No => break,
            }
        }
        let characters = at;
        if self.is_padded {
            at += text[at..].iter().take_while(|byte| **byte == b'=').count();
        }
        End {
            characters,
            at,
            is_open: at == text.len(),
        }
    }

    fn may_be(self, escaped: Option<u8>) -> bool {
        escaped.is_some_and(|byte| byte == b'=' || self.contains(byte))
    }

    /// Returns what goes on with this run after a part of it.
    pub(super) fn after(self, part: &[u8]) -> Self {
        if self.is_padded && part.last() == Some(&b'=') {
            return Self::PADDING;
        }
        self
    }
}
