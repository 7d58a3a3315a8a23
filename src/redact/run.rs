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

/// Characters of a run at the start of a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Count {
    pub(super) characters: usize,
    /// The number of bytes in the text.
    pub(super) length: usize,
    /// Whether the text ends, so that more characters may follow in more text.
    pub(super) is_cut: bool,
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
        Self::padded(Alphabet::ALPHANUMERIC.and(Alphabet::from_static("-._~+/")));
    /// Base64 in both alphabets, also with escapes in it.
    pub(super) const BASE64: Self =
        Self::padded(Alphabet::ALPHANUMERIC.and(Alphabet::from_static("-_+/")));
    /// The padding of a token of which a part is redacted already.
    const PADDING: Self = Self {
        characters: Alphabet::from_static(""),
        is_encoded: false,
        is_padded: true,
    };

    const fn padded(characters: Alphabet) -> Self {
        Self {
            is_padded: true,
            ..Self::encoded(characters)
        }
    }

    /// Creates a run of characters and of their escapes, without padding.
    pub(super) const fn encoded(characters: Alphabet) -> Self {
        Self {
            is_encoded: true,
            ..Self::of(characters)
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

    /// Returns the run that goes on with all that either run goes on with.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            characters: self.characters.and(other.characters),
            is_encoded: self.is_encoded || other.is_encoded,
            is_padded: self.is_padded || other.is_padded,
        }
    }

    pub(super) fn contains(self, byte: u8) -> bool {
        self.characters.contains(byte)
    }

    /// Reads a character of the run at the start of a text, and returns its length there.
    pub(super) fn read(self, text: &[u8]) -> Read<usize> {
        let Some(first) = text.first() else {
            return Read::Cut;
        };
        if self.contains(*first) {
            return Read::Whole(1);
        }
        if !self.is_encoded {
            return Read::No;
        }
        match escape::read(text) {
            Read::Whole(escape) if self.may_be(escape.character) => Read::Whole(escape.length),
            Read::Cut => Read::Cut,
            Read::Whole(_) | Read::No => Read::No,
        }
    }

    /// Counts characters at the start of a text, and no more than `most`.
    pub(super) fn count(self, text: &[u8], most: usize) -> Count {
        let mut count = Count {
            characters: 0,
            length: 0,
            is_cut: false,
        };
        while count.characters < most {
            match self.read(&text[count.length..]) {
                Read::Whole(length) => count.length += length,
                read => {
                    count.is_cut = read == Read::Cut;
                    break;
                }
            }
            count.characters += 1;
        }
        count
    }

    /// Returns the end of the run that begins at a place of a text.
    pub(super) fn end(self, text: &[u8], begin: usize) -> End {
        let mut at = begin;
        loop {
            match self.read(&text[at..]) {
                Read::Whole(length) => at += length,
                Read::Cut => {
                    return End {
                        characters: at,
                        at,
                        is_open: true,
                    };
                }
                Read::No => break,
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
        escaped.is_some_and(|byte| self.is_padded && byte == b'=' || self.contains(byte))
    }

    /// Returns what goes on with this run after its end so far.
    pub(super) fn after(self, end: End) -> Self {
        if end.characters < end.at {
            return Self::PADDING;
        }
        self
    }
}
