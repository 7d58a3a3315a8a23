//! The forwarding headers: `X-Forwarded-For`, and `Forwarded` of RFC 7239.
//!
//! Both are lists to which each proxy appends the address that connected to it. Entries to the left
//! of those of a trusted proxy come from the client, and may be made up.

use std::net::{IpAddr, SocketAddr};
use std::str;

use arrayvec::ArrayVec;
use http::HeaderMap;
use http::header::{FORWARDED, HeaderName};

use crate::http::trim;
use crate::key::canonical::canonical_address;

/// A header that proxies append addresses to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Forwarding {
    XForwardedFor,
    Forwarded,
}

pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The largest number of hops that are read. No request passes so many proxies; further hops may be
/// made up by the client.
const MOST_HOPS: usize = 64;

/// One hop of a request: its address, or `None` if the address is not told.
type Hop = Option<IpAddr>;

impl Forwarding {
    /// Returns the hops that the header names, the nearest first. A hop is `None` if its address is
    /// not told.
    ///
    /// An empty element of the list is no hop (RFC 9110 §5.6.1.2): `192.0.2.1,` names one hop.
    ///
    /// Returns `None` if the hops cannot be attributed: a line of `Forwarded` is malformed, or has
    /// too many hops. `X-Forwarded-For` has no quoting, so entries that the client wrote further to
    /// the left cannot change the entries of the proxies.
    pub(crate) fn nearest_first(self, headers: &HeaderMap) -> Option<ArrayVec<Hop, MOST_HOPS>> {
        match self {
            Self::XForwardedFor => {
                let lines = headers.get_all(X_FORWARDED_FOR).iter().rev();
                let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
                let hops = hops.filter(|hop| !trim(hop).is_empty());
                Some(hops.map(address).take(MOST_HOPS).collect())
            }
            Self::Forwarded => {
                let mut hops = ArrayVec::new();
                for line in headers.get_all(FORWARDED) {
                    for element in outside_quotes(line.to_str().ok()?, ',') {
                        let element = element?;
                        if !trim(element.as_bytes()).is_empty() {
                            hops.try_push(element_node(element)?).ok()?;
                        }
                    }
                }
                hops.reverse();
                Some(hops)
            }
        }
    }
}

fn address(hop: &[u8]) -> Hop {
    str::from_utf8(hop).ok().and_then(node)
}

/// Returns the hop that one element names; `None` if the element is malformed.
fn element_node(element: &str) -> Option<Hop> {
    let mut address = None;
    let mut seen = false;
    for pair in outside_quotes(element, ';') {
        let pair = pair?.trim_matches([' ', '\t']);
        if pair.is_empty() {
            continue;
        }
        let (name, value) = pair.split_once('=')?;
        let value = unquote(value)?; // unquote all: one malformed value makes the element malformed
        if name.eq_ignore_ascii_case("for") {
            if seen {
                return None; // each parameter at most once
            }
            seen = true;
            address = node(&value);
        }
    }
    Some(address)
}

/// Parses an address, with or without a port; IPv6 may be bare or in brackets.
///
/// Everything else is `None`: `unknown`, obfuscated names, numbers with a leading zero (some read
/// `010.0.0.1` as 8.0.0.1), and zones (`fe80::1%1`), which mean nothing on another host.
fn node(text: &str) -> Hop {
    let text = text.trim_matches([' ', '\t']);
    let bare = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
        .unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| with_port(text))?;
    Some(canonical_address(address))
}

fn with_port(text: &str) -> Hop {
    if text.contains('%') {
        return None; // a zone, which `SocketAddr` reads and `IpAddr` does not
    }
    let address = text.parse::<SocketAddr>().ok()?;
    Some(address.ip())
}

/// Splits a text at separators outside of quotes. An item is `None` if the quoting is malformed: a
/// quote is not closed, or a backslash stands outside of quotes.
fn outside_quotes(text: &str, separator: char) -> impl Iterator<Item = Option<&str>> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest.take()?;
        let (mut quoted, mut escaped) = (false, false);
        for (at, character) in text.char_indices() {
            if escaped {
                escaped = false;
            } else if character == '\\' {
                if !quoted {
                    return Some(None); // an escaped quote could open a string that a proxy closes
                }
                escaped = true;
            } else if character == '"' {
                quoted = !quoted;
            } else if character == separator && !quoted {
                rest = Some(&text[at + separator.len_utf8()..]);
                return Some(Some(&text[..at]));
            }
        }
        Some((!quoted).then_some(text))
    })
}

/// Parses a token, or a quoted string, which is returned without its quotes and escapes.
fn unquote(value: &str) -> Option<String> {
    let Some(rest) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let inner = rest.strip_suffix('"')?;
    let mut text = String::with_capacity(inner.len());
    let mut characters = inner.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => text.push(characters.next()?),
            '"' => return None,
            _ => text.push(character),
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn hops(forwarding: Forwarding, lines: &[&str]) -> Option<Vec<Option<IpAddr>>> {
        let name = match forwarding {
            Forwarding::XForwardedFor => X_FORWARDED_FOR,
            Forwarding::Forwarded => FORWARDED,
        };
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(&name, HeaderValue::from_str(line).unwrap());
        }
        let hops = forwarding.nearest_first(&headers)?;
        Some(hops.to_vec())
    }

    #[expect(clippy::unnecessary_wraps, reason = "expected as it is found")]
    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn several_header_lines_form_one_list() {
        let x = |lines: &[&str]| hops(Forwarding::XForwardedFor, lines).unwrap();
        assert_eq!(
            x(&["1.1.1.1, 2.2.2.2", "3.3.3.3"]),
            [ip("3.3.3.3"), ip("2.2.2.2"), ip("1.1.1.1")]
        );
        assert_eq!(x(&[]), []);
        assert_eq!(
            x(&["unknown,2001:db8::1,[2001:db8::2],[2001:db8::3]:443,4.4.4.4:80,::ffff:5.5.5.5"]),
            [
                ip("5.5.5.5"),
                ip("4.4.4.4"),
                ip("2001:db8::3"),
                ip("2001:db8::2"),
                ip("2001:db8::1"),
                None
            ]
        );
        assert_eq!(x(&["1.1.1.1,"]), [ip("1.1.1.1")]);
    }

    #[test]
    fn client_input_cannot_hide_the_hop_a_proxy_appended() {
        let mut headers = HeaderMap::new();
        let line = HeaderValue::from_bytes(b"\x80\xff\", 192.0.2.1").unwrap();
        headers.append(X_FORWARDED_FOR, line);
        let nearest = Forwarding::XForwardedFor.nearest_first(&headers).unwrap();
        assert_eq!(nearest[..], [ip("192.0.2.1"), None]);

        let many = format!("{}192.0.2.1", "1.1.1.1,".repeat(10_000));
        let nearest = hops(Forwarding::XForwardedFor, &[&many]).unwrap();
        assert_eq!((nearest.len(), nearest[0]), (MOST_HOPS, ip("192.0.2.1")));
        let many = format!("{}for=192.0.2.1", "for=1.1.1.1,".repeat(MOST_HOPS));
        assert_eq!(hops(Forwarding::Forwarded, &[&many]), None);
    }

    #[test]
    fn the_examples_of_rfc_7239_are_parsed() {
        let f = |line: &str| hops(Forwarding::Forwarded, &[line]);
        assert_eq!(f(r#"for="_gazonk""#), Some(vec![None]));
        assert_eq!(
            f(r#"For="[2001:db8:cafe::17]:4711""#),
            Some(vec![ip("2001:db8:cafe::17")])
        );
        assert_eq!(
            f("for=192.0.2.60;proto=http;by=203.0.113.43"),
            Some(vec![ip("192.0.2.60")])
        );
        assert_eq!(
            f("for=192.0.2.43, for=198.51.100.17"),
            Some(vec![ip("198.51.100.17"), ip("192.0.2.43")])
        );
        assert_eq!(
            f(r#"for=192.0.2.43, for="[2001:db8:cafe::17]", for=unknown"#),
            Some(vec![None, ip("2001:db8:cafe::17"), ip("192.0.2.43")])
        );
        assert_eq!(f("by=203.0.113.43;proto=http"), Some(vec![None]));
    }

    #[test]
    fn separators_in_quotes_are_literal() {
        let f = |line: &str| hops(Forwarding::Forwarded, &[line]);
        assert_eq!(f(r#"for="1.1.1.1, for=2.2.2.2""#), Some(vec![None]));
        assert_eq!(
            f(r#"for="a\",for=2.2.2.2";by=x,for=3.3.3.3"#),
            Some(vec![ip("3.3.3.3"), None])
        );
    }

    #[test]
    fn an_unparsable_line_yields_no_hops() {
        let f = |line: &str| hops(Forwarding::Forwarded, &[line]);
        for line in [
            r#"for="1.1.1.1, for=2.2.2.2"#,
            "for",
            "for=1.1.1.1;for=2.2.2.2",
            r#"for="1.1.1.1"x"#,
            r#"for=1"1"#,
            r#"for=1.1.1.1;host=a"b"c"#,
            r#"for=1.1.1.1;host=\"x\""#,
            // A client opens a quote, and writes into a host that the proxy quotes and escapes.
            r#"x=", for=192.0.2.1;host=", for=6.6.6.6;y=\"";proto=https"#,
        ] {
            assert_eq!(f(line), None, "{line}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        #[test]
        fn any_line_is_read_without_panic(line in "[\\x20-\\x7e]{0,80}") {
            hops(Forwarding::Forwarded, &[&line]);
            hops(Forwarding::XForwardedFor, &[&line]);
        }

        #[test]
        fn an_empty_element_is_not_a_hop(
            elements in proptest::collection::vec(0..5usize, 0..12),
            breaks in proptest::collection::vec(any::<bool>(), 12),
        ) {
            let full = ["192.0.2.1", "unknown"];
            let empty = ["", " ", "\t  "];
            for (forwarding, before) in [
                (Forwarding::XForwardedFor, ""),
                (Forwarding::Forwarded, "for="),
            ] {
                let mut lines = vec![String::new()];
                let mut expected = Vec::new();
                for (at, element) in elements.iter().enumerate() {
                    let text = match full.get(*element) {
                        Some(hop) => format!("\t{before}{hop} "),
                        None => empty[element - full.len()].to_owned(),
                    };
                    expected.extend(full.get(*element).map(|hop| hop.parse::<IpAddr>().ok()));
                    match lines.last_mut() {
                        Some(line) if at > 0 && !breaks[at] => {
                            line.extend([",", &text]);
                        }
                        _ => lines.push(text),
                    }
                }
                expected.reverse();
                let lines: Vec<_> = lines.iter().map(String::as_str).collect();
                prop_assert_eq!(hops(forwarding, &lines), Some(expected), "{:?}", lines);
            }
        }

        #[test]
        fn an_octet_with_a_leading_zero_makes_the_hop_unknown(
            octets: [u8; 4], at in 0..4usize, zeros in 1..4usize, form in 0..5usize,
        ) {
            let spell = |zeros: usize| {
                let octet = |index| {
                    let zeros = if index == at { zeros } else { 0 };
                    format!("{}{}", "0".repeat(zeros), octets[index])
                };
                let v4 = [0, 1, 2, 3].map(octet).join(".");
                let forms = ["{}", "{}:80", "::ffff:{}", "[64:ff9b::{}]", "[::ffff:{}]:80"];
                forms[form].replace("{}", &v4)
            };
            for (forwarding, before, after) in [
                (Forwarding::XForwardedFor, "", ""),
                (Forwarding::Forwarded, "for=\"", "\""),
            ] {
                let hop = |zeros| {
                    let line = format!("{before}{}{after}", spell(zeros));
                    hops(forwarding, &[&line]).unwrap()[0]
                };
                prop_assert!(hop(0).is_some());
                prop_assert_eq!(hop(zeros), None);
            }
        }

        #[test]
        fn an_address_with_a_zone_is_an_unknown_hop(zone in 0..100u32) {
            for form in ["fe80::1%{}", "[fe80::1%{}]", "[fe80::1%{}]:1"] {
                let hop = form.replace("{}", &zone.to_string());
                prop_assert_eq!(hops(Forwarding::XForwardedFor, &[&hop]), Some(vec![None]));
                let element = format!("for=\"{hop}\"");
                prop_assert_eq!(hops(Forwarding::Forwarded, &[&element]), Some(vec![None]));
            }
        }

        #[test]
        fn the_element_appended_by_a_proxy_is_the_nearest_hop(client in "[a-z0-9=;, .:]{0,40}") {
            let line = format!("{client},for=192.0.2.1");
            if let Some(hops) = hops(Forwarding::Forwarded, &[&line]) {
                prop_assert_eq!(hops[0], ip("192.0.2.1"));
            }
            let line = format!("{client},192.0.2.1");
            prop_assert_eq!(hops(Forwarding::XForwardedFor, &[&line]).unwrap()[0], ip("192.0.2.1"));
        }
    }
}
