//! The grammar of keys as text: one line `NAME ACCOUNT [SCOPE…] = KEY` per key.

use std::collections::BTreeSet;

use crate::key::digest::KeyDigest;
use crate::key::format::KeyFormat;
use crate::key::formats::{KeyFormats, Position, Recognized};
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;

/// The prefix of a digest that stands in place of a key.
const SHA256: &str = "sha256:";

/// The minimum number of different characters after the prefix. Nearly every random key or digest
/// has more.
const FEWEST_CHARACTERS: usize = 8;

/// The record of a key, and the number of its line.
#[derive(Debug)]
pub(super) struct KeyLine {
    pub(super) number: usize,
    pub(super) record: KeyRecord,
}

/// An error for a line that cannot be read. The error never shows the line, which may contain a key
/// in the wrong place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// The line has another form.
    #[error("write it as NAME ACCOUNT [SCOPE...] = KEY, or with sha256:HEX in place of the key")]
    Syntax,
    /// A scope is malformed, or longer than 128 characters.
    #[error(
        "a scope is not 1 to 128 visible ASCII characters without '\"' and '\\'; separate scopes by \
         blanks, not by commas"
    )]
    Scope,
    /// The name or the account is too long, or contains the character NUL.
    #[error("the name or the account is too long, or contains the character NUL")]
    Text,
    /// `sha256:` without 64 hexadecimal digits.
    #[error("the digest is not 64 hexadecimal digits")]
    Digest,
    /// The key is in none of the formats.
    #[error(
        "the key is written in none of the formats of this store: make one with `openssl rand -hex 32`, or \
         see StaticStore::with_formats"
    )]
    Format,
    /// The key or the digest has fewer than eight different characters after its prefix.
    #[error("the key can be guessed: make one with `openssl rand -hex 32`")]
    Guessable,
    /// Another line has the same name.
    #[error("another line has the same name")]
    SameName,
    /// Another line has the same key.
    #[error("another line has the same key")]
    SameKey,
}

/// Parses keys, one per line, or several separated by `;`. A line that begins with `#` is a
/// comment. An error has the number of its line, from 1.
pub(super) fn read(text: &str, formats: &KeyFormats) -> Result<Vec<KeyLine>, (usize, LineError)> {
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    let mut lines = Vec::new();
    let numbered = text.lines().enumerate();
    let numbered = numbered.filter(|(_, line)| !line.trim_start().starts_with('#'));
    let keys = numbered.flat_map(|(at, line)| line.split(';').map(move |key| (at + 1, key.trim())));
    for (number, line) in keys.filter(|(_, key)| !key.is_empty()) {
        let record = record(line, formats).map_err(|invalid| (number, invalid))?;
        if !names.insert(record.name().map(str::to_owned)) {
            return Err((number, LineError::SameName));
        }
        if !ids.insert(*record.id().as_bytes()) {
            return Err((number, LineError::SameKey));
        }
        lines.push(KeyLine { number, record });
    }
    Ok(lines)
}

fn record(line: &str, formats: &KeyFormats) -> Result<KeyRecord, LineError> {
    let (owner, key) = line.split_once('=').ok_or(LineError::Syntax)?;
    let mut words = owner.split_whitespace();
    let (Some(name), Some(account)) = (words.next(), words.next()) else {
        return Err(LineError::Syntax);
    };
    if words.clone().any(|scope| scope.contains(',')) {
        return Err(LineError::Scope); // a comma nearly always joins two scopes
    }
    let scopes: Result<ScopeSet, _> = words.map(str::parse).collect();
    let scopes = scopes.map_err(|_| LineError::Scope)?;
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(LineError::Syntax);
    }
    // A prefix is the same in each key, so its characters do not count.
    let (digest, prefix, characters) = if let Some(hex) = key.strip_prefix(SHA256) {
        let digest = KeyDigest::from_hex(hex).ok_or(LineError::Digest)?;
        (
            digest,
            None,
            different_characters(&hex.to_ascii_lowercase()),
        )
    } else {
        let prefix = format_of(key, formats).ok_or(LineError::Format)?.prefix();
        let secret = key.strip_prefix(prefix).unwrap_or(key);
        (
            KeyDigest::of(key),
            Some(prefix),
            different_characters(secret),
        )
    };
    if characters < FEWEST_CHARACTERS {
        return Err(LineError::Guessable);
    }
    let prefix = prefix.filter(|prefix| !prefix.is_empty());
    let record = KeyRecord::imported(digest, account)
        .with_name(name)
        .with_scopes(scopes)
        .with_prefix(prefix);
    record.check().map_err(|_| LineError::Text)?;
    Ok(record)
}

/// Returns the number of different characters in a text.
fn different_characters(text: &str) -> usize {
    text.bytes().collect::<BTreeSet<u8>>().len()
}

/// Returns the format of a key.
fn format_of<'f>(key: &str, formats: &'f KeyFormats) -> Option<&'f KeyFormat> {
    match formats.recognize(key.as_bytes(), Position::Dedicated) {
        Recognized::WellFormed(format) => Some(format),
        Recognized::Malformed | Recognized::Foreign => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::fixed::store::StaticStore;

    const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    const OTHER: &str = "1123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn hex(digest: KeyDigest) -> String {
        let verifier = crate::key::verifier::Verifier::sha256(digest);
        let bytes: Vec<_> = verifier
            .as_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        bytes.concat()
    }

    fn read(text: &str) -> Result<Vec<KeyLine>, (usize, LineError)> {
        let formats = KeyFormats::new(StaticStore::formats()).unwrap();
        super::read(text, &formats)
    }

    #[test]
    fn a_line_holds_a_name_an_account_scopes_and_a_key() {
        let digest = hex(KeyDigest::of("another"));
        let text = format!(
            "# for operators; off acme = {OTHER}\r\n\n admin acme admin reports:read={KEY}\r\nci  acme = {OTHER} ;old acme = sha256:{digest}"
        );
        let lines = read(&text).unwrap();
        let parsed: Vec<_> = lines
            .iter()
            .map(|line| {
                let record = &line.record;
                (
                    line.number,
                    record.name().unwrap(),
                    record.scopes().to_string(),
                )
            })
            .collect();
        assert_eq!(
            parsed,
            [
                (3, "admin", "admin reports:read".to_owned()),
                (4, "ci", String::new()),
                (4, "old", String::new())
            ]
        );
        assert!(lines.iter().all(|line| line.record.account() == "acme"));
        assert_eq!(lines[0].record.id(), KeyDigest::of(KEY).id());
        assert_eq!(lines[2].record.id(), KeyDigest::of("another").id());
    }

    #[test]
    fn an_invalid_line_is_reported_by_number_without_its_text() {
        let secret = "hunter2hunter2hunter2hunter2";
        let zeros = "0".repeat(64);
        let seven = "0123456".repeat(10);
        let [seven, cased] = [&seven[..64], &"0123aAbBcC".repeat(7)[..64]];
        for (line, invalid) in [
            ("admin acme".to_owned(), LineError::Syntax),
            (format!("admin = {KEY}"), LineError::Syntax),
            (format!("= {KEY}"), LineError::Syntax),
            ("admin acme =".to_owned(), LineError::Syntax),
            (format!("admin acme = {KEY} {OTHER}"), LineError::Syntax),
            (format!("admin acme a\"b = {KEY}"), LineError::Scope),
            (format!("admin acme a,b = {OTHER}"), LineError::Scope),
            (
                format!("admin acme {} = {OTHER}", "a".repeat(129)),
                LineError::Scope,
            ),
            (format!("ad\0min acme = {OTHER}"), LineError::Text),
            (format!("admin ac\0me = {OTHER}"), LineError::Text),
            (format!("admin acme = {secret}"), LineError::Format),
            ("admin acme = sk_live_junk".to_owned(), LineError::Format),
            (format!("admin acme = {zeros}"), LineError::Guessable),
            (format!("admin acme = sha256:{zeros}"), LineError::Guessable),
            (format!("admin acme = sha256:{seven}"), LineError::Guessable),
            (format!("admin acme = sha256:{cased}"), LineError::Guessable),
            ("admin acme = sha256:abc".to_owned(), LineError::Digest),
            (format!("ci acme = {OTHER}"), LineError::SameName),
            (format!("admin acme = {KEY}"), LineError::SameKey),
            (
                format!("admin {} = {OTHER}", "a".repeat(300)),
                LineError::Text,
            ),
        ] {
            let text = format!("ci acme = {KEY}\n{line}");
            assert_eq!(read(&text).unwrap_err(), (2, invalid), "{line}");
            assert!(!invalid.to_string().contains(secret));
        }
    }

    #[test]
    fn a_prefix_does_not_make_a_key_less_guessable() {
        use crate::key::alphabet::Alphabet;
        use crate::key::environment::Environment;

        let acme = KeyFormat::imported("acme-", Alphabet::HEX, 40..=40, Environment::LIVE).unwrap();
        let formats = KeyFormats::new([acme]).unwrap();
        let line = |digits: &str| format!("admin acme = acme-{}", digits.repeat(5));
        assert!(super::read(&line("01234567"), &formats).is_ok());
        let guessable = super::read(&line("01234560"), &formats).unwrap_err();
        assert_eq!(guessable, (1, LineError::Guessable));
    }
}
