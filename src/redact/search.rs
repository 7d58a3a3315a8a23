//! The search for secrets in a text.
//!
//! Each secret is in a run of 16 or more characters of tokens. Clean text is therefore read in blocks
//! of 32 bytes, each of which becomes 32 bits, by one lookup for each byte. Runs are found in the
//! bits, with one branch for each block, and the number of formats does not matter. Clean text takes
//! 0.3 to 0.55 of the time of a regular expression of the same patterns, and a log with a key in each
//! line 0.2 to 0.4; text that is full of beginnings of keys takes up to 4 times as long
//! (`benches/redact`).

use std::ops::Range;

use crate::key::KeyFormat;
use crate::key::format::{CLAIMING_LENGTH, KeyBody};
use crate::redact::classes::{BLOCK, Classes, ENDS_LEAD, ENDS_LEAD_BUT_ONE, IN_NO_TOKEN, IN_RUN};
use crate::redact::escape::{self, Read};
use crate::redact::run::Run;
use crate::redact::shape::{Extent, Place, Secret, Shape};
use crate::redact::value::{self, SIGNS};
use crate::redact::word::{Word, Words};

/// The text that takes the place of a secret.
pub(super) const REDACTED: &str = "[REDACTED]";

/// The number of bytes of a run that are searched together.
const PART: usize = 256;
/// How far before a place an escape may begin that ends after it.
const ESCAPE: usize = 16;
/// The number of bytes at the end of a text that may be the beginning of a secret: the longest key
/// that is redacted only as a whole is 1,000 bytes.
pub(super) const UNDECIDED: usize = 1024;

/// The shapes of all secrets, compiled for the search.
#[derive(Clone)]
pub(super) struct Search {
    shapes: Vec<Shape>,
    words: Words,
    /// The characters of a credential after a word: those of tokens, and of keys without a lead.
    value: Run,
    /// The minimum length of a credential after a word.
    least_value: usize,
    classes: Classes,
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

/// A step of the search within a run: over a character or an escape.
struct Step {
    length: usize,
    /// The character, if it is one of ASCII.
    character: Option<u8>,
    /// Whether a value may begin after it.
    is_value: bool,
}

impl Search {
    /// Creates the search for keys of these formats, and for well-known shapes.
    pub(super) fn new(formats: impl IntoIterator<Item = KeyFormat>) -> Self {
        let (mut shapes, mut value, mut least_value) = (Vec::new(), Run::TOKEN, CLAIMING_LENGTH);
        for format in formats {
            if let Some(shape) = Shape::of(&format) {
                shapes.push(shape);
            } else if let KeyBody::Imported {
                alphabet, length, ..
            } = format.body()
            {
                value = value.or(Run::encoded(*alphabet));
                least_value = least_value.min(*length.start());
            }
        }
        shapes.extend(Shape::well_known());
        let least = shapes.iter().map(Shape::least);
        Self {
            least: least.fold(least_value, usize::min),
            classes: Classes::new(&shapes, value),
            shapes,
            words: Words::new(),
            value,
            least_value,
        }
    }

    pub(super) fn words(&self) -> &Words {
        &self.words
    }

    pub(super) fn words_mut(&mut self) -> &mut Words {
        &mut self.words
    }

    /// Returns the leads of all shapes.
    pub(super) fn leads(&self) -> impl Iterator<Item = &str> {
        self.shapes.iter().map(Shape::lead)
    }

    /// Returns the first secret from a place on. Takes the end of the text for the end of a secret.
    pub(super) fn next_secret(&self, text: &[u8], from: &Place, is_named: bool) -> Option<Secret> {
        let mut at = from.at;
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
    pub(super) fn decided(&self, text: &[u8], from: &Place) -> usize {
        let near = from.at.max(text.len().saturating_sub(UNDECIDED));
        let is_visible = |byte: &&u8| byte.is_ascii_graphic();
        let visible = text[near..].iter().rev().take_while(is_visible).count();
        let is_key = |shape: &Shape, at| shape.is_undecided(text, at, &from.last);
        for at in text.len() - visible..text.len() {
            match self.read_value(text, at) {
                Read::Cut => return at,
                Read::Whole(()) => return text.len(),
                Read::No if self.shapes.iter().any(|it| is_key(it, at)) => return at,
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
            return text.iter().position(|byte| self.classes.is(*byte, IN_RUN));
        }
        let (blocks, rest) = text.as_chunks::<BLOCK>();
        let mut last = [0; BLOCK];
        last[..rest.len()].copy_from_slice(rest);
        let mut before = 0;
        for (number, block) in blocks.iter().chain([&last]).enumerate() {
            let bits = self.classes.bits_of(block);
            let starts = starts_of_sixteen(u64::from(before) | u64::from(bits) << BLOCK);
            if starts != 0 {
                return Some(number * BLOCK + starts.trailing_zeros() as usize - BLOCK);
            }
            before = bits;
        }
        None
    }

    /// Returns the run around a place. It may begin before `from`, but not by much. A long run is
    /// returned in parts, since each secret in it makes the search begin anew.
    fn run_at(&self, text: &[u8], at: usize, from: usize) -> Stretch {
        let before = text[from.saturating_sub(ESCAPE)..at].iter().rev();
        let before = before
            .take_while(|byte| self.classes.is(**byte, IN_RUN))
            .count();
        let start = at - before;
        let mut run = Stretch {
            start,
            end: start,
            classes: 0,
        };
        let near = &text[start..text.len().min(at + PART)];
        for byte in near {
            let class = self.classes.of(*byte);
            if class & IN_RUN == 0 {
                break;
            }
            run.classes |= class;
            run.end += 1;
        }
        run
    }

    /// Returns the first secret in a run, from a place on.
    fn secret_in(
        &self,
        text: &[u8],
        run: &Stretch,
        from: &Place,
        is_named: bool,
    ) -> Option<Secret> {
        let is_new = |secret: &Secret| secret.start >= from.at;
        let value = |at| self.value_at(text, at, is_named).filter(is_new);
        let key = |at| self.key_at(text, at, &from.last).filter(is_new);
        let may_begin = |at: usize| {
            let before = text[..at].last();
            before.is_none_or(|byte| self.may_end_lead(text, at, 1, *byte))
        };
        let first = value(run.start).or_else(|| value(after_colour(text, run)?));
        let first = first.or_else(|| may_begin(run.start).then(|| key(run.start))?);
        if first.is_some() || run.classes & (IN_NO_TOKEN | ENDS_LEAD) == 0 {
            return first;
        }
        let mut at = run.start;
        while at < run.end {
            let byte = text[at];
            if !self.classes.is(byte, IN_NO_TOKEN | ENDS_LEAD) {
                at += 1;
                continue;
            }
            let step = self.step(&text[at..], byte);
            at += step.length;
            let found = if step.is_value { value(at) } else { None };
            let is_lead = |byte| self.may_end_lead(text, at, step.length, byte);
            let found = found.or_else(|| step.character.is_some_and(is_lead).then(|| key(at))?);
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Reads the character or escape at the start of a text.
    fn step(&self, text: &[u8], byte: u8) -> Step {
        let escape = if self.classes.is(byte, IN_NO_TOKEN) {
            escape::read(text)
        } else {
            Read::No
        };
        if let Read::Whole(escape) = escape {
            return Step {
                length: escape.length,
                character: escape.character,
                is_value: !escape.character.is_some_and(value::is_token),
            };
        }
        Step {
            length: 1,
            character: Some(byte),
            is_value: self.classes.is(byte, IN_NO_TOKEN),
        }
    }

    /// Returns whether a lead may end at a place, after a character that takes `length` bytes there.
    /// Nearly all places differ from the last two characters of all leads already.
    fn may_end_lead(&self, text: &[u8], at: usize, length: usize, character: u8) -> bool {
        if !self.classes.is(character, ENDS_LEAD) {
            return false;
        }
        let one = at.checked_sub(2).map(|one| text[one]);
        length > 1 || one.is_none_or(|one| self.classes.is(one, ENDS_LEAD_BUT_ONE))
    }

    /// Returns the key whose lead ends at a place of a text. Of several formats, all characters
    /// count.
    fn key_at(&self, text: &[u8], at: usize, last: &Range<usize>) -> Option<Secret> {
        let (mut run, mut whole) = (None, None);
        for shape in &self.shapes {
            match shape.extent_at(text, at, last) {
                Some(Extent::Run(new)) => run = Some(run.map_or(new, |run: Run| run.or(new))),
                Some(Extent::Whole(length)) => whole = whole.max(Some(at + length)),
                None => {}
            }
        }
        let run = run.map(|run| Secret::run(text, at, run));
        if run.is_some_and(|run| whole.is_none_or(|end| run.end >= end)) {
            return run;
        }
        whole.map(|end| Secret {
            start: at,
            end,
            rest: None,
        })
    }

    /// Returns the credential that begins at a place of a text, without the lead of a key.
    fn value_at(&self, text: &[u8], at: usize, is_named: bool) -> Option<Secret> {
        if !matches!(self.value.read(&text[at..]), Read::Whole(_)) {
            return None;
        }
        // Look at the end of a long credential only if a word announces it.
        let word = self.words.before(text, at, is_named)?;
        let (lead, run) = self.lead_of(&text[at..]);
        let start = at + lead;
        // Its beginning tells whether it is random: to read all of it for each word is quadratic.
        let near = start + run.count(&text[start..], SIGNS).length;
        if word == Word::Scheme && !value::is_random(&text[at..near]) {
            return None;
        }
        let end = run.end(text, start);
        let value = &text[at..end.characters];
        if value.len() < self.least_value || value::is_signing_scheme(value) {
            return None;
        }
        (start < end.characters).then(|| Secret::run(text, start, run))
    }

    /// Returns the length of the longest lead that a text begins with, and what goes on with the
    /// credential after it.
    fn lead_of(&self, text: &[u8]) -> (usize, Run) {
        let (mut longest, mut run) = (0, self.value);
        for shape in &self.shapes {
            if let Read::Whole(length) = shape.read_lead(text) {
                longest = longest.max(length);
                run = run.or(shape.run());
            }
        }
        (longest, run)
    }

    /// Reads the credential that begins at a place and goes on until the end of the text. It is cut
    /// as long as more text can make another secret of it, or none.
    fn read_value(&self, text: &[u8], at: usize) -> Read<()> {
        let rest = &text[at..];
        if value::is_inside(text, at) || self.value.read(rest) == Read::No {
            return Read::No;
        }
        let Some(word) = self.words.before(text, at, false) else {
            return Read::No;
        };
        let (lead, run) = self.lead_of(rest);
        let end = run.end(text, at + lead);
        let mut shapes = self.shapes.iter();
        let is_cut = shapes.any(|shape| shape.read_lead(rest) == Read::Cut);
        if !end.is_open && !is_cut {
            return Read::No;
        }
        let value = &text[at..end.characters];
        if is_cut || value.len() < self.least_value || lead == value.len() {
            return Read::Cut;
        }
        if value::may_be_signing_scheme(value) {
            return Read::Cut;
        }
        if word == Word::Name || value::is_random(value) {
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

/// Returns the end of the colour at the start of a run: the run in `ESC[31mKEY` begins with `31m`.
fn after_colour(text: &[u8], run: &Stretch) -> Option<usize> {
    let before = text[..run.start].last()?;
    if *before != b'[' && !escape::is_colour_parameter(*before) {
        return None;
    }
    let parameters = text[run.start..run.end].iter();
    let parameters = parameters.take_while(|byte| escape::is_colour_parameter(**byte));
    let end = run.start + parameters.count() + 1;
    let is_over = end <= run.end && escape::ending(&text[..end]).is_some();
    is_over.then_some(end)
}
