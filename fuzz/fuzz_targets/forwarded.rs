//! Whom a forwarding header makes the client: what a trusted proxy wrote, and never what the
//! client wrote before it.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU8;

use http::header::{FORWARDED, HeaderName, HeaderValue};
use http::request::Parts;
use libfuzzer_sys::fuzz_target;
use tower_api_key::http::{ClientAddress, PeerAddr, TrustedProxies};

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
const WORDS: [&str; 12] = [
    "for=",
    "192.0.2.99",
    "10.0.0.9",
    "::ffff:10.0.0.9",
    "\"[2001:db8::9]:4711\"",
    "\"[::ffff:192.0.2.99]\"",
    "unknown",
    ";by=\"_x\"",
    ", for=192.0.2.98;",
    "=\"",
    ", ,",
    "64:ff9b::8.8.8.8",
];

// The first line of the input is the host that the client asks for, the others are its header.
fuzz_target!(|input: &[u8]| {
    let input = with_words(input);
    let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
    let host = lines.remove(0);
    if lines
        .iter()
        .any(|line| HeaderValue::from_bytes(line).is_err())
    {
        return;
    }
    for header in [X_FORWARDED_FOR, FORWARDED] {
        check_whatever_is_sent(&header, &lines);
        check_the_nearest_proxy(&header, &lines, host);
        check_two_proxies(&header, &lines);
        check_a_proxy_that_does_not_know(&header, &lines);
    }
});

/// Without a proxy's word there is no oracle for the address, only for its form.
fn check_whatever_is_sent(header: &HeaderName, lines: &[&[u8]]) {
    let request = request_from(INNER, header, lines);
    for trusted in [count(1), count(2), count(255), networks()] {
        let address = client_address(header, trusted).of(&request);
        let disguised = matches!(address, Some(IpAddr::V6(v6)) if is_ipv4_in_disguise(v6));
        assert!(!disguised, "{address:?} is an IPv4 address in disguise");
    }
    let around = request_from(STRANGER, header, lines);
    let address = client_address(header, networks()).of(&around);
    assert_eq!(address, Some(STRANGER), "a stranger's header was believed");
}

/// Mapped, or public and behind the NAT64 prefix.
fn is_ipv4_in_disguise(address: Ipv6Addr) -> bool {
    let behind_nat64 = matches!(address.segments(), [0x64, 0xff9b, 0, 0, 0, 0, 0x808, _]);
    address.to_ipv4_mapped().is_some() || behind_nat64
}

/// One proxy: what it appends is the client, in a line of its own as well as in the client's line.
fn check_the_nearest_proxy(header: &HeaderName, lines: &[&[u8]], host: &[u8]) {
    let with_host = format!("for=192.0.2.1;host={};proto=https", quoted(host));
    let appended = if *header == FORWARDED {
        vec![
            ("for=192.0.2.1", CLIENT),
            (r#"by="_edge";for="[2001:db8::1]:4711""#, CLIENT_V6),
            (with_host.as_str(), CLIENT),
        ]
    } else {
        vec![
            ("192.0.2.1", CLIENT),
            (", 192.0.2.1", CLIENT),
            ("192.0.2.1 , ,", CLIENT),
            ("[2001:db8::1]:4711", CLIENT_V6),
        ]
    };
    for (element, client) in appended {
        for request in [
            request_from(INNER, header, &with_own_line(lines, element)),
            request_from(INNER, header, &as_slices(&with_same_line(lines, element))),
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
    let request = request_from(INNER, header, &as_slices(&both));
    for trusted in [count(2), networks()] {
        check(header, lines, trusted, &request, CLIENT);
    }
}

/// A trusted proxy that does not know the client: then nobody does, whatever stands before it.
fn check_a_proxy_that_does_not_know(header: &HeaderName, lines: &[&[u8]]) {
    let unknown = if *header == FORWARDED {
        ["for=unknown", "for=_hidden", "proto=https"]
    } else {
        ["unknown", "_hidden", "010.0.0.1"]
    };
    for element in unknown {
        let request = request_from(INNER, header, &as_slices(&with_same_line(lines, element)));
        for trusted in [count(1), networks()] {
            let address = client_address(header, trusted).of(&request);
            assert_eq!(address, None, "{:?}", request.headers);
        }
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

/// Whether everybody must be able to read a line: by the grammar of RFC 7239, without quotes.
fn is_plain(header: &HeaderName, line: &[u8]) -> bool {
    if *header == X_FORWARDED_FOR {
        let is_visible = |byte: &u8| (0x20..=0x7e).contains(byte) || *byte == b'\t';
        return line.iter().all(is_visible);
    }
    line.split(|byte| *byte == b',').all(|element| {
        let pairs = element.trim_ascii().split(|byte| *byte == b';');
        let pairs: Vec<_> = pairs.filter(|pair| !pair.is_empty()).collect();
        let mut names: Vec<_> = pairs.iter().map(|pair| name(pair)).collect();
        names.sort();
        let is_double = names.windows(2).any(|two| two[0] == two[1]);
        pairs.iter().all(|pair| is_pair_of_tokens(pair)) && !is_double
    })
}

fn is_pair_of_tokens(pair: &[u8]) -> bool {
    let is_token = |text: &[u8]| {
        let is_of_token =
            |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        !text.is_empty() && text.iter().all(is_of_token)
    };
    let mut sides = pair.splitn(2, |byte| *byte == b'=');
    sides.all(is_token) && pair.contains(&b'=')
}

fn name(pair: &[u8]) -> Vec<u8> {
    let name = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
    name.to_ascii_lowercase()
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

fn request_from(peer: IpAddr, header: &HeaderName, lines: &[&[u8]]) -> Parts {
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
    match lines.last_mut() {
        Some(last) => last.extend(format!(", {element}").bytes()),
        None => lines.push(element.as_bytes().to_vec()),
    }
    lines
}

/// What a client says of itself and a proxy repeats, such as the host, as a quoted string.
fn quoted(text: &[u8]) -> String {
    let mut quoted = String::from('"');
    for byte in text.iter().filter(|byte| (0x20..=0x7e).contains(*byte)) {
        if matches!(byte, b'"' | b'\\') {
            quoted.push('\\');
        }
        quoted.push(char::from(*byte));
    }
    quoted + "\""
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
