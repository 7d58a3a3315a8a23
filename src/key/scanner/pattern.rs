//! The texts of a format's keys, as regular expressions that every scanner understands.

use std::fmt;
use std::ops::RangeInclusive;

use crate::key::alphabet::Alphabet;
use crate::key::format::{KeyBody, KeyFormat};
use crate::key::kind::KeyKind;

/// The shortest lead that tells imported keys from digests.
const SHORTEST_LEAD: usize = 3;

/// Escapes and colours that end in a letter or a digit, and may stand before a key.
const ESCAPES: &str =
    r"\\(?:[0abefnrtv]|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2})|%[0-9A-Fa-f]{2}|\[[0-9;:]+m";

/// The same with the end of a colour only: whole ones make an expression too large for Hyperscan.
const SHORT_ESCAPES: &str =
    r"\\(?:[0abefnrtv]|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2})|%[0-9A-Fa-f]{2}|[0-9\[]m";

/// What is left of an escape whose first character was taken for the end of another key.
const REST_OF_ESCAPES: &str = r"\b(?:[0abefnrtv]|u[0-9A-Fa-f]{4}|x?[0-9A-Fa-f]{2})";

/// The texts of the keys of a format.
///
/// The expressions are within what RE2 (gitleaks, TruffleHog), Hyperscan (GitHub) and Python have
/// in common: no look-around, no possessive quantifiers, and at most 1,000 repetitions.
#[derive(Debug, Clone)]
pub(super) struct Pattern {
    /// The name of the rule, such as `api-key-acme-live`.
    pub(super) name: String,
    pub(super) lead: Box<str>,
    pub(super) environment: String,
    /// The characters after the lead.
    alphabet: Alphabet,
    length: RangeInclusive<usize>,
    pub(super) is_issued: bool,
    /// The length of the secret, if a plain checksum follows it.
    pub(super) checked_secret: Option<usize>,
}

impl Pattern {
    /// Creates the pattern of a format, if scanners can tell its keys and should.
    pub(super) fn of(format: &KeyFormat) -> Result<Self, LeftOut> {
        let left_out = |reason| {
            let lead = format.lead().into();
            Err(LeftOut { lead, reason })
        };
        if format.kind() == KeyKind::Publishable {
            return left_out("its keys are publishable, so they are no secrets");
        }
        let (alphabet, length) = match format.body() {
            KeyBody::Issued { .. } => {
                let length = format.issued_length();
                (Alphabet::ALPHANUMERIC, length..=length)
            }
            KeyBody::Imported { alphabet, .. } if alphabet.characters().next().is_none() => {
                return left_out("its alphabet is empty, so it has no keys");
            }
            KeyBody::Imported { .. } if format.lead().len() < SHORTEST_LEAD => {
                return left_out("digests of all kinds would be found");
            }
            KeyBody::Imported {
                alphabet, length, ..
            } => (*alphabet, length.clone()),
        };
        Ok(Self {
            name: format!("api-key-{}", slug(format.lead())),
            lead: format.lead().into(),
            environment: format.environment().to_string(),
            alphabet,
            length,
            is_issued: format.is_issued(),
            checked_secret: format.plainly_checked_secret(),
        })
    }

    /// Returns a description for people.
    pub(super) fn description(&self) -> String {
        let (lead, environment) = (&self.lead, &self.environment);
        format!("API key that begins with {lead} (environment {environment})")
    }

    /// Returns the expression for a key and its surroundings, with the key as the only group.
    pub(super) fn regex(&self) -> String {
        // A boundary takes no character away, so keys are found beside each other.
        let boundary = match self.lead.bytes().next() {
            Some(first) if is_word(first) => r"\b",
            _ => r"\B",
        };
        let connectors = self.connectors();
        let (before, after) = if connectors.is_empty() {
            (format!("(?:{boundary}|{ESCAPES})"), r"\b".to_owned())
        } else {
            (
                format!("(?:{boundary}|{ESCAPES}|{REST_OF_ESCAPES})"),
                format!("(?:$|[^0-9A-Za-z_{connectors}])"),
            )
        };
        format!("{before}({}){after}", self.key())
    }

    /// Returns the expression for a key alone.
    pub(super) fn key(&self) -> String {
        let lead: String = self.lead.chars().map(escaped).collect();
        let class = class(self.alphabet);
        let (shortest, longest) = (self.length.start(), self.length.end());
        if shortest == longest {
            return format!("{lead}[{class}]{{{shortest}}}");
        }
        format!("{lead}[{class}]{{{shortest},{longest}}}")
    }

    /// Returns the expression for the text after a key, where that is an expression of its own.
    pub(super) fn after(&self) -> String {
        format!(r"\z|[^0-9A-Za-z_{}]", self.connectors())
    }

    /// Returns a text that looks like a key, and is none.
    pub(super) fn sample(&self) -> String {
        let characters = self.alphabet.characters().map(char::from).cycle();
        let body = characters.take(*self.length.start());
        self.lead.chars().chain(body).collect()
    }

    /// Returns what else than letters, digits and `_` may continue a key, for a class.
    fn connectors(&self) -> String {
        let connectors = self.alphabet.characters().filter(|byte| !is_word(*byte));
        connectors.map(|byte| escaped(char::from(byte))).collect()
    }
}

/// Returns the expression for the text before a key, where that is an expression of its own.
pub(super) fn before() -> String {
    format!(r"\A|[^0-9A-Za-z_]|{SHORT_ESCAPES}")
}

/// A format that has no rule, and why.
#[derive(Debug, Clone)]
pub(super) struct LeftOut {
    lead: Box<str>,
    reason: &'static str,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.lead {
            "" => write!(f, "Left out: the format without a prefix: {}.", self.reason),
            lead => write!(f, "Left out: the format {lead} : {}.", self.reason),
        }
    }
}

/// Returns a line of comment for each format that has no rule.
pub(super) fn comments(left_out: &[LeftOut]) -> String {
    let lines: Vec<_> = left_out.iter().map(|it| format!("# {it}\n")).collect();
    lines.concat()
}

/// Returns the lead in lower-case letters, digits and `-`.
fn slug(lead: &str) -> String {
    let words = lead.split(|it: char| !it.is_ascii_alphanumeric());
    let words: Vec<_> = words.filter(|word| !word.is_empty()).collect();
    words.join("-").to_ascii_lowercase()
}

/// Returns the characters of an alphabet, as within the brackets of a class.
fn class(alphabet: Alphabet) -> String {
    let mut class = String::new();
    let mut characters = alphabet.characters().peekable();
    while let Some(first) = characters.next() {
        let mut last = first;
        while let Some(next) = characters.next_if(|it| is_word(*it) && *it == last + 1) {
            last = next;
        }
        class += &escaped(char::from(first));
        if last > first + 1 {
            class.push('-');
        }
        if last > first {
            class += &escaped(char::from(last));
        }
    }
    class
}

/// Escapes a character, within a class and elsewhere.
fn escaped(character: char) -> String {
    match character {
        '\\' | '.' | '+' | '*' | '?' | '(' | ')' | '|' | '[' | ']' | '{' | '}' | '^' | '$'
        | '-' | '&' | '~' | '#' => format!(r"\{character}"),
        _ => character.to_string(),
    }
}

/// Returns whether a byte is a character of a word, between which and others there is a `\b`.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}
