//! The search for secrets in a text.
//!
//! Each secret is in a run of 16 or more characters of tokens. Clean text is therefore read in blocks
//! of 32 bytes, each of which becomes 32 bits, by one lookup for each byte. Runs are found in the
//! bits, with one branch for each block, and the number of formats does not matter. Clean text takes
//! 0.3 to 0.55 of the time of a regular expression of the same patterns, and a log with a key in each
//! line 0.2 to 0.3; text that is full of beginnings of keys takes up to 4 times as long
//! (`benches/redact`).

use crate::key::format::CLAIMING_LENGTH;
use crate::redact::escape::{self, Read};
use crate::redact::run::Run;
use crate::redact::shape::{Secret, Shape};
use crate::redact::word::Word;

/// The text that takes the place of a secret.
pub(super) const REDACTED: &str = "[REDACTED]";

/// The number of bytes in a block: as many as there are bits in half of a `u64`.
const BLOCK: usize = 32;
/// The number of bytes of a run that are searched together.
const PART: usize = 256;
/// How far before a place an escape may begin that ends after it.
const ESCAPE: usize = 16;
/// The maximum length of the name of a scheme that signs requests.
const SIGNING_SCHEME: usize = 24;
/// The number of characters of a credential that are searched for signs of randomness.
const SIGNS: usize = 64;
/// The number of bytes at the end of a text that may be the beginning of a secret: the longest key
/// is 512 bytes.
const UNDECIDED: usize = 1024;

/// A character of a run: of tokens, of escapes, or of the keys of a format.
const IN_RUN: u8 = 1;
/// A character of runs that is none of tokens.
const IN_NO_TOKEN: u8 = 2;
/// A character that ends a lead.
const ENDS_LEAD: u8 = 4;
/// A character before the last one of a lead.
const ENDS_LEAD_BUT_ONE: u8 = 8;

/// The shapes of all secrets, compiled for the search.
pub(super) struct Search {
    shapes: Vec<Shape>,
    /// For each byte, what it may be.
    table: [u8; 256],
    /// For each byte, whether it is in a run. Without a mask, it is read faster.
    in_run: [bool; 256],
    /// The minimum length of a run with a secret.
    least: usize,
}

/// A run in a text, or a part of a long one.
struct Stretch {
    start: usize,
    end: usize,
    /// The classes of all its bytes.
    classes: u8,
}

impl Search {
    pub(super) fn new(shapes: Vec<Shape>) -> Self {
        let mut table = [0; 256];
        for byte in 0..128u8 {
            let entry = &mut table[usize::from(byte)];
            let is_token = Run::TOKEN.contains(byte);
            let is_in_key = shapes.iter().any(|shape| shape.core().contains(byte));
            if is_token {
                *entry |= IN_RUN;
            } else if is_in_key || matches!(byte, b'%' | b'\\') {
                *entry |= IN_RUN | IN_NO_TOKEN;
            }
            if shapes.iter().any(|shape| shape.ends_with(byte)) {
                *entry |= ENDS_LEAD;
            }
            if shapes.iter().any(|shape| shape.ends_but_one_with(byte)) {
                *entry |= ENDS_LEAD_BUT_ONE;
            }
        }
        let least = shapes.iter().map(Shape::least);
        Self {
            least: least.fold(CLAIMING_LENGTH, usize::min),
            shapes,
            in_run: table.map(|class| class & IN_RUN != 0),
            table,
        }
    }

    /// Returns the leads of all shapes.
    pub(super) fn leads(&self) -> impl Iterator<Item = &str> {
        self.shapes.iter().map(Shape::lead)
    }

    /// Returns the first secret that starts at `from` or later. Takes the end of the text for the
    /// end of a secret.
    pub(super) fn next_secret(&self, text: &[u8], from: usize, is_named: bool) -> Option<Secret> {
        let mut at = from;
        while let Some(run) = self.next_run(text, at) {
            at = run.end;
            let secret = self.secret_in(text, &run, from, is_named);
            if secret.is_some() {
                return secret;
            }
        }
        None
    }

    /// Returns the place of a text before which no secret can start that is not there yet: more
    /// text can only make secrets that start there or later.
    pub(super) fn decided(&self, text: &[u8], from: usize) -> usize {
        let near = from.max(text.len().saturating_sub(UNDECIDED));
        let is_visible = |byte: &&u8| byte.is_ascii_graphic();
        let visible = text[near..].iter().rev().take_while(is_visible).count();
        for at in text.len() - visible..text.len() {
            match self.read_value(text, at) {
                Read::Cut => return at,
                Read::Whole(()) => return text.len(),
                Read::No if self.is_undecided_key(text, at) => return at,
                Read::No => {}
            }
        }
        text.len()
    }

    /// Returns the next run that is long enough for a secret.
    fn next_run(&self, text: &[u8], from: usize) -> Option<Stretch> {
        let mut at = from;
        loop {
            let start = at + self.next_start(&text[at..])?;
            let run = self.run_at(text, start, at);
            if run.end - run.start >= self.least {
                return Some(run);
            }
            at = run.end;
        }
    }

    /// Returns the start of the next run that is long enough for a secret, or, if that may be short,
    /// of any run.
    fn next_start(&self, text: &[u8]) -> Option<usize> {
        if self.least < CLAIMING_LENGTH {
            return text.iter().position(|byte| self.is(*byte, IN_RUN));
        }
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let mut before = 0;
        for (number, block) in blocks.iter().chain([&last]).enumerate() {
            let bits = self.bits_of(block);
            let starts = starts_of_sixteen(u64::from(before) | u64::from(bits) << BLOCK);
            if starts != 0 {
                return Some(number * BLOCK + starts.trailing_zeros() as usize - BLOCK);
            }
            before = bits;
        }
        None
    }

    /// Returns a bit for each byte of a block: whether it is in a run.
    fn bits_of(&self, block: &[u8; BLOCK]) -> u32 {
        let bits = block.iter().enumerate();
        bits.fold(0, |bits, (at, byte)| {
            bits | u32::from(self.in_run[usize::from(*byte)]) << at
        })
    }

    /// Returns the run around a place. It may begin before `from`, but not by much. A long run is
    /// returned in parts, since each secret in it makes the search begin anew.
    fn run_at(&self, text: &[u8], at: usize, from: usize) -> Stretch {
        let before = text[from.saturating_sub(ESCAPE)..at].iter().rev();
        let before = before.take_while(|byte| self.is(**byte, IN_RUN)).count();
        let start = at - before;
        let mut run = Stretch {
            start,
            end: start,
            classes: 0,
        };
        let near = &text[start..text.len().min(at + PART)];
        for byte in near {
            let class = self.table[usize::from(*byte)];
            if class & IN_RUN == 0 {
                break;
            }
            run.classes |= class;
            run.end += 1;
        }
        run
    }

    fn is(&self, byte: u8, class: u8) -> bool {
        self.table[usize::from(byte)] & class != 0
    }

    /// Returns the first secret that starts in a run, at `from` or later.
    fn secret_in(&self, text: &[u8], run: &Stretch, from: usize, is_named: bool) -> Option<Secret> {
        let is_new = |secret: &Secret| secret.start >= from;
        let value = |at| self.value_at(text, at, is_named).filter(is_new);
        let key = |at| self.key_at(text, at).filter(is_new);
        let first = value(run.start).or_else(|| value(after_colour(text, run)?));
        if let Some(secret) = first.or_else(|| key(run.start)) {
            return Some(secret);
        }
        if run.classes & (IN_NO_TOKEN | ENDS_LEAD) == 0 {
            return None;
        }
        let mut at = run.start;
        while at < run.end {
            let byte = text[at];
            if !self.is(byte, IN_NO_TOKEN | ENDS_LEAD) {
                at += 1;
                continue;
            }
            let (length, is_value) = self.step(&text[at..], byte);
            at += length;
            let found = if is_value { value(at) } else { None };
            if let Some(secret) = found.or_else(|| key(at)) {
                return Some(secret);
            }
        }
        None
    }

    /// Returns the length of the character or escape at the start of a text, and whether a value
    /// may begin after it.
    fn step(&self, text: &[u8], byte: u8) -> (usize, bool) {
        if !self.is(byte, IN_NO_TOKEN) {
            return (1, false);
        }
        if let Read::Whole(length) = escape::read_underscore(text) {
            return (length, false);
        }
        match escape::read(text) {
            Read::Whole(escape) => (escape.length, !escape.character.is_some_and(is_token)),
            Read::Cut | Read::No => (1, true),
        }
    }

    /// Returns the key whose lead ends at a place of a text.
    fn key_at(&self, text: &[u8], at: usize) -> Option<Secret> {
        // Nearly all places differ from the last two characters of all leads already.
        let is_lead = match text[..at] {
            [.., one, last] if self.is(last, ENDS_LEAD) => self.is(one, ENDS_LEAD_BUT_ONE),
            [last] => self.is(last, ENDS_LEAD),
            _ => escape::before_underscore(&text[..at]).is_some(),
        };
        if !is_lead {
            return None;
        }
        let mut shapes = self.shapes.iter();
        shapes.find_map(|shape| shape.secret_at(text, at))
    }

    /// Returns the credential that begins at a place of a text, without the lead of a key.
    fn value_at(&self, text: &[u8], at: usize, is_named: bool) -> Option<Secret> {
        // Look at the end of a long credential only if a word announces it.
        let is_token = read_token(&text[at..]) == Read::Whole(());
        let word = is_token.then(|| Word::before(text, at, is_named))??;
        let end = Run::TOKEN.end(text, at);
        let value = &text[at..end.characters];
        if value.len() < CLAIMING_LENGTH || word == Word::Scheme && !is_random(value) {
            return None;
        }
        if is_signing_scheme(value) {
            return None;
        }
        let start = at + self.length_of_lead(value);
        (start < end.characters).then(|| Secret::run(text, start, Run::TOKEN))
    }

    /// Returns the length of the longest lead that a text begins with.
    fn length_of_lead(&self, text: &[u8]) -> usize {
        let leads = self.shapes.iter().map(|shape| match shape.read_lead(text) {
            Read::Whole(length) => length,
            Read::Cut | Read::No => 0,
        });
        leads.max().unwrap_or(0)
    }

    fn is_undecided_key(&self, text: &[u8], at: usize) -> bool {
        let mut shapes = self.shapes.iter();
        shapes.any(|shape| shape.is_undecided(text, at))
    }

    /// Reads the credential that begins at a place and goes on until the end of the text. It is cut
    /// as long as more text can make another secret of it, or none.
    fn read_value(&self, text: &[u8], at: usize) -> Read<()> {
        let is_inside = is_inside_token(&text[..at]) || escape::is_inside(text, at);
        if is_inside || read_token(&text[at..]) == Read::No {
            return Read::No;
        }
        let end = Run::TOKEN.end(text, at);
        if !end.is_open {
            return Read::No;
        }
        let Some(word) = Word::before(text, at, false) else {
            return Read::No;
        };
        let value = &text[at..end.characters];
        let is_lead = |shape: &Shape| match shape.read_lead(value) {
            Read::Cut => true,
            Read::Whole(length) => length == value.len(),
            Read::No => false,
        };
        if value.len() < CLAIMING_LENGTH || self.shapes.iter().any(is_lead) {
            return Read::Cut;
        }
        if may_be_signing_scheme(value) {
            return Read::Cut;
        }
        if word == Word::Name || is_random(value) {
            return Read::Whole(());
        }
        if value.len() < SIGNS {
            Read::Cut
        } else {
            Read::No
        }
    }
}

/// Returns a bit for each place at which sixteen bits are set.
fn starts_of_sixteen(bits: u64) -> u64 {
    let two = bits & bits >> 1;
    let four = two & two >> 2;
    let eight = four & four >> 4;
    eight & eight >> 8
}

fn is_token(byte: u8) -> bool {
    Run::TOKEN.contains(byte)
}

/// Reads a character of a token at the start of a text.
fn read_token(text: &[u8]) -> Read<()> {
    let is_token = match escape::read(text) {
        Read::Whole(escape) => escape.character.is_some_and(is_token),
        Read::Cut => return Read::Cut,
        Read::No => text.first().is_some_and(|byte| is_token(*byte)),
    };
    if is_token { Read::Whole(()) } else { Read::No }
}

/// Returns whether a character after this text goes on with a token.
fn is_inside_token(text: &[u8]) -> bool {
    match escape::ending(text) {
        Some(escape) => escape.character.is_some_and(is_token),
        None => text.last().is_some_and(|byte| is_token(*byte)),
    }
}

/// Returns whether a credential looks random rather than like a word: it has a digit, or an upper
/// case letter after its first character.
fn is_random(value: &[u8]) -> bool {
    let mut near = value.iter().take(SIGNS).enumerate();
    near.any(|(at, byte)| byte.is_ascii_digit() || at > 0 && byte.is_ascii_uppercase())
}

/// Returns whether a token is the name of a scheme that signs requests, such as `AWS4-HMAC-SHA256`.
fn is_signing_scheme(value: &[u8]) -> bool {
    let ends = [&b"-SHA256"[..], b"-SHA384", b"-SHA512"];
    may_be_signing_scheme(value) && ends.iter().any(|end| value.ends_with(end))
}

/// Returns whether a token is the name of such a scheme, or the beginning of one.
fn may_be_signing_scheme(value: &[u8]) -> bool {
    let is_in_name =
        |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'-';
    value.len() <= SIGNING_SCHEME && value.iter().all(is_in_name)
}

/// Returns the end of the colour at the start of a run: the run in `ESC[31mKEY` begins with `31m`.
fn after_colour(text: &[u8], run: &Stretch) -> Option<usize> {
    let run_text = text[run.start..run.end].iter();
    let digits = run_text.take_while(|byte| byte.is_ascii_digit());
    let end = run.start + digits.count() + 1;
    if !matches!(text[..run.start].last(), Some(b'[' | b';')) || end > run.end {
        return None;
    }
    escape::ending(&text[..end]).map(|_| end)
}
