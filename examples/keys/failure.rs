//! What the program says when it fails, and the exit status.

use std::error::Error;
use std::fmt::Display;

/// An error: its text, and the exit status.
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) message: String,
}

pub(crate) fn failure(message: impl Display) -> Failure {
    Failure {
        status: 1,
        message: message.to_string(),
    }
}

pub(crate) fn usage(message: impl Display) -> Failure {
    Failure {
        status: 2,
        message: format!("{message} (--help shows the usage)"),
    }
}

/// An error with all its causes.
impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        failure(message)
    }
}
