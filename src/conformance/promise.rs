//! A promise of a port, and how it is said that it was broken.

use std::fmt;

/// What a port promises, in the words of the panic that says it was broken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise(pub(super) &'static str);

impl Promise {
    /// Panics unless it was kept; `seen` says what was seen instead.
    #[track_caller]
    pub(super) fn holds(self, kept: bool, seen: impl fmt::Display) {
        assert!(kept, "broken promise: {}: {seen}", self.0);
    }

    /// What was answered; panics if that is an error.
    #[track_caller]
    pub(super) fn answer<T, E: fmt::Debug>(self, answer: Result<T, E>, asked: &str) -> T {
        match answer {
            Ok(answer) => answer,
            Err(error) => panic!("broken promise: {}: {asked}: {error:?}", self.0),
        }
    }
}
