//! Facts about the caller as request headers, for services behind a layer that are not in Rust.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::cache::KnownKey;
use crate::key::lifecycle::Lifecycle;

/// A fact about the caller that a layer passes on to the inner service as a request header.
///
/// [`ApiKeyLayer::pass_on`](crate::ApiKeyLayer::pass_on) chooses which.
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
    /// `X-Key-Scopes`: the scopes, with spaces between them; empty if there is none.
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

    fn of(self, key: &KnownKey, lifecycle: &Lifecycle) -> Option<HeaderValue> {
        let record = key.record();
        let text = match self {
            Self::Status => return Some(HeaderValue::from_static(lifecycle.status().as_str())),
            Self::KeyId => record.id().to_string(),
            Self::Account => record.account().to_owned(),
            Self::Plan => record.plan()?.to_owned(),
            Self::Scopes => record.scopes().to_string(),
            Self::Environment => key.environment().to_string(),
        };
        let encoded = utf8_percent_encode(&text, NOT_PLAIN).to_string();
        HeaderValue::try_from(encoded).ok()
    }
}

/// What is percent-encoded: all but printable ASCII, and `%` itself.
const NOT_PLAIN: &AsciiSet = &CONTROLS.add(b'%');

/// Takes out what a client sent under these names, and writes the facts of its key, if it has one.
pub(crate) fn write(
    headers: &mut HeaderMap,
    facts: &[CallerFact],
    key: Option<(&KnownKey, &Lifecycle)>,
) {
    for fact in CallerFact::ALL {
        headers.remove(fact.header());
    }
    let Some((key, lifecycle)) = key else {
        return;
    };
    for fact in facts {
        if let Some(value) = fact.of(key, lifecycle) {
            headers.insert(HeaderName::from_static(fact.header()), value);
        }
    }
}
