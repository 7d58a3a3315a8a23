//! Response headers about the key, and headers that keep responses out of shared caches.

use http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, LINK, VARY};

use crate::http::carriers::Carriers;
use crate::http::credential::source::KeySources;
use crate::key::lifecycle::{KeyStatus, Lifecycle};
use crate::util::timestamp;

const KEY_STATUS: HeaderName = HeaderName::from_static("x-key-status");
const KEY_EXPIRES_AT: HeaderName = HeaderName::from_static("x-key-expires-at");
const KEY_EXPIRED_AT: HeaderName = HeaderName::from_static("x-key-expired-at");
const DEPRECATION: HeaderName = HeaderName::from_static("deprecation");
const SUNSET: HeaderName = HeaderName::from_static("sunset");

/// The headers that tell the status of a key.
#[derive(Debug, Clone)]
pub(crate) struct KeyHeaders {
    pub(crate) status: bool,
    pub(crate) deprecation: bool,
    pub(crate) deprecation_link: Option<HeaderValue>,
    pub(crate) sunset_link: Option<HeaderValue>,
}

impl Default for KeyHeaders {
    fn default() -> Self {
        Self {
            status: true,
            deprecation: true,
            deprecation_link: None,
            sunset_link: None,
        }
    }
}

impl KeyHeaders {
    /// Writes the headers of a key whose secret was right. Nothing may be told about any other key.
    pub(crate) fn write(&self, headers: &mut HeaderMap, lifecycle: &Lifecycle) {
        if self.status {
            let status = lifecycle.status();
            headers.insert(KEY_STATUS, value_of(status));
            let date = lifecycle.expires_at().map(timestamp::rfc3339);
            let name = match status {
                KeyStatus::Expired => KEY_EXPIRED_AT,
                _ => KEY_EXPIRES_AT,
            };
            if let Some(date) = text(date).filter(|_| status != KeyStatus::Revoked) {
                headers.insert(name, date);
            }
        }
        // Headers about the end of the resource itself take precedence over those about the key.
        if let (true, Some(since)) = (self.deprecation, lifecycle.deprecated_at())
            && !headers.contains_key(DEPRECATION)
            && !headers.contains_key(SUNSET)
        {
            let since = format!("@{}", timestamp::unix_seconds(since));
            let sunset = lifecycle.expires_at().map(timestamp::http_date);
            for (name, value) in [(DEPRECATION, text(Some(since))), (SUNSET, text(sunset))] {
                if let Some(value) = value {
                    headers.insert(name, value);
                }
            }
            for link in [&self.deprecation_link, &self.sunset_link]
                .into_iter()
                .flatten()
            {
                headers.append(LINK, link.clone());
            }
        }
    }
}

/// Returns the header value of a status, checked at compile time for keys that work.
fn value_of(status: KeyStatus) -> HeaderValue {
    const ACTIVE: HeaderValue = HeaderValue::from_static(KeyStatus::Active.as_str());
    const DEPRECATED: HeaderValue = HeaderValue::from_static(KeyStatus::Deprecated.as_str());
    match status {
        KeyStatus::Active => ACTIVE,
        KeyStatus::Deprecated => DEPRECATED,
        refused => HeaderValue::from_static(refused.as_str()),
    }
}

fn text(text: Option<String>) -> Option<HeaderValue> {
    text.and_then(|text| HeaderValue::try_from(text).ok())
}

/// Creates a `Link` to a page about deprecation or sunset.
pub(crate) fn link(url: &str, relation: &str) -> Result<HeaderValue, LinkError> {
    let plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'<' | b'>' | b'"');
    let valid = !url.is_empty() && url.bytes().all(plain);
    let link = format!("<{url}>; rel=\"{relation}\"; type=\"text/html\"");
    text(valid.then_some(link)).ok_or_else(|| LinkError(url.to_owned()))
}

/// An error for a URL that cannot stand in a `Link` header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot stand in a Link header: percent-encode it")]
pub struct LinkError(String);

/// Keeps the response to a key out of shared caches. By default, they only protect requests with
/// `Authorization` (RFC 9111 §3.5).
pub(crate) fn keep_from_caches(
    headers: &mut HeaderMap,
    sources: &KeySources,
    carriers: Carriers,
    optional: bool,
) {
    let is_unprotected = carriers.go_beyond_authorization();
    if is_unprotected && !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
    if optional {
        // Responses with and without a key differ, so they vary on every place. (A cache that
        // protects requests with `Authorization` may still answer such a request with a response
        // that it stored for a request without.)
        if !sources.schemes.is_empty() {
            vary(headers, &HeaderValue::from_static("Authorization"));
        }
        for header in &sources.headers {
            vary(headers, &header.written);
        }
    } else if is_unprotected {
        for header in sources.headers_in(carriers) {
            vary(headers, &header.written);
        }
    }
}

/// Adds a name to `Vary`, unless it is there already.
fn vary(headers: &mut HeaderMap, name: &HeaderValue) {
    let is_there = headers.get_all(VARY).iter().any(|line| {
        line.as_bytes().split(|byte| *byte == b',').any(|item| {
            let item = item.trim_ascii();
            item == b"*" || item.eq_ignore_ascii_case(name.as_bytes())
        })
    });
    if !is_there {
        headers.append(VARY, name.clone());
    }
}
