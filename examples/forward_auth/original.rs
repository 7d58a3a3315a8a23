//! The request that a proxy asks about, rebuilt from where each proxy puts its parts.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::sync::LazyLock;

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_LENGTH, FORWARDED, TRANSFER_ENCODING};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use percent_encoding::percent_decode_str;
use tower_api_key::http::{
    ApiError, CallerFact, ClientAddress, PeerAddr, RequestHead, TrustedProxies,
};

/// The prefix of the paths that Envoy asks with: its setting `path_prefix`.
pub(crate) const ENVOY_PREFIX: &str = "/envoy";

/// Headers of the proxies, which tell nothing about the client's own request.
const OF_PROXIES: [&str; 10] = [
    "x-original-method",
    "x-original-uri",
    "x-forwarded-method",
    "x-forwarded-uri",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-forwarded-for",
    "x-forwarded-server",
    "x-client-address",
];

/// The proxy that asks. Each reads its own headers only, so a client of one cannot speak as
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// `X-Original-Method`, `X-Original-URI` and `X-Forwarded-For`, as `nginx.conf` sets them.
    Nginx,
    /// `X-Forwarded-Method`, `X-Forwarded-Uri` and `X-Forwarded-For`.
    Traefik,
    /// The method and path of the request itself, and `X-Client-Address`, as `envoy.yaml` sets it.
    Envoy,
}

impl Proxy {
    /// Returns the client's request without its body, with the client's address as the peer. A
    /// request that cannot be rebuilt, or that servers read in different ways, is an error (400).
    pub(crate) fn original(self, asking: Request) -> Result<Request, ApiError> {
        let (method, target) = self.request_line(&asking)?;
        let uri = uri_of(&target)?;
        let client = self.client_address().of(&asking);
        let mut headers = asking.into_parts().0.headers;
        if !headers.keys().all(|name| is_plain_name(name.as_str())) {
            return Err(unclear("a header could be taken for another one"));
        }
        if names_a_fact(&headers) {
            return Err(unclear("its Connection names one of the key's facts"));
        }
        for name in OF_PROXIES {
            headers.remove(name);
        }
        for name in [FORWARDED, CONTENT_LENGTH, TRANSFER_ENCODING] {
            headers.remove(name);
        }
        // A new request: extensions of the old one, such as its route, are not those of the client.
        let mut request = Request::new(Body::empty());
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        if let Some(address) = client {
            let peer = PeerAddr(SocketAddr::new(address, 0));
            request.extensions_mut().insert(peer);
        }
        Ok(request)
    }

    fn request_line(self, asking: &Request) -> Result<(Method, String), ApiError> {
        let (method, target) = match self {
            Self::Nginx => ("x-original-method", "x-original-uri"),
            Self::Traefik => ("x-forwarded-method", "x-forwarded-uri"),
            Self::Envoy => {
                let target = asking.uri().path_and_query();
                let target = target.and_then(|it| it.as_str().strip_prefix(ENVOY_PREFIX));
                let target = target.ok_or_else(|| unclear("the path has another prefix"))?;
                return Ok((asking.method().clone(), target.to_owned()));
            }
        };
        let method = only(asking.headers(), method)?;
        let method = Method::from_bytes(method.as_bytes());
        let method = method.map_err(|_| unclear("the method is none"))?;
        Ok((method, only(asking.headers(), target)?.to_owned()))
    }

    /// Returns where the proxy tells the client's address: one proxy, which is the peer.
    fn client_address(self) -> &'static ClientAddress {
        static FORWARDED_FOR: LazyLock<ClientAddress> =
            LazyLock::new(|| ClientAddress::x_forwarded_for(TrustedProxies::count(NonZeroU8::MIN)));
        // Envoy appends an address of its own to `X-Forwarded-For` when it asks.
        static OF_ENVOY: LazyLock<ClientAddress> = LazyLock::new(|| {
            ClientAddress::from_fn(|request: RequestHead<'_>| {
                only(request.headers, "x-client-address").ok()?.parse().ok()
            })
        });
        match self {
            Self::Nginx | Self::Traefik => &FORWARDED_FOR,
            Self::Envoy => &OF_ENVOY,
        }
    }
}

/// Returns the value of a header that stands there once.
fn only<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, ApiError> {
    let mut values = headers.get_all(name).iter();
    let (Some(value), None) = (values.next(), values.next()) else {
        return Err(unclear("a header of the proxy is missing or repeated"));
    };
    let value = value.to_str();
    value.map_err(|_| unclear("a header of the proxy is not ASCII"))
}

/// Parses the target of a request. Its path must have one spelling.
fn uri_of(target: &str) -> Result<Uri, ApiError> {
    let path = target.split_once('?').map_or(target, |(path, _)| path);
    if target.contains('#') || !is_plain(path) {
        return Err(unclear("its path can be read in several ways"));
    }
    // `%c3` and `%C3` are the same, and rules compare the path as text.
    let (rest, mut target) = (&target[path.len()..], path.to_owned());
    for at in path.match_indices('%').map(|(at, _)| at) {
        target[at..at + 3].make_ascii_uppercase();
    }
    target.push_str(rest);
    let uri = target.parse();
    uri.map_err(|_| unclear("its target is malformed"))
}

/// Returns whether all servers read the path in the same way.
///
/// The rules here see the path as the client wrote it, and so does the upstream. If the upstream
/// decodes or shortens it, a path could pass here as one and arrive there as another:
/// `/v1/%72eports`, `/v1//reports`, `/v1/x/../reports`, `/v1/reports;x` (servlets), `\` (Windows).
fn is_plain(path: &str) -> bool {
    const UNRESERVED: &[u8] = b"-._~";
    const PLAIN: &[u8] = b"/-._~!$&'()*+,=:@%";
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || PLAIN.contains(&byte);
    let Some(segments) = path.strip_prefix('/') else {
        return false;
    };
    if !path.bytes().all(is_plain) {
        return false;
    }
    let mut escapes = path.split('%').skip(1);
    let is_needed = |escape: &str| {
        let digits = escape
            .get(..2)
            .filter(|it| it.bytes().all(|it| it.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        byte.is_some_and(|byte| {
            let is_ambiguous = byte.is_ascii_control() || br"/\;%".contains(&byte);
            !is_ambiguous && !byte.is_ascii_alphanumeric() && !UNRESERVED.contains(&byte)
        })
    };
    if !escapes.all(is_needed) || percent_decode_str(path).decode_utf8().is_err() {
        return false; // such as %2e, or an overlong form of it
    }
    let mut segments: Vec<&str> = segments.split('/').collect();
    if segments.last() == Some(&"") {
        segments.pop(); // a slash at the end
    }
    segments.iter().all(|it| !matches!(*it, "" | "." | ".."))
}

/// Returns whether all servers take a header for the same one. Those behind CGI, WSGI or Rack read
/// `_`, and PHP also `.`, as `-`: so `X_Key_Account` would be a fact, and `X_HTTP_Method_Override`
/// another method, though the proxy removes neither. nginx drops such headers by itself.
fn is_plain_name(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Returns whether a proxy would remove a fact, as it removes all that `Connection` names.
fn names_a_fact(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter();
    let mut names = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    names.any(|name| {
        let is_it = |fact: &CallerFact| {
            name.trim_ascii()
                .eq_ignore_ascii_case(fact.header().as_bytes())
        };
        CallerFact::ALL.iter().any(is_it)
    })
}

fn unclear(reason: &'static str) -> ApiError {
    let message = "This request cannot be forwarded.";
    let error = ApiError::new(StatusCode::BAD_REQUEST, "unclear_request", message);
    error.add_detail("reason", reason)
}
