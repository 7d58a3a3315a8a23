//! Facts about the caller as request headers, for services behind a layer that are not in Rust.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::cache::CachedKey;
use crate::key::lifecycle::Lifecycle;

/// A fact about the caller that a layer passes on to the inner service as a request header.
///
/// [`ApiKeyLayer::pass_on`](crate::ApiKeyLayer::pass_on) selects the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CallerFact {
    /// `X-Key-Status`: `active` or `deprecated`.
    Status,
    /// `X-Key-Id`: the public id of the key.
    KeyId,
    /// `X-Key-Account`: the account.
    Account,
    /// `X-Key-Plan`: the plan that the record names, if any.
    Plan,
    /// `X-Key-Scopes`: the scopes, separated by spaces; empty if there are none.
    Scopes,
    /// `X-Key-Environment`: the environment of the key.
    Environment,
}

impl CallerFact {
    /// All facts.
    pub const ALL: [Self; 6] = [
        Self::Status,
        Self::KeyId,
        Self::Account,
        Self::Plan,
        Self::Scopes,
        Self::Environment,
    ];

    /// Returns the name of the header, in lower case.
    pub const fn header(self) -> &'static str {
        match self {
            Self::Status => "x-key-status",
            Self::KeyId => "x-key-id",
            Self::Account => "x-key-account",
            Self::Plan => "x-key-plan",
            Self::Scopes => "x-key-scopes",
            Self::Environment => "x-key-environment",
        }
    }

    fn of(self, key: &CachedKey, lifecycle: &Lifecycle) -> Option<HeaderValue> {
        let record = key.record();
        // White space at the ends of a header is trimmed, so blanks are encoded, too.
        let encoded = |text: &str| utf8_percent_encode(text, NOT_PLAIN_NOR_BLANK).to_string();
        let encoded = match self {
            Self::Status => return Some(HeaderValue::from_static(lifecycle.status().as_str())),
            Self::KeyId => record.id().to_string(),
            Self::Account => encoded(record.account()),
            Self::Plan => encoded(record.plan()?),
            // Scopes are printable ASCII without blanks.
            Self::Scopes => record.scopes().to_string(),
            Self::Environment => encoded(key.environment().as_str()),
        };
        HeaderValue::try_from(encoded).ok()
    }
}

/// The characters that are percent-encoded: blanks, `%`, and all but printable ASCII.
const NOT_PLAIN_NOR_BLANK: &AsciiSet = &CONTROLS.add(b'%').add(b' ');

/// Removes the headers of all facts that a client sent, and writes the selected facts of its key,
/// if it has one.
pub(crate) fn write(
    headers: &mut HeaderMap,
    facts: &[CallerFact],
    key: Option<(&CachedKey, &Lifecycle)>,
) {
    let forged: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_fact(name.as_str()))
        .cloned()
        .collect();
    for name in forged {
        headers.remove(name);
    }
    keep_from_connection(headers);
    let Some((key, lifecycle)) = key else {
        return;
    };
    for fact in facts {
        if let Some(value) = fact.of(key, lifecycle) {
            headers.insert(HeaderName::from_static(fact.header()), value);
        }
    }
}

/// Returns whether a header could be taken for a fact. Services behind CGI and its successors take
/// `_` for `-`.
fn is_fact(name: &str) -> bool {
    let is_same = |fact: &CallerFact| {
        let fact = fact.header();
        let same = |(a, b): (u8, u8)| a.eq_ignore_ascii_case(&b) || (a == b'_' && b == b'-');
        name.len() == fact.len() && name.bytes().zip(fact.bytes()).all(same)
    };
    CallerFact::ALL.iter().any(is_same)
}

/// Removes the names of facts from `Connection`: a proxy behind the layer would drop the headers
/// that `Connection` names (RFC 9110 §7.6.1).
fn keep_from_connection(headers: &mut HeaderMap) {
    let names_fact = |line: &HeaderValue| {
        let line = line.to_str().unwrap_or_default();
        line.split(',').any(|option| is_fact(option.trim()))
    };
    if !headers.get_all(CONNECTION).iter().any(names_fact) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(CONNECTION).iter().cloned().collect();
    headers.remove(CONNECTION);
    for line in lines {
        let line = line.to_str().unwrap_or_default();
        let options = line
            .split(',')
            .map(str::trim)
            .filter(|option| !is_fact(option));
        let options: Vec<&str> = options.collect();
        if let Ok(value) = HeaderValue::try_from(options.join(", ")) {
            headers.append(CONNECTION, value);
        }
    }
}
