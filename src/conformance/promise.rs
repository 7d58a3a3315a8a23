//! Promises of ports, and the panics for broken ones.

use std::fmt;

/// A promise of a port, as the panic for a broken promise words it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise(pub(super) &'static str);

impl Promise {
    /// Panics unless the promise was kept. `seen` describes the observed behaviour.
    #[track_caller]
    pub(super) fn holds(self, kept: bool, seen: impl fmt::Display) {
        assert!(kept, "broken promise: {}: {seen}", self.0);
    }

    /// Returns the answer; panics if it is an error.
    #[track_caller]
    pub(super) fn answer<T, E: fmt::Debug>(self, answer: Result<T, E>, asked: &str) -> T {
        match answer {
            Ok(answer) => answer,
            Err(error) => panic!("broken promise: {}: {asked}: {error:?}", self.0),
        }
    }
}
