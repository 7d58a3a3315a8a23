//! Quotes for texts of visible ASCII characters and blanks.

/// Returns a string of TOML.
pub(super) fn toml(text: &str) -> String {
    if text.contains('\\') && !text.contains('\'') {
        return format!("'{text}'"); // a literal one, without escapes
    }
    format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\""))
}

/// Returns a single-quoted scalar of YAML, in which only the quote is special.
pub(super) fn yaml(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Returns a block sequence of YAML, for behind the colon of its name.
pub(super) fn yaml_list(entries: impl Iterator<Item = String>) -> String {
    let entries: Vec<_> = entries.collect();
    if entries.is_empty() {
        return " []\n".to_owned();
    }
    format!("\n{}", entries.concat())
}

/// Returns a string of Python.
pub(super) fn python(text: &str) -> String {
    if text.contains('\\') && !text.contains('\'') && !text.ends_with('\\') {
        return format!("r'{text}'"); // a raw one, without escapes
    }
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}
