//! A key to be searched for in everything that was said.
#![allow(clippy::unwrap_used, unreachable_pub, reason = "a test may panic")]

use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::support::percent_encoded;

/// Everything that was said, in one place.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    pub fn note(&self, what: impl AsRef<[u8]>) {
        let mut heard = self.0.lock().unwrap();
        heard.extend_from_slice(what.as_ref());
        heard.push(b'\n');
    }

    pub fn debug(&self, what: &dyn Debug) {
        self.note(format!("{what:?}"));
        self.note(format!("{what:#?}"));
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A key, and all the forms in which it would betray itself.
pub struct Canary(Vec<String>);

impl Canary {
    pub fn of(key: &str) -> Self {
        let secret = key.rsplit('_').next().unwrap();
        // Not even a part of it: sixteen characters in the middle.
        let part = &secret[secret.len() / 4..secret.len() / 4 + 16];
        let percent = percent_encoded(key.as_bytes());
        Self(vec![
            part.to_owned(),
            part.to_lowercase(),
            percent,
            STANDARD.encode(format!("{key}:")),
            format!("{:?}", key.as_bytes()),
        ])
    }

    pub fn sings_in(&self, text: &str) -> bool {
        self.0.iter().any(|form| text.contains(form))
    }
}
