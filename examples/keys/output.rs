//! What the program prints.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::time::SystemTime;

use serde_json::Value;

use crate::rfc3339;

/// What a command prints, in both forms.
pub(crate) struct Output {
    pub(crate) json: Value,
    pub(crate) text: String,
    pub(crate) is_ok: bool,
}

impl Output {
    pub(crate) fn new(json: impl Into<Value>, text: String) -> Self {
        Self {
            json: json.into(),
            text,
            is_ok: true,
        }
    }
}

pub(crate) fn object(facts: Vec<(&'static str, Value)>) -> Value {
    facts.into_iter().collect()
}

pub(crate) fn texts<T: Display>(items: impl IntoIterator<Item = T>) -> Value {
    items.into_iter().map(|it| it.to_string()).collect()
}

pub(crate) fn time_or(absent: &str, at: Option<SystemTime>) -> String {
    at.map_or_else(|| absent.to_owned(), rfc3339::format)
}

/// Formats rows in aligned columns. A text with a line break or another control character cannot
/// look like something else.
pub(crate) fn aligned<const COLUMNS: usize>(
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let rows = rows
        .into_iter()
        .map(|row| row.map(|cell| on_one_line(&cell)));
    let rows: Vec<_> = rows.collect();
    let mut widths = [0; COLUMNS];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells.map(|(it, width)| format!("{it:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text += "\n";
    }
    text
}

pub(crate) fn with_header<const COLUMNS: usize>(
    header: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> String {
    aligned([header.map(str::to_owned)].into_iter().chain(rows))
}

pub(crate) fn on_one_line(text: &str) -> String {
    let shown = |it: char| if it.is_control() { ' ' } else { it };
    text.chars().map(shown).collect()
}

/// Prints to standard output. If nobody reads it, that is an error and no panic.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}
