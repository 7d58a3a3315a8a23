//! The grammar of keys as text: `NAME ACCOUNT [SCOPE…] = KEY`, a line for each.

use std::collections::BTreeSet;

use crate::key::digest::KeyDigest;
use crate::key::format::KeyFormat;
use crate::key::formats::{KeyFormats, Place, Recognized};
use crate::key::record::KeyRecord;
use crate::key::scope::ScopeSet;

/// The prefix of a digest in place of a key.
const SHA256: &str = "sha256:";

/// The different characters that nearly every key has which was drawn at random.
const FEWEST_CHARACTERS: usize = 8;

/// A key, and the line that it stands in.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) record: KeyRecord,
}

/// A line that is no key. It never shows what stands in it, since that may be a key in the wrong
/// place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineError {
    /// It has another form.
    #[error("write it as NAME ACCOUNT [SCOPE...] = KEY, or with sha256:HEX in place of the key")]
    Syntax,
    /// A scope cannot be written so.
    #[error(
        "a scope is not written as RFC 6749 has it; scopes have blanks between them, and no commas"
    )]
    Scope,
    /// A name, an account or a scope is too long, or holds a NUL.
    #[error("the name or the account is too long")]
    Text,
    /// `sha256:` without 64 hexadecimal digits.
    #[error("the digest is not 64 hexadecimal digits")]
    Digest,
    /// The key is written in none of the formats.
    #[error(
        "the key is written in none of the formats of this store: make one with `openssl rand -hex 32`, or \
         see StaticStore::with_formats"
    )]
    Format,
    /// The key has fewer than eight different characters.
    #[error("the key can be guessed: make one with `openssl rand -hex 32`")]
    Guessable,
    /// Another line has the same name.
    #[error("another line has the same name")]
    SameName,
    /// Another line has the same key.
    #[error("another line has the same key")]
    SameKey,
}

/// Reads keys, one in each line, or several with `;` between them. A line that begins with `#` is
/// none, whatever stands in it. An error comes with the number of its line, from 1.
pub(super) fn read(text: &str, formats: &KeyFormats) -> Result<Vec<Line>, (usize, LineError)> {
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
        lines.push(Line { number, record });
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
        return Err(LineError::Scope); // two scopes, in nearly every case
    }
    let scopes: Result<ScopeSet, _> = words.map(str::parse).collect();
    let scopes = scopes.map_err(|_| LineError::Scope)?;
    let key = key.trim();
    if key.is_empty() || key.contains(char::is_whitespace) {
        return Err(LineError::Syntax);
    }
    let (digest, prefix) = if let Some(hex) = key.strip_prefix(SHA256) {
        (KeyDigest::from_hex(hex).ok_or(LineError::Digest)?, None)
    } else {
        let format = written_in(key, formats).ok_or(LineError::Format)?;
        (KeyDigest::of(key), Some(format.prefix()))
    };
    let characters: BTreeSet<u8> = key.bytes().collect();
    if characters.len() < FEWEST_CHARACTERS {
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

fn written_in<'f>(key: &str, formats: &'f KeyFormats) -> Option<&'f KeyFormat> {
    match formats.recognize(key.as_bytes(), Place::Own) {
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

    fn read(text: &str) -> Result<Vec<Line>, (usize, LineError)> {
        let formats = KeyFormats::new(StaticStore::formats()).unwrap();
        super::read(text, &formats)
    }

    #[test]
    fn a_line_is_a_name_an_account_scopes_and_a_key() {
        let digest = hex(KeyDigest::of("another"));
        let text = format!(
            "# for operators; off acme = {OTHER}\r\n\n admin acme admin reports:read={KEY}\r\nci  acme = {OTHER} ;old acme = sha256:{digest}"
        );
        let lines = read(&text).unwrap();
        let told: Vec<_> = lines
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
            told,
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
    fn what_is_no_line_is_told_by_its_number_and_never_shown() {
        let secret = "hunter2hunter2hunter2hunter2";
        let zeros = "0".repeat(64);
        for (line, invalid) in [
            ("admin acme".to_owned(), LineError::Syntax),
            (format!("admin = {KEY}"), LineError::Syntax),
            (format!("= {KEY}"), LineError::Syntax),
            ("admin acme =".to_owned(), LineError::Syntax),
            (format!("admin acme = {KEY} {OTHER}"), LineError::Syntax),
            (format!("admin acme a\"b = {KEY}"), LineError::Scope),
            (format!("admin acme a,b = {OTHER}"), LineError::Scope),
            (format!("admin acme = {secret}"), LineError::Format),
            ("admin acme = sk_live_junk".to_owned(), LineError::Format),
            (format!("admin acme = {zeros}"), LineError::Guessable),
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
}
