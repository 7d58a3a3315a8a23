//! `WWW-Authenticate`: a 401 always says how to authenticate (RFC 9110 §11.6.1, RFC 6750 §3).

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, StatusCode};

use crate::rejection::Rejection;
use crate::source::{KeySources, Scheme};

/// The `realm` of the challenges: what the keys are for, such as `api`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Realm(String);

impl Default for Realm {
    fn default() -> Self {
        Self("api".to_owned())
    }
}

impl TryFrom<&str> for Realm {
    type Error = InvalidRealm;

    fn try_from(realm: &str) -> Result<Self, InvalidRealm> {
        let plain = |byte: u8| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        if realm.bytes().all(plain) {
            Ok(Self(realm.to_owned()))
        } else {
            Err(InvalidRealm(realm.to_owned()))
        }
    }
}

/// A realm that cannot be quoted as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot be a realm: use ASCII text without '\"' and '\\'")]
pub struct InvalidRealm(String);

/// How this API is authenticated to, written once per layer.
#[derive(Debug, Clone)]
pub(crate) struct Challenges {
    pub(crate) realm: Realm,
    /// Browsers open a dialog for a Basic challenge, so it is sent only where asked for.
    pub(crate) basic: bool,
}

impl Challenges {
    /// Writes the challenges that a rejection calls for, the best-supported scheme first, each in
    /// a line of its own.
    pub(crate) fn write(
        &self,
        headers: &mut HeaderMap,
        rejection: &Rejection,
        sources: &KeySources,
    ) {
        let realm = &self.realm.0;
        let mut add = |challenge: String| {
            // Realm, messages and scopes are made of characters that a header may hold.
            if let Ok(value) = HeaderValue::try_from(challenge) {
                headers.append(WWW_AUTHENTICATE, value);
            }
        };
        if let Rejection::InsufficientScope { required } = rejection {
            // RFC 6750 defines this error for Bearer; no other scheme can say it.
            let scope = if required.is_any_of() {
                String::new()
            } else {
                format!(", scope=\"{required}\"")
            };
            add(format!(
                "Bearer realm=\"{realm}\", error=\"insufficient_scope\", \
                 error_description=\"{rejection}\"{scope}"
            ));
            return;
        }
        if rejection.status() != StatusCode::UNAUTHORIZED {
            return;
        }
        let mut challenged = false;
        for scheme in &sources.schemes {
            challenged |= match scheme {
                Scheme::Bearer if matches!(rejection, Rejection::Missing) => {
                    add(format!("Bearer realm=\"{realm}\""));
                    true
                }
                Scheme::Bearer => {
                    add(format!(
                        "Bearer realm=\"{realm}\", error=\"invalid_token\", \
                         error_description=\"{rejection}\""
                    ));
                    true
                }
                Scheme::Basic if self.basic => {
                    add(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
                    true
                }
                Scheme::Basic => false,
                Scheme::ApiKey => {
                    add(format!("ApiKey realm=\"{realm}\""));
                    true
                }
            };
        }
        if !challenged {
            // Keys come in a header of their own; a 401 must carry a challenge all the same.
            let header = sources
                .headers
                .first()
                .and_then(|header| header.written.to_str().ok());
            let header = header
                .map(|name| format!(", header=\"{name}\""))
                .unwrap_or_default();
            add(format!("ApiKey realm=\"{realm}\"{header}"));
        }
    }
}
