//! A text that comes in pieces, and goes on without its secrets.

use crate::redact::run::Run;
use crate::redact::search::{REDACTED, Search};

/// The number of bytes before a secret that are looked at: its lead, a word and what is between.
const CONTEXT: usize = 256;

/// The end of a text, of which more is to come.
#[derive(Default)]
pub(super) struct Stream {
    /// What has gone on already, as far as it matters, and then what is held.
    text: Vec<u8>,
    /// The number of bytes that have gone on already.
    passed: usize,
    /// What goes on with the secret that was the last, if more of it may come.
    rest: Option<Run>,
}

impl Stream {
    /// Takes the next piece, and appends what is decided to `safe`.
    pub(super) fn push(&mut self, search: &Search, piece: &[u8], safe: &mut Vec<u8>) {
        self.text.extend_from_slice(piece);
        self.pass_on(search, safe, false);
        let old = self.passed.saturating_sub(CONTEXT);
        self.text.drain(..old);
        self.passed -= old;
    }

    /// Ends the text, and appends what was held to `safe`. The next piece begins a new text.
    pub(super) fn end(&mut self, search: &Search, safe: &mut Vec<u8>) {
        self.pass_on(search, safe, true);
        *self = Self::default();
    }

    fn pass_on(&mut self, search: &Search, safe: &mut Vec<u8>, is_last: bool) {
        let text = &self.text;
        let mut at = self.passed;
        if let Some(run) = self.rest.take() {
            let end = run.end(text, at);
            if end.is_open && !is_last {
                self.rest = Some(run.after(&text[at..end.at]));
                self.passed = end.at;
                return;
            }
            at = end.at;
        }
        let decided = if is_last {
            text.len()
        } else {
            search.decided(text, at)
        };
        while let Some(secret) = search.next_secret(text, at, false) {
            if secret.start >= decided {
                break;
            }
            safe.extend_from_slice(&text[at..secret.start]);
            safe.extend_from_slice(REDACTED.as_bytes());
            at = secret.end;
            if secret.rest.is_some() && !is_last {
                self.rest = secret.rest;
                self.passed = at;
                return;
            }
        }
        if at < decided {
            safe.extend_from_slice(&text[at..decided]);
            at = decided;
        }
        self.passed = at;
    }
}
