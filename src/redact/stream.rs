//! A text that comes in pieces, and goes on without its secrets.

use crate::redact::run::Run;
use crate::redact::search::{REDACTED, Search, UNDECIDED};
use crate::redact::shape::Place;

/// The number of bytes before a secret that are looked at: its lead in escapes, at most three words,
/// and what is between.
const CONTEXT: usize = 1024;

/// The end of a text, of which more is to come.
pub(super) struct Stream {
    /// What has gone on already, as far as it matters, and then what is held.
    text: Vec<u8>,
    /// The end of what has gone on already, and the last secret in it.
    passed: Place,
    /// What goes on with the secret that was the last, if more of it may come.
    rest: Option<Run>,
}

impl Default for Stream {
    fn default() -> Self {
        Self {
            text: Vec::new(),
            passed: Place::START,
            rest: None,
        }
    }
}

impl Stream {
    /// Takes the next piece, and appends what is decided to `safe`.
    pub(super) fn push(&mut self, search: &Search, piece: &[u8], safe: &mut Vec<u8>) {
        self.text.extend_from_slice(piece);
        self.pass_on(search, safe, false);
        let old = self.passed.at.saturating_sub(CONTEXT);
        self.text.drain(..old);
        self.passed.at -= old;
        let last = &mut self.passed.last;
        *last = last.start.saturating_sub(old)..last.end.saturating_sub(old);
    }

    /// Ends the text, and appends what was held to `safe`. The next piece begins a new text.
    pub(super) fn end(&mut self, search: &Search, safe: &mut Vec<u8>) {
        self.pass_on(search, safe, true);
        *self = Self::default();
    }

    fn pass_on(&mut self, search: &Search, safe: &mut Vec<u8>, is_last: bool) {
        let text = &self.text;
        let passed = &mut self.passed;
        if let Some(run) = self.rest.take() {
            let end = run.end(text, passed.at);
            (passed.at, passed.last.end) = (end.at, end.at);
            if end.is_open && !is_last {
                self.rest = Some(run.after(end));
                return;
            }
        }
        let decided_from = |place: &Place| {
            if is_last {
                text.len()
            } else {
                search.decided(text, place)
            }
        };
        let mut decided = decided_from(passed);
        while let Some(secret) = search.next_secret(text, passed, false) {
            if secret.start >= decided {
                break;
            }
            safe.extend_from_slice(&text[passed.at..secret.start]);
            safe.extend_from_slice(REDACTED.as_bytes());
            *passed = secret.behind();
            if secret.rest.is_some() && !is_last {
                self.rest = secret.rest;
                return;
            }
            // The end of this secret may be the beginning of a lead.
            if text.len() - passed.at <= CONTEXT + UNDECIDED {
                decided = decided_from(passed);
            }
        }
        if passed.at < decided {
            safe.extend_from_slice(&text[passed.at..decided]);
            passed.at = decided;
        }
    }
}
