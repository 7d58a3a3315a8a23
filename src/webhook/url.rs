//! The URL of an endpoint.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use http::uri::PathAndQuery;

/// The URL of an endpoint: `https` or `http`, a host, and neither user info nor a fragment.
///
/// A URL is at most 2,048 bytes long. Scheme and host are written in lower case, and a default port is
/// left out. A host is a name or a canonical address: `https://0x7f.1`, which some resolvers take
/// for an address, is neither. Names are in ASCII, so write an international one in Punycode.
///
/// A URL says nothing about safety: the [client](crate::webhook::WebhookClient::check) decides
/// which schemes, ports and addresses it sends to.
///
/// Paths and queries may hold secrets, so neither `Debug` nor an error shows them.
///
/// ```
/// use tower_api_key::webhook::WebhookUrl;
///
/// let url: WebhookUrl = "HTTPS://Hooks.example.com:443/keys?for=acme".parse()?;
/// assert_eq!(url.as_str(), "https://hooks.example.com/keys?for=acme");
/// assert_eq!(format!("{url:?}"), "WebhookUrl(https://hooks.example.com/…)");
/// assert!("https://2130706433/keys".parse::<WebhookUrl>().is_err());
/// # Ok::<(), tower_api_key::webhook::WebhookUrlError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct WebhookUrl {
    text: Box<str>,
    scheme: Scheme,
    host: Host,
    port: u16,
    target: PathAndQuery,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Scheme {
    Https,
    Http,
}

/// The host of a URL.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Host {
    /// A name for the resolver, which none takes for an address.
    Name(Box<str>),
    Address(IpAddr),
}

impl WebhookUrl {
    const LONGEST: usize = 2_048;

    /// Returns the URL.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the scheme is `https`.
    pub fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Returns the port: that of the URL, or the default port of its scheme.
    pub const fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn has_default_port(&self) -> bool {
        self.port == self.scheme.default_port()
    }

    pub(super) const fn host(&self) -> &Host {
        &self.host
    }

    /// Returns the host, and the port if it is not the default one: the field `Host`.
    pub(super) fn authority(&self) -> &str {
        let before_target = self.text.len() - self.target.as_str().len();
        &self.text[self.scheme.prefix().len()..before_target]
    }

    /// Returns the path and the query: the target of a request.
    pub(super) const fn target(&self) -> &PathAndQuery {
        &self.target
    }
}

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > Self::LONGEST {
            return Err(WebhookUrlError::TooLong(text.len()));
        }
        let (scheme, rest) = Scheme::split(text).ok_or(WebhookUrlError::Scheme)?;
        if rest.contains('#') {
            return Err(WebhookUrlError::Fragment);
        }
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(WebhookUrlError::UserInfo);
        }
        let (host, port) = split_port(authority)?;
        let host: Host = host.parse()?;
        let port = port.unwrap_or_else(|| scheme.default_port());
        let slash = if target.starts_with('/') { "" } else { "/" };
        let target = parse_target(format!("{slash}{target}"))?;
        let shown_port = if port == scheme.default_port() {
            String::new()
        } else {
            format!(":{port}")
        };
        let text = format!("{}{host}{shown_port}{target}", scheme.prefix());
        Ok(Self {
            text: text.into(),
            scheme,
            host,
            port,
            target,
        })
    }
}

/// Shows the scheme, the host and the port.
impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = self.scheme.prefix();
        write!(f, "WebhookUrl({scheme}{}/…)", self.authority())
    }
}

/// An error for a text that is not the URL of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookUrlError {
    /// The URL is longer than 2,048 bytes.
    #[error("the URL is {0} bytes long: use one of at most 2,048")]
    TooLong(usize),
    /// The scheme is not `https`.
    #[error("the URL of a webhook begins with https://")]
    Scheme,
    /// There is a fragment, which is never sent.
    #[error("the URL has a fragment, which is never sent: leave out the '#' and all after it")]
    Fragment,
    /// There is a user name or a password.
    #[error("the URL has a user name or a '@' before its path: leave it out")]
    UserInfo,
    /// The host is neither a name nor an address.
    #[error(
        "{0:?} is not a host: use a name in ASCII without a dot at its end, or an IPv6 address in \
         brackets"
    )]
    Host(String),
    /// The host is an address in an unusual spelling.
    #[error("{0:?} is an address in an unusual spelling: write it as four decimal numbers")]
    AddressSpelling(String),
    /// The port is not a number from 1 to 65535.
    #[error("{0:?} is not a port: use a number from 1 to 65535")]
    Port(String),
    /// The path or the query has a character that a URL cannot have.
    #[error("the path or the query has a character that a URL cannot have: percent-encode it")]
    Character,
}

impl Scheme {
    /// Splits a URL behind its `://`.
    fn split(text: &str) -> Option<(Self, &str)> {
        [Self::Https, Self::Http].into_iter().find_map(|scheme| {
            let (start, rest) = text.split_at_checked(scheme.prefix().len())?;
            let is_it = start.eq_ignore_ascii_case(scheme.prefix());
            is_it.then_some((scheme, rest))
        })
    }

    const fn prefix(self) -> &'static str {
        match self {
            Self::Https => "https://",
            Self::Http => "http://",
        }
    }

    const fn default_port(self) -> u16 {
        match self {
            Self::Https => 443,
            Self::Http => 80,
        }
    }
}

fn split_port(authority: &str) -> Result<(&str, Option<u16>), WebhookUrlError> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => return Ok((authority, None)),
    };
    // `parse` would take a '+', too.
    let is_decimal = port.bytes().all(|byte| byte.is_ascii_digit());
    let number = port.parse().ok().filter(|port| is_decimal && *port > 0);
    let number = number.ok_or_else(|| WebhookUrlError::Port(port.to_owned()))?;
    Ok((host, Some(number)))
}

impl FromStr for Host {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || WebhookUrlError::Host(text.to_owned());
        if let Some(rest) = text.strip_prefix('[') {
            let address = rest.strip_suffix(']').ok_or_else(invalid)?;
            let address: Ipv6Addr = address.parse().map_err(|_| invalid())?;
            return Ok(Self::Address(address.into()));
        }
        if let Ok(address) = text.parse::<Ipv4Addr>() {
            return Ok(Self::Address(address.into()));
        }
        let name = text.to_ascii_lowercase();
        if ends_in_a_number(&name) {
            return Err(WebhookUrlError::AddressSpelling(text.to_owned()));
        }
        if !is_name(&name) {
            return Err(invalid());
        }
        Ok(Self::Name(name.into()))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

/// Returns whether `inet_aton` could take a host for an address: `127.1`, `0x7f.1`, `2130706433`.
/// This is the rule of WHATWG's URLs.
fn ends_in_a_number(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_decimal = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    is_decimal || last.starts_with("0x")
}

/// Returns whether a host is a name of DNS, in lower case.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
    let is_label = |label: &str| {
        let has_hyphen_outside = label.starts_with('-') || label.ends_with('-');
        (1..=63).contains(&label.len()) && label.bytes().all(is_plain) && !has_hyphen_outside
    };
    name.len() <= 253 && name.split('.').all(is_label)
}

/// Parses a path and a query of the characters of RFC 3986, in which every `%` begins an encoded
/// byte.
fn parse_target(text: String) -> Result<PathAndQuery, WebhookUrlError> {
    let is_allowed =
        |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/?@!$&'()*+,;=%".contains(&byte);
    let is_encoded = |after: &str| {
        let digits = after.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let is_target = text.bytes().all(is_allowed) && text.split('%').skip(1).all(is_encoded);
    if !is_target {
        return Err(WebhookUrlError::Character);
    }
    PathAndQuery::try_from(text).map_err(|_| WebhookUrlError::Character)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::address::is_public;
    use super::*;

    fn parse(text: &str) -> Result<WebhookUrl, WebhookUrlError> {
        text.parse()
    }

    fn error(text: &str) -> WebhookUrlError {
        parse(text).unwrap_err()
    }

    #[test]
    fn a_url_is_normalized() {
        for (text, written) in [
            ("https://a.example", "https://a.example/"),
            ("https://a.example/", "https://a.example/"),
            ("hTTps://A.Example:443/B", "https://a.example/B"),
            ("https://a.example?b=C", "https://a.example/?b=C"),
            ("https://a.example:8443/b", "https://a.example:8443/b"),
            ("https://a.example:0443/b", "https://a.example/b"),
            ("https://a.example:80/", "https://a.example:80/"),
            ("http://a.example:80/", "http://a.example/"),
            ("http://a.example:443/", "http://a.example:443/"),
            (
                "https://a_b.xn--bcher-kva.example/",
                "https://a_b.xn--bcher-kva.example/",
            ),
            ("https://localhost/", "https://localhost/"),
            ("https://9.9.9.9/", "https://9.9.9.9/"),
            (
                "https://[2606:4700:0::1]:444/",
                "https://[2606:4700::1]:444/",
            ),
            (
                "https://a.example//b/../%2e?//",
                "https://a.example//b/../%2e?//",
            ),
            ("https://a.example/@b:c", "https://a.example/@b:c"),
        ] {
            let url = parse(text).unwrap();
            assert_eq!(url.as_str(), written);
            assert_eq!(parse(written).unwrap(), url);
        }
    }

    #[test]
    fn the_parts_of_a_url_are_those_of_its_text() {
        let url = parse("https://A.example:8443/b?c").unwrap();
        assert_eq!(url.authority(), "a.example:8443");
        assert_eq!(url.target(), "/b?c");
        assert_eq!((url.port(), url.is_https()), (8443, true));
        assert!(!url.has_default_port());
        let url = parse("http://[::1]").unwrap();
        assert_eq!(url.authority(), "[::1]");
        assert_eq!(url.target(), "/");
        assert_eq!((url.port(), url.is_https()), (80, false));
        assert!(url.has_default_port());
    }

    #[test]
    fn only_https_and_http_are_schemes() {
        for text in [
            "",
            "a.example",
            "ftp://a.example",
            "https:/a",
            "https",
            "//a",
            " https://a",
        ] {
            assert_eq!(error(text), WebhookUrlError::Scheme, "{text:?}");
        }
    }

    #[test]
    fn a_url_has_at_most_2_048_bytes() {
        let url = |length: usize| format!("https://a.example/{}", "b".repeat(length - 18));
        assert!(parse(&url(2_048)).is_ok());
        assert_eq!(error(&url(2_049)), WebhookUrlError::TooLong(2_049));
    }

    #[test]
    fn user_info_and_fragments_are_refused() {
        for text in [
            "https://a@b.example",
            "https://a:b@c.example/",
            "https://@b.example?",
        ] {
            assert_eq!(error(text), WebhookUrlError::UserInfo, "{text:?}");
        }
        for text in [
            "https://a.example#",
            "https://a.example/b#c",
            "https://a#@b.example/",
        ] {
            assert_eq!(error(text), WebhookUrlError::Fragment, "{text:?}");
        }
    }

    #[test]
    fn a_port_is_a_number_from_1_to_65535() {
        for port in ["", "0", "65536", "+80", "-1", "8o", "80 "] {
            let expected = WebhookUrlError::Port(port.to_owned());
            assert_eq!(error(&format!("https://a.example:{port}/")), expected);
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address() {
        let long_label = format!("{}.example", "a".repeat(64));
        let long_name = ["a"; 128].join(".");
        for host in [
            "",
            ".",
            "a..b",
            ".a",
            "a.",
            "a b",
            "ä",
            "%61",
            "a\\b",
            "a,b",
            "*",
            "-a",
            "a-.b",
            "[",
            "]",
            "[]",
            "::1]",
            "[1.2.3.4]",
            "[fe80::1%25eth0]",
            "[fe80::1%eth0]",
            "[[::1]]",
            "１２７.0.0.a",
            "a\u{ad}b",
            "a\0b",
            "a\tb",
            &long_label,
            &long_name,
        ] {
            let expected = WebhookUrlError::Host(host.to_owned());
            assert_eq!(error(&format!("https://{host}/")), expected);
        }
        assert!(parse("https://[::1/").is_err());
    }

    #[test]
    fn an_address_in_an_unusual_spelling_is_no_name() {
        for host in [
            "0x7f.1",
            "0X7F.1",
            "2130706433",
            "127.1",
            "127.0.1",
            "0177.0.0.1",
            "0x7f000001",
            "017700000001",
            "127.0.0.1.",
            "127.0.0.0x1",
            "127.0.0.0x",
            "1.2.3.4.5",
            "256.0.0.1",
            "00000127.0.0.1",
            "a.0",
            "a.0x",
            "0",
            "0x",
            "4294967296",
            "99999999999999999999",
        ] {
            let expected = WebhookUrlError::AddressSpelling(host.to_owned());
            assert_eq!(error(&format!("https://{host}/")), expected);
        }
    }

    #[test]
    fn a_path_and_a_query_are_of_the_characters_of_urls() {
        for target in [
            "/a b",
            "/ä",
            "/\\",
            "/a\r\nHost:b",
            "/\0",
            "/%",
            "/%4",
            "/%zz",
            "/[",
            "?|",
            "/<",
        ] {
            let text = format!("https://a.example{target}");
            assert_eq!(error(&text), WebhookUrlError::Character, "{target:?}");
        }
    }

    #[test]
    fn neither_debug_nor_an_error_shows_a_path() {
        let url = parse("https://a.example:8443/s3cret?s3cret").unwrap();
        assert_eq!(format!("{url:?}"), "WebhookUrl(https://a.example:8443/…)");
        for text in [
            "https://a.example/s3cret|",
            "https://a.example/s3cret#",
            "https://s3cret@a.example/",
            "ftp://a.example/s3cret",
            "https://-/s3cret",
            "https://1/s3cret",
            "https://a:b/s3cret",
        ] {
            let error = error(text);
            assert!(
                !format!("{error:?} {error}").contains("s3cret"),
                "{error:?}"
            );
        }
    }

    /// Writes a number as `inet_aton` reads it: decimal, octal or hexadecimal, with zeros.
    fn spelled(number: u32, base: usize, zeros: usize) -> String {
        let zeros = "0".repeat(zeros);
        match base {
            0 => number.to_string(),
            1 => format!("0{zeros}{number:o}"),
            2 => format!("0x{zeros}{number:x}"),
            _ => format!("0X{zeros}{number:X}"),
        }
    }

    /// Writes an address in one to four parts, of which the last takes the remaining bytes.
    fn written(address: u32, parts: usize, bases: [usize; 4], zeros: usize) -> String {
        let bytes = address.to_be_bytes();
        let mut texts: Vec<_> = (0..parts - 1)
            .map(|at| spelled(bytes[at].into(), bases[at], zeros))
            .collect();
        let last = u64::from(address) & ((1 << (8 * (5 - parts))) - 1);
        texts.push(spelled(u32::try_from(last).unwrap(), bases[3], zeros));
        texts.join(".")
    }

    fn private() -> impl Strategy<Value = u32> {
        prop_oneof![
            Just(0),
            Just(0x7f00_0001),
            Just(0xa9fe_a9fe),
            any::<u32>().prop_map(|low| 0x0a00_0000 | (low & 0x00ff_ffff)),
            any::<u32>().prop_map(|low| 0x7f00_0000 | (low & 0x00ff_ffff)),
            any::<u32>().prop_map(|low| 0xac10_0000 | (low & 0x000f_ffff)),
            any::<u32>().prop_map(|low| 0xc0a8_0000 | (low & 0x0000_ffff)),
        ]
    }

    fn is_a_private_address(text: &str) -> bool {
        match parse(text).map(|url| url.host) {
            Ok(Host::Address(address)) => !is_public(address),
            Ok(Host::Name(name)) => panic!("{name} is taken for a name"),
            Err(_) => true,
        }
    }

    proptest! {
        #[test]
        fn no_spelling_of_a_private_address_gets_through(
            address in private(),
            parts in 1..=4_usize,
            bases in [0..4_usize, 0..4, 0..4, 0..4],
            zeros in 0..4_usize,
            dot in prop_oneof![Just(""), Just(".")],
        ) {
            let host = written(address, parts, bases, zeros);
            prop_assert!(is_a_private_address(&format!("https://{host}{dot}/")), "{host}");
        }

        #[test]
        fn no_private_address_in_ipv6_gets_through(address in private()) {
            let address = Ipv4Addr::from(address);
            let mapped = address.to_ipv6_mapped();
            let [high, low] = [u32::from(address) >> 16, u32::from(address) & 0xffff];
            for host in [
                format!("{mapped}"),
                format!("::ffff:{high:x}:{low:x}"),
                format!("0:0:0:0:0:FFFF:{high:04X}:{low:04X}"),
                format!("::{address}"),
                format!("64:ff9b::{address}"),
                format!("2002:{high:x}:{low:x}::"),
            ] {
                prop_assert!(is_a_private_address(&format!("https://[{host}]/")), "{host}");
            }
        }

        #[test]
        fn no_text_panics_and_what_is_parsed_is_stable(text in "(?i:https?://)?[ -~]{0,40}|.{0,40}") {
            if let Ok(url) = parse(&text) {
                prop_assert_eq!(&parse(url.as_str()).unwrap(), &url);
                prop_assert_eq!(
                    format!("{}{}{}", url.scheme.prefix(), url.authority(), url.target()),
                    url.as_str()
                );
            }
        }
    }
}
