//! Whom a forwarding header makes the client: what a trusted proxy wrote, and never what the
//! client wrote before it.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;

use http::header::{FORWARDED, HeaderName, HeaderValue};
use http::request::Parts;
use libfuzzer_sys::fuzz_target;
use tower_api_key::{ClientAddress, PeerAddr, TrustedProxies};

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The client, as the outermost proxy sees it.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const CLIENT_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// The two proxies, in the trusted network.
const OUTER: &str = "10.0.0.2";
const INNER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
/// Somebody who connects around the proxies.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7));

/// One byte of the input for each of these, so that the fuzzer need not find out how to spell them.
const WORDS: [&str; 8] = [
    "for=",
    "192.0.2.99",
    "10.0.0.9",
    "::ffff:10.0.0.9",
    "\"[2001:db8::9]:4711\"",
    "\"[::ffff:192.0.2.99]\"",
    "unknown",
    ";by=\"_x\"",
];

fuzz_target!(|input: &[u8]| {
    let input = with_words(input);
    let lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    if lines
        .iter()
        .any(|line| HeaderValue::from_bytes(line).is_err())
    {
        return;
    }
    for header in [X_FORWARDED_FOR, FORWARDED] {
        check_whatever_is_sent(&header, &lines);
        check_the_nearest_proxy(&header, &lines);
        check_two_proxies(&header, &lines);
    }
});

/// Without a proxy's word there is no oracle for the address, only for its form.
fn check_whatever_is_sent(header: &HeaderName, lines: &[&[u8]]) {
    let request = request(INNER, header, lines);
    for trusted in [count(1), count(2), count(255), networks()] {
        let address = client_address(header, trusted).of(&request);
        let mapped = matches!(address, Some(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some());
        assert!(!mapped, "{address:?} is an IPv4 address in disguise");
    }
    let around = self::request(STRANGER, header, lines);
    let address = client_address(header, networks()).of(&around);
    assert_eq!(address, Some(STRANGER), "a stranger's header was believed");
}

/// One proxy: what it appends is the client, in a line of its own as well as in the client's line.
fn check_the_nearest_proxy(header: &HeaderName, lines: &[&[u8]]) {
    let appended = if *header == FORWARDED {
        vec![
            ("for=192.0.2.1", CLIENT),
            (", for=192.0.2.1", CLIENT),
            (
                r#"proto=https;for="[2001:db8::1]:4711";by="_edge""#,
                CLIENT_V6,
            ),
        ]
    } else {
        vec![
            ("192.0.2.1", CLIENT),
            (", 192.0.2.1", CLIENT),
            ("[2001:db8::1]:4711", CLIENT_V6),
        ]
    };
    for (element, client) in appended {
        for request in [
            request(INNER, header, &with_own_line(lines, element)),
            request(INNER, header, &as_slices(&with_same_line(lines, element))),
        ] {
            for trusted in [count(1), networks()] {
                check(header, lines, trusted, &request, client);
            }
        }
    }
}

/// Two proxies: the outer one names the client, the inner one names the outer one.
fn check_two_proxies(header: &HeaderName, lines: &[&[u8]]) {
    let (outer, inner) = if *header == FORWARDED {
        ("for=192.0.2.1".to_owned(), format!("for={OUTER}"))
    } else {
        ("192.0.2.1".to_owned(), OUTER.to_owned())
    };
    let outer = with_same_line(lines, &outer);
    let both = with_same_line(&as_slices(&outer), &inner);
    let request = request(INNER, header, &as_slices(&both));
    for trusted in [count(2), networks()] {
        check(header, lines, trusted, &request, CLIENT);
    }
}

/// The client is who the proxy said, or nobody if the client's own lines are unreadable.
fn check(
    header: &HeaderName,
    clients_lines: &[&[u8]],
    trusted: TrustedProxies,
    request: &Parts,
    client: IpAddr,
) {
    let address = client_address(header, trusted.clone()).of(request);
    if address.is_none() {
        let readable = clients_lines.iter().all(|line| is_plain(header, line));
        assert!(!readable, "a proxy's word was lost: {:?}", request.headers);
    } else {
        assert_eq!(
            address,
            Some(client),
            "{trusted:?} of {:?}",
            request.headers
        );
    }
}

/// Whether nobody could fail to read a line. (Lines that are not plain may be readable, too.)
fn is_plain(header: &HeaderName, line: &[u8]) -> bool {
    let visible = line
        .iter()
        .all(|byte| (0x20..=0x7e).contains(byte) || *byte == b'\t');
    if *header == X_FORWARDED_FOR {
        return visible;
    }
    let is_element = |element: &[u8]| {
        let pairs: Vec<_> = element.split(|byte| *byte == b';').collect();
        let addresses = pairs.iter().filter(|pair| {
            let pair = pair.trim_ascii();
            pair.len() >= 3 && pair[..3].eq_ignore_ascii_case(b"for")
        });
        let spelled = |pair: &&[u8]| pair.trim_ascii().is_empty() || pair.contains(&b'=');
        pairs.iter().all(spelled) && addresses.count() <= 1
    };
    visible && !line.contains(&b'"') && line.split(|byte| *byte == b',').all(is_element)
}

fn count(proxies: u8) -> TrustedProxies {
    TrustedProxies::count(NonZeroU8::new(proxies).expect("at least one"))
}

fn networks() -> TrustedProxies {
    TrustedProxies::networks(["10.0.0.0/8"]).expect("a network")
}

fn client_address(header: &HeaderName, trusted: TrustedProxies) -> ClientAddress {
    if *header == FORWARDED {
        ClientAddress::forwarded(trusted)
    } else {
        ClientAddress::x_forwarded_for(trusted)
    }
}

fn request(peer: IpAddr, header: &HeaderName, lines: &[&[u8]]) -> Parts {
    let mut request = http::Request::new(());
    let peer = PeerAddr(SocketAddr::new(peer, 4711));
    request.extensions_mut().insert(peer);
    for line in lines {
        let line = HeaderValue::from_bytes(line).expect("looked at before");
        request.headers_mut().append(header, line);
    }
    request.into_parts().0
}

fn with_own_line<'l>(lines: &[&'l [u8]], element: &'l str) -> Vec<&'l [u8]> {
    [lines, &[element.as_bytes()]].concat()
}

/// As most proxies do it: behind a comma, in the last line.
fn with_same_line(lines: &[&[u8]], element: &str) -> Vec<Vec<u8>> {
    let mut lines: Vec<_> = lines.iter().map(|line| line.to_vec()).collect();
    if let Some(last) = lines.last_mut() {
        last.extend(format!(", {element}").bytes());
    }
    lines
}

fn as_slices(lines: &[Vec<u8>]) -> Vec<&[u8]> {
    lines.iter().map(Vec::as_slice).collect()
}

fn with_words(input: &[u8]) -> Vec<u8> {
    let mut text = Vec::new();
    for byte in input {
        match WORDS.get(usize::from(*byte).wrapping_sub(0x80)) {
            Some(word) => text.extend(word.bytes()),
            None => text.push(*byte),
        }
    }
    text
}
