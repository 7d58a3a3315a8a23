//! Nothing that a client can send panics, waits, or costs memory without bound, and no key is
//! accepted that is not, byte for byte, the issued one.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::collections::HashSet;
use std::sync::OnceLock;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderValue, Method, Request, Uri};
use proptest::prelude::*;
use support::{Answered, Echoing, World, at_once, echoing, percent_encoded};
use tower::ServiceExt;
use tower_api_key::http::{ClientAddress, TrustedProxies};
use tower_api_key::{ApiKeyLayer, KeySource, Rejection};

/// A layer with every source on, and one good key.
fn gate() -> &'static (Echoing, String) {
    static GATE: OnceLock<(Echoing, String)> = OnceLock::new();
    GATE.get_or_init(|| {
        let world = World::with_named_keys();
        let layer = every_source(world.keys.layer());
        (echoing(&layer), world.plaintexts["active"].clone())
    })
}

fn every_source(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer.sources([
        KeySource::bearer(),
        KeySource::api_key_scheme(),
        KeySource::basic(),
        KeySource::x_api_key(),
        KeySource::header("X-Acme-Api-Key").unwrap(),
        KeySource::dangerous_query("api_key"),
    ])
}

/// The answer, which must be there at once: the store in memory never waits.
fn answer(request: Request<()>) -> Answered {
    let service = gate().0.clone();
    at_once(service.oneshot(request)).unwrap()
}

fn is_accepted(request: Request<()>) -> bool {
    answer(request).status().is_success()
}

fn with(name: &str, value: &[u8]) -> Option<Request<()>> {
    let value = HeaderValue::from_bytes(value).ok()?; // NUL and line ends never get this far
    Some(Request::builder().header(name, value).body(()).unwrap())
}

/// Every way to send a text as a key, where HTTP allows it at all.
fn every_way(text: &[u8]) -> Vec<Request<()>> {
    let scheme = |scheme: &str| [scheme.as_bytes(), b" ", text].concat();
    let basic = STANDARD.encode([text, b":"].concat());
    let query = percent_encoded(text);
    let query = Uri::try_from(format!("/v1?api_key={query}")).ok();
    [
        with("authorization", &scheme("Bearer")),
        with("authorization", &scheme("ApiKey")),
        with("authorization", format!("Basic {basic}").as_bytes()),
        with("x-api-key", text),
        with("x-acme-api-key", text),
        query.map(|uri| Request::builder().uri(uri).body(()).unwrap()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn is_ever_accepted(text: &[u8]) -> bool {
    every_way(text).into_iter().any(is_accepted)
}

#[test]
fn the_key_itself_is_accepted_from_every_source() {
    let ways = every_way(gate().1.as_bytes());
    assert_eq!(ways.len(), 6);
    assert!(ways.into_iter().all(is_accepted));
}

#[test]
fn an_imitation_of_the_key_is_refused() {
    let key = &gate().1;
    let (prefix, secret) = key.split_at("sk_live_".len());
    let percent = percent_encoded(key.as_bytes());
    let imitations = [
        key.to_uppercase(),
        key.to_lowercase(),
        format!("SK_LIVE_{secret}"),
        format!("{prefix} {secret}"),
        format!("{prefix}\t{secret}"),
        format!("{key}\0"),
        format!("\0{key}"),
        format!("{key}\n"),
        format!("{key}{key}"),
        format!("{key},{key}"),
        format!("{key};"),
        format!("\"{key}\""),
        format!("{key}="),
        format!("Bearer {key}"),
        key.replace('_', "-"),
        key.replace('_', "\u{ff3f}"),     // full-width low line
        key.replacen('s', "\u{0455}", 1), // Cyrillic dze
        key.replacen('k', "\u{212a}", 1), // Kelvin sign, which lower-cases to k
        format!("\u{feff}{key}"),         // byte order mark
        format!("{key}\u{200b}"),         // zero-width space
        format!("\u{a0}{key}"),           // no-break space
        format!("{key}\u{b}"),            // vertical tab
        percent.clone(),
        secret.to_owned(),
        prefix.to_owned(),
        "a".repeat(65_536),
        format!("{prefix}{}", "a".repeat(65_536)),
        format!("{}{key}", " ".repeat(2)) + "x",
    ];
    for imitation in &imitations {
        assert!(!is_ever_accepted(imitation.as_bytes()), "{imitation:?}");
    }
    for length in 0..key.len() {
        assert!(
            !is_ever_accepted(&key.as_bytes()[..length]),
            "cut to {length}"
        );
    }
    // A query is decoded once, as every server decodes it; a header never.
    for name in ["x-api-key", "x-acme-api-key"] {
        assert!(!is_accepted(with(name, percent.as_bytes()).unwrap()));
    }
    let twice = percent.replace('%', "%25");
    let twice = format!("/v1?api_key={twice}").parse::<Uri>().unwrap();
    assert!(!is_accepted(
        Request::builder().uri(twice).body(()).unwrap()
    ));
}

#[test]
fn a_key_with_a_single_flipped_bit_is_refused() {
    let key = gate().1.as_bytes();
    for at in 0..key.len() {
        for bit in 0..8 {
            let mut flipped = key.to_vec();
            flipped[at] ^= 1 << bit;
            assert!(!is_ever_accepted(&flipped), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn whitespace_around_a_key_is_ignored_in_headers_only() {
    let key = &gate().1;
    for around in [" ", "\t", " \t ", "     "] {
        for name in ["x-api-key", "x-acme-api-key"] {
            let value = format!("{around}{key}{around}");
            assert!(
                is_accepted(with(name, value.as_bytes()).unwrap()),
                "{around:?}"
            );
        }
        let query = key.clone() + &around.replace(' ', "%20").replace('\t', "%09");
        let query = format!("/v1?api_key={query}").parse::<Uri>().unwrap();
        assert!(!is_accepted(
            Request::builder().uri(query).body(()).unwrap()
        ));
    }
}

/// What a hostile request is put together from.
#[derive(Debug, Clone)]
enum Piece {
    Key,
    Mangled(usize, u8),
    Text(String),
    Bytes(Vec<u8>),
}

impl Piece {
    fn bytes(&self) -> Vec<u8> {
        let key = gate().1.as_bytes();
        match self {
            Self::Key => key.to_vec(),
            Self::Mangled(at, by) => {
                let mut mangled = key.to_vec();
                mangled[at % key.len()] ^= by;
                mangled
            }
            Self::Text(text) => text.clone().into_bytes(),
            Self::Bytes(bytes) => bytes.clone(),
        }
    }
}

fn piece() -> impl Strategy<Value = Piece> {
    prop_oneof![
        2 => Just(Piece::Key),
        1 => (any::<usize>(), 1..=255u8).prop_map(|(at, by)| Piece::Mangled(at, by)),
        3 => prop_oneof![
            Just(" "), Just("\t"), Just("Bearer "), Just("bearer "), Just("ApiKey "),
            Just("Basic "), Just(","), Just("="), Just(":"), Just("sk_live_"), Just("sk_"),
        ].prop_map(|text| Piece::Text(text.to_owned())),
        1 => "[ -~]{0,12}".prop_map(Piece::Text),
        1 => proptest::collection::vec(any::<u8>(), 0..12).prop_map(Piece::Bytes),
    ]
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let pieces = proptest::collection::vec(piece(), 0..4);
    (pieces, any::<bool>()).prop_map(|(pieces, basic)| {
        let bytes: Vec<u8> = pieces.iter().flat_map(Piece::bytes).collect();
        if basic {
            format!("Basic {}", STANDARD.encode(bytes)).into_bytes()
        } else {
            bytes
        }
    })
}

fn request() -> impl Strategy<Value = Request<()>> {
    let name = prop_oneof![
        Just("authorization"),
        Just("x-api-key"),
        Just("x-acme-api-key"),
        Just("content-type"),
        Just("origin"),
        Just("x-forwarded-for"),
        Just("forwarded"),
    ];
    let headers = proptest::collection::vec((name, value()), 0..4);
    let query = proptest::collection::vec(
        (
            prop_oneof![
                Just("api_key"),
                Just("api%5fkey"),
                Just("API_KEY"),
                Just("x")
            ],
            value(),
        ),
        0..3,
    );
    let method = prop_oneof![Just(Method::GET), Just(Method::OPTIONS), Just(Method::POST)];
    (method, headers, query).prop_map(|(method, headers, query)| {
        let query: Vec<_> = query
            .iter()
            .map(|(name, value)| format!("{name}={}", String::from_utf8_lossy(value)))
            .collect();
        let uri = Uri::try_from(format!("/v1?{}", query.join("&")));
        let mut request = Request::builder()
            .method(method)
            .uri(uri.unwrap_or_else(|_| Uri::from_static("/v1")));
        for (name, value) in headers {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request = request.header(name, value);
            }
        }
        request.body(()).unwrap()
    })
}

/// All that a request says in the places where keys are read, told apart without the library: one
/// entry for each place that has a credential, and whether that is the key, said once.
fn credentials(request: &Request<()>) -> Vec<bool> {
    let key = &gate().1;
    let mut found = Vec::new();
    for name in ["x-api-key", "x-acme-api-key"] {
        let lines: Vec<_> = request.headers().get_all(name).iter().collect();
        for line in &lines {
            let text = String::from_utf8_lossy(line.as_bytes()).into_owned();
            let text = text.trim_matches([' ', '\t']);
            if lines.len() > 1 || !text.is_empty() {
                found.push(lines.len() == 1 && text == key);
            }
        }
    }
    let lines: Vec<_> = request.headers().get_all("authorization").iter().collect();
    for line in &lines {
        let line = String::from_utf8_lossy(line.as_bytes()).into_owned();
        let line = line.trim_matches([' ', '\t']);
        let (scheme, text) = line.split_once(' ').unwrap_or((line, ""));
        let text = text.trim_start_matches(' ');
        let text = match scheme.to_lowercase().as_str() {
            "bearer" | "apikey" => text.to_owned(),
            "basic" => {
                let decoded = STANDARD.decode(text).unwrap_or_default();
                let decoded = String::from_utf8_lossy(&decoded).into_owned();
                decoded.strip_suffix(':').unwrap_or("").to_owned()
            }
            _ => String::new(),
        };
        if lines.len() > 1 || text == *key {
            // Any other may be somebody else's.
            found.push(lines.len() == 1 && text == *key);
        }
    }
    let pairs = request.uri().query().unwrap_or_default().split('&');
    let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    let ours = pairs.filter(|(name, _)| name.replace("%5f", "_") == "api_key");
    let ours: Vec<_> = ours.collect();
    for (_, value) in &ours {
        if ours.len() > 1 || !value.is_empty() {
            found.push(ours.len() == 1 && *value == key);
        }
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn invariant_1_no_request_reaches_the_inner_service_without_a_decision_in_its_favour(request in request()) {
        let credentials = credentials(&request);
        let accepted = is_accepted(request);
        // The same key in two places is one.
        let is_one = !credentials.is_empty() && credentials.iter().all(|is_the_key| *is_the_key);
        prop_assert!(!accepted || is_one);
    }

    #[test]
    fn a_good_key_is_accepted_beside_unrelated_headers(
        way in 0..6usize, unrelated in "[a-z]{1,8}", value in "[a-z=;,/]{0,20}",
    ) {
        let mut request = every_way(gate().1.as_bytes()).swap_remove(way);
        let name = format!("x-{unrelated}-unrelated");
        let name = http::HeaderName::try_from(name).unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
        prop_assert!(is_accepted(request));
    }

    #[test]
    fn invariant_8_nothing_a_client_sends_panics_or_blocks(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        for request in every_way(&bytes) {
            let answer = answer(request);
            prop_assert!(matches!(answer.status().as_u16(), 400 | 401));
            prop_assert!(answer.extensions().get::<Rejection>().is_some());
        }
    }

    #[test]
    fn any_forwarding_header_yields_a_canonical_address_or_none(
        lines in proptest::collection::vec("[ -~]{0,60}", 0..4), count in 1..4u8,
    ) {
        let proxies = || TrustedProxies::count(count.try_into().unwrap());
        let mut request = Request::builder();
        for line in &lines {
            request = request.header("x-forwarded-for", line).header("forwarded", line);
        }
        let parts = request.body(()).unwrap().into_parts().0;
        let hops: HashSet<_> = lines.iter().flat_map(|line| line.split(',')).collect();
        for address in [
            ClientAddress::x_forwarded_for(proxies()).of(&parts),
            ClientAddress::forwarded(proxies()).of(&parts),
        ].into_iter().flatten() {
            prop_assert_eq!(address, address.to_canonical());
            prop_assert!(!hops.is_empty());
        }
    }
}

#[test]
fn invariant_8_nothing_a_client_sends_allocates_without_bound() {
    let cost = |text: &[u8]| {
        every_way(text)
            .into_iter()
            .map(|request| {
                let measured = allocation_counter::measure(|| drop(answer(request)));
                measured.bytes_max
            })
            .max()
            .unwrap_or_default()
    };
    let small = cost(b"sk_live_x").max(cost(gate().1.as_bytes()));
    for large in [
        "a".repeat(20_000),
        format!("sk_live_{}", "a".repeat(20_000)),
        "%41".repeat(10_000),
        ":".repeat(20_000),
    ] {
        let large = cost(large.as_bytes());
        // A long query is copied once, when the parameter is taken out of an accepted request only.
        assert!(large <= small + 4096, "{large} bytes against {small}");
    }
}

#[test]
fn many_credentials_are_refused_in_bounded_memory() {
    let key = &gate().1;
    let mut request = Request::builder();
    for _ in 0..10_000 {
        request = request.header("x-api-key", key);
    }
    let request = request.body(()).unwrap();
    let measured = allocation_counter::measure(|| assert_eq!(answer(request).status(), 400));
    assert!(measured.bytes_max < 8192, "{} bytes", measured.bytes_max);
}
