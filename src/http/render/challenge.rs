//! `WWW-Authenticate`: a 401 always says how to authenticate (RFC 9110 §11.6.1, RFC 6750 §3).

use std::borrow::Cow;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};

use crate::http::credential::source::{KeySources, Scheme, parameter_in_url};
use crate::http::rejection::Rejection;
use crate::http::render::error_content::ErrorContent;

/// The `realm` of the challenges: a name for the protected API, such as `api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Realm(String);

impl Default for Realm {
    fn default() -> Self {
        Self("api".to_owned())
    }
}

impl TryFrom<&str> for Realm {
    type Error = RealmError;

    fn try_from(realm: &str) -> Result<Self, RealmError> {
        let plain = |byte: u8| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if realm.bytes().all(plain) {
            Ok(Self(realm.to_owned()))
        } else {
            Err(RealmError(realm.to_owned()))
        }
    }
}

/// An error for a realm that would need escapes in a challenge.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a realm: use ASCII text without '\"' and '\\'")]
pub struct RealmError(String);

/// The settings of the challenges, one set per layer.
#[derive(Debug, Clone)]
pub(crate) struct Challenges {
    pub(crate) realm: Realm,
    /// Always sends the Basic challenge. Browsers open a dialog for it, so by default it is sent
    /// only if nothing else is accepted.
    pub(crate) basic: bool,
    /// The resource's metadata, as a parameter of Bearer (RFC 9728 §5.1).
    pub(crate) resource_metadata: Option<MetadataUrl>,
}

/// The URL of a resource's metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MetadataUrl(Box<str>);

impl TryFrom<&str> for MetadataUrl {
    type Error = MetadataUrlError;

    fn try_from(url: &str) -> Result<Self, MetadataUrlError> {
        let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\');
        let host = url.strip_prefix("https://").unwrap_or_default();
        if host.is_empty() || !url.bytes().all(plain) {
            return Err(MetadataUrlError(url.to_owned()));
        }
        Ok(Self(url.into()))
    }
}

/// An error for a URL that cannot name a resource's metadata.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot name a resource's metadata: use an https URL, percent-encoded")]
pub struct MetadataUrlError(String);

impl Challenges {
    /// Writes the challenges for a rejection, the best-supported scheme first, each in a line of
    /// its own.
    ///
    /// No challenge names a scheme that is not accepted: clients would follow it without success.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        content: &ErrorContent<'_>,
        sources: &KeySources,
    ) {
        let Some(rejection) = content.rejection() else {
            return; // an error of the application is no refusal
        };
        let mut add = |challenge: String| {
            // Realm, names, messages and scopes are made of characters that a header may hold.
            if let Ok(value) = HeaderValue::try_from(challenge) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        };
        if content.status() != StatusCode::UNAUTHORIZED {
            // Only Bearer defines challenges for statuses other than 401 (RFC 6750 §3.1).
            if sources.schemes.contains(&Scheme::Bearer)
                && let Some(parameters) = Self::beyond_401(rejection)
            {
                add(self.bearer(&parameters));
            }
            return;
        }
        let schemes: Vec<_> = sources
            .schemes
            .iter()
            .filter(|scheme| match scheme {
                Scheme::Basic => self.asks_for_basic(sources),
                // Basic is one scheme, with the key in either position.
                Scheme::BasicPassword => {
                    self.asks_for_basic(sources) && !sources.schemes.contains(&Scheme::Basic)
                }
                _ => true,
            })
            .collect();
        for scheme in &schemes {
            add(self.of_scheme(scheme, rejection));
        }
        if schemes.is_empty() {
            // A 401 must carry a challenge (RFC 9110 §15.5.2), even if no scheme can be named.
            dedicated_positions(sources).for_each(|position| add(self.for_position(&position)));
        }
    }

    /// Returns whether the Basic challenge is sent, for which browsers open a dialog: it is
    /// configured, or Basic is the only way to send a key.
    fn asks_for_basic(&self, sources: &KeySources) -> bool {
        let is_basic = |scheme: &Scheme| matches!(scheme, Scheme::Basic | Scheme::BasicPassword);
        let is_only_way =
            sources.schemes.iter().all(is_basic) && dedicated_positions(sources).next().is_none();
        self.basic || is_only_way
    }

    fn of_scheme(&self, scheme: &Scheme, rejection: &Rejection) -> String {
        let realm = &self.realm.0;
        match scheme {
            // A request without credentials is told no error (RFC 6750 §3.1).
            Scheme::Bearer if matches!(rejection, Rejection::Missing) => self.bearer(""),
            Scheme::Bearer => self.bearer(&error("invalid_token", rejection)),
            Scheme::Basic | Scheme::BasicPassword => {
                format!("Basic realm=\"{realm}\", charset=\"UTF-8\"")
            }
            Scheme::ApiKey => format!("ApiKey realm=\"{realm}\""),
            Scheme::Custom(name) => format!("{name} realm=\"{realm}\""),
        }
    }

    fn bearer(&self, parameters: &str) -> String {
        let realm = &self.realm.0;
        let metadata = self.resource_metadata.as_ref();
        let metadata = metadata.map(|url| format!(", resource_metadata=\"{}\"", url.0));
        let metadata = metadata.unwrap_or_default();
        format!("Bearer realm=\"{realm}\"{parameters}{metadata}")
    }

    /// Returns the parameters of the Bearer challenge in a response that is not a 401.
    fn beyond_401(rejection: &Rejection) -> Option<String> {
        match rejection {
            Rejection::Ambiguous => Some(error("invalid_request", rejection)),
            Rejection::InsufficientScope { required } if required.is_any_of() => {
                Some(error("insufficient_scope", rejection))
            }
            Rejection::InsufficientScope { required } => {
                let error = error("insufficient_scope", rejection);
                Some(format!("{error}, scope=\"{required}\""))
            }
            _ => None,
        }
    }

    fn for_position(&self, (kind, name): &(&str, Cow<'_, str>)) -> String {
        let realm = &self.realm.0;
        format!("ApiKey realm=\"{realm}\", in=\"{kind}\", name=\"{name}\"")
    }
}

fn error(code: &str, rejection: &Rejection) -> String {
    format!(", error=\"{code}\", error_description=\"{rejection}\"")
}

/// Returns the places that are meant for keys, by kind and name.
fn dedicated_positions(sources: &KeySources) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
    let headers = sources.headers.iter().map(|header| {
        let written = header.written.to_str().unwrap_or(header.name.as_str());
        ("header", written.into())
    });
    let parameters = sources
        .parameters
        .iter()
        .map(|name| ("query", parameter_in_url(name)));
    headers.chain(parameters)
}
