//! The answer to `INFO`.

use redis::Value;

/// The fields of an answer to `INFO`.
pub(super) struct Info(String);

impl Info {
    /// Reads an answer. It has no fields if it is something else.
    pub(super) fn read(answer: &Value) -> Self {
        Self(match answer {
            Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
            Value::VerbatimString { text, .. } => text.clone(),
            _ => String::new(),
        })
    }

    /// Returns a field; empty if there is none.
    pub(super) fn field(&self, name: &str) -> &str {
        let lines = self.0.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.next().unwrap_or_default().trim()
    }
}
