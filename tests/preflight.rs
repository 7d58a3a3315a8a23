//! CORS preflights, whose URL is that of the request to come: a key in it is not theirs.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::future::IntoFuture;
use std::net::SocketAddr;
use std::sync::OnceLock;

use futures_util::FutureExt;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use proptest::prelude::*;
use proptest::sample::select;
use support::{EchoService, World, asking, block_on, call, percent_encoded, today};
use tower::Layer;
use tower_api_key::clock::ManualClock;
use tower_api_key::http::PeerAddr;
use tower_api_key::{ApiKeyLayer, ApiKeys, IssuedKey, KeySource, Limits, MemoryStore, Quota};

fn world() -> &'static World {
    static WORLD: OnceLock<World> = OnceLock::new();
    WORLD.get_or_init(|| block_on(World::new()))
}

fn with_the_query(layer: ApiKeyLayer) -> ApiKeyLayer {
    layer
        .add_source(KeySource::dangerous_query("api_key"))
        .add_source(KeySource::dangerous_query("key"))
        .dangerous_allow_preflight()
}

fn preflight(query: &str) -> Request<()> {
    let peer: SocketAddr = "192.0.2.7:1234".parse().unwrap();
    Request::builder()
        .method(Method::OPTIONS)
        .uri(format!("/v1?{query}"))
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .extension(PeerAddr(peer))
        .body(())
        .unwrap()
}

/// The status of the answer, and what the inner service saw.
fn asked(layer: &ApiKeyLayer, request: Request<()>) -> (StatusCode, String) {
    let answer = asking(layer, request).now_or_never().unwrap();
    let status = answer.status();
    let body = answer.into_body().collect().now_or_never().unwrap();
    let body = body.unwrap().to_bytes().to_vec();
    (status, String::from_utf8(body).unwrap())
}

/// What stands in a parameter for keys: any key of the world, or any other text.
fn value() -> impl Strategy<Value = String> {
    let names: Vec<_> = world().plaintexts.keys().copied().collect();
    prop_oneof![
        4 => select(names).prop_map(|name| world().plaintexts[name].clone()),
        1 => "\\PC{0,40}",
        1 => Just("x".repeat(2000)),
    ]
}

fn parameter() -> impl Strategy<Value = String> {
    let name = select(vec!["api_key", "key", "api%5Fkey", "%6bey"]);
    (name, value()).prop_map(|(name, text)| format!("{name}={}", percent_encoded(text.as_bytes())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn a_preflight_passes_as_nobody_and_without_the_key_whatever_is_in_its_url(
        parameters in proptest::collection::vec(parameter(), 0..4), optional: bool,
    ) {
        let layer = with_the_query(world().keys.layer());
        let layer = if optional { layer.optional() } else { layer };
        let query = [&["a=1".to_owned()], &parameters[..], &["b=%20+2".to_owned()]].concat();
        let (status, seen) = asked(&layer, preflight(&query.join("&")));
        prop_assert_eq!(status, StatusCode::OK);
        prop_assert_eq!(seen, "nobody /v1?a=1&b=%20+2");
    }

    #[test]
    fn what_no_browser_sends_with_a_preflight_makes_it_a_request_like_any_other(
        name in select(vec!["x-api-key", "cookie", "authorization"]), value in value(), optional: bool,
    ) {
        let layer = with_the_query(world().keys.layer());
        let layer = if optional { layer.optional() } else { layer };
        let mut request = preflight(&format!("key={}", world().plaintexts["revoked"]));
        let value = http::HeaderValue::from_bytes(value.as_bytes());
        prop_assume!(value.is_ok());
        request.headers_mut().insert(name, value.unwrap());
        let (status, _) = asked(&layer, request);
        prop_assert!(!status.is_success(), "{}", status);
    }
}

/// A key, and a layer with these limits.
fn limited(limits: Limits) -> (IssuedKey, ApiKeyLayer) {
    let keys = ApiKeys::builder(MemoryStore::new())
        .clock(ManualClock::at(today()))
        .limits(limits)
        .failed_attempts(Quota::per_hour(2))
        .build()
        .unwrap();
    let key = keys.issue("acme").into_future().now_or_never().unwrap();
    (key.unwrap(), with_the_query(keys.layer()))
}

#[test]
fn a_preflight_is_charged_to_its_address_and_to_everybody_and_to_no_key() {
    const TWO: Quota = Quota::per_hour(2);
    let (key, layer) = limited(Limits::new().per_key(TWO).per_account(TWO));
    let query = format!("api_key={}", key.expose_secret());
    for _ in 0..10 {
        assert_eq!(asked(&layer, preflight(&query)).0, StatusCode::OK);
    }
    let request = || {
        let request = Request::builder().header("x-api-key", key.expose_secret());
        request.body(()).unwrap()
    };
    assert_eq!(asked(&layer, request()).0, StatusCode::OK);
    assert_eq!(asked(&layer, request()).0, StatusCode::OK);
    assert_eq!(asked(&layer, request()).0, StatusCode::TOO_MANY_REQUESTS);

    for limits in [Limits::new().per_ip(TWO), Limits::new().global(TWO)] {
        let (key, layer) = limited(limits);
        let query = format!("api_key={}", key.expose_secret());
        let status = || asked(&layer, preflight(&query)).0;
        assert_eq!(status(), StatusCode::OK);
        assert_eq!(status(), StatusCode::OK);
        assert_eq!(status(), StatusCode::TOO_MANY_REQUESTS);
    }
}

#[test]
fn a_preflight_is_no_failed_attempt() {
    let (_, layer) = limited(Limits::new());
    let unknown = world().plaintexts["unknown"].as_str();
    for _ in 0..10 {
        let query = format!("key={unknown}");
        assert_eq!(asked(&layer, preflight(&query)).0, StatusCode::OK);
    }
}

#[test]
fn a_preflight_keeps_its_url_where_credentials_are_kept() {
    let layer = with_the_query(world().keys.layer()).dangerous_keep_credential();
    let (status, seen) = asked(&layer, preflight("key=x"));
    assert_eq!(
        (status, seen.as_str()),
        (StatusCode::OK, "nobody /v1?key=x")
    );
}

/// With each header that announces a body or a call, in any case and with any value.
#[test]
fn what_announces_a_body_or_a_call_is_no_preflight() {
    let layer = with_the_query(world().keys.layer());
    assert_eq!(asked(&layer, preflight("")).0, 200);
    for (name, value) in [
        ("content-type", "application/grpc"),
        ("content-type", "text/plain"),
        ("content-length", "5"),
        ("content-length", "0"),
        ("content-encoding", "gzip"),
        ("transfer-encoding", "chunked"),
        ("te", "trailers"),
        ("expect", "100-continue"),
    ] {
        let mut request = preflight("");
        request.headers_mut().insert(name, value.parse().unwrap());
        let (status, seen) = asked(&layer, request);
        assert_eq!(status, 401, "{name}: {seen}");
    }
}

/// The outer layer takes the key out, so that the inner one sees none.
#[test]
fn a_request_that_an_outer_layer_of_other_keys_let_through_is_no_preflight() {
    let outer = ApiKeys::in_memory();
    let key = outer
        .issue("outer")
        .into_future()
        .now_or_never()
        .unwrap()
        .unwrap();
    let inner = ApiKeys::in_memory().layer().dangerous_allow_preflight();
    let service = outer.layer().layer(inner.layer(EchoService));
    let mut request = preflight("");
    let value = key.expose_secret().parse().unwrap();
    request.headers_mut().insert("x-api-key", value);
    let answer = call(service.clone(), request).now_or_never().unwrap();
    assert_eq!(answer.status(), 401);
    // Without a key of the outer layer, that layer refuses.
    let answer = call(service, preflight("")).now_or_never().unwrap();
    assert_eq!(answer.status(), 401);
}
