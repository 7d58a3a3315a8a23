//! Shapes of secrets that begin with a lead: the keys of formats, and well-known ones.

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
            rest: end.is_open.then(|| run.after(&text[start..end.at])),
        }
    }
}

/// A shape: a lead, which stays visible, and a body.
#[derive(Debug, Clone)]
pub(super) struct Shape {
    lead: Box<str>,
    /// The characters of a key after its lead.
    core: Alphabet,
    /// The number of characters of `core` after a lead that cannot be an accident.
    least: usize,
    extent: Extent,
    /// The format, if its keys can be told from other text by their checksum or length.
    issued: Option<KeyFormat>,
}

/// The part of a text that is redacted after a lead.
#[derive(Debug, Clone, Copy)]
enum Extent {
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
                ..Self::begun_by(format.lead(), *alphabet)
            });
        }
        Some(Self {
            least: CLAIMING_LENGTH.min(*length.start()),
            ..Self::begun_by(format.lead(), *alphabet)
        })
    }

    /// Returns the shapes of well-known secrets.
    pub(super) fn well_known() -> impl Iterator<Item = Self> {
        let keys = WELL_KNOWN.into_iter();
        let keys = keys.map(|lead| Self::begun_by(lead, Alphabet::ALPHANUMERIC));
        let webhooks = Self {
            core: Alphabet::ALPHANUMERIC.and(Alphabet::from_static("-_+/")),
            extent: Extent::Run(Run::BASE64),
            ..Self::begun_by(WEBHOOK_SECRET, Alphabet::ALPHANUMERIC)
        };
        keys.chain([webhooks])
    }

    fn begun_by(lead: &str, core: Alphabet) -> Self {
        Self {
            lead: lead.into(),
            core,
            least: CLAIMING_LENGTH,
            extent: Extent::Run(Run::of(core.and(Alphabet::ALPHANUMERIC))),
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

    /// Returns whether a character may stand before the last one of the lead. An underscore may be
    /// written as an escape, which ends with an `F`.
    pub(super) fn ends_but_one_with(&self, byte: u8) -> bool {
        match self.lead.as_bytes() {
            [.., b'_', _] => matches!(byte, b'_' | b'F' | b'f'),
            [.., one, _] => *one == byte,
            _ => true,
        }
    }

    /// Returns the characters of a key after its lead.
    pub(super) fn core(&self) -> Alphabet {
        self.core
    }

    /// Returns the minimum length of a body that is redacted.
    pub(super) fn least(&self) -> usize {
        self.least
    }

    /// Reads the lead at the start of a text, and returns its length there.
    pub(super) fn read_lead(&self, text: &[u8]) -> Read<usize> {
        let mut rest = text;
        for byte in self.lead.bytes() {
            if rest.is_empty() {
                return Read::Cut;
            }
            let length = match byte {
                b'_' => match escape::read_underscore(rest) {
                    Read::Whole(length) => length,
                    other => return other,
                },
                _ if rest[0] == byte => 1,
                _ => return Read::No,
            };
            rest = &rest[length..];
        }
        Read::Whole(text.len() - rest.len())
    }

    /// Returns the secret whose lead ends at a place of a text. Takes the end of the text for the
    /// end of the secret.
    pub(super) fn secret_at(&self, text: &[u8], body: usize) -> Option<Secret> {
        let lead = self.lead_before(&text[..body])?;
        if self.read_body(&text[body..]) != Read::Whole(()) {
            return None;
        }
        let is_whole = || self.whole_key(&text[body..]);
        if !is_boundary(text, lead) && !is_whole() {
            return None;
        }
        let most = match self.extent {
            Extent::Run(run) => return Some(Secret::run(text, body, run)),
            Extent::Whole(most) => most,
        };
        let end = body + self.count_in_core(&text[body..], most + 1);
        let is_over = !text.get(end).is_some_and(u8::is_ascii_alphanumeric);
        (end - body <= most && is_over).then_some(Secret {
            start: body,
            end,
            rest: None,
        })
    }

    /// Returns whether more text can make a secret of what is after the lead that ends at a place.
    pub(super) fn is_undecided(&self, text: &[u8], body: usize) -> bool {
        let Some(lead) = self.lead_before(&text[..body]) else {
            return false;
        };
        let rest = &text[body..];
        let is_shorter = |length| rest.len() < length && self.are_in_core(rest);
        match (self.extent, &self.issued) {
            (Extent::Whole(most), _) => is_boundary(text, lead) && is_shorter(most + 1),
            (Extent::Run(_), _) if is_boundary(text, lead) => self.read_body(rest) == Read::Cut,
            (Extent::Run(_), Some(format)) => is_shorter(format.issued_length()),
            (Extent::Run(_), None) => false,
        }
    }

    /// Reads as many characters of a body as cannot be an accident.
    fn read_body(&self, text: &[u8]) -> Read<()> {
        if let Extent::Run(run) = self.extent
            && run.is_encoded()
        {
            let end = run.end(text, 0);
            return match end.is_open {
                _ if end.characters >= self.least => Read::Whole(()),
                true => Read::Cut,
                false => Read::No,
            };
        }
        let near = &text[..text.len().min(self.least)];
        if !self.are_in_core(near) {
            return Read::No;
        }
        if near.len() < self.least {
            return Read::Cut;
        }
        Read::Whole(())
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
        for byte in self.lead.bytes().rev() {
            rest = match rest.split_last()? {
                (last, before) if *last == byte => before,
                _ if byte == b'_' => escape::before_underscore(rest)?,
                _ => return None,
            };
        }
        Some(rest.len())
    }

    fn are_in_core(&self, text: &[u8]) -> bool {
        text.iter().all(|byte| self.core.contains(*byte))
    }

    fn count_in_core(&self, text: &[u8], most: usize) -> usize {
        let near = &text[..text.len().min(most)];
        let run = near.iter().take_while(|byte| self.core.contains(**byte));
        run.count()
    }
}

/// Returns whether a word can begin at a place: after no letter or digit, or after an escape.
pub(super) fn is_boundary(text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    let is_inside = before.last().is_some_and(u8::is_ascii_alphanumeric);
    !is_inside || escape::ending(before).is_some()
}
