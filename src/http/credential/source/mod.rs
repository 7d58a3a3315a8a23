//! Key sources: the places in a request that an application reads keys from.

mod reserved;

use std::borrow::Cow;

use http::header::{HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::carriers::Carriers;

/// A place in a request that keys are read from.
///
/// ```
/// use tower_api_key::{ApiKeys, KeySource};
///
/// let keys = ApiKeys::in_memory();
/// let layer = keys.layer().sources([
///     KeySource::bearer(),
///     KeySource::header("X-Acme-Api-Key")?,
/// ]);
/// # Ok::<(), tower_api_key::http::KeyHeaderError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySource(SourceKind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum SourceKind {
    Scheme(Scheme),
    Header(KeyHeader),
    Query(Box<str>),
}

impl KeySource {
    /// `Authorization: Bearer KEY` (RFC 6750).
    ///
    /// A Bearer token that does not begin as one of our keys is foreign and left alone, so that
    /// users' tokens can be sent beside a key in another place. A key with a typo around it, such
    /// as `Bearer <KEY>` or `BearerKEY`, is malformed (401), never foreign.
    pub const fn bearer() -> Self {
        Self(SourceKind::Scheme(Scheme::Bearer))
    }

    /// `Authorization: ApiKey KEY`, a scheme that is not registered but widely used.
    pub const fn api_key_scheme() -> Self {
        Self(SourceKind::Scheme(Scheme::ApiKey))
    }

    /// `Authorization: SCHEME KEY` under a scheme of the application's own, such as `Api-Key`. The
    /// name is a token of RFC 9110. Requests may write it in any case; challenges write it as given
    /// here.
    ///
    /// `Bearer`, `ApiKey` and `Basic` are [`bearer`](Self::bearer),
    /// [`api_key_scheme`](Self::api_key_scheme) and [`basic`](Self::basic). The other schemes of
    /// IANA's registry, such as `Digest` and `DPoP`, are refused.
    ///
    /// ```
    /// # use tower_api_key::{ApiKeys, KeySource};
    /// let layer = ApiKeys::in_memory().layer().add_source(KeySource::scheme("Api-Key")?);
    /// # Ok::<(), tower_api_key::http::KeySchemeError>(())
    /// ```
    pub fn scheme(name: &str) -> Result<Self, KeySchemeError> {
        if let Some(scheme) = Scheme::from_name(name.as_bytes()) {
            return Ok(Self(SourceKind::Scheme(scheme)));
        }
        let is_token = !name.is_empty() && name.len() <= 64 && name.bytes().all(is_tchar);
        let is_registered = || REGISTERED.iter().any(|it| it.eq_ignore_ascii_case(name));
        if !is_token || is_registered() {
            return Err(KeySchemeError(name.to_owned()));
        }
        Ok(Self(SourceKind::Scheme(Scheme::Custom(name.into()))))
    }

    /// `Authorization: Basic base64(KEY:)` (RFC 7617): the key is the user name, and the password
    /// is empty, as in `curl -u KEY:`.
    pub const fn basic() -> Self {
        Self(SourceKind::Scheme(Scheme::Basic))
    }

    /// `Authorization: Basic base64(USER:KEY)` (RFC 7617): the key is the password, as git, pip and
    /// npm send it. The user name is ignored: `__token__`, `x-access-token`, or any other of up to
    /// 64 bytes.
    ///
    /// A password that does not begin as one of our keys is foreign and left alone. If
    /// [`basic`](Self::basic) is a source, too, the key may stand in either position, but not in
    /// both.
    pub const fn basic_password() -> Self {
        Self(SourceKind::Scheme(Scheme::BasicPassword))
    }

    /// `X-API-Key: KEY`.
    pub const fn x_api_key() -> Self {
        Self(SourceKind::Header(KeyHeader {
            name: HeaderName::from_static("x-api-key"),
            written: HeaderValue::from_static("X-API-Key"),
        }))
    }

    /// A header with another name. Responses (`Vary`) write the name as given here.
    ///
    /// Headers that have a meaning of their own are refused: each name of IANA's registry of HTTP
    /// fields, such as `Authorization`, `Cookie` and `Content-Length`; names that proxies and
    /// frameworks act on, such as `X-Forwarded-For` and `X-HTTP-Method-Override`; and names that
    /// this library writes, such as `X-Key-Status`.
    pub fn header(name: &str) -> Result<Self, KeyHeaderError> {
        let invalid = || KeyHeaderError(name.to_owned());
        let parsed = HeaderName::try_from(name).map_err(|_| invalid())?;
        if reserved::is_reserved(parsed.as_str()) {
            return Err(invalid());
        }
        Ok(Self(SourceKind::Header(KeyHeader {
            name: parsed,
            written: HeaderValue::from_str(name).map_err(|_| invalid())?,
        })))
    }

    /// A parameter of the URL's query, such as `api_key`.
    ///
    /// Danger: proxies, browsers and logs keep URLs. Each admitted request with a key in this
    /// parameter logs a warning with the id of the key. The parameter is removed from the request
    /// before the inner service sees it. With axum, turn on this crate's feature `axum`; otherwise
    /// axum's `OriginalUri` keeps the key.
    ///
    /// # Panics
    /// If the name is empty.
    #[track_caller]
    pub fn dangerous_query(parameter: impl Into<String>) -> Self {
        let parameter = parameter.into();
        assert!(!parameter.is_empty(), "a parameter has a name");
        Self(SourceKind::Query(parameter.into()))
    }
}

/// An error for a header name that keys cannot be read from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} cannot carry a key: use a header name that has no meaning of its own")]
pub struct KeyHeaderError(String);

/// An error for a scheme name that keys cannot be sent under.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} cannot be the scheme of a key: use 1 to 64 letters, digits and characters such as '-' that are \
     not the name of another scheme"
)]
pub struct KeySchemeError(String);

/// The schemes of IANA's "HTTP Authentication Scheme Registry" (May 2026) that are not ours, and
/// schemes that are widely used without a registration.
const REGISTERED: [&str; 16] = [
    "AWS4-HMAC-SHA256",
    "Concealed",
    "Digest",
    "DPoP",
    "GNAP",
    "Hawk",
    "HOBA",
    "Mutual",
    "Negotiate",
    "NTLM",
    "OAuth",
    "PrivateToken",
    "SCRAM-SHA-1",
    "SCRAM-SHA-256",
    "Signature",
    "vapid",
];

/// Returns whether a byte may occur in a token (RFC 9110 §5.6.2).
fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// A scheme of `Authorization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Scheme {
    Bearer,
    ApiKey,
    /// The key is the user name.
    Basic,
    /// The key is the password.
    BasicPassword,
    /// The application's own scheme, as it is written.
    Custom(Box<str>),
}

impl Scheme {
    /// Returns the scheme with this name, in any case.
    pub(crate) fn from_name(name: &[u8]) -> Option<Self> {
        const CASE: u8 = 0x20;
        if let Ok(&six) = <&[u8; 6]>::try_from(name) {
            // For each letter, only its two cases become that letter under `| CASE`.
            return match &six.map(|byte| byte | CASE) {
                b"bearer" => Some(Self::Bearer),
                b"apikey" => Some(Self::ApiKey),
                _ => None,
            };
        }
        name.eq_ignore_ascii_case(b"basic").then_some(Self::Basic)
    }
}

/// A header that is meant for keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeyHeader {
    pub(crate) name: HeaderName,
    pub(crate) written: HeaderValue,
}

/// All key sources of a layer.
#[derive(Debug, Clone)]
pub(crate) struct KeySources {
    pub(crate) schemes: Vec<Scheme>,
    pub(crate) headers: Vec<KeyHeader>,
    pub(crate) parameters: Vec<Box<str>>,
}

impl Default for KeySources {
    fn default() -> Self {
        Self::from_iter([
            KeySource::bearer(),
            KeySource::api_key_scheme(),
            KeySource::x_api_key(),
        ])
    }
}

impl FromIterator<KeySource> for KeySources {
    fn from_iter<I: IntoIterator<Item = KeySource>>(sources: I) -> Self {
        let mut all = Self {
            schemes: Vec::new(),
            headers: Vec::new(),
            parameters: Vec::new(),
        };
        for source in sources {
            all.add(source);
        }
        all
    }
}

impl KeySources {
    /// Adds a source, unless it is there already.
    pub(crate) fn add(&mut self, source: KeySource) {
        match source.0 {
            SourceKind::Scheme(Scheme::Custom(name)) if self.has_custom_scheme(name.as_bytes()) => {
            }
            SourceKind::Scheme(scheme) if !self.schemes.contains(&scheme) => {
                self.schemes.push(scheme);
            }
            SourceKind::Query(name) if !self.parameters.contains(&name) => {
                self.parameters.push(name);
            }
            // Names that differ only in case are one header.
            SourceKind::Header(header) if self.headers.iter().all(|h| h.name != header.name) => {
                self.headers.push(header);
            }
            _ => {}
        }
    }

    /// Returns whether a scheme of the application's own is a source.
    pub(crate) fn has_custom_scheme(&self, name: &[u8]) -> bool {
        self.schemes.iter().any(|scheme| match scheme {
            Scheme::Custom(scheme) => scheme.as_bytes().eq_ignore_ascii_case(name),
            _ => false,
        })
    }

    /// Returns whether Basic is a source, with the key in either position.
    pub(crate) fn has_basic(&self) -> bool {
        let is_basic = |scheme: &Scheme| matches!(scheme, Scheme::Basic | Scheme::BasicPassword);
        self.schemes.iter().any(is_basic)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.schemes.is_empty() && self.headers.is_empty() && self.parameters.is_empty()
    }

    /// Returns the places of all sources.
    pub(crate) fn all(&self) -> Carriers {
        let headers = (0..self.headers.len()).map(Carriers::header);
        let parameters = (0..self.parameters.len()).map(Carriers::parameter);
        headers
            .chain(parameters)
            .fold(Carriers::AUTHORIZATION, Carriers::and)
    }

    /// Returns the places as a client writes them, such as `Authorization: Bearer KEY`.
    pub(crate) fn written(&self) -> Vec<String> {
        let schemes = self.schemes.iter().map(|scheme| match scheme {
            Scheme::Bearer => "Authorization: Bearer KEY".to_owned(),
            Scheme::ApiKey => "Authorization: ApiKey KEY".to_owned(),
            Scheme::Basic => "Authorization: Basic base64(KEY:)".to_owned(),
            Scheme::BasicPassword => "Authorization: Basic base64(USER:KEY)".to_owned(),
            Scheme::Custom(name) => format!("Authorization: {name} KEY"),
        });
        let headers = self.headers.iter().map(|header| {
            let written = header.written.to_str().unwrap_or(header.name.as_str());
            format!("{written}: KEY")
        });
        let parameters = self.parameters.iter();
        let parameters = parameters.map(|name| format!("?{}=KEY", parameter_in_url(name)));
        schemes.chain(headers).chain(parameters).collect()
    }

    /// Returns the headers meant for keys that a credential was found in.
    pub(crate) fn headers_in(&self, carriers: Carriers) -> impl Iterator<Item = &KeyHeader> {
        let all = self.headers.iter().enumerate();
        all.filter(move |(at, _)| carriers.include(Carriers::header(*at)))
            .map(|(_, header)| header)
    }

    /// Returns the names of the parameters that a credential was found in.
    pub(crate) fn parameters_in(&self, carriers: Carriers) -> impl Iterator<Item = &str> {
        let all = self.parameters.iter().enumerate();
        all.filter(move |(at, _)| carriers.include(Carriers::parameter(*at)))
            .map(|(_, name)| &**name)
    }
}

/// Encodes the name of a parameter as in a URL, which is also safe between quotes.
pub(crate) fn parameter_in_url(name: &str) -> Cow<'_, str> {
    utf8_percent_encode(name, NOT_UNRESERVED).into()
}

/// All but the unreserved characters of RFC 3986 §2.3.
const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');
