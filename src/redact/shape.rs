//! Shapes of secrets that begin with a lead: the keys of formats, and well-known ones.

use std::ops::Range;

use crate::key::format::{CLAIMING_LENGTH, KeyBody};
use crate::key::{Alphabet, KeyFormat};
use crate::redact::escape::{self, Read};
use crate::redact::run::Run;

/// Leads of secret, publishable and restricted keys, which many services issue.
const WELL_KNOWN: [&str; 6] = [
    "sk_live_", "sk_test_", "pk_live_", "pk_test_", "rk_live_", "rk_test_",
];
/// The lead of the secrets of webhooks (Standard Webhooks).
const WEBHOOK_SECRET: &str = "whsec_";
/// The maximum length of the body of a whole key, in bytes: with escapes in it, a key of 512
/// characters may be longer.
const LONGEST_BODY: usize = 1_000;

/// A secret in a text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Secret {
    pub(super) start: usize,
    pub(super) end: usize,
    /// What goes on with the secret in more text, if the text ends with it.
    pub(super) rest: Option<Run>,
}

impl Secret {
    /// Creates the secret that is a run from a place to its end.
    pub(super) fn run(text: &[u8], start: usize, run: Run) -> Self {
        let end = run.end(text, start);
        Self {
            start,
            end: end.at,
            rest: end.is_open.then(|| run.after(end)),
        }
    }

    /// Returns where the search goes on behind this secret.
    pub(super) fn behind(&self) -> Place {
        Place {
            at: self.end,
            last: self.start..self.end,
        }
    }
}

/// Where the search goes on.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// Secrets start here or later.
    pub(super) at: usize,
    /// The secret before, which may have the beginning of a lead in it.
    pub(super) last: Range<usize>,
}

impl Place {
    /// The start of a text.
    pub(super) const START: Self = Self { at: 0, last: 0..0 };
}

/// A shape: a lead, which stays visible, and a body.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    lead: Box<str>,
    /// The characters of a key after its lead.
    core: Run,
    /// The number of characters of `core` after a lead that cannot be an accident.
    least: usize,
    extent: Extent,
    /// The format, if its keys can be told from other text by their checksum or length.
    issued: Option<KeyFormat>,
}

/// The part of a text that is redacted after a lead.
#[derive(Debug, Clone, Copy)]
pub(super) enum Extent {
    /// All that looks like the rest of the key, even if it is too long or too short.
    Run(Run),
    /// A whole key of at most this length: its lead could begin any word.
    Whole(usize),
}

impl Shape {
    /// Creates the shape of a format's keys. A format without a lead has none.
    pub(super) fn of(format: &KeyFormat) -> Option<Self> {
        let last = format.lead().bytes().last()?;
        let KeyBody::Imported {
            alphabet, length, ..
        } = format.body()
        else {
            return Some(Self {
                issued: Some(format.clone()),
                ..Self::begun_by(format.lead(), Alphabet::ALPHANUMERIC)
            });
        };
        if last.is_ascii_alphanumeric() {
            return Some(Self {
                least: *length.start(),
                extent: Extent::Whole(*length.end()),
                ..Self::imported(format.lead(), *alphabet)
            });
        }
        Some(Self {
            least: CLAIMING_LENGTH.min(*length.start()),
            ..Self::imported(format.lead(), *alphabet)
        })
    }

    /// Returns the shapes of well-known secrets.
    pub(super) fn well_known() -> impl Iterator<Item = Self> {
        let keys = WELL_KNOWN.into_iter();
        let keys = keys.map(|lead| Self::begun_by(lead, Alphabet::ALPHANUMERIC));
        let webhooks = Self {
            core: Run::BASE64,
            extent: Extent::Run(Run::BASE64),
            ..Self::begun_by(WEBHOOK_SECRET, Alphabet::ALPHANUMERIC)
        };
        keys.chain([webhooks])
    }

    /// Creates the shape of imported keys. Their characters may be such that JSON or URLs escape.
    fn imported(lead: &str, alphabet: Alphabet) -> Self {
        let all = Run::encoded(alphabet.and(Alphabet::ALPHANUMERIC));
        Self {
            core: Run::encoded(alphabet),
            extent: Extent::Run(all),
            ..Self::begun_by(lead, alphabet)
        }
    }

    fn begun_by(lead: &str, core: Alphabet) -> Self {
        Self {
            lead: lead.into(),
            core: Run::of(core),
            least: CLAIMING_LENGTH,
            extent: Extent::Run(Run::of(core)),
            issued: None,
        }
    }

    pub(super) fn lead(&self) -> &str {
        &self.lead
    }

    /// Returns whether a character ends the lead.
    pub(super) fn ends_with(&self, byte: u8) -> bool {
        self.lead.as_bytes().last() == Some(&byte)
    }

    /// Returns whether a character may stand before the last one of the lead. An escape ends with
    /// its last hexadecimal digit, and a backslash may stand before all but letters and digits.
    pub(super) fn ends_but_one_with(&self, byte: u8) -> bool {
        let [.., one, last] = self.lead.as_bytes() else {
            return true;
        };
        let is_plain = one.is_ascii_alphanumeric();
        let digit = char::from(byte).to_digit(16);
        *one == byte
            || !is_plain && digit == Some(u32::from(one % 16))
            || !last.is_ascii_alphanumeric() && byte == b'\\'
    }

    /// Returns whether a character may be in a key after its lead.
    pub(super) fn contains(&self, byte: u8) -> bool {
        self.core.contains(byte)
    }

    /// Returns the minimum length of a body that is redacted.
    pub(super) fn least(&self) -> usize {
        self.least
    }

    /// Returns what goes on with a key that begins with the lead.
    pub(super) fn run(&self) -> Run {
        match self.extent {
            Extent::Run(run) => run,
            Extent::Whole(_) => self.core,
        }
    }

    /// Reads the lead at the start of a text, and returns its length there.
    pub(super) fn read_lead(&self, text: &[u8]) -> Read<usize> {
        let mut rest = text;
        for byte in self.lead.bytes() {
            match escape::read_character(rest, byte) {
                Read::Whole(length) => rest = &rest[length..],
                other => return other,
            }
        }
        Read::Whole(text.len() - rest.len())
    }

    /// Returns what is redacted after the lead that ends at a place of a text: a run, or a number of
    /// bytes. A lead that begins in `last`, the secret before it, needs no boundary. Takes the end of
    /// the text for the end of the secret.
    pub(super) fn extent_at(
        &self,
        text: &[u8],
        body: usize,
        last: &Range<usize>,
    ) -> Option<Extent> {
        let lead = self.lead_before(&text[..body])?;
        let is_word = last.contains(&lead) || is_boundary(text, lead);
        if !is_word && self.issued.is_none() {
            return None;
        }
        let rest = &text[body..];
        if self.read_body(rest) != Read::Whole(()) || !is_word && !self.whole_key(rest) {
            return None;
        }
        let Extent::Whole(most) = self.extent else {
            return Some(self.extent);
        };
        let near = &rest[..rest.len().min(LONGEST_BODY)];
        let key = self.core.count(near, most + 1);
        let is_over = !rest.get(key.length).is_some_and(u8::is_ascii_alphanumeric);
        (key.characters <= most && is_over).then_some(Extent::Whole(key.length))
    }

    /// Returns whether more text can make a secret of what is after the lead that ends at a place.
    pub(super) fn is_undecided(&self, text: &[u8], body: usize, last: &Range<usize>) -> bool {
        let Some(lead) = self.lead_before(&text[..body]) else {
            return false;
        };
        let rest = &text[body..];
        let is_word = last.contains(&lead) || is_boundary(text, lead);
        match (self.extent, &self.issued) {
            (Extent::Whole(most), _) => {
                is_word && rest.len() <= LONGEST_BODY && self.core.count(rest, most + 1).is_cut
            }
            (Extent::Run(_), _) if is_word => self.read_body(rest) == Read::Cut,
            (Extent::Run(_), Some(format)) => self.core.count(rest, format.issued_length()).is_cut,
            (Extent::Run(_), None) => false,
        }
    }

    /// Reads as many characters of a body as cannot be an accident.
    fn read_body(&self, text: &[u8]) -> Read<()> {
        let near = &text[..text.len().min(LONGEST_BODY)];
        let body = self.core.count(near, self.least);
        if body.characters == self.least {
            return Read::Whole(());
        }
        if body.is_cut { Read::Cut } else { Read::No }
    }

    /// Returns whether a text begins with the body of a whole key.
    fn whole_key(&self, text: &[u8]) -> bool {
        self.issued.as_ref().is_some_and(|format| {
            let body = text.get(..format.issued_length());
            body.is_some_and(|body| format.body_matches(body))
        })
    }

    /// Returns the start of the lead that a text ends with.
    fn lead_before(&self, text: &[u8]) -> Option<usize> {
        let mut rest = text;
        let mut bytes = self.lead.bytes().rev().peekable();
        while let Some(byte) = bytes.next() {
            rest = escape::before_character(rest, byte)?;
            // `\/` and the like, within the lead: before it, a backslash belongs to other text.
            let is_within = bytes.peek().is_some_and(|before| *before != b'\\');
            if is_within && !byte.is_ascii_alphanumeric() {
                rest = rest.strip_suffix(b"\\").unwrap_or(rest);
            }
        }
        Some(rest.len())
    }
}

/// Returns whether a word can begin at a place: after no letter or digit, or after an escape.
pub(super) fn is_boundary(text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    let is_inside = before.last().is_some_and(u8::is_ascii_alphanumeric);
    !is_inside || escape::ending(before).is_some()
}
