//! The web origins that a publishable key may be used from.

use std::fmt;
use std::str::FromStr;

/// A web origin (RFC 6454), as browsers write it in `Origin`: `https://app.example.com`.
///
/// An origin is a scheme, a host, and a port unless it is the default port of the scheme. Scheme
/// and host are parsed in any case.
///
/// ```
/// use tower_api_key::key::WebOrigin;
///
/// let origin: WebOrigin = "HTTPS://App.Example.com:443".parse()?;
/// assert_eq!(origin.as_str(), "https://app.example.com");
/// assert!("https://app.example.com/page".parse::<WebOrigin>().is_err());
/// # Ok::<(), tower_api_key::key::WebOriginError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebOrigin(Box<str>);

/// The longest origin, in bytes. A host name has at most 253.
const LONGEST: usize = 300;

impl WebOrigin {
    /// Returns the origin as browsers write it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WebOrigin {
    type Err = WebOriginError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let canonical = || {
            let text = text.to_ascii_lowercase();
            let (scheme, rest) = text.split_once("://")?;
            let is_scheme = scheme.starts_with(|c: char| c.is_ascii_lowercase())
                && scheme
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            let default_port = match scheme {
                "https" => ":443",
                "http" => ":80",
                _ => "",
            };
            let rest = rest
                .strip_suffix(default_port)
                .filter(|_| !default_port.is_empty())
                .unwrap_or(rest);
            let (host, port) = match rest.rsplit_once(':') {
                Some((host, port)) if !port.contains(']') => (host, Some(port)),
                _ => (rest, None),
            };
            let is_port = port.is_none_or(|port| {
                let is_plain = port == "0" || !port.starts_with(['0', '+']);
                is_plain && port.parse::<u16>().is_ok()
            });
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            let is_host = match host
                .strip_prefix('[')
                .and_then(|host| host.strip_suffix(']'))
            {
                Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && host.bytes().all(is_plain),
            };
            let is_origin = is_scheme && is_port && is_host && text.len() <= LONGEST;
            is_origin.then(|| Self(format!("{scheme}://{rest}").into()))
        };
        canonical().ok_or_else(|| WebOriginError(text.to_owned()))
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An error for a text that is not a web origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a web origin: write it as https://app.example.com, without a path")]
pub struct WebOriginError(String);

/// The web origins that a publishable key may be used from: any, or those of a list.
///
/// A list keeps other sites from using a key in their pages, since browsers do not let pages change
/// `Origin`.
///
/// Danger: other clients can send any `Origin`, so a list does not restrict them.
///
/// ```
/// use tower_api_key::key::AllowedOrigins;
///
/// let app = AllowedOrigins::only(["https://app.example.com"])?;
/// assert!(app.allow(Some(b"https://app.example.com")));
/// assert!(!app.allow(Some(b"https://evil.example")));
/// assert!(!app.allow(None));
/// assert!(AllowedOrigins::any().allow(None));
/// # Ok::<(), tower_api_key::key::WebOriginError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedOrigins(Option<Box<[WebOrigin]>>);

impl AllowedOrigins {
    /// Allows any origin. This is the default.
    pub const fn any() -> Self {
        Self(None)
    }

    /// Allows only these origins. An empty list allows no origin.
    pub fn only<O: AsRef<str>>(
        origins: impl IntoIterator<Item = O>,
    ) -> Result<Self, WebOriginError> {
        origins.into_iter().map(|it| it.as_ref().parse()).collect()
    }

    /// Returns the list, or `None` if any origin is allowed.
    pub fn list(&self) -> Option<&[WebOrigin]> {
        self.0.as_deref()
    }

    /// Returns whether a request with this `Origin` may use the key. `None` is a request without an
    /// origin.
    pub fn allow(&self, origin: Option<&[u8]>) -> bool {
        let Some(list) = &self.0 else {
            return true;
        };
        origin.is_some_and(|origin| list.iter().any(|it| it.0.as_bytes() == origin))
    }
}

impl AllowedOrigins {
    /// Returns whether an allowed origin has this host and port, with any scheme.
    pub(crate) fn have_host(&self, host: &[u8]) -> bool {
        let has_host = |origin: &WebOrigin| {
            let authority = origin
                .0
                .split_once("://")
                .map_or("", |(_, authority)| authority);
            authority.as_bytes().eq_ignore_ascii_case(host)
        };
        self.list().is_none_or(|list| list.iter().any(has_host))
    }
}

impl FromIterator<WebOrigin> for AllowedOrigins {
    fn from_iter<I: IntoIterator<Item = WebOrigin>>(origins: I) -> Self {
        Self(Some(origins.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_normalized_as_browsers_send_it() {
        for (text, written) in [
            ("https://app.example.com", "https://app.example.com"),
            ("HTTPS://APP.example.com:443", "https://app.example.com"),
            ("http://localhost:3000", "http://localhost:3000"),
            ("http://127.0.0.1:80", "http://127.0.0.1"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("http://[::1]", "http://[::1]"),
            ("https://a.example:80", "https://a.example:80"),
            ("chrome-extension://abcdef", "chrome-extension://abcdef"),
        ] {
            assert_eq!(text.parse::<WebOrigin>().unwrap().as_str(), written);
        }
    }

    #[test]
    fn an_invalid_origin_is_refused() {
        for text in [
            "",
            "null",
            "*",
            "app.example.com",
            "https://",
            "https://a/",
            "https://a?b",
            "https://a b",
            "https://a:",
            "https://a:0443",
            "https://a:65536",
            "https://a:+80",
            "https://user@a",
            "://a",
            "1://a",
            "https://ä",
            "https://[::1",
            "https://[x]",
            "https://a,https://b",
        ] {
            assert!(text.parse::<WebOrigin>().is_err(), "{text:?}");
        }
        let long = format!("https://{}", "a".repeat(300));
        assert!(long.parse::<WebOrigin>().is_err());
    }
}
